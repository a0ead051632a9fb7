"""Checks of schedules: is every pair taken once and in time, and are the tiles those of the relaxed schedule?"""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise

from flashref.checks.feedback import attempt, fail, fresh, name_of, some
from flashref.checks.sandbox import Complaint
from flashref.figures.tilings import coverage, tiling
from flashref.tiling import Tile

Plain = tuple[int, int, int, int, int]  # step, inputs from, to, outputs from, to
DRAWN = 24  # up to this length faults are drawn


def check_schedule(f: Callable[[int], list[Tile]], seed: int | None = None) -> None:
    """f(L) must list tiles that take every pair j < t < L once, with j < step <= t, in the order of their steps.

    Tried for L = 0 .. 12, 16 and some lengths up to 200 that the seed draws (a new one each time, unless told). The
    smallest L that fails is reported with the picture of the pairs that are missed, repeated, or taken too early or
    too late. Raises CheckFailed.
    """
    drawn = random.Random(seed := fresh(seed))
    lengths = [*range(13), 16, *sorted(drawn.sample(range(17, 64), 3)), drawn.randrange(100, 200)]
    found = _listed(f, lengths)
    wrong = {L: faults for L, tiles in found.items() if (faults := _faults(tiles, L))}
    if wrong:
        L = min(wrong)
        drawable = [n for n in wrong if n <= DRAWN and all(_inside(tile, n) for tile in found[n])]
        shown = next((n for n in drawable if n >= 8), max(drawable, default=0))
        text = f"{getattr(f, '__name__', 'it')}({L}) is wrong, the shortest of the lengths tried (seed {seed}):"
        marks = "0 missed, 2 or more repeated, < input not known yet, > output given out before"
        also = f"\nThe picture shows L = {shown}. Its marks: {marks}." if shown else ""
        figure = coverage(list(map(_tile, found[shown])), shown) if shown else None
        fail("\n".join([text, *wrong[L]]) + also, figure)
    print(f"Right: every pair once and in time, for {len(lengths)} lengths up to {lengths[-1]}.")


def check_tiles(f: Callable[[int], list[Tile]]) -> None:
    """f(L) must be the relaxed schedule for L = 2, 4, ..., 256: L/(2U) square tiles of each size U = 1, 2, ..., L/2.

    A schedule that is right and not fractal, such as eager, is answered with its sizes and its picture.
    """
    powers = [16, *(2**k for k in range(1, 9))]
    for L, tiles in _listed(f, powers).items():
        sizes = Counter((b - a, d - c) for _, a, b, c, d in tiles)
        wanted = Counter({(2**q, 2**q): L >> (q + 1) for q in range(L.bit_length() - 1)})
        if sizes == wanted:
            continue
        yours, theirs = (some([f"{n} of {p} x {q}" for (p, q), n in sorted(s.items())], 6) for s in (sizes, wanted))
        thin = sum(p * q * n for (p, q), n in sizes.items() if min(p, q) == 1)
        note = f"\n{thin} pairs are in tiles one pair thin: an FFT gains nothing there." if thin > L else ""
        figure = tiling(list(map(_tile, tiles)), L) if L <= 64 and all(_inside(tile, L) for tile in tiles) else None
        fail(f"At L = {L} the tiles (inputs x outputs) are\n  {yours}\nthe relaxed ones are\n  {theirs}{note}", figure)
    print(f"Right: L/(2U) square tiles of each size U, for L = 2 .. {powers[-1]}.")


def check_steps(f: Callable[[int, int], int], seed: int | None = None) -> None:
    """f(j, t), j < t, must be the step at which the relaxed schedule takes the pair.

    That is the number in j+1 .. t that the largest power of two divides. Tried on all pairs below 32 and on large ones.
    """
    drawn = random.Random(seed := fresh(seed))
    pairs = [(j, t) for t in range(32) for j in range(t)]
    pairs += [tuple(sorted(drawn.sample(range(4000), 2))) for _ in range(30)]
    for (j, t), got in attempt(f, lambda: [(pair, f(*pair)) for pair in pairs]):
        want = max(range(j + 1, t + 1), key=lambda n: n & -n)
        if not isinstance(got, int) or got != want:
            window = f"the window of ({j}, {t}) is {j + 1} .. {t}; in binary, j = {j:b} and t = {t:b}"
            name = name_of(f)
            fail(f"{name}({j}, {t}) must be {want} = {want:b} in binary, got {got!r}: {window}.")
    print(f"Right for {len(pairs)} pairs.")


