"""What each engine keeps and allocates, as formulas: numbers, not bytes, of its sizes alone."""

from collections.abc import Callable
from dataclasses import dataclass

from flashref.bounded import Bounded
from flashref.convolution import fast_length
from flashref.epoched import Epoched
from flashref.mixer import Mixer
from flashref.naive import Eager, Lazy
from flashref.tiled_cpu import TiledCPU
from flashref.tiled_gpu import TiledGPU
from flashref.tiling import gray_sizes, middle


@dataclass(frozen=True)
class Sizes:
    """What the formulas take; base, direct_up_to and chunk_points are a tiled engine's."""

    M: int
    D: int
    L: int
    B: int
    P: int
    cuda: bool
    base: int
    direct_up_to: int
    chunk_points: int

    @property
    def C(self) -> int:
        return self.M * self.D

    @property
    def rest(self) -> int:
        return self.L - self.P

    def channels(self, points: int, limit: int) -> int:
        """Channels of a call with at most ``limit`` FFT points, or one."""
        return min(self.C, max(1, limit // (self.B * points)))


@dataclass(frozen=True)
class Numbers:
    """What a formula returns, in numbers: those that are kept, by kind, and those that are there for a moment.

    begin: at once while a generation begins. first: of the spectra, those that there are before the first tile.
    step: beside what is kept, in the largest step or tile.
    """

    kept: dict[str, int]
    begin: int = 0
    first: int = 0
    step: int = 0


def _lazy(s: Sizes) -> Numbers:
    taps, sums = s.C * s.L, s.B * s.C * s.L
    rows = s.L if s.cuda else min(s.L, max(1, Lazy.piece // (s.B * s.D)))
    begin = 2 * taps + sums + s.D * s.L  # one mixer's filters are turned round at a time
    return Numbers({"taps": taps, "sums": sums, "blocks": rows * s.B * s.D}, begin)


def _eager(s: Sizes) -> Numbers:
    return Numbers({"taps": s.C * s.L, "sums": s.B * s.C * s.L})


def _tiled(s: Sizes) -> Numbers:
    half = middle(s.rest, s.base)
    late = s.B * s.C * max(0, s.rest - half) if s.P else 0
    by_fft, work = set(), 0
    for U, q in _tiles(s.rest, s.base):
        if min(U, q) <= s.direct_up_to:
            work = max(work, _direct_tile(s, U, q))
        else:
            by_fft.add(U)
            work = max(work, _fft_tile(s, U))
    spectra = sum(s.C * (fast_length(2 * U) + 2) for U in by_fft)
    return _with_blocks(s, half, spectra, late, work)


def _bounded(s: Sizes) -> Numbers:
    b = s.base
    spectra = levels = evens = work = 0
    q = min(b, s.rest - b)
    if q > s.direct_up_to:
        spectra, work = s.C * (fast_length(2 * b) + 2), _fft_tile(s, b)
    elif q > 0:
        work = _direct_tile(s, b, q)
    U = b
    while 2 * U < s.rest:
        levels += 2 * s.C * (2 * U + 2)
        evens += s.B * s.C * (2 * U + 2)
        work = max(work, 2 * s.B * s.channels(2 * U, Bounded.piece_points) * (2 * U + 2))
        U *= 2
    return _with_blocks(s, -(-s.rest // b) * b, spectra + levels, evens, work, first=levels)


def _epoched(s: Sizes) -> Numbers:
    points = fast_length(s.rest)
    most = max(min(s.C * points, s.chunk_points // s.B), points) if s.rest > s.base else 0
    return _with_blocks(s, -(-s.rest // s.base) * s.base, 0, 0, max(2 * s.B, s.B + 2) * (most + 2 * s.C))


def _with_blocks(s: Sizes, slots: int, spectra: int, more_sums: int, work: int, first: int = 0) -> Numbers:
    """What all tiled engines share: slots, and the taps and rows of a block."""
    taps, blocks = s.base * s.C, 2 * s.base * _padded(s.M * s.B * s.D)
    sums = s.B * s.C * _padded(slots) + more_sums
    return Numbers({"taps": taps, "spectra": spectra, "sums": sums, "blocks": blocks}, first=first, step=work)


def _tiles(rest: int, base: int) -> list[tuple[int, int]]:
    """Of every size of gray tile, how many inputs and outputs the first and the last of each half have."""
    h, found = middle(rest, base), []
    for U in gray_sizes(rest, base):
        if U == h:
            found.append((h, rest - h))
            continue
        for length in (h, rest - h):  # the tiles of U inputs run when U, 3U, 5U ... are known
            last = U * (2 * ((length - 1 + U) // (2 * U)) - 1)
            found += [(U, min(U, length - n)) for n in {U, last} if 0 < n < length]
    return found


def _fft_tile(s: Sizes, U: int) -> int:
    points = fast_length(2 * U)
    return 2 * s.B * s.channels(points, s.chunk_points) * (points + 2)


def _direct_tile(s: Sizes, U: int, q: int) -> int:
    return s.B * s.C * (U + q) + U * q  # the inputs in reverse, the sums, and one channel's Toeplitz matrix


def _padded(length: int) -> int:
    return length + (16 if length and length % 256 == 0 else 0)


FORMULAS: dict[type[Mixer], Callable[[Sizes], Numbers]] = {
    Lazy: _lazy,
    Eager: _eager,
    TiledCPU: _tiled,
    TiledGPU: _tiled,
    Bounded: _bounded,
    Epoched: _epoched,
}
