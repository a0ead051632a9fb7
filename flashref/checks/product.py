"""Checks of the product of two series that are both still arriving, as with filters that depend on the data."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from flashref.checks.feedback import attempt, fail, fresh, name_of, number, rows
from flashref.checks.online import causal_sum, first_wrong
from flashref.checks.work import Work, counted
from flashref.figures.checks import pairs_of_product


class Product(Protocol):
    """What check_product is for: made with D and L; push(x_t, rho_t), (D,) each, gives z_t (D,), up to L times."""

    def __init__(self, D: int, L: int) -> None: ...

    def push(self, x_t: Tensor, rho_t: Tensor) -> Tensor: ...


def check_product(cls: type[Product], seed: int | None = None) -> None:
    """cls(D, L), then push(x_t, rho_t) L times: z_t = sum_{j<=t} x_j * rho_{t-j}; rho_t, too, is known only at step t.

    First single ones: x_a and rho_b alone must give a 1 at a+b. Then random numbers, both made from the outputs so far.
    """
    rng = np.random.default_rng(seed := fresh(seed))
    name = name_of(cls)
    L = 9

    def job() -> np.ndarray:
        eye = np.eye(L)[:, None]
        return np.array([[_multiply(cls, eye[a], eye[b])[2][0] for b in range(L)] for a in range(L)])

    found = attempt(cls, job)
    marks = {}
    for a, b in np.ndindex(L, L):
        rest, there = found[a, b].copy(), found[a, b][a + b : a + b + 1]
        rest[a + b : a + b + 1] = 0
        if np.abs(rest).max() > 1e-6 or np.abs(there - 1).max(initial=0) > 1e-6:
            seen = number(round(float(there.sum()), 4)) if np.abs(rest).max() <= 1e-6 else "?"
            marks[a, b] = seen if seen in ("0", "2") else "?"
    picture = pairs_of_product(marks, L) if marks else None
    for a, b in np.ndindex(L, L):
        want = np.zeros(L)
        want[a + b : a + b + 1] = 1
        if np.abs(found[a, b] - want).max() > 1e-6:
            got = ", ".join(number(round(v, 4)) for v in found[a, b])
            where = f"only z_{a + b} may be 1" if a + b < L else f"nothing may come out: {a + b} lies beyond L"
            fail(f"{name}: with single ones at x_{a} and rho_{b} {where}. Got z_0 .. z_{L - 1} = {got}.", picture)
    for L in (1, 2, 3, 5, 8, 16, 31, int(rng.integers(40, 100)), 128):
        D = int(rng.integers(1, 4))
        noise = rng.standard_normal((2, D, L))
        x, rho, z = attempt(cls, lambda noise=noise: _multiply(cls, *noise, feedback=True))
        if place := first_wrong(z, want := causal_sum(x, rho)):
            fail(
                f"{name} takes single pairs right, and is wrong at random numbers with D = {D}, L = {L}, seed {seed}: "
                f"channel {place[0]}, z_{place[1]} = {want[place]:.6f} expected, got {z[place]:.6f}."
            )
    print("Right: every pair of x and rho, and random series made from the outputs.")


def check_product_work(cls: type[Product], share: float = 0.6, L: int = 4096) -> None:
    """cls may do at most ``share`` of the L(L+1)/2 multiply-adds a channel that the plain product takes; counted."""
    x, rho = torch.randn(2, L, 1, dtype=torch.float64)
    name = name_of(cls)

    def job() -> Work:
        with counted() as work:
            series = cls(1, L)
            for x_t, rho_t in zip(x.unbind(), rho.unbind(), strict=True):
                series.push(x_t, rho_t)
        return work

    work = attempt(cls, job, seconds=20)
    done = work.multiply_adds
    if work.left:
        fail(f"{name} {work.leaves}")
    plain = L * (L + 1) // 2
    said = f"at L = {L} {name} does {number(round(done))} multiply-adds a channel, the plain product {number(plain)}"
    if done > share * plain:
        fail(f"{said}: at most {share:g} of that are allowed.")
    print(f"Right: {said}.")


def _multiply(cls: type[Product], x: np.ndarray, rho: np.ndarray, feedback: bool = False) -> tuple[np.ndarray, ...]:
    """Push two series (D, L); with feedback the last output is added to the next x and rho. Returns x, rho and z."""
    D, L = x.shape
    series, x, rho, z = cls(D, L), x.copy(), rho.copy(), np.zeros((D, L))
    for t in range(L):
        if feedback and t:
            x[:, t] += np.tanh(z[:, t - 1])
            rho[:, t] += np.cos(z[:, t - 1])
        pair = [torch.from_numpy(row[:, t].copy()) for row in (x, rho)]
        z[:, t] = rows(series.push(*pair), (D,), f"push number {t} of L = {L}")
        for row in pair:
            row.fill_(1e6)  # the caller may write into it afterwards
    return x, rho, z