def _inside(plain: Plain, L: int) -> bool:
    _, a, b, c, d = plain
    return 0 <= a and b <= L and 0 <= c and d <= L


def _tile(plain: Plain) -> Tile:
    step, a, b, c, d = plain
    return Tile(step, range(a, b), range(c, d))


def _listed(f: Callable[[int], list[Tile]], lengths: list[int]) -> dict[int, list[Plain]]:
    name = name_of(f)

    def job() -> dict[int, list[Plain]]:
        found = {}
        for L in lengths:
            try:
                answer = f(L)
            except Exception as error:
                error.add_note(f"called with L = {L}")
                raise
            found[L] = _plain(answer, f"{name}({L})", L)
        return found

    return attempt(f, job)


def _plain(answer: object, call: str, L: int) -> list[Plain]:
    if answer is None:
        raise Complaint(f"{call} returned None: is there a return?")
    if not isinstance(answer, Iterable):
        raise Complaint(f"{call} must return a list of tiles, got {type(answer).__name__}.")
    found = []
    for tile in answer:
        if len(found) > 4 * L * L + 10:
            raise Complaint(f"{call} returns over {4 * L * L} tiles: there are only {L * (L - 1) // 2} pairs.")
        if not isinstance(tile, Tile):
            raise Complaint(f"{call} must hold flashref.Tile(step, inputs, outputs), got {tile!r:.80}.")
        for part in (tile.inputs, tile.outputs):
            if not isinstance(part, range) or part.step != 1:
                raise Complaint(f"{call}: inputs and outputs must be range(start, stop), got {tile!r:.120}.")
        if not isinstance(tile.step, int):
            raise Complaint(f"{call}: step must be an integer, got {tile!r:.120}.")
        a, b, c, d = tile.inputs.start, tile.inputs.stop, tile.outputs.start, tile.outputs.stop
        found.append((int(tile.step), a, max(a, b), c, max(c, d)))
    return found


def _faults(tiles: list[Plain], L: int) -> list[str]:
    """One line for each kind of fault, with the first pairs that have it."""
    runs: Counter[tuple[int, int]] = Counter()
    outside, early, late = [], [], []
    for step, a, b, c, d in tiles:
        if not _inside((step, a, b, c, d), L):
            outside.append(f"inputs [{a}, {b}) to outputs [{c}, {d}) at step {step}")
        for t in range(max(c, 0), min(d, L)):
            for j in range(max(a, 0), min(b, L)):
                runs[j, t] += 1
                if step <= j < t:
                    early.append(f"({j}, {t}): at step {step} input {j} is not known yet")
                if j < t < step:
                    late.append(f"({j}, {t}): output {t} was given out before step {step}")
    missed = [(j, t) for t in range(L) for j in range(t) if not runs[j, t]]
    repeated = [f"({j}, {t}) {n} times" for (j, t), n in sorted(runs.items()) if n > 1 and j < t]
    above = sorted((j, t) for j, t in runs if j >= t)
    unordered = [f"{two[0]} after {one[0]}" for one, two in pairwise(tiles) if two[0] < one[0]]
    kinds = {
        "tiles reach beyond the positions 0 .. L-1 (clip them)": outside,
        "pairs missed": missed,
        "pairs repeated": repeated,
        "pairs too early": early,
        "pairs too late": late,
        "pairs with j >= t, which are no tile's business": above,
        "steps out of order": unordered,
    }
    return [f"- {kind} ({len(found)}): {some(found)}" for kind, found in kinds.items() if found]
