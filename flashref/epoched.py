"""The epoched engine: exact, with one FFT over everything so far every K steps, and little memory beside the inputs."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from flashref.convolution import fast_length
from flashref.mixer import check_filters
from flashref.tiled_cpu import TiledCPU


def epoch(L: int) -> int:
    """sqrt(L log2 L): how long an epoch is, unless told."""
    L = max(2, L)
    return round(math.sqrt(L * math.log2(L)))


class Epoched(TiledCPU):
    """FutureFill's epochs (Agarwal et al. 2024, arXiv 2410.03766): every K steps one FFT fills the next K outputs.

    When n inputs are known, n a multiple of K, all of them are convolved with the filter at once, and of the result the
    next K outputs are kept. Inside an epoch every step pushes its column to the epoch's end, as in a base block. So
    L/K FFTs of up to L points and K/2 multiply-adds per step: with K = sqrt(L log2 L) that is O(L^1.5 sqrt(log L)) per
    channel.

    base: K, the length of an epoch, any integer >= 1; sqrt(L log2 L) unless told.

    Memory beside the filters: every input since the prompt, L - P numbers per channel and sequence, which nothing can
    forget here; beside the inputs 2K for the epoch's inputs and outputs, the O(sqrt(L log L)) that the source counts,
    and while an FFT runs about 3 * chunk_points numbers in all. A prompt's contribution to the future lies in the slots
    that later inputs take. No spectrum is kept: each epoch transforms the filters again, a third of its points.
    """

    name = "epoched"

    def __init__(
        self,
        filters: Float[Tensor, "M D L"],
        batch_size: int = 1,
        base: int | None = None,
        direct_up_to: int | None = None,
        chunk_points: int | None = None,
    ) -> None:
        check_filters("filters", filters, "(M, D, L)")
        base = epoch(filters.shape[-1]) if base is None else base
        super().__init__(filters, batch_size, base, direct_up_to, chunk_points)

    def _check_device(self) -> None:
        pass  # any device

    def _begin_tiles(self) -> int:
        return -(-self._rest // self.base) * self.base  # every position has its own slot, to the end of its epoch

    def _run_tile(self, n: int) -> None:
        """All inputs so far to the outputs [n, n+K): what wraps around a circle of n+K points misses those."""
        slots, rho, chunk = self._slots, self._tau.rho, self._tau.chunk_points
        q = min(self.base, self._rest - n)
        points = fast_length(n + q)
        size = max(1, chunk // (self.batch_size * points))
        for c in (slice(c, c + size) for c in range(0, len(rho), size)):
            slots[:, c, n : n + q] += torch.fft.irfft(  # in one expression: no chunk's spectrum is kept during the next
                torch.fft.rfft(slots[:, c, :n], points).mul_(torch.fft.rfft(rho[c, : n + q], points)), points
            )[..., n : n + q]
