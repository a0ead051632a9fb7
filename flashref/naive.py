"""The two O(L^2) engines: gather each row when it is due, or push each column as soon as its input is known."""

import torch
from jaxtyping import Float
from torch import Tensor

from flashref.convolution import causal_conv
from flashref.mixer import Mixer


class Lazy(Mixer):
    """At step t gather all of row t: t+1 multiply-adds per channel, nothing is done ahead.

    Keeps every input: M*B*D*L numbers. Time runs along the first axis, so that a piece of a row is one contiguous
    block. A long row is added up piece by piece in a block that stays in the cache: one fused multiply-add per piece.
    """

    name = "lazy"
    piece = 2**18  # numbers

    def _begin(self) -> None:
        (M, D, L), B = self.filters.shape, self.batch_size
        self._x = self._reversed = self._sums = None  # the last generation's, before others are made
        self._x = self.filters.new_zeros(M, L, B, D)
        self._reversed = self.filters.new_empty(M, L, 1, D)
        for taps, rho in zip(self._reversed, self.filters, strict=True):  # one by one, so that only one is copied twice
            taps[:, 0] = rho.flip(-1).T
        rows = L if self.filters.is_cuda else max(1, self.piece // (B * D))  # on a GPU one call does a whole row
        self._sums = self.filters.new_zeros(min(rows, L), B, D)

    def _remember(self, m: int, x: Float[Tensor, "B D P"]) -> Float[Tensor, "B D P"]:
        self._x[m, : self.prompt_length] = x.permute(2, 0, 1)
        return causal_conv(x, self.filters[m])

    def _step(self, m: int, x_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        t, L, rows = self.position, self.filters.shape[-1], len(self._sums)
        self._x[m, t] = x_t
        x, taps = self._x[m, : t + 1], self._reversed[m, L - 1 - t :]
        sums = torch.mul(x[:rows], taps[:rows], out=self._sums[: t + 1])
        for x_piece, taps_piece in zip(x[rows:].split(rows), taps[rows:].split(rows), strict=True):
            sums[: len(x_piece)].addcmul_(x_piece, taps_piece)
        return sums.sum(0)

    def _advance(self) -> None:
        pass  # nothing is done ahead

    def _buffers(self) -> dict[str, Tensor]:
        return {"x": self._x}


class Eager(Mixer):
    """At step t push column t to every later output at once: L-t multiply-adds per channel.

    Keeps every output's partial sum: M*B*D*L numbers. Time runs along the first axis, so that a column is one
    contiguous block and one fused multiply-add.
    """

    name = "eager"

    def _begin(self) -> None:
        M, D, L = self.filters.shape
        self._z = self._taps = None  # the last generation's, before others are made
        self._z = self.filters.new_zeros(M, L, self.batch_size, D)
        self._taps = self.filters.permute(0, 2, 1).unsqueeze(2).contiguous()  # (M, L, 1, D)

    def _remember(self, m: int, x: Float[Tensor, "B D P"]) -> Float[Tensor, "B D P"]:
        z = self._convolve_prompt(m, x)
        self._z[m] = z.permute(2, 0, 1)
        return z[..., : self.prompt_length]

    def _step(self, m: int, x_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        t, L = self.position, self.filters.shape[-1]
        column = self._z[m, t:]
        column.addcmul_(self._taps[m, : L - t], x_t.to(column.dtype))
        return column[0].clone()  # a view would keep the whole buffer alive

    def _advance(self) -> None:
        pass  # the step has already reached every later output

    def _buffers(self) -> dict[str, Tensor]:
        return {"z": self._z}
