"""The tiled engine on a GPU: the structure of TiledCPU with the choices that a GPU wants.

All channels go into one call, since there a call costs more than a cache miss, and small tiles into one Triton kernel.
What a step touches has static addresses, so that graphs.BlockDecoder can capture a block of b steps in one CUDA graph
and replay it.
"""

import os
from functools import cache
from importlib.util import find_spec

import torch
from jaxtyping import Float
from torch import Tensor

from flashref.tau import Tau
from flashref.tiled_cpu import TiledCPU

MOST_ROWS = 2**16  # from here on both ways of a tile take as long per row, so no more rows are measured


class TiledGPU(TiledCPU):
    """Flash Inference on a CUDA device; on the CPU it runs too, so that its logic is tested everywhere.

    direct_up_to: tiles with at most that many inputs (or outputs) are summed directly, larger ones by FFT. None
    measures it on a CUDA device, once in a process for about as many channels. The two ways round differently: name a
    number where two processes must agree to the last bit. The rest is as in TiledCPU.
    """

    name = "tiled_gpu"
    direct_up_to = 8  # where there is no kernel: PyTorch's product with a Toeplitz matrix has to build that matrix
    chunk_points = 2**28  # no limit for speed, but 1 GiB is enough for one of the temporaries of an FFT

    def _fastest_direct(self) -> int:
        (M, D, _), device = self.filters.shape, self.filters.device
        if device.type != "cuda" or not has_kernels(device):
            return self.direct_up_to
        rows = 1 << (self.batch_size * M * D - 1).bit_length()  # a power of two: few sizes are measured
        return measured_direct_up_to(device, self.filters.dtype, min(rows, MOST_ROWS))

    def _make_tau(self, rho: Float[Tensor, "C L"]) -> Tau:
        tau = KernelTau if has_kernels(self.filters.device) else Tau
        return tau(rho, self.direct_up_to, self.chunk_points)

    def _check_device(self) -> None:
        pass  # any device

    def block(self, first: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The static block of mixers [first, first+count), as views: inputs, partial sums, the filters' first taps.

        Shapes (b, count, B, D) twice and (b, count, 1, D). Whoever computes positions here instead of by step writes
        the inputs and leaves the partial sums as they are; then advance_block(). They move when a generation begins.
        """
        mixers = slice(first, first + count)
        return self._x_block[:, mixers], self._z_block[:, mixers], self._head[:, mixers]

    def in_block(self, m: int, x_i: Float[Tensor, "B D"], z_i: Float[Tensor, "B D"], i: int) -> None:
        """Mixer m at position i of the block: x_i is kept, z_i is overwritten with the output. No check of order."""
        x, z, rho = self._x_block[:, m], self._z_block[:, m], self._head[:, m]
        if has_kernels(x.device):
            from flashref import kernels

            return kernels.mixer_step(x, z, rho, x_i, z_i, i)
        x[i] = x_i
        torch.add(z[i], (x[: i + 1] * rho[: i + 1].flip(0)).sum(0), out=z_i)

    def advance_block(self) -> None:
        """The inputs of a whole block stand in its static block: as b times step for every mixer, and advance.

        Stores the block, runs the gray tile of all mixers and sequences in one call, and loads the next block. In the
        last block, positions past the filters' end are ignored. Raises ValueError if no block is due.
        """
        begun = (self.position - self.prompt_length) % self.base == 0 and self._due == 0
        if not begun:
            raise ValueError(f"advance_block is out of order: no block begins at position {self.position}")
        self._go_to(min(self.position + self.base, self._length))
        if self.position < self._length:
            self._advance()


class KernelTau(Tau):
    """Tau whose direct tiles are one Triton kernel, which adds in place and builds no Toeplitz matrix."""

    def add(self, x: Float[Tensor, "B C p"], z: Float[Tensor, "B C q"]) -> None:
        if min(x.shape[-1], z.shape[-1]) > self.direct_up_to:
            return super().add(x, z)
        from flashref import kernels

        kernels.tau_direct(x, self.rho, z)

    def replace(self, x: Float[Tensor, "B C p"], z: Float[Tensor, "B C q"]) -> None:
        if min(x.shape[-1], z.shape[-1]) > self.direct_up_to:
            return super().replace(x, z)
        sums = torch.zeros_like(z, memory_format=torch.contiguous_format)
        self.add(x, sums)
        z.copy_(sums)


def has_kernels(device: torch.device) -> bool:
    """Whether kernels.py runs on tensors of this device: with Triton on CUDA, or anywhere in Triton's interpreter.

    The interpreter is on where TRITON_INTERPRET=1 is set, now and when kernels.py was first imported.
    """
    wanted = device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
    return wanted and find_spec("triton") is not None


@cache
def measured_direct_up_to(device: torch.device, dtype: torch.dtype, rows: int) -> int:
    """The largest U in 8, 16 ... 256 up to which tau_direct is not slower than an FFT, for tiles of U x U.

    rows: channels times sequences. Each size is timed by Triton's do_bench: CUDA events, a warm-up, the median of 20 ms
    of runs, the L2 cache emptied before each. Takes about a second, most of it compilation; kept for the process.
    """
    U = 8  # an FFT of 16 points has never won
    while U < 256 and _direct_wins(device, dtype, rows, 2 * U):
        U *= 2
    return U


def _direct_wins(device: torch.device, dtype: torch.dtype, rows: int, U: int) -> bool:
    from triton.testing import do_bench

    from flashref import kernels

    # What the numbers are does not matter; random ones would take from the user's generator.
    rho = torch.ones(rows, 2 * U, device=device, dtype=dtype)
    with torch.cuda.device_of(rho):
        x, z = torch.ones_like(rho)[None].split(U, dim=-1)
        by_fft = Tau(rho, 0, TiledGPU.chunk_points)
        direct, fft = (
            do_bench(run, warmup=5, rep=20, return_mode="median")
            for run in (lambda: kernels.tau_direct(x, rho, z), lambda: by_fft.add(x, z))
        )
    return direct <= fft
