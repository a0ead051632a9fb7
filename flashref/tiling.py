"""Which pairs (j, t) are computed when: tiles, the three schedules as plain data, and what each costs.

A pair (j, t) with j < t stands for "input j contributes to output t". The pairs (t, t), the red cells, are not listed:
every engine does them at step t. The engines ask gray_tile what to do next, so a schedule is what they do.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from flashref.convolution import fast_length


@dataclass(frozen=True)
class Tile:
    """Inputs that contribute to outputs, at the moment when ``step`` inputs are known.

    ``inputs`` and ``outputs`` are ranges of positions; every input comes before every output.
    """

    step: int
    inputs: range
    outputs: range


@dataclass(frozen=True)
class Cost:
    """What a schedule costs for ONE channel of one sequence, red cells left out.

    multiply_adds: real multiply-adds in direct tiles, and 4 per complex product of two spectra.
    fft_points: points of all transforms (a tile by FFT makes two, the filter's spectrum being kept).
    numbers_moved: real numbers read and written: inputs, taps or spectra, and outputs twice.
    calls: how many tiles.
    """

    multiply_adds: int
    fft_points: int
    numbers_moved: int
    calls: int


def schedule(L: int, kind: str = "relaxed", base: int = 1) -> list[Tile]:
    """All tiles for L positions, in the order in which they run; each pair j < t lies in exactly one.

    kind: "lazy" gathers row t just before output t; "eager" pushes column j to every later output as soon as input j is
    known; "relaxed" is the fractal tiling (Oncescu et al. 2025, after van der Hoeven 1997). base: for "relaxed",
    the size of a block inside which every step pushes its column to the end of the block; 1 is the paper's tiling.

    Costs O(L) tiles. Raises ValueError for L < 0, base < 1, an unknown kind, or a base with a kind that has none.
    """
    _check_count("L", L, 0)
    _check_count("base", base, 1)
    if kind not in ("lazy", "eager", "relaxed"):
        raise ValueError(f'kind must be "lazy", "eager" or "relaxed", got {kind!r}')
    if kind != "relaxed" and base != 1:
        raise ValueError(f'base belongs to kind="relaxed" only, got base={base} with kind={kind!r}')
    if kind == "lazy":
        return [Tile(t, range(t), range(t, t + 1)) for t in range(1, L)]
    if kind == "eager":
        return [Tile(n, range(n - 1, n), range(n, L)) for n in range(1, L)]
    tiles = []
    for n in range(1, L):
        if n % base:
            block_end = min(n - n % base + base, L)
            tiles.append(Tile(n, range(n - 1, n), range(n, block_end)))
        else:
            tiles.append(gray_tile(n, L, base))
    return tiles


def middle(L: int, base: int) -> int:
    """Where the positions are split so that half a buffer is enough: h = base * ceil(blocks / 2)."""
    blocks = -(-L // base)
    return base * -(-blocks // 2)


def gray_tile(n: int, L: int, base: int) -> Tile:
    """The gray tile that runs when n inputs are known; n a multiple of base, 0 < n < L.

    Each half of the positions has its own tiling from its own start: with U = base * (largest power of two that divides
    the number of blocks behind n), inputs [n-U, n) go to outputs [n, n+U), clipped to the half. At the middle one tile
    takes the whole first half to the whole second half. For L = base * 2^k the two rules agree, and this is the paper's
    tiling; for other L the split keeps the buffer at half the length.
    """
    h = middle(L, base)
    if n == h:
        return Tile(n, range(h), range(h, L))
    start, stop = (0, h) if n < h else (h, L)
    blocks = (n - start) // base
    U = base * (blocks & -blocks)
    return Tile(n, range(n - U, n), range(n, min(n + U, stop)))


def cost(tiles: Iterable[Tile], fft_from: int = 2) -> Cost:
    """Add up what tiles cost. A tile whose shorter side has at least fft_from positions runs by FFT, others directly.

    fft_from is at least 2, since a tile of one pair has nothing to transform; Tau picks by the same rule.
    """
    _check_count("fft_from", fft_from, 2)
    multiply_adds = fft_points = numbers_moved = calls = 0
    for tile in tiles:
        p, q = len(tile.inputs), len(tile.outputs)
        calls += 1
        if min(p, q) < fft_from:
            multiply_adds += p * q
            numbers_moved += p + (p + q - 1) + 2 * q
        else:
            n = fast_length(2 * p)
            fft_points += 2 * n
            multiply_adds += 4 * (n // 2 + 1)
            numbers_moved += p + (n + 2) + 2 * q
    return Cost(multiply_adds, fft_points, numbers_moved, calls)


def _check_count(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be >= {least}, got {value}")
