"""The two O(L^2) engines as a CUDA graph can record them, so that no baseline on a GPU waits for its launches.

A column is shorter and a row longer at every position, but a graph launches the same grid at the same addresses in
every block. So the kernels read from the device where the block begins, and what lies outside of row or column exits.

In a model the short filter and the gates around them are PyTorch's calls, where tiled_gpu has one kernel for all of it.
Beside a row or column of a long sequence these are small; whoever compares whole models on a GPU should know of them.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from flashref.hyena import SHORT_TAPS
from flashref.naive import Eager, Lazy
from flashref.tiled_gpu import has_kernels


class NaiveGPU:
    """What graphs.BlockDecoder needs of an engine, for one that has no tiles: positions are computed b at a time."""

    base = 64

    def _begin(self) -> None:
        super()._begin()
        self._first = torch.zeros((), dtype=torch.long, device=self.filters.device)  # the block's first position
        self._kernels = None
        if has_kernels(self.filters.device):
            from flashref import kernels

            self._kernels = kernels

    def block(self, first: int, count: int) -> tuple["NaiveGPU", int]:
        """What hyena_step takes for the operator of mixers [first, first+count)."""
        return self, first

    def _go_to(self, position: int) -> None:
        super()._go_to(position)
        if self._begun:
            self._first.fill_(position)

    def advance_block(self) -> None:
        """b positions were computed by in_block in every mixer. Raises ValueError in the middle of a position."""
        if self._due != 0:
            raise ValueError(f"advance_block is out of order: no block begins at position {self.position}")
        self._go_to(min(self.position + self.base, self._length))


class EagerGPU(NaiveGPU, Eager):
    """Eager whose column is one kernel: taps read once, partial sums read and written once."""

    def in_block(self, m: int, x_i: Float[Tensor, "B D"], z_i: Float[Tensor, "B D"], i: int) -> None:
        """Mixer m at position i of the block: push its column, overwrite z_i with the output. Nothing past the end."""
        if self._kernels:
            self._kernels.eager_step(self._z[m], self._taps[m], x_i, z_i, self._first, i)
        elif (t := int(self._first) + i) < self._length:
            column = self._z[m, t:]
            column.addcmul_(self._taps[m, : len(column)], x_i)
            z_i.copy_(column[0])


class LazyGPU(NaiveGPU, Lazy):
    """Lazy whose row is one kernel that adds up pieces of it, and one call that adds up the pieces."""

    def in_block(self, m: int, x_i: Float[Tensor, "B D"], z_i: Float[Tensor, "B D"], i: int) -> None:
        """Mixer m at position i of the block: keep x_i, overwrite z_i with the row's sum. Nothing past the end."""
        if self._kernels:
            self._kernels.lazy_step(self._x[m], self._reversed[m], x_i, z_i, self._first, i)
        elif (t := int(self._first) + i) < self._length:
            self._x[m, t] = x_i
            torch.sum(self._x[m, : t + 1] * self._reversed[m, self._length - 1 - t :], 0, out=z_i)


def hyena_step(
    p: Float[Tensor, "b+2 B C"],
    taps: Float[Tensor, "3 C"],
    bias: Float[Tensor, " C"],
    mixer: NaiveGPU,
    first: int,
    y: Float[Tensor, "B D"],
    i: int,
) -> None:
    """graphs.hyena_step with an engine of this file for its mixers first, first+1, ... instead of a block of sums."""
    window = p[i : i + SHORT_TAPS].to(mixer.filters.dtype)
    streams = bias.to(window.dtype) + (taps.to(window.dtype).unsqueeze(1) * window).sum(0)
    *gates, v = streams.split(y.shape[-1], dim=-1)
    for o in range(len(gates) - 1):
        x_i = v * gates[-1 - o]
        v = torch.zeros_like(x_i)
        mixer.in_block(first + o, x_i, v, i)
    y.copy_(v * gates[0])
