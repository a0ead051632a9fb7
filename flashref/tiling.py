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


@dataclass(frozen=True)
class RadixCost:
    """What tiling with a radix costs for ONE channel of one sequence, in real multiply-adds, red cells left out.

    direct: between the positions of one base block (with base 1: of one group of the lowest level).
    transforms: all real FFTs, 5/4 n log2 n each for n points: n/4 log2 n butterflies of ten operations, and a
    multiply-add is two operations.
    products: of spectra, 4 for each complex number.
    longest: the most that one step does.
    fft_points: points of all transforms (a count of points, not of multiply-adds).
    """

    direct: int
    transforms: int
    products: int
    longest: int
    fft_points: int

    @property
    def total(self) -> int:
        """Multiply-adds in all: direct, transforms and products."""
        return self.direct + self.transforms + self.products


def schedule(L: int, kind: str = "relaxed", base: int = 1) -> list[Tile]:
    """All tiles for L positions, in the order in which they run; each pair j < t lies in exactly one.

    kind: "lazy" gathers row t just before output t; "eager" pushes column j to every later output as soon as input j is
    known; "relaxed" is the fractal tiling (Oncescu et al. 2025, after van der Hoeven 1997); "bounded" leaves each large
    tile as many steps to be done in as it has inputs, so that no step is long (see bounded_tiles). base: for "relaxed"
    and "bounded", the size of a block inside which every step pushes its column to the end of the block; 1 is the
    paper's tiling.

    Costs O(L) tiles. Raises ValueError for L < 0, base < 1, an unknown kind, or a base with a kind that has none.
    """
    check_count("L", L, 0)
    check_count("base", base, 1)
    if kind not in ("lazy", "eager", "relaxed", "bounded"):
        raise ValueError(f'kind must be "lazy", "eager", "relaxed" or "bounded", got {kind!r}')
    if kind in ("lazy", "eager") and base != 1:
        raise ValueError(f'base belongs to kind="relaxed" and "bounded" only, got base={base} with kind={kind!r}')
    if kind == "lazy":
        return [Tile(t, range(t), range(t, t + 1)) for t in range(1, L)]
    if kind == "eager":
        return [Tile(n, range(n - 1, n), range(n, L)) for n in range(1, L)]
    tiles = []
    for n in range(1, L):
        if n % base:
            block_end = min(n - n % base + base, L)
            tiles.append(Tile(n, range(n - 1, n), range(n, block_end)))
        elif kind == "relaxed":
            tiles.append(gray_tile(n, L, base))
        else:
            tiles += bounded_tiles(n, L, base)
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


def bounded_tiles(n: int, L: int, base: int) -> list[Tile]:
    """The tiles of the bounded schedule whose inputs are complete when n are known; n a multiple of base, 0 < n < L.

    The last block goes to the next one at once. All other tiles leave a gap: cut the positions into blocks of U =
    base * 2^q for every q, and let block I go to block J where the two do not touch but the blocks of 2U around them
    do or are the same: to J = I+2, and for even I to J = I+3. So the first output is due U steps later at the earliest.
    Every pair lies in one tile, that of the largest U whose blocks hold the two apart. The idea is that of partitioned
    convolution (Gardner 1995), with squares for tiles.
    """
    tiles = [Tile(n, range(n - base, n), range(n, min(n + base, L)))]
    U = base
    while n % U == 0 and n + U < L:
        out = range(n + U, min(n + 2 * U, L))
        tiles.append(Tile(n, range(n - U, n), out))
        if n % (2 * U) == 0:  # block J = n/U + 1 is odd: block J-3 is even, and has it in sight too
            tiles.append(Tile(n, range(n - 2 * U, n - U), out))
        U *= 2
    return tiles


def gray_sizes(L: int, base: int) -> list[int]:
    """How many inputs the gray tiles of L positions have: base, 2*base, 4*base ... below the middle, and the middle."""
    h, sizes = middle(L, base), []
    U = base
    while U < h:
        sizes.append(U)
        U *= 2
    return [*sizes, h] if h < L else sizes


def cost(tiles: Iterable[Tile], fft_from: int = 2) -> Cost:
    """Add up what tiles cost. A tile whose shorter side has at least fft_from positions runs by FFT, others directly.

    fft_from is at least 2, since a tile of one pair has nothing to transform; Tau picks by the same rule.
    """
    check_count("fft_from", fft_from, 2)
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


def radix_cost(L: int, radix: int = 2, base: int = 1) -> RadixCost:
    """What an online convolution of L positions costs with radix r: groups of r blocks, r groups of them, and so on.

    On the level of blocks of U positions, a group of r blocks transforms each block but its last once (length 2U), adds
    the products of spectra that its later blocks receive, r(r-1)/2 in all, and transforms back once for each block but
    its first. The filter's spectra are kept. Where L/base is no power of r, the groups of the lowest level are smaller.
    radix 2 is ``schedule(L, base=base)`` run by FFT. From: van der Hoeven 2007, for a filter that is known.

    Costs O(log L) time. Raises TypeError for what is no integer, ValueError for what is no power of two or for radix 1.
    """
    for name, value, least in (("L", L, 1), ("radix", radix, 2), ("base", base, 1)):
        check_count(name, value, least)
        if value & (value - 1):
            raise ValueError(f"{name} must be a power of two, got {value}")

    def lowest(blocks: int) -> int:
        while blocks > radix:
            blocks //= radix
        return blocks

    U = min(base, L) if base > 1 else lowest(L)  # single positions have nothing to transform: a group is done directly
    direct, longest = L * (U - 1) // 2, U - 1
    transforms = products = fft_points = 0
    blocks = lowest(L // U)
    while U < L:
        groups = L // (blocks * U)
        pair = 5 * U * U.bit_length()  # one transform forward and one back, of 2U points: log2(2U) = U.bit_length()
        product = 4 * (U + 1)
        transforms += groups * (blocks - 1) * pair
        fft_points += groups * (blocks - 1) * 4 * U
        products += groups * (blocks * (blocks - 1) // 2) * product
        longest = max(longest, pair + (blocks - 1) * product)
        U, blocks = U * blocks, radix
    return RadixCost(direct, transforms, products, longest, fft_points)


def check_integers(**values: object) -> None:
    """Refuse the first value that is no integer, by name."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer, got {type(value).__name__}")


def check_count(name: str, value: object, least: int) -> None:
    """Refuse what is no integer >= least."""
    check_integers(**{name: value})
    if value < least:
        raise ValueError(f"{name} must be >= {least}, got {value}")
