"""The two O(L^2) engines: gather each row when it is due, or push each column as soon as its input is known."""

from jaxtyping import Float
from torch import Tensor

from flashref.convolution import causal_conv
from flashref.mixer import Mixer


class Lazy(Mixer):
    """At step t gather all of row t: t+1 multiply-adds per channel, nothing is done ahead.

    Keeps every input: M*B*D*L numbers. Time runs along the last axis, so that a row is one product and one sum.
    """

    name = "lazy"

    def _begin(self) -> None:
        M, D, L = self.filters.shape
        self._x = self.filters.new_zeros(M, self.batch_size, D, L)
        self._reversed = self.filters.flip(-1)

    def _remember(self, m: int, x: Float[Tensor, "B D P"]) -> Float[Tensor, "B D P"]:
        self._x[m, ..., : self.prompt_length] = x
        return causal_conv(x, self.filters[m])

    def _step(self, m: int, x_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        t, L = self.position, self.filters.shape[-1]
        self._x[m, ..., t] = x_t
        return (self._x[m, ..., : t + 1] * self._reversed[m, :, L - 1 - t :]).sum(-1)

    def _advance(self) -> None:
        pass  # nothing is done ahead


class Eager(Mixer):
    """At step t push column t to every later output at once: L-t multiply-adds per channel.

    Keeps every output's partial sum: M*B*D*L numbers. Time runs along the first axis, so that a column is one
    contiguous block and one fused multiply-add.
    """

    name = "eager"

    def _begin(self) -> None:
        M, D, L = self.filters.shape
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
        return column[0]

    def _advance(self) -> None:
        pass  # the step has already reached every later output
