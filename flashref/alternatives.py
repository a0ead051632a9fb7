"""What one may do instead of being exact: engines that compute with other filters than they were given, and say so.

Each is a Mixer, so that ``generate(model, prompt, n, engine=partial(Distilled, state_size=8))`` works. None is in
ENGINES, and all have ``exact = False``. Their ``filters`` are the approximate ones, with which everything they give out
is exactly convolved, and their ``error`` says how far those are from what was asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from flashref.distillation import Modes, distil, powers, stable
from flashref.mixer import Mixer
from flashref.tiling import check_count

BLOCK = 64  # positions for which a step's views are made once, and a prompt's positions per product


@dataclass(frozen=True)
class FilterError:
    """How far filters rho_hat are from rho, channel by channel, in float64.

    relative: the l2 norm of the difference over that of rho. largest: the largest difference of a tap. l1: the sum of
    all differences' moduli.
    """

    relative: Float[Tensor, "M D"]
    largest: Float[Tensor, "M D"]
    l1: Float[Tensor, "M D"]

    @classmethod
    def between(cls, rho: Float[Tensor, "M D L"], rho_hat: Float[Tensor, "M D L"]) -> "FilterError":
        difference, size = (rho_hat.double() - rho.double()).abs(), rho.double().norm(dim=-1)
        relative = torch.where(size > 0, difference.norm(dim=-1) / size, difference.norm(dim=-1))
        padded = pad(difference, (0, 1))  # without any tap the largest difference is 0
        return cls(relative, padded.amax(-1), difference.sum(-1))

    def bound(self, largest_input: float | Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
        """|z - z_exact| is at most this, for inputs whose moduli are at most ``largest_input``; rounding comes on top.

        It is reached: by the input whose signs are those of the difference, in reverse.
        """
        return self.l1 * largest_input


class Approximate(Mixer):
    """A mixer with filters of its own. ``filters`` holds them, (M, D, L); ``error`` compares them with those given."""

    exact = False
    error: FilterError

    def _use(self, rho_hat: Float[Tensor, "M D L"]) -> None:
        """Compute with these filters from now on."""
        rho_hat = rho_hat.to(self.filters.dtype)
        self.error = FilterError.between(self.filters, rho_hat)
        with torch.inference_mode(False):
            self.filters = rho_hat.detach().clone()


class FewLags(Approximate):
    """Only the taps at some lags, the same for all channels; the rest is taken for zero. Exact for such filters.

    lags: ranges that begin at 0, rise and do not overlap. Costs one multiply-add per lag and channel in each step, in
    one call per range for all mixers. Memory beside the taps: M*B*D numbers for each position that the farthest lag
    reaches, and for 64 more.
    """

    name = "few_lags"

    def __init__(self, filters: Float[Tensor, "M D L"], batch_size: int, lags: Sequence[range]) -> None:
        super().__init__(filters, batch_size)
        begins, ends = [r.start for r in lags], [r.stop for r in lags]
        if not lags or begins != [0, *map(max, begins[1:], ends)] or any(r.step < 1 or not len(r) for r in lags):
            raise ValueError(f"lags must be ranges that begin at 0, rise and do not overlap, got {list(lags)}")
        L, rho_hat = self.filters.shape[-1], torch.zeros_like(self.filters)
        self.lags = [range(r.start, min(r.stop, L), r.step) for r in lags if r.start < L]
        for r in self.lags:
            kept = slice(r.start, r.stop, r.step)
            rho_hat[..., kept] = self.filters[..., kept]
        self._use(rho_hat)
        self._ranges = [r for r in (r[r.start == 0 :] for r in self.lags) if len(r)]  # lag 0 is the red cell
        self._reach = max([1, *(r[-1] + 1 for r in self._ranges)])
        with torch.inference_mode(False):
            by_lag = self.filters.permute(2, 0, 1).unsqueeze(2)  # (L, M, 1, D)
            self._taps = [by_lag[r.start : r.stop : r.step].contiguous() for r in self._ranges]
            self._head = pad(self.filters, (0, 1))[..., 0].contiguous()  # 0 where there is no lag at all

    def _begin(self) -> None:
        (M, D, _), B = self.filters.shape, self.batch_size
        self._x = self.filters.new_zeros(M, B, D)
        z = self._z = self.filters.new_zeros(BLOCK + self._reach, M, B, D)  # partial sums, time first
        self._rows = [[(z[i, m], self._x[m], self._head[m]) for m in range(M)] for i in range(BLOCK)]
        self._reached = [
            [(z[i + r.start : i + r[-1] + 1 : r.step], taps) for r, taps in zip(self._ranges, self._taps, strict=True)]
            for i in range(BLOCK)
        ]
        self._i = 0

    def _remember(self, m: int, x: Float[Tensor, "B D P"]) -> Float[Tensor, "B D P"]:
        z, P = self._convolve_prompt(m, x), self.prompt_length
        ahead = z[..., P : P + self._reach]
        self._z[: ahead.shape[-1], m] = ahead.permute(2, 0, 1)
        return z[..., :P]

    def _step(self, m: int, x_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        z, x, tap = self._rows[self._i][m]
        return torch.addcmul(z, x.copy_(x_t), tap)

    def _advance(self) -> None:
        for column, taps in self._reached[self._i]:
            column.addcmul_(taps, self._x)
        self._i += 1
        if self._i == BLOCK:  # what is left over from the block goes to the front of the next
            self._z[: self._reach] = self._z[BLOCK:].clone()
            self._z[self._reach :] = 0
            self._i = 0

    def _buffers(self) -> dict[str, Tensor]:
        return {"z": self._z}

    def _resume(self) -> None:
        self._i = (self.position - self.prompt_length) % BLOCK


class Truncated(FewLags):
    """The first ``window`` taps: a cache of the last inputs, as long as the window. The rest is in FewLags."""

    name = "truncated"

    def __init__(self, filters: Float[Tensor, "M D L"], batch_size: int = 1, window: int = 256) -> None:
        check_count("window", window, 1)
        super().__init__(filters, batch_size, [range(window)])
        self.window = window


class Dilated(FewLags):
    """All of the first ``window`` taps, every second of the next ``window``, every fourth of the next 2*window, ...

    About window/2 * log2(L/window) lags more than Truncated has, and the farthest is as far as the filter reaches. It
    is the cache of a stack of dilated convolutions (Fast WaveNet, Paine et al. 2016, arXiv 1611.09482): exact for a
    model that was trained with such taps, an approximation of one that was not. The rest is in FewLags.
    """

    name = "dilated"

    def __init__(self, filters: Float[Tensor, "M D L"], batch_size: int = 1, window: int = 64) -> None:
        check_count("window", window, 1)
        length = filters.shape[-1] if isinstance(filters, Tensor) and filters.dim() else 0
        lags, reach = [range(window)], window
        while reach < length:
            lags.append(range(reach, 2 * reach, 2 * reach // window))
            reach *= 2
        super().__init__(filters, batch_size, lags)
        self.window = window


class Distilled(Approximate):
    """A state space model of ``state_size`` numbers per channel: z_t = rho_0 x_t + Re sum_i c_i s_i, then s = p s + x.

    The poles p and residues c are fitted when it is made (see distil), which takes seconds for a model; give ``modes``
    to use a fit again, also for fewer positions. No pole is outside the unit disc, so no state grows without bound.

    A step costs about 4 * state_size multiply-adds per channel, in a few calls for all mixers, whatever the position.
    Memory beside poles and residues (4 * state_size numbers per channel at most): at most 2 * state_size numbers per
    channel and sequence. A prompt costs O(P) products per state, and its outputs an FFT.
    """

    name = "distilled"

    def __init__(
        self,
        filters: Float[Tensor, "M D L"],
        batch_size: int = 1,
        state_size: int = 16,
        modes: Modes | None = None,
    ) -> None:
        check_count("state_size", state_size, 1)
        super().__init__(filters, batch_size)
        if modes is not None and not isinstance(modes, Modes):
            raise TypeError(f"modes must be a Modes, as distil makes it, got {type(modes).__name__}")
        if modes is not None and modes.poles.shape[:2] != filters.shape[:2]:
            raise ValueError(
                f"modes must be of (M, D) = {tuple(filters.shape[:2])}, got {tuple(modes.poles.shape[:2])}"
            )
        modes = distil(self.filters, state_size) if modes is None else modes
        precision, L = self.filters.dtype.to_complex(), self.filters.shape[-1]
        self.modes = Modes(stable(modes.poles.to(precision)), modes.residues.to(precision), modes.state_size)
        self._use(torch.cat([self.filters[..., :1].double(), self.modes.taps(max(0, L - 1))], dim=-1)[..., :L])
        with torch.inference_mode(False):
            by_state = (t.permute(2, 0, 1).unsqueeze(2) for t in (self.modes.poles, self.modes.residues))
            self._poles, self._residues = (t.contiguous() for t in by_state)  # (K, M, 1, D)
            self._head = pad(self.filters, (0, 1))[..., 0].contiguous()  # 0 where there is no lag at all

    def _begin(self) -> None:
        (M, D, _), B = self.filters.shape, self.batch_size
        self._state = self._poles.new_zeros(len(self._poles), M, B, D)
        self._x, self._ahead = self.filters.new_zeros(2, M, B, D)  # this position's inputs; what the past says about it
        self._rows = [(self._ahead[m], self._x[m], self._head[m]) for m in range(M)]

    def _remember(self, m: int, x: Float[Tensor, "B D P"]) -> Float[Tensor, "B D P"]:
        """The state is sum_j p**(P-1-j) x_j: a product for every block of inputs, then block by block."""
        state, weights = self._state[:, m], powers(self._poles[:, m], BLOCK + 1)  # (K, B, D), (K, 1, D, BLOCK+1)
        blocks = pad(x, (-self.prompt_length % BLOCK, 0)).unflatten(-1, (-1, BLOCK))
        of_block = weights[:, 0, :, :BLOCK].flip(-1)  # the last input of a block has the weight 1
        for block in torch.einsum("bdni,kdi->nkbd", blocks.to(of_block.dtype), of_block):
            state.mul_(weights[..., BLOCK]).add_(block)
        self._ahead[m] = (self._residues[:, m] * state).sum(0).real
        return self._convolve_prompt(m, x)[..., : self.prompt_length]

    def _step(self, m: int, x_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        ahead, x, tap = self._rows[m]
        return torch.addcmul(ahead, x.copy_(x_t), tap)

    def _advance(self) -> None:
        self._state.mul_(self._poles).add_(self._x)
        torch.sum((self._residues * self._state).real, dim=0, out=self._ahead)

    def _buffers(self) -> dict[str, Tensor]:
        return {"state": torch.view_as_real(self._state), "ahead": self._ahead}
