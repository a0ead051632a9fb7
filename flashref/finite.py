"""Where an infinity or a NaN enters: an engine that looks at all that goes into a mixer and comes out, if you ask.

    flashref.generate(model, prompt, 200, engine=flashref.checked("tiled_cpu"))

Without it nothing is looked at, and a NaN goes where the sums take it: into every later output of its channel and
sequence, of that mixer, also where the filter's tap is 0 (0 * NaN is NaN), and through the model into every channel of
its sequence. A token is then still chosen, and means nothing. It reaches no other sequence, and no earlier position but
in a prompt: there one FFT does all positions, so a NaN spoils its channel's outputs before it, too.
"""

import math
from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from flashref.budget import engine_name
from flashref.engines import Engine, check_engine, make_unasked
from flashref.mixer import Mixer


class NotFinite(FloatingPointError):
    """An infinity or a NaN, and where it entered: position, sequence, channel, and mixer (None in the logits).

    position is None in a prompt's output: one FFT does all its positions, and spreads an overflow over them.
    """

    def __init__(
        self, what: str, value: float, where: str, position: int | None, b: int, d: int, m: int | None
    ) -> None:
        place = f"{where}, in sequence {b}, {'token' if m is None else 'channel'} {d}"
        super().__init__(f"{what} is {value} {place}: it entered there, and all that was looked at before was finite")
        self.position, self.sequence, self.channel, self.mixer = position, b, d, m


class Checked(Mixer):
    """What checked() puts before an engine's own class; the rest of the engine is as it is, copies included."""

    plain: type[Mixer]  # the engine's class without this one

    def _remember(self, m: int, x: Float[Tensor, "B D P"]) -> Float[Tensor, "B D P"]:
        look(f"the input of mixer {m}", x, 0, m)
        z = super()._remember(m, x)
        look(f"the output of mixer {m}, whose inputs are finite,", z, None, m)
        return z

    def _step(self, m: int, x_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        look(f"the input of mixer {m}", x_t.unsqueeze(-1), self.position, m)
        z_t = super()._step(m, x_t)
        look(f"the output of mixer {m}, whose inputs are finite,", z_t.unsqueeze(-1), self.position, m)
        return z_t

    def gated_step(self, m: int, v: Float[Tensor, "B D"], gate: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        return self.step(m, v * gate)  # an engine's own may leave _step out


def checked(engine: Engine = "auto") -> Callable[[Tensor, int], Mixer]:
    """The same engine, which raises NotFinite, a FloatingPointError, at the step at which an infinity or a NaN enters.

    What comes back goes wherever an engine's name goes: into make_mixer, generate, Generation, OnlineConvolution. The
    answers are the same to the last bit, but those of generate and stream on CUDA: without checks they go in blocks,
    which round otherwise. Looked at are every mixer's inputs and outputs and, in a model, the logits; where an input is
    not finite, the step is refused and changes nothing but for allocating the buffers. After a bad output or bad logits
    the generation has to be begun anew, or restored from an earlier snapshot.

    Costs two looks, of a few microseconds each, per mixer and step; on a GPU the host waits for each, and "tiled_gpu"
    makes its tokens one by one. Raises ValueError for an unknown engine.
    """
    check_engine(engine)

    def make(filters: Tensor, batch_size: int = 1) -> Mixer:
        return as_checked(make_unasked(engine, filters, batch_size))

    make.engine_name = engine_name(engine)  # by it make_mixer and generations ask what is free
    return make


def as_checked(mixer: Mixer) -> Mixer:
    """This mixer, checked from now on. Its class changes and not its state, so it is copied and put away as before."""
    mixer.__class__ = _checked_class(type(mixer))
    return mixer


@cache
def _checked_class(kind: type[Mixer]) -> type[Checked]:
    if issubclass(kind, Checked):
        return kind
    return type(f"Checked{kind.__name__}", (Checked, kind), {"plain": kind, "__module__": __name__})


def look(what: str, values: Float[Tensor, "B D T"], start: int | None, mixer: int | None) -> None:
    """Raise NotFinite for the earliest value that is not finite, if there is one; the first of values is at start.

    start: None for outputs of one FFT over a prompt, of which no position tells where it entered.
    """
    if math.isfinite(values.sum()):  # a tenth of isfinite's time: no sum with an infinity or a NaN is finite
        return
    bad = (~torch.isfinite(values)).permute(2, 0, 1).nonzero()
    if len(bad):  # otherwise the sum alone overflowed
        t, b, d = bad[0].tolist()
        position = None if start is None else start + t
        where = f"in the prompt of {values.shape[-1]} positions" if start is None else f"at position {position}"
        raise NotFinite(what, values[b, d, t].item(), where, position, b, d, mixer)
