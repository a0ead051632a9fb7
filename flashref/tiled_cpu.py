"""The tiled engine: O(L log^2 L) per channel, by relaxed tiles above a base block.

Inside a block of b positions each mixer's step does its red cell; then one fused call pushes the columns of all mixers
to the end of the block. At the end of a block one gray tile runs for all mixers, channels and sequences together.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from flashref.mixer import Mixer
from flashref.tau import Tau
from flashref.tiling import check_count, gray_sizes, gray_tile, middle

BASE = 64  # the block size, unless another is told or was measured


class TiledCPU(Mixer):
    """Flash Inference on a CPU (Oncescu et al. 2025, parallel across layers), with what a step touches static.

    base: b, the block size, any integer >= 1. direct_up_to, chunk_points: as in Tau, the class's own unless told;
    make_mixer gives those that were measured on this machine, if any were (calibration.py).

    Memory beside filters and spectra (8 bytes per filter tap in float32): one buffer of half the remaining length,
    whose slot t is the partial sum of z_t until step t and x_t from then on, and two static blocks: about
    M*B*D*(L/2 + 3b) numbers without a prompt, M*B*D*(L - P + 3b) with one of P.
    """

    name = "tiled_cpu"
    direct_up_to = 16  # tiles up to this size are products with a Toeplitz matrix, larger ones FFTs
    chunk_points = 2**19  # FFT points per call: a chunk's data stays in the L2 cache

    def __init__(
        self,
        filters: Float[Tensor, "M D L"],
        batch_size: int = 1,
        base: int = BASE,
        direct_up_to: int | None = None,
        chunk_points: int | None = None,
    ) -> None:
        check_count("base", base, 1)
        check_count("direct_up_to", self.direct_up_to if direct_up_to is None else direct_up_to, 0)
        check_count("chunk_points", self.chunk_points if chunk_points is None else chunk_points, 1)
        super().__init__(filters, batch_size)
        self._check_device()
        self.base = base
        self.direct_up_to = self._fastest_direct() if direct_up_to is None else direct_up_to
        self.chunk_points = chunk_points or self.chunk_points
        M, D, L = self.filters.shape
        with torch.inference_mode(False):
            self._tau = self._make_tau(self.filters.view(M * D, L))
            self._head = self.filters.new_zeros(base, M, 1, D)  # the taps of one block, time first
            self._head[: min(base, L), :, 0] = self.filters[..., :base].permute(2, 0, 1)

    def _fastest_direct(self) -> int:
        return self.direct_up_to

    def _make_tau(self, rho: Float[Tensor, "C L"]) -> Tau:
        return Tau(rho, self.direct_up_to, self.chunk_points)

    def _check_device(self) -> None:
        if self.filters.device.type != "cpu":
            raise ValueError(f'engine "tiled_cpu" needs filters on the CPU, got {self.filters.device}: use "tiled_gpu"')

    def _begin(self) -> None:
        (M, D, L), B, b = self.filters.shape, self.batch_size, self.base
        self._rest = L - self.prompt_length  # the tiling starts after the prompt and counts from there
        # The last generation's are let go before others are made.
        self._slots = self._late = self._x_block = self._z_block = self._rows = self._columns = self._row = None
        self._half = self._begin_tiles()
        self._slots = _padded(self.filters, (B, M * D), self._half)
        if self.prompt_length and self._rest > self._half:
            # What a prompt contributes to the second half, until its slots are free.
            self._late = self.filters.new_zeros(B, M * D, self._rest - self._half)
        x, z = _padded(self.filters, (2, b), M * B * D).unflatten(-1, (M, B, D))  # time first: a row is contiguous
        self._x_block, self._z_block = x, z
        # Views of each position, made once: slicing would cost a step more than its arithmetic.
        self._rows = [[(x[i, m], z[i, m], self._head[0, m]) for m in range(M)] for i in range(b)]
        self._columns = [(z[i + 1 :], self._head[1 : b - i], x[i]) for i in range(b)]
        self._row = self._rows[0]

    def _begin_tiles(self) -> int:
        """Make ready for the tiles of this generation; returns where the second half of the positions begins."""
        self._tau = self._tau.keeping(gray_sizes(self._rest, self.base))
        return middle(self._rest, self.base)

    def _remember(self, m: int, x: Float[Tensor, "B D P"]) -> Float[Tensor, "B D P"]:
        (M, D, _), P, h = self.filters.shape, self.prompt_length, self._half
        z = self._convolve_prompt(m, x)
        early, late = z[..., P : P + h], z[..., P + h :]
        mine = slice(m * D, (m + 1) * D)
        self._slots[:, mine, : early.shape[-1]] = early
        if late.shape[-1]:
            self._late[:, mine] = late
        if m == M - 1 and self._rest:
            self._load_block(0)
        return z[..., :P]

    def _step(self, m: int, x_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        x, z, tap = self._row[m]
        return torch.addcmul(z, x.copy_(x_t), tap)  # the red cell

    def gated_step(self, m: int, v: Float[Tensor, "B D"], gate: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        if m != self._due or v.dtype is not self._dtype:
            return self.step(m, v * gate)
        x, z, tap = self._row[m]
        torch.mul(v, gate, out=x)
        self._next = m = m + 1
        self._due = m if m < self._mixers else None
        return torch.addcmul(z, x, tap)

    def _advance(self) -> None:
        n = self.position - self.prompt_length
        i = n % self.base
        self._row = self._rows[i]
        if i or n >= self._rest:
            column, taps, x = self._columns[i - 1]
            column.addcmul_(x, taps)  # below the red cells, to the end of the block, for all mixers together
            return
        self._store_block(n - self.base)
        self._run_tile(n)
        self._load_block(n)

    def _buffers(self) -> dict[str, Tensor]:
        buffers = {"slots": self._slots, "x_block": self._x_block, "z_block": self._z_block}
        late = self._late is not None and self.position - self.prompt_length < self._half
        return buffers | ({"late": self._late} if late else {})

    def _resume(self) -> None:
        n = self.position - self.prompt_length
        self._row = self._rows[n % self.base]
        if n >= self._half:
            self._late = None

    def _run_tile(self, n: int) -> None:
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

    def _store_block(self, n: int) -> None:
        """Copy the block's inputs, positions [n, n+b), into their slots."""
        self._block_slots(n).copy_(self._x_block.permute(2, 1, 3, 0))

    def _load_block(self, n: int) -> None:
        """Copy the partial sums of positions [n, n+b) into the static block."""
        self._z_block.copy_(self._block_slots(n).permute(3, 1, 0, 2))

    def _block_slots(self, n: int) -> Float[Tensor, "B M D b"]:
        M, D, _ = self.filters.shape
        start = n - self._half if n >= self._half else n
        return self._slots[..., start : start + self.base].unflatten(1, (M, D))


def _padded(like: Tensor, rows: tuple[int, ...], length: int) -> Float[Tensor, "*rows length"]:
    """Zeros whose rows lie 16 numbers further apart where their length is round: else all would share cache lines."""
    return like.new_zeros(*rows, length + (16 if length and length % 256 == 0 else 0))[..., :length]
