"""Checks of online convolutions: are the outputs right while the inputs still arrive, and how much work does each step do?"""

from collections.abc import Callable
from math import log2
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from flashref.check_counts import count
from flashref.check_figures import pairs_of_engine, work_of_steps
from flashref.feedback import attempt, fail, fresh, number, rows, unchanged
from flashref.sandbox import Complaint
from flashref.work import Work, counted


class Online(Protocol):
    """What is checked: made with rho (D, L), it takes x_t (D,) and gives out z_t (D,), up to L times."""

    def __init__(self, rho: Tensor) -> None: ...

    def push(self, x_t: Tensor) -> Tensor: ...


def causal_sum(x: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """z (D, L), the plain sum: z[d, t] = sum_{j<=t} x[d, j] * rho[d, t-j]."""
    return np.stack([np.convolve(a, b[: len(a)])[: len(a)] for a, b in zip(x, rho, strict=True)])


def check_online(cls: type[Online], seed: int | None = None) -> None:
    """cls(rho) with rho (D, L), then push(x_t) L times, (D,) to (D,): z_t = sum_{j<=t} x_j * rho_{t-j}, in float64.

    First single ones at every position of L = 8 and 7 show what becomes of each pair, drawn if one is wrong. Then random
    lengths and numbers, where x_{t+1} is made from z_t as in generation. Two objects run side by side, what was pushed is
    overwritten after each step, and outputs are looked at again at the end. Raises CheckFailed.
    """
    rng = np.random.default_rng(seed := fresh(seed))
    name = getattr(cls, "__name__", "it")
    _check_pairs(cls, name)
    for L in (1, 2, 5, 16, 33, int(rng.integers(20, 100)), 128):
        D = int(rng.integers(1, 4))
        rho, noise = rng.standard_normal((2, D, L)), rng.standard_normal((2, D, L))
        xs, zs, kept = attempt(cls, lambda rho=rho, noise=noise: _generate(cls, rho, noise))
        for i in range(2):
            want = causal_sum(xs[i], rho[i])
            wrong = ~(np.abs(zs[i] - want) <= 1e-8 * max(1, np.abs(want).max()))
            if wrong.any():
                d, t = min(np.argwhere(wrong), key=lambda place: place[1])
                fail(
                    f"{name} takes every single pair right, and is wrong at random numbers with D = {D}, L = {L}, seed "
                    f"{seed}: channel {d}, z_{t} = {want[d, t]:.6f} expected, got {zs[i][d, t]:.6f}. Two objects were "
                    "pushed in turns: is something shared between them, or between channels? And x_t is overwritten by "
                    "the caller after each push: is it copied?"
                )
            if not np.array_equal(kept[i], zs[i]):
                fail(
                    f"{name}: an output changed after it was given out. Return a copy (.clone()), not a view of a buffer."
                )
    print("Right: every pair, and random inputs that are made from the outputs.")


def check_work(cls: type[Online], kind: str) -> None:
    """cls, right as check_online wants it, must do the work of its kind: "lazy", "eager" or "relaxed".

    Lazy does t+1 multiply-adds a channel at step t, eager L-t. Relaxed needs L log^2 L in all: at most twice what FFT tiles
    of every size cost, filter's spectra included, and growing with L as it does. Counted in torch's own kernels; never timed.
    """
    name = getattr(cls, "__name__", "it")
    if kind in ("lazy", "eager"):
        L = 256
        got = work_per_step(cls, L)
        need = np.arange(1.0, L + 1) if kind == "lazy" else np.arange(float(L), 0, -1)
        if got.sum() < 0.9 * need.sum() - L:
            fail(f"{name} does {number(got.sum())} multiply-adds in all where {kind} needs {number(need.sum())}: this check "
                 f"is for a plain {kind}.", work_of_steps(got, need, name, kind))  # fmt: skip
        if (late := np.flatnonzero(got > 1.15 * need + 8)).size:
            t = int(late[0])
            fail(f"{name}: step {t} of L = {L} does {number(got[t])} multiply-adds a channel, where {kind} needs "
                 f"{number(need[t])}. In all {number(got.sum())} against {number(need.sum())}.",
                 work_of_steps(got, need, name, kind))  # fmt: skip
        print(f"Right: {number(got.sum())} multiply-adds a channel at L = {L}, as {kind} needs, step by step.")
        return
    if kind != "relaxed":
        raise ValueError(f'kind must be "lazy", "eager" or "relaxed", got {kind!r}')
    L = 2048
    short, got = work_per_step(cls, L // 4).sum(), work_per_step(cls, L)
    need = relaxed_work(L)
    total, bound = got.sum(), 2 * need.sum()
    eager = L * (L + 1) / 2
    said = (f"At L = {L} {name} does {number(total)} multiply-adds a channel; eager does {number(eager)}, tiles by FFT "
            f"{number(round(need.sum()))}.")  # fmt: skip
    if total > bound:
        growth = f" From L = {L // 4} on it grew {total / short:.1f} times; L^2 grows 16 times, L log^2 L about 6."
        fail(
            said + growth + " Where is a long sum that an FFT could do?", work_of_steps(got, need, name, "tiles by FFT")
        )
    print(f"Right: {said} That is {eager / total:.1f} times fewer than eager.")


def check_base(cls: type[Online], base: int) -> None:
    """cls, right as check_online wants it, must run no tile smaller than its base block: L/base - 1 tiles by FFT.

    Counted: at most three transforms a channel for each, none of fewer than 2*base points, and no more work than half as
    much again as columns inside blocks and those tiles cost.
    """
    L, name = 2048, getattr(cls, "__name__", "it")
    work = _counted_run(cls, L)[1]
    made = {n: number(times) for n, times in sorted(work.transforms.items())}
    if small := [f"{times} of {n} points" for n, times in made.items() if n < 2 * base]:
        fail(f"{name} makes small transforms at L = {L}: {', '.join(small)} a channel. With a base of {base} the smallest tile "
             f"has U = {base}, transforms of {2 * base} points.")  # fmt: skip
    tiles = L // base - 1
    if sum(work.transforms.values()) > 3 * tiles:
        fail(f"{name} makes {number(sum(work.transforms.values()))} transforms a channel at L = {L}. With a base of {base} there "
             f"are {tiles} tiles: {2 * tiles} transforms, and one for each spectrum that is kept.")  # fmt: skip
    if work.multiply_adds > (most := 1.5 * count("hybrid", L, base)):
        fail(f"{name} does {number(round(work.multiply_adds))} multiply-adds a channel at L = {L}; with a base of {base} about "
             f"{number(round(most / 1.5))} are enough. Does a column end with its block?")  # fmt: skip
    print(f"Right: {number(sum(work.transforms.values()))} transforms a channel for {tiles} tiles at L = {L}.")


def check_longest_step(cls: type[Online], times: float = 0.25, L: int = 2048) -> None:
    """No step of cls may do more than ``times`` the longest step of the relaxed schedule; counted."""
    got, need = work_per_step(cls, L), relaxed_work(L)
    t, most = int(got.argmax()), times * need.max()
    name = getattr(cls, "__name__", "it")
    if got.max() > most:
        fail(f"{name}: step {t} of L = {L} does {number(round(got[t]))} multiply-adds a channel; at most {number(round(most))} "
             f"are allowed, {times:g} of the longest relaxed step.", work_of_steps(got, need, name, "relaxed"))  # fmt: skip
    print(
        f"Right: the longest step does {number(round(got[t]))} multiply-adds a channel, of {number(round(most))} allowed."
    )


def check_single_buffer(cls: type[Online], seed: int | None = None) -> None:
    """cls, right as check_online wants it, may keep only L/2 numbers a channel between steps, beside filter and spectra.

    What depends on the inputs is counted: two objects with one filter are pushed different inputs, and numbers that
    differ between them are state. A few more than L/2 (16) are allowed.
    """
    rng = np.random.default_rng(fresh(seed))
    name = getattr(cls, "__name__", "it")
    for L in (32, 64, 100):
        rho, x = torch.from_numpy(rng.standard_normal((1, L))), torch.from_numpy(rng.standard_normal((L, 2, 1)))

        def job(rho: Tensor = rho, x: Tensor = x, L: int = L) -> list[int]:
            two = [cls(rho.clone()) for _ in range(2)]
            kept = []
            for t in range(L):
                for i in range(2):
                    two[i].push(x[t, i].clone())
                kept.append(_differing(two[0], two[1]))
            return kept

        kept = attempt(cls, job)
        t, most = int(np.argmax(kept)), (L + 1) // 2 + 16
        if kept[t] > most:
            fail(f"{name} at L = {L}: after step {t} it keeps {kept[t]} numbers a channel that depend on the inputs; half of "
                 f"L is {(L + 1) // 2}, and {most} are allowed. Is an input kept beside its slot, or the second half too?")  # fmt: skip
    print("Right: never more than half of L numbers between two steps.")


def work_per_step(cls: type[Online], L: int) -> np.ndarray:
    """Multiply-adds a channel of each push at length L, (L,); what the constructor does is added to the first."""
    return np.diff(_counted_run(cls, L)[0])


def _counted_run(cls: type[Online], L: int) -> tuple[list[float], Work]:
    """The multiply-adds a channel before the first push and after each, and all work, a channel."""
    D = 2
    x, rho = torch.randn(L, D, dtype=torch.float64), torch.randn(D, L, dtype=torch.float64)

    def job() -> tuple[list[float], Work]:
        with counted() as work:
            done, online = [0.0], cls(rho)
            for x_t in x.unbind():
                online.push(x_t)
                done.append(work.multiply_adds / D)
        work.multiply_adds /= D
        work.transforms = {n: times / D for n, times in work.transforms.items()}
        return done, work

    done, work = attempt(cls, job, seconds=60)
    if work.left:
        name = getattr(cls, "__name__", "it")
        fail(
            f"{name} takes its numbers out of torch ({work.left} times), where its work cannot be counted: use torch throughout."
        )
    return done, work


def relaxed_work(L: int) -> np.ndarray:
    """Multiply-adds a channel of each step, (L,): a red cell each, and the tile of U as FFTs, the spectra when first met."""
    need = np.ones(L)
    for n in range(1, L):
        U = n & -n
        transforms = 3 if n == U else 2
        need[n - 1] += transforms * 1.25 * 2 * U * log2(2 * U) + 4 * (U + 1)
    return need


def _check_pairs(cls: type[Online], name: str) -> None:
    """Every pair of the first few lengths, one at a time; the shortest that fails is told, and a longer one drawn."""
    lengths = (1, 2, 3, 4, 7, 8)

    def job() -> dict[int, np.ndarray]:
        return {L: _coefficients(cls, L) for L in lengths}

    found = attempt(cls, job)
    wrong = {L: ~(np.abs(found[L] - _wanted(L)) < 1e-6) for L in lengths}
    failing = [L for L in lengths if wrong[L].any()]
    if not failing:
        return
    L = failing[0]
    t, j = np.argwhere(wrong[L])[0]
    got, want = found[L][t, j], _wanted(L)[t, j]
    lags = [k for k in range(L) if abs(got - 10 - k) < 1e-6]
    if abs(got) > 1e5:
        says = "x_t was overwritten by its owner after the push, and shows up. Copy what you keep of it (.clone())"
    elif j > t:
        says = f"input {j} is not known yet at step {t}. Is something left over from another object, or from before?"
    elif abs(got) < 1e-6:
        says = "the pair is missed"
    elif abs(got - 2 * want) < 1e-6:
        says = "the pair is taken twice"
    else:
        says = f"that is the tap of lag {lags[0]}" if lags else "that is no tap at all"
    value = f"must be rho_{t - j} = {number(want)}" if j <= t else "must be 0"
    picture = f"\nThe picture shows L = {failing[-1]}." if failing[-1] != L else ""
    fail(
        f"{name} is wrong at L = {L}, the shortest length of those tried. With rho_k = 10 + k and a single 1 at x_{j}, "
        f"z_{t} {value}, got {number(round(got, 6))}: {says}.{picture}",
        pairs_of_engine(found[failing[-1]], 10.0 + np.arange(failing[-1])),
    )


def _wanted(L: int) -> np.ndarray:
    return causal_sum(np.eye(L), np.tile(10.0 + np.arange(L), (L, 1))).T


def _coefficients(cls: type[Online], L: int) -> np.ndarray:
    """(t, j): what z_t is when x_j is the only input that is not 0, and rho_k = 10 + k."""
    return np.stack([_push_all(cls, 10.0 + np.arange(L)[None], one[None])[0] for one in np.eye(L)], axis=1)


def _push(online: Any, x_t: np.ndarray, t: int, L: int) -> tuple[np.ndarray, Tensor]:
    """z_t as an array, and as it was given out; x_t is overwritten afterwards, as a caller may do."""
    row = torch.from_numpy(x_t.copy())
    call = f"push number {t} of L = {L}"
    try:
        z_t = online.push(row)
    except Complaint:
        raise
    except Exception as error:
        error.add_note(call)
        raise
    unchanged(torch.from_numpy(x_t), row, "x_t", call)
    z = rows(z_t, x_t.shape, call)
    if isinstance(z_t, Tensor) and z_t.data_ptr() == row.data_ptr():
        z_t = z_t.clone()
    row.fill_(1e6)
    return z, z_t


def _push_all(cls: type[Online], rho: np.ndarray, x: np.ndarray) -> np.ndarray:
    taps = torch.from_numpy(rho.copy())
    online = cls(taps)
    z = [_push(online, x[:, t], t, x.shape[1])[0] for t in range(x.shape[1])]
    unchanged(torch.from_numpy(rho), taps, "rho", "It")
    return np.stack(z, axis=1)


def _generate(cls: type[Online], rho: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two objects in turns, each fed with what it gave out: inputs, outputs, and the outputs as they are at the end."""
    two, (_, D, L) = [cls(torch.from_numpy(taps.copy())) for taps in rho], noise.shape
    xs, zs, out = np.zeros((2, D, L)), np.zeros((2, D, L)), [[], []]
    for t in range(L):
        for i in range(2):
            xs[i, :, t] = noise[i, :, t] + (np.tanh(zs[i, :, t - 1]) if t else 0)
            zs[i, :, t], z_t = _push(two[i], xs[i, :, t], t, L)
            out[i].append(z_t)
    kept = np.stack([torch.stack(row, dim=-1).detach().double().numpy() for row in out])
    return xs, zs, kept


def _differing(one: object, two: object) -> int:
    """How many real numbers differ between what two objects hold, tensors and lists of them included."""

    def numbers(thing: object) -> list[Tensor]:
        if isinstance(thing, Tensor):
            base = thing if thing._base is None else thing._base  # a view keeps all of its base alive
            return [torch.view_as_real(base.resolve_conj()).flatten() if base.is_complex() else base.flatten()]
        if isinstance(thing, np.ndarray):
            return [torch.from_numpy(np.ascontiguousarray(thing)).flatten()]
        if isinstance(thing, float):
            return [torch.tensor([thing], dtype=torch.float64)]
        if isinstance(thing, dict):
            return [part for value in thing.values() for part in numbers(value)]
        if isinstance(thing, list | tuple):
            return [part for value in thing for part in numbers(value)]
        return numbers(vars(thing)) if hasattr(thing, "__dict__") and not callable(thing) else []

    pairs = list(zip(numbers(vars(one)), numbers(vars(two)), strict=False))
    return sum(int((a.double() != b.double()).sum()) if a.shape == b.shape else a.numel() for a, b in pairs)
