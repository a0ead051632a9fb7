"""The tiled engine: O(L log^2 L) per channel, by relaxed tiles above a base block.

Inside a block of b positions each step pushes its column to the end of the block, in one fused call per mixer. At the
end of a block one gray tile runs for all mixers, channels and sequences together.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from flashref.mixer import Mixer
from flashref.tau import Tau
from flashref.tiling import gray_tile, middle


class TiledCPU(Mixer):
    """Flash Inference on a CPU (Oncescu et al. 2025, parallel across layers), with what a step touches static.

    base: b, the block size, any integer >= 1. Memory beside filters and spectra (8 bytes per filter tap in float32):
    one buffer of half the remaining length, whose slot t is the partial sum of z_t until step t and x_t from then on,
    and two static blocks: at most M*B*D*(L/2 + 3b) numbers without a prompt, M*B*D*(L - P + 3b) with one of P.
    """

    name = "tiled_cpu"
    direct_up_to = 16  # tiles up to this size are products with a Toeplitz matrix, larger ones FFTs
    chunk_points = 2**19  # FFT points per call: a chunk's data stays in the L2 cache

    def __init__(self, filters: Float[Tensor, "M D L"], batch_size: int = 1, base: int = 64) -> None:
        if not isinstance(base, int) or isinstance(base, bool):
            raise TypeError(f"base must be an integer, got {type(base).__name__}")
        if base < 1:
            raise ValueError(f"base must be >= 1, got {base}")
        super().__init__(filters, batch_size)
        self._check_device()
        self.base = base
        M, D, L = self.filters.shape
        with torch.inference_mode(False):
            self._tau = Tau(self.filters.view(M * D, L), self.direct_up_to, self.chunk_points)
            head = self.filters.new_zeros(M, base, 1, D)
            head[:, : min(base, L), 0] = self.filters[..., :base].transpose(1, 2)
        self._head = head

    def _check_device(self) -> None:
        if self.filters.device.type != "cpu":
            raise ValueError(f'engine "tiled_cpu" needs filters on the CPU, got {self.filters.device}: use "tiled_gpu"')

    def _begin(self) -> None:
        (M, D, L), B, b = self.filters.shape, self.batch_size, self.base
        self._rest = L - self.prompt_length  # the tiling starts after the prompt and counts from there
        self._half = middle(self._rest, b)
        self._slots = self.filters.new_zeros(B, M * D, self._half)
        self._late = None  # what a prompt contributes to the second half, until its slots are free
        x, z = self.filters.new_zeros(2, M, b, B, D)  # time before channels: a position is contiguous
        self._x_block, self._z_block, self._i = x, z, 0
        # Views of each position of the block: its input, the filter's taps for the column from here to the block's
        # end, that column, and its output. Made once: slicing would cost a step more than its arithmetic.
        self._views = [[(x[m, i], self._head[m, : b - i], z[m, i:], z[m, i]) for i in range(b)] for m in range(M)]

    def _remember(self, m: int, x: Float[Tensor, "B D P"]) -> Float[Tensor, "B D P"]:
        (M, D, _), P, h = self.filters.shape, self.prompt_length, self._half
        z = self._convolve_prompt(m, x)
        early, late = z[..., P : P + h], z[..., P + h :]
        mine = slice(m * D, (m + 1) * D)
        self._slots[:, mine, : early.shape[-1]] = early
        if late.shape[-1]:
            if self._late is None:
                with torch.inference_mode(False):
                    self._late = self.filters.new_zeros(self.batch_size, M * D, late.shape[-1])
            self._late[:, mine] = late
        if m == M - 1 and self._rest:
            self._load_block(0)
        return z[..., :P]

    def _step(self, m: int, x_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        x, taps, column, z_t = self._views[m][self._i]
        column.addcmul_(taps, x.copy_(x_t))  # the red cell and the column below it
        return z_t

    def _advance(self) -> None:
        n = self.position - self.prompt_length
        self._i = n % self.base
        if self._i or n >= self._rest:
            return
        self._store_block(n - self.base)
        tile = gray_tile(n, self._rest, self.base)
        if n == self._half:  # the second half takes over the slots of the first
            out = self._slots[..., : len(tile.outputs)]
            self._tau.replace(self._slots, out)
            if self._late is not None:
                out += self._late
                self._late = None
        else:
            start = self._half if n > self._half else 0
            x = self._slots[..., tile.inputs.start - start : tile.inputs.stop - start]
            self._tau.add(x, self._slots[..., tile.outputs.start - start : tile.outputs.stop - start])
        self._load_block(n)

    def _store_block(self, n: int) -> None:
        """Copy the block's inputs, positions [n, n+b), into their slots."""
        self._block_slots(n).copy_(self._x_block.permute(2, 0, 3, 1))

    def _load_block(self, n: int) -> None:
        """Copy the partial sums of positions [n, n+b) into the static block."""
        slots = self._block_slots(n).contiguous()  # two copies, since one that also transposes takes twice as long
        self._z_block.copy_(slots.permute(1, 3, 0, 2))

    def _block_slots(self, n: int) -> Float[Tensor, "B M D b"]:
        M, D, _ = self.filters.shape
        start = n - self._half if n >= self._half else n
        return self._slots[..., start : start + self.base].unflatten(1, (M, D))
