"""Checks of what the reader predicts: a formula for work, against the work counted one tile at a time."""

import random
from collections.abc import Callable

from flashref.checks.feedback import attempt, fail, fresh, name_of, number


def _tiles(L: int) -> list[int]:
    return [n & -n for n in range(1, L)]


def _butterflies(n: int) -> int:
    """Of a real FFT of n points, a power of two: n/4 log2 n."""
    return n * (n.bit_length() - 1) // 4 if n > 2 else n // 2


def _hybrid(L: int, b: int) -> int:
    """Multiply-adds with a base block: the columns inside blocks, and tiles of U >= b by FFT."""
    inside = sum(min(n - n % b + b, L) - n for n in range(1, L) if n % b)
    return L + inside + sum(_tile(n & -n) for n in range(b, L, b))


def _tile(U: int) -> int:
    """Multiply-adds of one tile: two real FFTs of 2U points, 5/4 n log2 n each, and the product of spectra."""
    return 5 * U * U.bit_length() + 4 * (U + 1)


# What can be asked: the arguments' names, what it is in words, and the plain count.
QUESTIONS: dict[str, tuple[tuple[str, ...], str, Callable[..., int]]] = {
    "pairs": (("L",), "the pairs (j, t) with j <= t < L", lambda L: sum(t + 1 for t in range(L))),
    "tiles": (("L", "U"), "the gray tiles of size U among L positions", lambda L, U: _tiles(L).count(U)),
    "fft_points": (("L",), "points of all transforms, two of 2U for each tile", lambda L: 4 * sum(_tiles(L))),
    "relaxed": (("L",), "multiply-adds of red cells and tiles by FFT", lambda L: L + sum(map(_tile, _tiles(L)))),
    "spectra": (
        ("L",),
        "multiply-adds of the filter's spectra, one real FFT of 2U points for each size U < L",
        lambda L: sum(1.25 * 2 * U * U.bit_length() for U in sorted(set(_tiles(L)))),
    ),
    "hybrid": (("L", "b"), "multiply-adds with a base block of b", _hybrid),
    "best_base": (
        ("L",),
        "the base b with the fewest multiply-adds",
        lambda L: min((2**q for q in range(L.bit_length())), key=lambda b: _hybrid(L, b)),
    ),
}


def count(what: str, *case: int) -> float:
    """The plain count of what QUESTIONS names: count("relaxed", 8) is 204. Costs O(L)."""
    return QUESTIONS[what][2](*case)


def check_cost(f: Callable[..., int], what: str, seed: int | None = None) -> None:
    """f must predict a count for L, a power of two; what: a name in QUESTIONS, where its arguments are listed.

    Compared with a count made tile by tile, for small L first and for lengths that the seed draws. Raises CheckFailed.
    """
    if what not in QUESTIONS:
        raise ValueError(f"what must be one of {', '.join(QUESTIONS)}, got {what!r}")
    names, words, plain = QUESTIONS[what]
    drawn = random.Random(fresh(seed))
    powers = [1, 2, 3, 4, 5, *sorted(drawn.sample(range(6, 13), 3))]
    cases = [(2**k,) for k in powers]
    if len(names) == 2:
        cases = [(2**k, 2**q) for k in powers for q in sorted({0, 1, k // 2, k - 1, drawn.randrange(k)}) if q < k]
    for case, got in attempt(f, lambda: [(each, f(*each)) for each in cases]):
        want = plain(*case)
        if isinstance(got, bool) or not isinstance(got, int | float) or not abs(got - want) <= 1e-9 * want:
            asked = ", ".join(f"{name} = {value}" for name, value in zip(names, case, strict=True))
            off = f" (yours is {got / want:.3g} times that)" if isinstance(got, int | float) and want else ""
            fail(f"{name_of(f)}: for {asked}, {words}: {number(want)} counted, you predict {got!r:.40}{off}.")
    print(f"Right for {len(cases)} cases up to L = {number(cases[-1][0])}.")
