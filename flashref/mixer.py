"""What every engine has in common: the state of a generation, the order of calls, and the refusals.

An engine is a Mixer that fills in four methods: _begin, _remember, _step and _advance. With a fifth, _buffers, it can
be copied in the middle of a generation.
"""

import copy
from abc import ABC, abstractmethod
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from flashref.convolution import fast_length
from flashref.snapshots import fill_buffers, read_position
from flashref.tiling import check_count

# FFT points per call while a prompt is taken in: on a CPU what stays near the cores. Elsewhere a call costs more than a
# cache miss, and 1 GiB is enough for one of an FFT's temporaries.
PROMPT_POINTS = {"cpu": 2**20}


class Mixer(ABC):
    """M causal long convolutions over D channels and B sequences, one position at a time.

    A generation is: ``prefill(m, x)`` for m = 0 .. M-1 or not at all; then per position ``step(m, x_t)`` for
    m = 0 .. M-1, and ``advance()``. ``reset()`` starts the next one.

    filters: (M, D, L), float32, float64 or bfloat16 (kept and computed in float32). They are copied. Steps take the
    filters' dtype; where the arithmetic is float32 they also take bfloat16, and answer in it. Buffers are allocated at
    the first prefill or step, since their size depends on the prompt.

    No number of one channel, sequence or mixer enters the sums of another: what changes in one, were it to NaN, changes
    no bit of the others. In another order, or alone, they agree up to rounding.
    """

    name: str
    exact: bool = True  # False for an engine that computes with other filters than it was given (alternatives.py)

    def __init__(self, filters: Float[Tensor, "M D L"], batch_size: int = 1) -> None:
        check_filters("filters", filters, "(M, D, L)")
        check_count("batch_size", batch_size, 1)
        dtype = torch.promote_types(filters.dtype, torch.float32)
        with torch.inference_mode(False):  # tensors made inside inference mode could not be updated outside it
            self.filters = filters.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)
        self.batch_size = batch_size
        # What every step is checked against, kept here because looking it up again costs as much as the check.
        self._mixers, self._length, self._device = filters.shape[0], filters.shape[-1], filters.device
        self._row_shape = torch.Size((batch_size, filters.shape[1]))
        self._dtype, self._dtypes = dtype, (dtype, torch.bfloat16) if dtype == torch.float32 else (dtype,)
        self.reset()

    # What an engine fills in. ------------------------------------------------------------------------------------

    @abstractmethod
    def _begin(self) -> None:
        """Allocate what a generation with a prompt of self.prompt_length positions needs."""

    @abstractmethod
    def _remember(self, m: int, x: Float[Tensor, "B D P"]) -> Float[Tensor, "B D P"]:
        """Take in mixer m's prompt and return its outputs."""

    @abstractmethod
    def _step(self, m: int, x_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """z_t of mixer m, in the arithmetic's dtype: a fresh tensor. x_t is the caller's: copy what is kept of it."""

    @abstractmethod
    def _advance(self) -> None:
        """Every mixer has stepped and self.position already counts it: do what all mixers can do together."""

    def _buffers(self) -> dict[str, Tensor]:
        """All that distinguishes this generation from one just begun with the same prompt length, by name.

        The tensors themselves: what is copied into them takes effect. Called between two positions.
        """
        raise NotImplementedError(f"{type(self).__name__} has no _buffers: it cannot be copied, forked or put away")

    def _resume(self) -> None:  # noqa: B027, since most engines have nothing to do
        """The buffers were filled from a snapshot, and self.position is set: make ready for the next step."""

    # What a user calls. ------------------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """How many positions are complete in every mixer: the prompt's, then one per advance."""
        return self._position

    def reset(self) -> None:
        """Forget the generation; the filters and what was computed from them alone are kept."""
        self.prompt_length = 0
        self._begun = self._in_prefill = False
        self._go_to(0)

    def _go_to(self, position: int) -> None:
        self._position = position
        self._next = 0  # the mixer whose prefill or step comes next; M when advance does
        # The mixer whose step needs no further look at the order of calls, so that a step compares one number.
        self._due = 0 if self._begun and position < self._length else None

    def prefill(self, m: int, x: Float[Tensor, "B D P"]) -> Float[Tensor, "B D P"]:
        """Mixer m's outputs on a prompt of P positions, by FFT; every mixer in order, before any step.

        Costs O(L log L) per channel. Raises ValueError for a wrong shape, device, order, or P > L; TypeError for a
        wrong dtype; MemoryError if the generation will not fit into memory. A refused call changes nothing.
        """
        self._check_prefill(m, x)
        if m == 0:
            from flashref.budget import check_prompt  # which knows the engines, and they are built on this file

            check_prompt(self, x.shape[-1], x.dtype)
        try:
            if m == 0:
                self.prompt_length = x.shape[-1]
                with torch.inference_mode(False):
                    self._begin()
                self._begun = True
            wide = x.detach().to(self.filters.dtype)
            z = (self._remember(m, wide) if self.prompt_length else wide).to(x.dtype, copy=True)
        except BaseException:  # out of memory, say, or interrupted: leave no generation that is half begun
            if m == 0:
                self.reset()
            raise
        self._next = (m + 1) % len(self.filters)
        self._in_prefill = self._next != 0
        if not self._in_prefill:
            self._go_to(self.prompt_length)
        return z

    def step(self, m: int, x_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """z_t of mixer m at the current position, in x_t's dtype; a fresh tensor, and x_t is copied.

        Mixers come in order, 0 .. M-1, then advance(). Raises ValueError for a wrong shape, device or order, or when
        the filters hold no more positions; TypeError for a wrong dtype. A refused call changes nothing.
        """
        if m != self._due:
            self._begin_steps(m, x_t)
        if not self._is_row(x_t):
            self._refuse_tensor("x_t", x_t, "(B, D)", self._row_shape)
        z_t = self._step(m, x_t.detach() if x_t.requires_grad else x_t)
        self._next = m = m + 1
        self._due = m if m < self._mixers else None
        return z_t if x_t.dtype is self._dtype else z_t.to(x_t.dtype)

    def gated_step(self, m: int, v: Float[Tensor, "B D"], gate: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """step(m, v * gate) for the model's own loop, which keeps shapes and dtypes right by itself.

        The answer may be a view that the next position overwrites. An engine with a place for x_t has the product
        written there at once: one pass over x_t instead of two.
        """
        return self.step(m, v * gate)

    def advance(self) -> None:
        """The position is complete in every mixer: go to the next, and run the gray tile that is due.

        Raises ValueError if a mixer has not stepped yet.
        """
        if self._next != self._mixers:
            raise ValueError(self._order_message("advance", None))
        self._go_to(self._position + 1)
        self._advance()

    def snapshot(self) -> dict[str, Tensor]:
        """The generation as it stands between two positions, copied: what restore() takes. M*B*D*L/2 numbers and more.

        Raises ValueError in the middle of a position or of a prompt.
        """
        self._check_between("snapshot")
        where = {"position": torch.tensor([self._position, self.prompt_length, int(self._begun)])}
        return where | ({name: t.clone() for name, t in self._buffers().items()} if self._begun else {})

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Go on from a snapshot of an engine of the same kind, made with the same filters and settings.

        The tensors are copied. Raises ValueError for names, shapes or positions that do not fit, TypeError for dtypes;
        what is refused leaves the generation as it was.
        """
        position, prompt_length, begun = read_position(snapshot, self._length)
        fresh = copy.copy(self)
        fresh.reset()
        if begun:
            fresh.prompt_length = prompt_length
            with torch.inference_mode(False):
                fresh._begin()
            fresh._begun = True
            fresh._go_to(position)
            fill_buffers(fresh._buffers(), {name: t for name, t in snapshot.items() if name != "position"})
            fresh._resume()
        self.__dict__ = fresh.__dict__

    def fork(self) -> Self:
        """A second generation at the same position; the two share the filters and nothing that a step changes.

        Raises ValueError in the middle of a position or of a prompt.
        """
        twin = copy.copy(self)
        twin.restore(self.snapshot())
        return twin

    # For the engines. --------------------------------------------------------------------------------------------

    def _convolve_prompt(self, m: int, x: Float[Tensor, "B D P"]) -> Float[Tensor, "B D L"]:
        """The prompt's outputs at positions [0, P), and at [P, L) what it contributes to the future."""
        (D, L), rho = self.filters.shape[1:], self.filters[m]
        n = fast_length(L + x.shape[-1] - 1)
        size = prompt_channels(len(x), n, rho.device.type)
        z = x.new_empty(*x.shape[:-1], L)
        for c in (slice(first, first + size) for first in range(0, D, size)):
            z[:, c] = torch.fft.irfft(torch.fft.rfft(x[:, c], n).mul_(torch.fft.rfft(rho[c], n)), n)[..., :L]
        return z

    # Refusals. ---------------------------------------------------------------------------------------------------

    def _begin_steps(self, m: int, x_t: Tensor) -> None:
        """Begin, if this is the first call of a generation and right; refuse it, if mixer m's step is not due."""
        if m != self._next or m == self._mixers or self._in_prefill:
            raise ValueError(self._order_message("step", m))
        if self._position == self._length:
            raise ValueError(
                f"the filters hold {self._position} positions and all are used: reset(), or make the mixer with "
                "longer filters"
            )
        if self._is_row(x_t):
            with torch.inference_mode(False):
                self._begin()
            self._begun = True

    def _is_row(self, x: Tensor) -> bool:
        return (
            isinstance(x, Tensor)
            and x.shape == self._row_shape
            and x.dtype in self._dtypes
            and x.device == self._device
        )

    def _check_prefill(self, m: int, x: Tensor) -> None:
        if m != self._next or (self._begun and not self._in_prefill):
            raise ValueError(self._order_message("prefill", m))
        length = self.prompt_length if self._in_prefill else None
        if not isinstance(x, Tensor) or x.dim() != 3 or x.shape[:2] != self._row_shape or length not in (
            None, x.shape[-1]
        ):  # fmt: skip
            want = (*self._row_shape, "P" if length is None else length)
            self._refuse_tensor("x", x, "(B, D, P)", want)
        if x.dtype not in self._dtypes or x.device != self.filters.device:
            self._refuse_tensor("x", x, "(B, D, P)", tuple(x.shape))
        if x.shape[-1] > self.filters.shape[-1]:
            raise ValueError(
                f"the prompt has {x.shape[-1]} positions but the filters hold {self.filters.shape[-1]}: shorten it"
            )

    def _refuse_tensor(self, name: str, x: Tensor, form: str, want: tuple) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
        if tuple(x.shape) != tuple(want):
            raise ValueError(f"{name} must have shape {form} = {tuple(want)}, got {tuple(x.shape)}")
        if x.dtype not in self._dtypes:
            allowed = " or ".join(map(str, self._dtypes))
            raise TypeError(f"{name} must be {allowed} as the filters are, got {x.dtype}: convert it with .to()")
        raise ValueError(f"{name} must be on {self.filters.device} where the filters are, got {x.device}")

    def _check_between(self, call: str) -> None:
        if self._in_prefill or self._next:
            raise ValueError(self._order_message(call, None))

    def _order_message(self, call: str, m: int | None) -> str:
        asked = call if m is None else f"{call}({m})"
        if self._in_prefill:
            due = f"prefill({self._next}): the prompt goes through every mixer before the first step"
        elif self._next == len(self.filters):
            due = "advance(): every mixer has stepped"
        elif call == "prefill" and (self._begun or self._position):
            due = f"step({self._next}): a prompt comes before any step; reset() starts again"
        else:
            due = f"step({self._next})" if self._begun else "prefill(0) or step(0)"
        return f"{asked} is out of order: next is {due}"


def prompt_channels(batch_size: int, points: int, device_type: str) -> int:
    """Of how many channels a prompt is taken in at once, by FFTs of so many points."""
    return max(1, PROMPT_POINTS.get(device_type, 2**28) // (batch_size * points))


def check_filters(name: str, filters: Tensor, form: str) -> None:
    """Refuse what cannot be filters of shape ``form``, "(M, D, L)" or "(D, K)": time last, and at least one channel.

    Costs one pass over them and no memory.
    """
    check_form(name, filters, form)
    # The least and the largest are finite if all are, and NaN if one is.
    if filters.numel() and not torch.isfinite(torch.stack(filters.aminmax())).all():
        place = (~torch.isfinite(filters)).nonzero()[0].tolist()
        raise ValueError(f"{name} must be finite, got {filters[tuple(place)].item()} at {name}{place}")


def check_form(name: str, filters: Tensor, form: str) -> None:
    """The part of check_filters that looks at no number."""
    if not isinstance(filters, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(filters).__name__}")
    if filters.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        raise TypeError(f"{name} must be float32, float64 or bfloat16, got {filters.dtype}: convert them with .to()")
    *channels, _ = form.strip("()").split(", ")
    if filters.dim() != len(channels) + 1 or 0 in filters.shape[:-1]:
        raise ValueError(f"{name} must have shape {form} with {', '.join(channels)} >= 1, got {tuple(filters.shape)}")
    if filters.is_meta:
        raise ValueError(f"{name} must be on a device that holds their values, got {filters.device}")
