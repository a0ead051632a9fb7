"""One tile: what inputs [l, r) contribute to outputs [l', r'), directly, by FFT, or whichever is faster."""

import copy
from collections.abc import Iterable
from typing import Self

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from flashref.convolution import fast_length

# glibc hands freed memory back to the system, which zeroes its pages before the next tile gets them: in some
# processes this takes longer than the tile. It hands nothing back of up to twice the largest chunk that was ever freed,
# 32 MiB at most. So one is freed here, untouched. MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ still decide, where
# they are set: mallopt(3).
torch.empty(2**25 - 2**13, dtype=torch.uint8, device="cpu")


def tau(
    x: Float[Tensor, "*batch D L"], inputs: range, rho: Float[Tensor, "D K"], outputs: range
) -> Float[Tensor, "*batch D q"]:
    """The definition: ``tau[..., d, t] = sum_{j in inputs} x[..., d, j] * rho[d, t-j]`` for t in outputs.

    x: (..., D, L); rho: (D, K), zero beyond K. Every input must come before every output. Returns (..., D, q) with
    q = len(outputs). Costs len(inputs) * q multiply-adds per channel. From: tau of Oncescu et al. 2025.
    """
    if len(inputs) and len(outputs) and inputs[-1] >= outputs[0]:
        raise ValueError(f"every input must come before every output, got inputs {inputs} and outputs {outputs}")
    z = x.new_zeros(*x.shape[:-1], len(outputs))
    for j in inputs:
        reached = range(outputs.start, min(outputs.stop, j + rho.shape[-1]))
        if len(reached):
            z[..., : len(reached)] += x[..., j, None] * rho[:, reached.start - j : reached.stop - j]
    return z


def tau_direct(x: Float[Tensor, "*batch D p"], rho: Float[Tensor, "D K"], q: int) -> Float[Tensor, "*batch D q"]:
    """What p inputs contribute to the q outputs right after them, as one product with a Toeplitz matrix.

    rho needs at least p + q taps (lags 1 .. p+q-1 are used). Costs p*q multiply-adds per channel, one call.
    """
    windows = rho[:, 1 : x.shape[-1] + q].unfold(-1, x.shape[-1], 1)  # (D, q, p): row i holds lags i+1 .. i+p
    return torch.einsum("dqp,...dp->...dq", windows, x.flip(-1))


def spectrum(rho: Float[Tensor, "D K"], U: int) -> Complex[Tensor, "D n"]:
    """The filter's lags 1 .. 2U-1 as tau_fft wants them: a real FFT of circular length fast_length(2U).

    Lag 0 is the red cell's and reaches none of a tile's outputs. In the spectrum only its rounding would, and in a
    Hyena it is the largest tap: without it the errors of float32 are half as large.
    """
    taps = rho[:, : 2 * U].clone()
    taps[:, :1].zero_()  # assigning 0 would make a tensor of it on the CPU first
    return torch.fft.rfft(taps, fast_length(2 * U))


def tau_fft(x: Float[Tensor, "*batch D U"], spectrum: Complex[Tensor, "D n"], q: int) -> Float[Tensor, "*batch D q"]:
    """What U inputs contribute to the q <= U outputs right after them, by a circular convolution of length 2U.

    Only lags 1 .. 2U-1 occur. The linear convolution has 3U-1 values; those that wrap around a circle of length 2U land
    among the first U, which belong to the inputs' own positions and are thrown away. Costs two FFTs of 2U points per
    channel. From: Oncescu et al. 2025.
    """
    U = x.shape[-1]
    n = fast_length(2 * U)
    return torch.fft.irfft(torch.fft.rfft(x, n).mul_(spectrum), n)[..., U : U + q]


class Tau:
    """tau for fixed filters rho (C, L): the hybrid that the tiled engines use, with spectra computed once per size.

    A tile whose shorter side has at most ``direct_up_to`` positions is done directly, a larger one by FFT. At most
    about ``chunk_points`` FFT points go into one call, so that its data stays in the cache; None means no limit.
    Memory: 8 bytes per tap and channel for all float32 spectra together, each made when its size is first met.
    """

    def __init__(self, rho: Float[Tensor, "C L"], direct_up_to: int, chunk_points: int | None) -> None:
        self.rho, self.direct_up_to, self.chunk_points = rho, direct_up_to, chunk_points
        self._chunks: dict[int, list[tuple[slice, Tensor]]] = {}

    def keeping(self, sizes: Iterable[int]) -> Self:
        """The same tau without the spectra for tiles of other numbers of inputs than these."""
        other = copy.copy(self)
        other._chunks = {U: self._chunks[U] for U in sizes if U in self._chunks}
        return other

    def _chunks_of(self, x: Float[Tensor, "B C U"]) -> list[tuple[slice, Tensor]]:
        """Slices of the channels, each with its spectra, for tiles of U inputs."""
        batch, C, U = x.shape
        if U not in self._chunks:
            size = C
            if self.chunk_points is not None:
                size = max(1, self.chunk_points // (batch * fast_length(2 * U)))
            self._chunks[U] = [(slice(c, c + size), spectrum(self.rho[c : c + size], U)) for c in range(0, C, size)]
        return self._chunks[U]

    def add(self, x: Float[Tensor, "B C p"], z: Float[Tensor, "B C q"]) -> None:
        """Add to z, in place, what x contributes to the positions right after it. x and z must not overlap."""
        if min(x.shape[-1], z.shape[-1]) <= self.direct_up_to:
            z += tau_direct(x, self.rho, z.shape[-1])
            return
        for c, spectra in self._chunks_of(x):
            z[:, c] += tau_fft(x[:, c], spectra, z.shape[-1])

    def replace(self, x: Float[Tensor, "B C p"], z: Float[Tensor, "B C q"]) -> None:
        """As add, but z is overwritten and may share x's memory."""
        if min(x.shape[-1], z.shape[-1]) <= self.direct_up_to:
            z.copy_(tau_direct(x, self.rho, z.shape[-1]))
            return
        for c, spectra in self._chunks_of(x):
            z[:, c] = tau_fft(x[:, c], spectra, z.shape[-1])
