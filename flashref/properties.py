"""Has a mixer P1 and P2? A search for a counterexample, to run on a mixer of your own."""

from collections.abc import Callable
from functools import reduce

import numpy as np
from torch import Tensor

from flashref.framework import A, ContributionMixer, Known, PropertyError, X, Z
from flashref.tiling import check_count


def check_properties(
    mixer: ContributionMixer[X, A, Z],
    draw: Callable[[np.random.Generator], X],
    length: int = 10,
    trials: int = 20,
    rtol: float = 1e-8,
    seed: int = 0,
) -> None:
    """Look for a counterexample to what a mixer claims; raise PropertyError with it, or return None.

    draw: one random input from a generator. Each trial draws 1 .. length inputs and asks, for every j <= t: P2, does
    cont(j, t) read an input after j, or change when the inputs after j are others, more or fewer? P1, is z_t the same
    wherever two brackets are set? "tile", is z_t the same with one run of contributions from mixer.tile? P2 is compared
    exactly, the other two up to rtol of the trial's largest output (take 1e-4 for float32).

    What is reported is a counterexample. What passes is not proven: a branch of cont that no trial enters is not seen,
    nor is an error below rtol. A read of a later input is seen whether or not it changes the value. Costs about
    ``trials * length^2`` calls of cont and agg. Raises ValueError or TypeError for counts below 1.
    """
    if not isinstance(mixer, ContributionMixer):
        raise TypeError(f"mixer must be a ContributionMixer, got {type(mixer).__name__}")
    check_count("length", length, 1)
    check_count("trials", trials, 1)
    rng = np.random.default_rng(seed)
    for trial in range(trials):
        n = length if trial == 0 else int(rng.integers(1, length + 1))
        x = [draw(rng) for _ in range(n)]
        _check_query_independence(mixer, x, [draw(rng) for _ in range(n + 2)])
        _check_sums(mixer, x, rtol, rng)


def _check_query_independence(mixer: ContributionMixer, x: list, others: list) -> None:
    name = type(mixer).__name__
    for t in range(len(x)):
        for j in range(t + 1):
            seen, past = x[: t + 1], x[: j + 1]
            contribution = mixer.cont(seen, j, t)
            futures = [past + x[j + 1 : t] + others[t : t + 1]] if j < t else []  # the last input is another
            futures += [past + others[j + 1 : t + 1], past + others[j + 1 :], x]  # all are, and there are more
            for future in futures:
                changed = mixer.cont(future, j, t)
                if not _same(contribution, changed, 0.0):
                    raise PropertyError(
                        "P2",
                        f"{name} lacks P2 (query independent): cont(j={j}, t={t}) is not fixed by the inputs up to {j}:"
                        f"\n  inputs {_show(seen)}: cont = {_show(contribution)}"
                        f"\n  inputs {_show(future)}: cont = {_show(changed)}",
                    )
            try:
                mixer.cont(Known(x, j), j, t)
            except PropertyError as error:
                raise PropertyError("P2", f"{name}, cont(j={j}, t={t}): {error}") from None


def _check_sums(mixer: ContributionMixer, x: list, rtol: float, rng: np.random.Generator) -> None:
    n, name = len(x), type(mixer).__name__
    rows = [[mixer.cont(x, j, t) for j in range(t + 1)] for t in range(n)]
    z = [mixer.read(x, t, reduce(mixer.agg, row)) for t, row in enumerate(rows)]
    tolerance = rtol * max(map(_size, z))
    for t in range(2, n):
        i, j = sorted(rng.choice(range(1, t + 1), 2, replace=False).tolist())
        first, second, third = (reduce(mixer.agg, rows[t][run]) for run in (slice(i), slice(i, j), slice(j, None)))
        bracketed = mixer.read(x, t, mixer.agg(first, mixer.agg(second, third)))
        if not _same(z[t], bracketed, tolerance):
            raise PropertyError(
                "P1",
                f"{name} lacks P1 (contribution based): agg is not associative. For output {t}:"
                f"\n  one contribution after another: z = {_show(z[t])}"
                f"\n  (0..{i - 1}) agg ((from {i}) agg (from {j})): z = {_show(bracketed)}",
            )
    if n < 2:
        return
    start, stop = sorted(rng.choice(n, 2, replace=False).tolist())
    aggregates = mixer.tile(Known(x[:stop], stop - 1), range(start, stop), range(stop, n))
    for t, aggregate in zip(range(stop, n), aggregates, strict=True):
        tiled = mixer.read(x, t, reduce(mixer.agg, [*rows[t][:start], aggregate, *rows[t][stop:]]))
        if not _same(z[t], tiled, tolerance):
            raise PropertyError(
                "tile",
                f"{name}.tile is not what its cont and agg say, for inputs {start} to {stop - 1} and output {t}:"
                f"\n  by cont: z = {_show(z[t])}"
                f"\n  by tile: z = {_show(tiled)}",
            )


def _leaves(value: object) -> list[object]:
    """Numbers as arrays, everything else as it is, out of tuples and lists."""
    if isinstance(value, tuple | list):
        return [leaf for part in value for leaf in _leaves(part)]
    if isinstance(value, Tensor):
        return [value.detach().cpu().double().numpy()]
    is_number = isinstance(value, int | float | complex | np.ndarray | np.number)
    return [np.asarray(value) if is_number else value]


def _size(value: object) -> float:
    arrays = [leaf for leaf in _leaves(value) if isinstance(leaf, np.ndarray) and leaf.size]
    return max((float(np.abs(leaf).max()) for leaf in arrays), default=0.0)


def _same(a: object, b: object, tolerance: float) -> bool:
    pairs = list(zip(_leaves(a), _leaves(b), strict=False))
    if len(_leaves(a)) != len(_leaves(b)):
        return False
    return all(
        p.shape == q.shape and np.allclose(p, q, rtol=0, atol=tolerance, equal_nan=True)
        if isinstance(p, np.ndarray) and isinstance(q, np.ndarray)
        else bool(p == q)
        for p, q in pairs
    )


def _show(value: object) -> str:
    """Short enough for a line: numbers to four digits."""
    if isinstance(value, tuple | list):
        inner = ", ".join(map(_show, value))
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    if isinstance(value, Tensor | np.ndarray):
        return _show(value.tolist() if value.shape != (1,) else value[0].item())  # one channel: a number
    return f"{value:.4g}" if isinstance(value, float) else repr(value)
