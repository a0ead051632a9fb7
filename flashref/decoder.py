"""One token at a time: the step path of a model, and of one operator, through an engine.

It shares the model's weights and none of its forward's code.
"""

import copy
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flashref.engines import Engine, make_mixer
from flashref.finite import Checked, look
from flashref.hyena import SHORT_TAPS, Hyena, HyenaOperator, Layer, check_like_weights
from flashref.mixer import Mixer
from flashref.snapshots import fill_buffers
from flashref.step_linear import step_linear

BLOCK = 64  # positions for which a step's views are made once


class OperatorStep:
    """One Hyena operator, position by position. Its N-1 mixers are the engine's mixers first, first+1, ..."""

    def __init__(self, operator: HyenaOperator, mixer: Mixer, first: int) -> None:
        self._operator, self._mixer = operator, mixer
        # For each long convolution, outermost last: which mixer, and which stream is the gate before it.
        self._order = [(first + o, operator.order - 1 - o) for o in range(operator.order - 1)]
        self._in, self._out = (step_linear(map, mixer.batch_size) for map in (operator.in_proj, operator.out_proj))
        # The short filter runs as the engine Eager does: a slot of the block holds its output's partial sum. Views of
        # every position are made once, so that a step makes one call for it.
        taps, self._bias = operator.short_filter.weight.detach()[:, 0].T, operator.short_filter.bias.detach()
        self._taps = taps.flip(0).unsqueeze(1).contiguous()  # (3, 1, C), for the current position and the next two
        self._begin()

    def _begin(self) -> None:
        with torch.inference_mode(False):  # made inside it, they could not be updated outside it
            self._slots = self._bias.repeat(BLOCK + SHORT_TAPS - 1, self._mixer.batch_size, 1)  # (b+2, B, C)
        self._reached = [self._slots[i : i + SHORT_TAPS] for i in range(BLOCK)]
        self._streams = [slot.split(self._operator.d_model, dim=-1) for slot in self._slots[:BLOCK]]
        self._i = 0

    def fork(self, mixer: Mixer) -> Self:
        """The same step for a fork of the mixer; the two share the weights and nothing that a step changes."""
        twin = copy.copy(self)
        twin._mixer = mixer
        twin._begin()
        twin.pending.copy_(self.pending)
        return twin

    @property
    def pending(self) -> Float[Tensor, "2 B C"]:
        """All that the short filter remembers: its partial sums for the next two positions, as a view."""
        return self._slots[self._i : self._i + SHORT_TAPS - 1]

    def prefill(self, u: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
        """The operator on a prompt, by its forward; what later steps need is remembered here and in the mixer."""
        y = self._operator(u, lambda o, v: self._mixer.prefill(self._order[o][0], v))
        self._slots[:], self._i = self._bias, 0  # a text begins; had the mixer refused it, nothing would have changed
        for u_t in u[:, -SHORT_TAPS + 1 :].unbind(1):
            self._short_filter(u_t)
        return y

    def step(self, u_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The operator's output at this position. The caller advances the mixer when every layer has stepped."""
        streams = self._short_filter(u_t)
        v = streams[-1]
        for m, gate in self._order:
            v = self._mixer.gated_step(m, v, streams[gate])
        return self._out(v * streams[0])

    def _short_filter(self, u_t: Float[Tensor, "B D"]) -> tuple[Float[Tensor, "B D"], ...]:
        """The streams at this position, as views of a slot that is written again a block later."""
        i = self._i
        if i == BLOCK:  # what is left over from the block goes to the front of the next
            self._slots[: SHORT_TAPS - 1] = self._slots[BLOCK:]
            self._slots[SHORT_TAPS - 1 :] = self._bias
            i = 0
        self._reached[i].addcmul_(self._taps, self._in(u_t))
        self._i = i + 1
        return self._streams[i]


class LayerStep:
    """One layer, position by position."""

    def __init__(self, layer: Layer, mixer: Mixer, first: int) -> None:
        self._layer = layer
        self.operator = OperatorStep(layer.mixer, mixer, first)
        self._norm1, self._norm2 = _norm(layer.norm1), _norm(layer.norm2)
        self._fc1, self._fc2 = (step_linear(map, mixer.batch_size) for map in (layer.mlp.fc1, layer.mlp.fc2))

    def fork(self, mixer: Mixer) -> Self:
        twin = copy.copy(self)
        twin.operator = self.operator.fork(mixer)
        return twin

    def prefill(self, h: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
        h = h + self.operator.prefill(self._layer.norm1(h))
        return h + self._layer.mlp(self._layer.norm2(h))

    def step(self, h: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        h = h + self.operator.step(F.layer_norm(h, *self._norm1))
        inner = F.gelu(self._fc1(F.layer_norm(h, *self._norm2)), approximate="tanh")
        return h + self._fc2(inner)


class Decoder:
    """A model on its way through a sequence: ``prefill(tokens)`` once, then ``step(token)``.

    Both answer with logits. mixer: an engine made from ``model.filters(length)``; it sets the
    batch size and how far one can go. The weights are taken as they are now: what is changed
    in them later is seen in part or not at all.

    Memory: the short filters' blocks and, for few sequences on a CPU, the tall weights once
    more (see step_linear.py).
    """

    def __init__(self, model: Hyena, mixer: Mixer) -> None:
        self._mixer, self._checked = mixer, isinstance(mixer, Checked)
        self._embedding = model.backbone.embeddings.word_embeddings.weight.detach()
        self._norm, self._head = _norm(model.backbone.ln_f), step_linear(model.lm_head, mixer.batch_size)
        mixers = model.config.order - 1
        self._layers = [LayerStep(layer, mixer, i * mixers) for i, layer in enumerate(model.backbone.layers)]

    def prefill(self, tokens: Int[Tensor, "B P"]) -> Float[Tensor, "B V"]:
        """Logits after the prompt; P >= 1."""
        h = F.embedding(tokens, self._embedding)
        for layer in self._layers:
            h = layer.prefill(h)
        return self._logits(h[:, -1])

    def step(self, token: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        """Logits after one more token for each sequence. Raises ValueError for another shape."""
        if token.shape != (self._mixer.batch_size,):  # what could be broadcast would be, unnoticed
            want = (self._mixer.batch_size,)
            raise ValueError(f"token must have shape (B,) = {want}, got {tuple(token.shape)}")
        h = F.embedding(token, self._embedding)
        for layer in self._layers:
            h = layer.step(h)
        self._mixer.advance()
        return self._logits(h)

    def snapshot(self) -> dict[str, Tensor]:
        """What the short filters remember, copied: what restore() takes. The mixer has its own."""
        return {name: t.clone() for name, t in self._buffers().items()}

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Go on from a snapshot of a decoder of the same model; refuses another's, as a mixer does."""
        fill_buffers(self._buffers(), snapshot)

    def fork(self, mixer: Mixer) -> Self:
        """A decoder at the same place, for a fork of the mixer; the two share the weights."""
        twin = copy.copy(self)
        twin._mixer, twin._layers = mixer, [layer.fork(mixer) for layer in self._layers]
        return twin

    def _buffers(self) -> dict[str, Tensor]:
        return {f"short_filter_{i}": layer.operator.pending for i, layer in enumerate(self._layers)}

    def _logits(self, h: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
        logits = self._head(F.layer_norm(h, *self._norm))
        if self._checked:  # nothing goes from here into a mixer
            look("a logit", logits.unsqueeze(-1), self._mixer.position - 1, None)
        return logits


class OnlineOperator:
    """A Hyena operator one position at a time: ``push(u_t)``, (B, D) -> (B, D), up to l_max times.

    Filters and weights are taken as they are when it is made.
    """

    def __init__(self, operator: HyenaOperator, engine: Engine = "auto", batch_size: int = 1) -> None:
        with torch.no_grad():
            self._mixer = make_mixer(engine, operator.filters(), batch_size)
        self._step = OperatorStep(operator, self._mixer, 0)
        self._like = operator.in_proj.weight
        self._l_max = operator.l_max

    @torch.no_grad()
    def push(self, u_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The operator's output for the next position, a fresh tensor.

        Raises ValueError for a wrong shape or device, or past l_max; TypeError for a wrong dtype.
        """
        check_like_weights("u_t", u_t, {"B": self._mixer.batch_size, "D": self._like.shape[1]}, self._like)
        if self._mixer.position == self._l_max:
            raise ValueError(f"the filters hold {self._l_max} positions and all are used: make a new .online()")
        y = self._step.step(u_t)
        self._mixer.advance()
        return y


def _norm(norm: torch.nn.LayerNorm) -> tuple[tuple[int, ...], Tensor, Tensor, float]:
    return norm.normalized_shape, norm.weight.detach(), norm.bias.detach(), norm.eps
