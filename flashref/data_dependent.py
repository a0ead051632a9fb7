"""Filters that depend on the data: the product of two series that both arrive one number at a time.

With a fixed filter all of rho is known before the first x_t. Here rho_t, too, is known only at step t, perhaps because
it was computed from x_t. What is owed at step t is still ``z_t = sum_{j<=t} x_j * rho_{t-j}``.

    import torch
    from flashref.data_dependent import RelaxedProduct, causal_product, product_cost, product_schedule
    from flashref.tiling import cost, schedule

    L, D = 1000, 4
    product = RelaxedProduct(D, L)                       # one sequence, D channels, L positions
    x, rho, z = [torch.randn(1, D)], [torch.randn(1, D)], []
    for t in range(L):
        z.append(product.push(x[t], rho[t]))             # (B, D), (B, D) -> (B, D)
        x.append(torch.tanh(z[t]))                       # the next input depends on this output,
        rho.append(0.99**t * torch.sin(x[t + 1]))        # and the filter's next tap on the next input
    truth = causal_product(torch.stack(x[:L], -1), torch.stack(rho[:L], -1))
    print((torch.stack(z, -1) - truth).abs().max())      # rounding
    tiles = product_schedule(L)                          # which pairs (j, k) are multiplied when
    print(product_cost(tiles).fft_points / cost(schedule(L)).fft_points)

How it works. Let N <= t < 2N, N a power of two, and let the first N values of both series be known. The pairs (j, k)
with j + k = t are of three kinds. Both numbers lie below N: known at step N, so one product gives all of them. Or j is
at least N: then k < N, and rho[0:N) is a filter that is known, tiled as ever. Or k is at least N: the same, the
other way round. So the rule of step n is that of the fixed filter, used twice: U is the largest power of two that
divides n, and the newest U values of each series meet the first 2U of the other. Where n is itself that power, the
first n values of both meet. From: relaxed multiplication (van der Hoeven 1997), in the form that uses a middle product
(van der Hoeven 2003).
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from flashref.convolution import causal_conv, fast_length
from flashref.product_tiling import ProductTile, product_cost, product_schedule, product_tile, square_schedule
from flashref.tau import tau_direct
from flashref.tiling import check_count

__all__ = [
    "LazyProduct",
    "OnlineProduct",
    "ProductTile",
    "RelaxedProduct",
    "causal_product",
    "product_cost",
    "product_schedule",
    "product_tile",
    "square_schedule",
]


def causal_product(x: Float[Tensor, "B D L"], rho: Float[Tensor, "B D L"]) -> Float[Tensor, "B D L"]:
    """The offline truth: ``z[b, d, t] = sum_{j<=t} x[b, d, j] * rho[b, d, t-j]``, both series being known in full.

    Costs O(L log L) per channel; differentiable. Raises ValueError or TypeError for what does not fit.
    """
    for name, series in (("x", x), ("rho", rho)):
        if not isinstance(series, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(series).__name__}")
    if x.dim() != 3 or x.shape != rho.shape:
        raise ValueError(f"x and rho must have one shape (B, D, L), got {tuple(x.shape)} and {tuple(rho.shape)}")
    return causal_conv(x.flatten(0, 1), rho.flatten(0, 1)).view_as(x)


class OnlineProduct(ABC):
    """z_t = sum_{j<=t} x_j * rho_{t-j} for D channels of B sequences, x_t and rho_t given at step t.

    channels: D. length: how many steps at most. dtype: float32 or float64, of what is pushed and of the arithmetic.
    Raises ValueError or TypeError for what does not fit.
    """

    def __init__(
        self,
        channels: int,
        length: int,
        batch_size: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        check_count("channels", channels, 1)
        check_count("length", length, 0)
        check_count("batch_size", batch_size, 1)
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
        self.length = length
        self._row_shape, self._like = (batch_size, channels), torch.empty(0, dtype=dtype, device=device)
        self.reset()

    @property
    def position(self) -> int:
        """How many values of both series have been pushed."""
        return self._position

    def reset(self) -> None:
        """Forget what was pushed."""
        self._position = 0
        with torch.inference_mode(False):  # tensors made inside inference mode could not be updated outside it
            self._begin()

    def push(self, x_t: Float[Tensor, "B D"], rho_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """z_t, a fresh tensor; x_t and rho_t are copied.

        Raises ValueError for a wrong shape or device or past the length; TypeError for a wrong dtype. A refused call
        changes nothing.
        """
        self._check("x_t", x_t)
        self._check("rho_t", rho_t)
        if self._position == self.length:
            raise ValueError(f"the product holds {self.length} positions and all are used: reset(), or make it longer")
        z_t = self._push(x_t.detach(), rho_t.detach())
        self._position += 1
        self._advance()
        return z_t

    @abstractmethod
    def _begin(self) -> None:
        """Allocate, with nothing pushed yet."""

    @abstractmethod
    def _push(self, x_t: Float[Tensor, "B D"], rho_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """z_t at self.position, a fresh tensor."""

    def _advance(self) -> None:  # noqa: B027 (nothing to do is a right answer)
        """self.position counts the step already: do what can be done ahead."""

    def _check(self, name: str, row: Tensor) -> None:
        if not isinstance(row, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(row).__name__}")
        if row.shape != self._row_shape:
            raise ValueError(f"{name} must have shape (B, D) = {self._row_shape}, got {tuple(row.shape)}")
        if row.dtype != self._like.dtype:
            raise TypeError(f"{name} must be {self._like.dtype} as the product is, got {row.dtype}: convert with .to()")
        if row.device != self._like.device:
            raise ValueError(f"{name} must be on {self._like.device} where the product is, got {row.device}")


class LazyProduct(OnlineProduct):
    """The plain way: at step t all t+1 pairs of its anti-diagonal, O(L^2) in all. Keeps 2*B*D*L numbers."""

    def _begin(self) -> None:
        self._x = self._like.new_zeros(self.length, *self._row_shape)
        self._reversed = torch.zeros_like(self._x)  # rho backwards: then both slices of a step run forwards

    def _push(self, x_t: Float[Tensor, "B D"], rho_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        t, first = self._position, self.length - 1 - self._position
        self._x[t], self._reversed[first] = x_t, rho_t
        return (self._x[: t + 1] * self._reversed[first:]).sum(0)


class RelaxedProduct(OnlineProduct):
    """The tiles of product_schedule(length, base): O(L log^2 L) per channel.

    For L = 2^k all transforms together have 3L(k-2) points; those of a fixed filter have 2L(k-1): at most 1.5 times.

    base: b, the block size; inside a block a step makes two fused calls. A tile whose shorter side has at most
    ``direct_up_to`` positions is done directly, a larger one by FFT; about ``chunk_points`` points go into one call, so
    that its data stays in the cache. Memory: 3*B*D*L numbers for both series and their product, and the spectra of
    both, about 2*B*D*L more.

    fft_points counts the points of all transforms since the last reset, for one channel of one sequence.
    """

    direct_up_to = 16
    chunk_points = 2**19

    def __init__(
        self,
        channels: int,
        length: int,
        batch_size: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        base: int = 64,
    ) -> None:
        check_count("base", base, 1)
        self.base = base
        super().__init__(channels, length, batch_size, dtype, device)

    def _begin(self) -> None:
        b, C = self.base, self._row_shape[0] * self._row_shape[1]
        self.fft_points = 0
        self._x, self._rho, self._z = self._like.new_zeros(3, C, -(-self.length // b) * b)
        self._spectra: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        # The block at hand and the first values of both series, time first, so that a position is contiguous.
        blocks = self._like.new_zeros(5, b, *self._row_shape)
        self._x_block, self._rho_block, self._z_block, self._x_head, self._rho_head = blocks
        # Views of each position, made once: slicing would cost a step more than its arithmetic.
        self._rows = [
            (self._x_block[i], self._rho_block[i], self._z_block[i:], self._x_head[: b - i], self._rho_head[: b - i])
            for i in range(b)
        ]

    def _push(self, x_t: Float[Tensor, "B D"], rho_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        i, in_first_block = self._position % self.base, self._position < self.base
        x, rho, z, x_head, rho_head = self._rows[i]
        x.copy_(x_t)
        rho.copy_(rho_t)
        if in_first_block:
            self._rho_head[i] = rho
        z.addcmul_(x, rho_head)
        z.addcmul_(rho, x_head)
        if in_first_block:
            self._x_head[i] = x  # only now: x_t * rho_t is one pair, not two
        return z[0].clone()

    def _advance(self) -> None:
        n, b = self._position, self.base
        if n % b or n >= self.length:
            return
        for kept, block in ((self._x, self._x_block), (self._rho, self._rho_block), (self._z, self._z_block)):
            kept[:, n - b : n] = block.flatten(1).T
        tile = product_tile(n, self.length, b)
        if tile.outputs:
            self._run(tile)
        self._z_block.flatten(1).copy_(self._z[:, n : n + b].T)

    def _run(self, tile: ProductTile) -> None:
        out = slice(tile.outputs.start, tile.outputs.stop)
        by_fft = min(len(tile.inputs), len(tile.outputs)) > self.direct_up_to
        size = max(1, self.chunk_points // fast_length(tile.lags.stop))
        for start in range(0, len(self._z), size):
            c = slice(start, start + size)
            self._z[c, out] += self._by_fft(tile, c) if by_fft else self._directly(tile, c)
        if by_fft:
            self.fft_points += 3 * fast_length(tile.lags.stop)

    def _directly(self, tile: ProductTile, c: slice) -> Float[Tensor, "c q"]:
        x, rho, q, new = self._x[c], self._rho[c], len(tile.outputs), slice(tile.inputs.start, tile.inputs.stop)
        taps = slice(len(tile.inputs) + q)  # zeros where they are not known yet
        z = tau_direct(x[:, new], rho[:, taps], q)
        return z if tile.meets_itself else z + tau_direct(rho[:, new], x[:, taps], q)

    def _by_fft(self, tile: ProductTile, c: slice) -> Float[Tensor, "c q"]:
        """On a circle of as many points as there are lags, lag 0 among them: 2U, or n."""
        first, q, n = tile.lags.stop, len(tile.outputs), fast_length(tile.lags.stop)
        if tile.meets_itself:
            x_first, rho_first = torch.fft.rfft(self._x[c, :first], n), torch.fft.rfft(self._rho[c, :first], n)
            self._spectra[first, c.start] = x_first, rho_first  # the lags of all tiles of first / 2 inputs
            circle = torch.fft.irfft(x_first * rho_first, n)
            circle[:, :first] -= self._z[c, :first]  # what does not wrap around is z itself, and known
            return circle.roll(-first, -1)[:, :q]
        x_first, rho_first = self._spectra[first, c.start]
        U, new = len(tile.inputs), slice(tile.inputs.start, tile.inputs.stop)
        x_new, rho_new = torch.fft.rfft(self._x[c, new], n), torch.fft.rfft(self._rho[c, new], n)
        return torch.fft.irfft(x_new.mul_(rho_first).add_(rho_new.mul_(x_first)), n)[:, U : U + q]
