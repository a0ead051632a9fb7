"""Checks of online convolutions: are the outputs right while the inputs still arrive?"""

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from flashref.check_figures import pairs_of_engine
from flashref.feedback import attempt, fail, fresh, name_of, number, rows, unchanged
from flashref.sandbox import Complaint


class Online(Protocol):
    """What is checked: made with rho (D, L), it takes x_t (D,) and gives out z_t (D,), up to L times."""

    def __init__(self, rho: Tensor) -> None: ...

    def push(self, x_t: Tensor) -> Tensor: ...


def causal_sum(x: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """z (D, L), the plain sum: z[d, t] = sum_{j<=t} x[d, j] * rho[d, t-j]."""
    return np.stack([np.convolve(a, b[: len(a)])[: len(a)] for a, b in zip(x, rho, strict=True)])


def check_online(cls: type[Online], seed: int | None = None, longest: int = 128) -> None:
    """cls(rho) with rho (D, L), then push(x_t) L times, (D,) to (D,): z_t = sum_{j<=t} x_j * rho_{t-j}, in float64.

    First single ones at every position of short lengths show what becomes of each pair, drawn if one is wrong. Then
    random lengths and numbers, where x_{t+1} is made from z_t as in generation. Two objects run side by side, what was
    pushed is overwritten after each step, and outputs are looked at again at the end. longest: of the lengths tried, at
    least 33; less than 128 is for what is slow. Raises CheckFailed.
    """
    rng = np.random.default_rng(seed := fresh(seed))
    _check_pairs(cls)
    for L in (1, 2, 5, 16, 33, int(rng.integers(20, min(100, longest))), longest):
        D = int(rng.integers(1, 4))
        rho, noise = rng.standard_normal((2, D, L)), rng.standard_normal((2, D, L))
        xs, zs, kept = attempt(cls, lambda rho=rho, noise=noise: _generate(cls, rho, noise))
        for i in range(2):
            if place := first_wrong(zs[i], want := causal_sum(xs[i], rho[i])):
                fail(
                    f"{name_of(cls)} takes every single pair right, and is wrong at random numbers with D = {D}, "
                    f"L = {L}, seed {seed}: channel {place[0]}, z_{place[1]} = {want[place]:.9g} expected, got "
                    f"{zs[i][place]:.9g}. Two objects were pushed in turns: is something shared between them, or "
                    "between channels? And x_t is overwritten by the caller after each push: is it copied?"
                )
            if not np.array_equal(kept[i], zs[i]):
                fail(
                    f"{name_of(cls)}: an output changed after it was given out. Return a copy (.clone()), not a view "
                    "of a buffer that is written to again."
                )
    print("Right: every pair, and random inputs that are made from the outputs.")


def first_wrong(z: np.ndarray, want: np.ndarray) -> tuple[int, int] | None:
    """Channel and position (d, t) of the first output that is not what is wanted, both (D, L)."""
    wrong = ~(np.abs(z - want) <= 1e-8 * max(1, np.abs(want).max()))  # so that NaN is wrong
    d, t = min(np.argwhere(wrong), key=lambda place: place[1], default=(-1, -1))
    return (int(d), int(t)) if t >= 0 else None


def _check_pairs(cls: type[Online]) -> None:
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
    if abs(got) > 1e5:
        says = "x_t was overwritten by its owner after the push, and shows up. Copy what you keep of it (.clone())"
    elif j > t:
        says = f"input {j} is not known yet at step {t}. Is something left over from another object, or from before?"
    elif abs(got) < 1e-6:
        says = "the pair is missed"
    elif abs(got - 2 * want) < 1e-6:
        says = "the pair is taken twice"
    else:
        says = f"that is the tap of lag {got - 10:.0f}" if got in 10 + np.arange(L) else "that is no tap at all"
    value = f"must be rho_{t - j} = {number(want)}" if j <= t else "must be 0"
    picture = f"\nThe picture shows L = {failing[-1]}." if failing[-1] != L else ""
    fail(
        f"{name_of(cls)} is wrong at L = {L}, the shortest length of those tried. With rho_k = 10 + k and a single 1 "
        f"at x_{j}, z_{t} {value}, got {number(round(got, 6))}: {says}.{_diagnosis(found[failing[-1]])}{picture}",
        pairs_of_engine(found[failing[-1]], 10.0 + np.arange(failing[-1])),
    )


def _diagnosis(found: np.ndarray) -> str:
    """The mistake that explains everything that is wrong, if one does."""
    L = len(found)
    lag = np.arange(L)[:, None] - np.arange(L)
    taps = np.append(10.0 + np.arange(L), 0)  # one beyond the last is 0, and so is one before the first
    right, red = _wanted(L), np.eye(L) * taps[0]
    mistakes = {
        "Every x_j meets rho_j, whatever t is: the taps must run the other way (flip them).": np.tril([taps[:L]] * L),
        "Everything comes a step late: z_t must hold x_t already.": np.where(lag > 0, taps[lag - 1], 0),
        "Below the red cells every lag is one too small.": np.where(lag > 0, taps[lag - 1], red),
        "Every lag is one too large.": np.where(lag >= 0, taps[np.minimum(lag + 1, L)], 0),
        "The red cells are missing, x_t * rho_0.": right - red,
        "The red cells are there twice.": right + red,
        "Only the red cells are there.": red,
    }
    return next((f"\n{words}" for words, mistaken in mistakes.items() if np.allclose(found, mistaken)), "")


def _wanted(L: int) -> np.ndarray:
    return causal_sum(np.eye(L), np.tile(10.0 + np.arange(L), (L, 1))).T


def _coefficients(cls: type[Online], L: int) -> np.ndarray:
    """(t, j): what z_t is when x_j is the only input that is not 0, and rho_k = 10 + k."""
    return np.stack([_push_all(cls, 10.0 + np.arange(L)[None], one[None])[0] for one in np.eye(L)], axis=1).round(9)


def _push_all(cls: type[Online], rho: np.ndarray, x: np.ndarray) -> np.ndarray:
    taps = torch.from_numpy(rho.copy())
    online = cls(taps)
    z = [_push(online, x[:, t], t, x.shape[1])[0] for t in range(x.shape[1])]
    unchanged(torch.from_numpy(rho), taps, "rho", "It")
    return np.stack(z, axis=1)


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
    if z_t.data_ptr() == row.data_ptr():
        raise Complaint(f"{call} returns the very tensor that it was given, or a view of it: return a new one.")
    row.fill_(1e6)
    return z, z_t


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
