"""Checks of tau, the contribution of one tile: its values, down to the lag that is wrong, and its transforms."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flashref.checks.feedback import attempt, fail, fresh, name_of, number, rows, some, unchanged
from flashref.checks.work import Work, counted
from flashref.figures.checks import lags_of_tile

Tile = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Case:
    """One tile: x (D, U), rho (D, K), and what f said."""

    x: np.ndarray
    rho: np.ndarray
    got: np.ndarray | None = None

    @property
    def want(self) -> np.ndarray:
        """The sum over all pairs: output i, at position U + i, takes input j at lag U + i - j."""
        D, U = self.x.shape
        want = np.zeros((D, U))
        for i in range(U):
            for j in range(U):
                want[:, i] += self.x[:, j] * self.rho[:, U + i - j]
        return want

    @property
    def wrong(self) -> np.ndarray:
        scale = max(np.abs(self.want).max(), 1e-9)
        return ~(np.abs(self.got - self.want) <= 1e-8 * scale)


def check_tau(f: Tile, seed: int | None = None) -> None:
    """f(x, rho) must be what inputs x (D, U) contribute to the U outputs after them, by the filter rho (D, K >= 2U).

    ``f(x, rho)[d, i] = sum_j x[d, j] * rho[d, U+i-j]``, float64. Tried on single ones in every place for U = 1 .. 4,
    which show the lag that is taken, and on random numbers for other sizes. The smallest case that fails is reported:
    the lag, the value, the mistake that would explain it, and a picture of the lags. Raises CheckFailed.
    """
    rng = np.random.default_rng(seed := fresh(seed))
    cases = [_unit(U, j) for U in range(1, 5) for j in range(U)]
    for U in (1, 2, 3, 4, 8, int(rng.integers(5, 40)), 64):
        D, K = int(rng.integers(1, 4)), 2 * U + int(rng.integers(0, 2)) * int(rng.integers(0, 9))
        cases.append(Case(rng.standard_normal((D, U)), rng.standard_normal((D, K))))
    for case, got in zip(cases, attempt(f, lambda: [_call(f, each) for each in cases]), strict=True):
        case.got = got
    failing = [case for case in cases if case.wrong.any()]
    if not failing:
        print(f"Right: {len(cases)} tiles of sizes 1 to 64, single ones and random numbers.")
        return
    small = failing[0]
    U = small.x.shape[1]
    picture = None
    if small.x.shape == (1, U) and small.x.sum() == 1 and set(small.x.flat) <= {0.0, 1.0}:
        told = _tell_unit(small)
        big = max([U, *(case.x.shape[1] for case in failing if case.x.shape[1] <= 4 and case.x.sum() == 1)])
        same = [case for case in cases[:10] if case.x.shape[1] == big]
        picture = lags_of_tile(np.stack([case.got[0] for case in same], axis=1), same[0].rho[0])
    else:
        told = _tell(small, seed)
    fail("\n".join([f"{name_of(f)} is wrong. {told}", *_diagnosis(failing)]), picture)


def check_transforms(f: Tile, per_channel: int = 3) -> None:
    """f, a tau as check_tau wants it, must do its work by FFTs of 2U points, at most so many a channel.

    Counted below Python, in torch. Three are enough: of x, of rho, and back.
    """
    for U in (4, 16, 256):
        work = _count(f, U, warm=0)
        _judge(f, work, U, per_channel)
    print(f"Right: at most {per_channel} FFTs of 2U points a channel, and nothing else of size.")


def check_kept_spectra(cls: Callable[[Tensor], Callable[[Tensor], Tensor]], seed: int | None = None) -> None:
    """cls(rho) must make a tau for that filter: called with x (D, U) as check_tau says, it keeps each size's spectrum.

    The second call of a size may make only two transforms a channel. Sizes are mixed, and two objects are used in
    turns, so that spectra of another size or filter are found.
    """
    rng = np.random.default_rng(seed := fresh(seed))
    D, sizes = 2, [4, 1, 8, 4, 8, 2, 1, 16, 4]
    rhos = rng.standard_normal((2, D, 40))
    cases = [Case(rng.standard_normal((D, U)), rhos[i % 2]) for i, U in enumerate(sizes + sizes)]

    def job() -> list[np.ndarray]:
        taus = [cls(torch.from_numpy(rho.copy())) for rho in rhos]
        return [_call(lambda x, _, i=i: taus[i % 2](x), case) for i, case in enumerate(cases)]

    name = name_of(cls)
    for i, (case, got) in enumerate(zip(cases, attempt(cls, job), strict=True)):
        case.got = got
        if case.wrong.any():
            U = case.x.shape[1]
            before = some(sizes[: i % len(sizes)], 9) or "nothing"
            fail(f"{name} is wrong at U = {U}, after the sizes {before} (seed {seed}). {_tell(case, seed)}"
                 "\nIs a spectrum kept for another size, or shared between two filters?")  # fmt: skip
    for U in (4, 16, 256):
        _judge(cls, _count(lambda x, rho: x, U, warm=1, cls=cls), U, 2)
    print("Right: two FFTs of 2U points a channel, once a size has been met.")


def _unit(U: int, j: int) -> Case:
    x = np.zeros((1, U))
    x[0, j] = 1
    return Case(x, 10.0 + np.arange(2 * U)[None])


def _call(f: Tile, case: Case) -> np.ndarray:
    x, rho = torch.from_numpy(case.x.copy()), torch.from_numpy(case.rho.copy())
    call = f"With x of shape {tuple(x.shape)} and rho of shape {tuple(rho.shape)}, it"
    try:
        answer = f(x, rho)
    except Exception as error:
        error.add_note(f"with x of shape {tuple(x.shape)} and rho of shape {tuple(rho.shape)}")
        raise
    unchanged(torch.from_numpy(case.x), x, "x", call)
    unchanged(torch.from_numpy(case.rho), rho, "rho", call)
    return rows(answer, tuple(x.shape), call)


def _tell_unit(case: Case) -> str:
    """The case of a single one at j, with rho[k] = 10 + k, so that a value names its lag."""
    U = case.x.shape[1]
    j, i = int(case.x[0].argmax()), int(case.wrong[0].argmax())
    got, lag = case.got[0, i], U + i - j
    taps = {10.0 + k: k for k in range(2 * U)}
    near = next((k for tap, k in taps.items() if abs(tap - got) < 1e-6), None)
    two = next(((a, b) for a in taps for b in taps if a < b and abs(a + b - got) < 1e-6), None)
    if near is not None:
        seems = f": that is the tap of lag {near}"
    elif abs(got) < 1e-6:
        seems = ": the pair is missing"
    elif two:
        seems = f" = {two[0]:g} + {two[1]:g}: two taps on top of each other"
    else:
        seems = ""
    x, rho = (str([int(v) for v in row]) for row in (case.x[0], case.rho[0]))
    return (
        f"The smallest case: U = {U}, x = {x}, rho = {rho}.\n"
        f"Output {i}, at position U + {i} = {U + i}, takes x_{j} at lag {lag}: "
        f"{10 + lag} expected, got {number(round(got, 6))}{seems}."
    )


def _tell(case: Case, seed: int) -> str:
    d, i = np.argwhere(case.wrong)[0]
    x, rho = ([round(float(v), 4) for v in row[d][:8]] for row in (case.x, case.rho))
    shown = f" (channel {d}: x = {x}, rho = {rho})" if case.x.shape[1] <= 4 else ""
    return (
        f"Single ones come out right; at random numbers with U = {case.x.shape[1]}, D = {case.x.shape[0]}, "
        f"K = {case.rho.shape[1]}, seed {seed}{shown}, channel {d}, output {i}: "
        f"{case.want[d, i]:.6f} expected, got {case.got[d, i]:.6f}."
    )


def _circular(x: np.ndarray, rho: np.ndarray, n: int) -> np.ndarray:
    return np.fft.irfft(np.fft.rfft(x, n) * np.fft.rfft(rho, n), n) if n > 1 else x[:, :1] * rho[:, :1]


# Each mistake as a function of x (D, U), rho (D, K) and U; only those with enough values are compared.
MISTAKES = {
    "It looks as if the first U values were kept: those are the inputs' own positions. Keep the last U of the 2U.":
        lambda x, rho, U: _circular(x, rho[:, : 2 * U], 2 * U)[:, :U],
    "It looks like a circle of U points: it is too short, and values wrap around onto the outputs. 2U are enough.":
        lambda x, rho, U: _circular(x, rho[:, :U] + rho[:, U : 2 * U], U),
    "It looks like a circle of U points with the first U taps: lags from U on are missing and the rest wraps around.":
        lambda x, rho, U: _circular(x, rho[:, :U], U),
    "It looks as if only the taps below U were used: a tile takes lags 1 .. 2U-1.":
        lambda x, rho, U: _circular(x, rho[:, :U], 2 * U)[:, U:],
    "All lags are one too small: the first output is position U, one after the last input.":
        lambda x, rho, U: _circular(x, rho[:, : 2 * U], 3 * U)[:, U - 1 : 2 * U - 1],
    "All lags are one too large: the first output is position U, right after the last input.":
        lambda x, rho, U: _circular(x, rho[:, : 2 * U], 4 * U)[:, U + 1 : 2 * U + 1],
    "One of the two runs the wrong way: in a convolution the later input meets the smaller lag (flip x, or the taps).":
        lambda x, rho, U: _circular(x[:, ::-1], rho[:, : 2 * U], 4 * U)[:, U : 2 * U],
    "The taps are taken from the end: lag k is rho[:, k], counted from the start.":
        lambda x, rho, U: _circular(x, rho[:, ::-1], 4 * U + rho.shape[1])[:, U : 2 * U],
}  # fmt: skip


def _diagnosis(failing: list[Case]) -> list[str]:
    """The mistake that explains every failing case, if one does."""
    for words, mistaken in MISTAKES.items():
        guesses = [(case, mistaken(case.x, case.rho, case.x.shape[1])) for case in failing]
        if all(guess.shape == case.got.shape and np.allclose(guess, case.got, atol=1e-7) for case, guess in guesses):
            return [words]
    return []


def _count(f: Tile, U: int, warm: int, cls: Callable | None = None) -> Work:
    D = 2
    x, rho = torch.randn(warm + 1, D, U, dtype=torch.float64), torch.randn(D, 2 * U, dtype=torch.float64)

    def job() -> Work:
        tau = cls(rho) if cls else lambda x: f(x, rho)
        for i in range(warm):
            tau(x[i])
        with counted() as work:
            tau(x[-1])
        return work.per(D)

    return attempt(cls or f, job)


def _judge(f: Callable, work: Work, U: int, most: int) -> None:
    name, made = name_of(f), work.transforms
    seen = some([f"{number(times)} of {n} points" for n, times in sorted(made.items())], 5)
    # A transform of (2U points, real) is 5/4 n log2 n; the product of spectra 4 (U+1).
    allowed = most * 1.25 * 2 * U * np.log2(2 * U) + 4 * (U + 1)
    if work.left:
        fail(f"{name} {work.leaves}")
    did = f"{number(work.multiply_adds)} multiply-adds a channel"
    if not made:
        fail(f"{name} makes no FFT at U = {U}: it does {did}, U^2 = {U * U}.")
    if set(made) != {2 * U}:
        why = "the circle of 2U points is enough" if max(made) > 2 * U else "the circle must have 2U points"
        fail(f"{name} makes FFTs of another length at U = {U}: a channel {seen}. 2U = {2 * U}: {why}.")
    if made[2 * U] > most:
        fail(f"{name} makes more transforms than needed at U = {U}: a channel {seen}; {most} are enough.")
    if work.multiply_adds > 1.2 * allowed + 8:
        fail(
            f"{name} does {did} at U = {U}; {most} real FFTs and one product of spectra are {number(round(allowed))}. "
            "Are the transforms complex (fft) where real ones (rfft) will do?"
        )
