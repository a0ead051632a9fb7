"""The tiled engine for those who wait for every token: no step is long, for up to twice the FFT points in all."""

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
        self._evens: dict[int, Tensor] = {}
        U = b
        while 2 * U < rest:
            if U not in self._levels:
                self._levels[U] = Level(self._tau.rho, U, self.batch_size, self.piece_points)
            self._evens[U] = self._levels[U].make_even()
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
            self._jobs.append(Job(n + U, U, self._levels[U].points))
            U *= 2
        self._jobs.sort(key=lambda job: (job.due, -job.U))

    def _work(self, n: int) -> None:
        """Run pieces, the earliest deadline first: so many FFT points that no later step has to do more."""
        left, now = 0, 0.0
        for job in self._jobs:
            left += job.left
            now = max(now, left / (job.due - n))
        while now > 0:
            job = self._jobs[0]
            points = self._levels[job.U].run_piece(self._slots[..., : self._rest], self._evens[job.U], job)
            job.left -= points
            now -= points
            if not job.left:
                self._jobs.pop(0)

    def _buffers(self) -> dict[str, Tensor]:
        left = {job.U: job.left for job in self._jobs}
        self._left = torch.tensor([left.get(U, 0) for U in self._evens])
        evens = {f"even_{U}": torch.view_as_real(even) for U, even in self._evens.items()}
        return super()._buffers() | evens | {"left": self._left}

    def _resume(self) -> None:
        super()._resume()
        n = self.position - self.prompt_length
        for U, left in zip(self._evens, self._left.tolist(), strict=True):
            if not left:
                continue
            level = self._levels[U]
            if not 0 < left <= level.points or (level.points - left) % level.per_piece or n < U:
                raise ValueError(f"snapshot['left'] says {left} points at position {n}: no number of pieces of {U}")
            self._jobs.append(Job(n - n % U + U, U, left))  # a level's one job began at the last multiple of U
        self._jobs.sort(key=lambda job: (job.due, -job.U))


@dataclass
class Job:
    """A tile on its way: how many inputs are known when it must be done, its size, and FFT points left to do."""

    due: int
    U: int
    left: int


class Level:
    """The tiles of one size U: block I to block I+2, and for even I to block I+3 too, added up before one FFT back."""

    def __init__(self, rho: Float[Tensor, "C L"], U: int, batch_size: int, piece_points: int) -> None:
        C, size = len(rho), max(1, piece_points // (2 * U * batch_size))
        # Slices of the channels with the spectra of lags 1 .. 2U-1 beyond U and beyond 2U: two blocks on, three on.
        self.pieces = [
            (slice(c, c + size), *(torch.fft.rfft(rho[c : c + size, far : far + 2 * U], 2 * U) for far in (U, 2 * U)))
            for c in range(0, C, size)
        ]
        self.points = batch_size * C * 2 * U  # of all its FFTs in one direction
        self.per_piece = batch_size * size * 2 * U
        self._even = (batch_size, C, U + 1)

    def make_even(self) -> Complex[Tensor, "B C U+1"]:
        """Where the spectrum of an even block waits for the next one to be complete."""
        return self.pieces[0][1].new_zeros(self._even)

    def run_piece(self, slots: Float[Tensor, "B C L"], even: Complex[Tensor, "B C U+1"], job: Job) -> int:
        """The next piece of a job: the inputs [n-U, n), and [n-2U, n-U) where they are an even block, to the outputs
        [n+U, n+2U), for some channels. Returns its FFT points in one direction.
        """
        U, n = job.U, job.due - job.U
        c, two_on, three_on = self.pieces[(self.points - job.left) // self.per_piece]
        x, z = slots[:, c, n - U : n], slots[:, c, n + U : n + 2 * U]
        X: Complex[Tensor, "B c U+1"] = torch.fft.rfft(x, 2 * U)
        if n % (2 * U):  # the block is even: the next one wants its spectrum
            even[:, c] = X
            X *= two_on
        else:
            X.mul_(two_on).addcmul_(even[:, c], three_on)
        z += torch.fft.irfft(X, 2 * U)[..., U : U + z.shape[-1]]
        return len(slots) * X.shape[1] * 2 * U
