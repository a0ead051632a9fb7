"""Which pairs of two online series are multiplied when: the tiles of the relaxed product as plain data, and their cost.

A pair (j, k) stands for x_j * rho_k, a part of z_{j+k}. The pairs (t, 0) and (0, t), the red cells, are done at step t
and are not listed. The engine asks product_tile what to do next, so the schedule is what it does.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flashref.convolution import fast_length
from flashref.tiling import Cost, check_count


@dataclass(frozen=True)
class ProductTile:
    """What runs when ``step`` values of both series are known: x[inputs]*rho[lags] + rho[inputs]*x[lags] -> outputs.

    Of the pairs (j, k) between inputs and lags, either way round, those with j + k in outputs, each of them once.
    """

    step: int
    inputs: range
    lags: range
    outputs: range

    @property
    def meets_itself(self) -> bool:
        """Both ways round are the same pairs: one product of the two series is enough."""
        return self.inputs == self.lags

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Every pair (j, k) once: x_j * rho_k belongs to z_{j+k}."""
        for j in self.inputs:
            for k in range(max(self.lags.start, self.outputs.start - j), min(self.lags.stop, self.outputs.stop - j)):
                yield j, k
                if not self.meets_itself and j != k:
                    yield k, j


def product_schedule(L: int, base: int = 1) -> list[ProductTile]:
    """All tiles for L positions, in the order in which they run; each pair j, k >= 1 with j + k < L lies in one.

    The pairs (t, 0) and (0, t), the red cells, are done at step t and are not listed. base: the size of a block inside
    which each step pushes what it makes known to the end of the block. Costs O(L). Raises as schedule does.
    """
    check_count("L", L, 0)
    check_count("base", base, 1)
    tiles = []
    for n in range(1, L):
        if n % base == 0:
            tiles.append(product_tile(n, L, base))
        else:
            stop = min(n - n % base + base, L)  # in the first block no lag is known beyond n-1 itself
            tiles.append(ProductTile(n, range(n - 1, n), range(1, min(n, stop - n + 1)), range(n, stop)))
    return [tile for tile in tiles if next(tile.pairs(), None)]


def product_tile(n: int, L: int, base: int) -> ProductTile:
    """The tile that runs when n values of both series are known; n a multiple of base, 0 < n < L.

    U = base * (largest power of two that divides n / base). If U = n, all pairs of the first n values with a sum of at
    least n; otherwise the newest U values of each series and the lags 1 .. 2U-1 of the other, as for a fixed filter.
    """
    blocks = n // base
    U = base * (blocks & -blocks)
    if U == n:
        return ProductTile(n, range(1, n), range(1, n), range(n, min(2 * n - 1, L)))
    return ProductTile(n, range(n - U, n), range(1, 2 * U), range(n, min(n + U, L)))


def square_schedule(L: int) -> list[ProductTile]:
    """The first relaxed product (van der Hoeven 1997), for comparison: the pairs (j, k) cut into squares.

    When n values are known, for each power U > 1 that divides n+1: the newest U values of each series meet values
    [U-1, 2U-1) of the other, unless those are newer still. A square of U has 2U-1 outputs, the first of which is due in
    this very step. Red cells are not listed. Costs O(L) tiles, three transforms of 2U each.
    """
    check_count("L", L, 0)
    tiles = []
    for n in range(1, L + 1):
        U = 2
        while (n + 1) % U == 0 and n + 1 >= 2 * U:
            outputs = range(n - 1, min(n + 2 * U - 2, L))
            tiles.append(ProductTile(n, range(n - U, n), range(U - 1, 2 * U - 1), outputs))
            U *= 2
    return tiles


def product_cost(tiles: Iterable[ProductTile], fft_from: int = 2) -> Cost:
    """Add up what tiles cost for one channel of one sequence, red cells left out, as tiling.cost does.

    A tile with at least fft_from inputs and outputs runs by FFT: two transforms forward, of what is new, and one back;
    the spectra of the lags are kept from the tile in which they were new. Others run directly.
    """
    check_count("fft_from", fft_from, 2)
    multiply_adds = fft_points = numbers_moved = calls = 0
    for tile in tiles:
        p, q, ways = len(tile.inputs), len(tile.outputs), 1 if tile.meets_itself else 2
        calls += 1
        if min(p, q) < fft_from:
            multiply_adds += sum(1 for _ in tile.pairs())
            numbers_moved += 2 * (p + len(tile.lags)) + 2 * q
        else:
            n = fast_length(tile.lags.stop)
            fft_points += 3 * n
            multiply_adds += 4 * (n // 2 + 1) * ways
            numbers_moved += 2 * p + 2 * (n + 2) + 2 * q
    return Cost(multiply_adds, fft_points, numbers_moved, calls)
