"""The tiled engine for those who wait for every token: no step is long, for up to twice the FFT points in all."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from flashref.tiled_cpu import TiledCPU


class Bounded(TiledCPU):
    """TiledCPU with the bounded schedule: a tile of U inputs is due U steps later, and is done in pieces on the way.

    A piece is a few channels of a tile, by FFT. Each step runs as many pieces as the deadlines demand, evenly: so the
    longest step costs O(log^2 L) per channel and not O(L log L). In all that is up to twice the FFT points of TiledCPU.
    Memory beside filters and spectra (8 bytes per filter tap in float32): the slots of all positions and one spectrum
    for every size of tile, about 2*M*B*D*L numbers.
    """

    name = "bounded"
    piece_points = 2**15  # FFT points of one transform of a piece

    def _check_device(self) -> None:
        pass  # any device

    @cached_property
    def _levels(self) -> dict[int, "Level"]:
        return {}  # by U; made when a generation first needs them, and kept as the filters are

    def _begin_tiles(self) -> int:
        b, rest = self.base, self._rest
        U = b
        while 2 * U < rest:
            if U not in self._levels:
                self._levels[U] = Level(self._tau.rho, U, self.batch_size, self.piece_points)
            U *= 2
        self._jobs: list[Job] = []
        return -(-rest // b) * b  # no second half: every position has its own slot

    def _advance(self) -> None:
        super()._advance()
        n = self.position - self.prompt_length
        if n % self.base or self.base == 1:  # a step that ends a block has enough to do
            self._work(n)

    def _run_tile(self, n: int) -> None:
        b, rest = self.base, self._rest
        # The tile to the next block runs at once.
        self._tau.add(self._slots[..., n - b : n], self._slots[..., n : min(n + b, rest)])
        U = b
        while n % U == 0 and n + U < rest:
            level = self._levels[U]
            self._jobs.append(Job(n + U, level.points, level.run(self._slots[..., :rest], n)))
            U *= 2
        self._jobs.sort(key=lambda job: job.due)

    def _work(self, n: int) -> None:
        """Run pieces, the earliest deadline first: so many FFT points that no later step has to do more."""
        left, now = 0, 0.0
        for job in self._jobs:
            left += job.left
            now = max(now, left / (job.due - n))
        while now > 0:
            job = self._jobs[0]
            points = next(job.pieces)
            job.left -= points
            now -= points
            if not job.left:
                self._jobs.pop(0)


@dataclass
class Job:
    """A tile on its way: FFT points left to do, and how many inputs are known when it must be done."""

    due: int
    left: int
    pieces: Iterator[int]


class Level:
    """The tiles of one size U: block I to block I+2, and for even I to block I+3 too, added up before one FFT back."""

    def __init__(self, rho: Float[Tensor, "C L"], U: int, batch_size: int, piece_points: int) -> None:
        C, size = len(rho), max(1, piece_points // (2 * U * batch_size))
        self.U = U
        # Slices of the channels with the spectra of lags 1 .. 2U-1 beyond U and beyond 2U: two blocks on, three on.
        self.pieces = [
            (slice(c, c + size), *(torch.fft.rfft(rho[c : c + size, far : far + 2 * U], 2 * U) for far in (U, 2 * U)))
            for c in range(0, C, size)
        ]
        self.points = batch_size * C * 2 * U  # of all its FFTs in one direction
        self._even = torch.zeros(batch_size, C, U + 1, dtype=self.pieces[0][1].dtype, device=rho.device)

    def run(self, slots: Float[Tensor, "B C L"], n: int) -> Iterator[int]:
        """The inputs [n-U, n), and [n-2U, n-U) where they are an even block, to the outputs [n+U, n+2U).

        Does one piece, yields its FFT points in one direction, and so on.
        """
        U = self.U
        x, z = slots[..., n - U : n], slots[..., n + U : n + 2 * U]
        for c, two_on, three_on in self.pieces:
            X: Complex[Tensor, "B c U+1"] = torch.fft.rfft(x[:, c], 2 * U)
            if n % (2 * U):  # the block is even: the next one wants its spectrum
                self._even[:, c] = X
                X *= two_on
            else:
                X.mul_(two_on).addcmul_(self._even[:, c], three_on)
            z[:, c] += torch.fft.irfft(X, 2 * U)[..., U : U + z.shape[-1]]
            yield len(slots) * X.shape[1] * 2 * U
