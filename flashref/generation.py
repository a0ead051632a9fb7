"""From a model to text: prefill, decode, sample, stream.

The step path shares the model's weights and none of its forward's code: one position at a time, through an engine.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from flashref.budget import check_generation
from flashref.engines import Engine, check_engine, make_mixer, make_unasked
from flashref.finite import Checked, look
from flashref.graphs import BLOCK_ENGINES, BlockDecoder
from flashref.hyena import SHORT_TAPS, Hyena, HyenaOperator, Layer, check_like_weights, check_tokens
from flashref.mixer import Mixer
from flashref.snapshots import fill_buffers
from flashref.tiling import check_count, check_integers

BLOCK = 64  # positions for which a step's views are made once


class OperatorStep:
    """One Hyena operator, position by position. Its N-1 mixers are the engine's mixers first, first+1, ..."""

    def __init__(self, operator: HyenaOperator, mixer: Mixer, first: int) -> None:
        self._operator, self._mixer = operator, mixer
        # For each long convolution, outermost last: which mixer, and which stream is the gate before it.
        self._order = [(first + o, operator.order - 1 - o) for o in range(operator.order - 1)]
        self._in, self._out = _linear(operator.in_proj), _linear(operator.out_proj)
        # The short filter runs as the engine Eager does: a slot of the block holds its output's partial sum. Views of
        # every position are made once, so that a step makes one call for it.
        taps, self._bias = operator.short_filter.weight.detach()[:, 0].T, operator.short_filter.bias.detach()
        self._taps = taps.flip(0).unsqueeze(1).contiguous()  # (3, 1, C), for the current position and the next two
        with torch.inference_mode(False):  # made inside it, they could not be updated outside it
            self._slots = self._bias.repeat(BLOCK + SHORT_TAPS - 1, mixer.batch_size, 1)  # (b+2, B, C)
        self._reached = [self._slots[i : i + SHORT_TAPS] for i in range(BLOCK)]
        self._streams = [slot.split(operator.d_model, dim=-1) for slot in self._slots[:BLOCK]]
        self._i = 0

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
        self._fc1, self._fc2 = _linear(layer.mlp.fc1), _linear(layer.mlp.fc2)

    def prefill(self, h: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
        h = h + self.operator.prefill(self._layer.norm1(h))
        return h + self._layer.mlp(self._layer.norm2(h))

    def step(self, h: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        h = h + self.operator.step(F.layer_norm(h, *self._norm1))
        inner = F.gelu(self._fc1(F.layer_norm(h, *self._norm2)), approximate="tanh")
        return h + self._fc2(inner)


class Decoder:
    """A model on its way through a sequence: ``prefill(tokens)`` once, then ``step(token)``; both answer with logits.

    mixer: an engine made from ``model.filters(length)``; it sets the batch size and how far one can go.
    """

    def __init__(self, model: Hyena, mixer: Mixer) -> None:
        self._mixer, self._checked = mixer, isinstance(mixer, Checked)
        self._embedding = model.backbone.embeddings.word_embeddings.weight.detach()
        self._norm = _norm(model.backbone.ln_f)
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
            raise ValueError(f"token must have shape (B,) = ({self._mixer.batch_size},), got {tuple(token.shape)}")
        h = F.embedding(token, self._embedding)
        for layer in self._layers:
            h = layer.step(h)
        self._mixer.advance()
        return self._logits(h)

    def snapshot(self) -> dict[str, Tensor]:
        """What the short filters remember, copied: what restore() takes. The mixer has a snapshot of its own."""
        return {name: t.clone() for name, t in self._buffers().items()}

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Go on from a snapshot of a decoder of the same model; refuses another's, as the mixer's restore does."""
        fill_buffers(self._buffers(), snapshot)

    def _buffers(self) -> dict[str, Tensor]:
        return {f"short_filter_{i}": layer.operator.pending for i, layer in enumerate(self._layers)}

    def _logits(self, h: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
        logits = F.linear(F.layer_norm(h, *self._norm), self._embedding)
        if self._checked:  # nothing goes from here into a mixer
            look("a logit", logits.unsqueeze(-1), self._mixer.position - 1, None)
        return logits


class OnlineOperator:
    """A Hyena operator one position at a time: ``push(u_t)``, (B, D) -> (B, D), up to l_max times."""

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


def generate(
    model: Hyena,
    prompt: Int[Tensor, "*B P"],
    n: int,
    engine: Engine = "auto",
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int | None = None,
    progress: bool = True,
) -> Int[Tensor, "B P+n"]:
    """The prompt, (P,) or (B, P), and n tokens after it: (B, P+n).

    engine: a name or a callable, see make_mixer. temperature 0 takes the likeliest token; above 0 tokens are drawn from
    the logits divided by it, from the top_k likeliest only if that is given. The same seed and engine give the same
    tokens; without a seed each call draws others. progress: a bar, on a terminal or in a notebook, once a run has taken
    two seconds.

    Costs O(P+n) passes through the blocks, and per mixer and channel O((P+n) log^2) with a tiled engine. Raises
    ValueError or TypeError for an empty prompt, tokens out of the vocabulary, P+n-1 positions that the filters do not
    hold, n < 0, temperature < 0, top_k < 1, an unknown engine; MemoryError, with the numbers and what would fit, for
    what memory has no room for (memory.py). A refused call does nothing.
    """
    tokens = stream(model, prompt, n, engine, temperature, top_k, seed)
    pieces = list(torch.atleast_2d(prompt).long().unbind(1))
    with tqdm(total=n, unit="token", delay=2, disable=None if progress else True) as bar:
        for token in tokens:
            pieces.append(token)
            bar.update()
    return torch.stack(pieces, dim=1)


def stream(
    model: Hyena,
    prompt: Int[Tensor, "*B P"],
    n: int,
    engine: Engine = "auto",
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int | None = None,
) -> Iterator[Int[Tensor, " B"]]:
    """generate, one step at a time: yields the n new tokens, (B,) each, as soon as they exist.

    On a CUDA device "tiled_gpu", "lazy" and "eager" make them a block at a time, 64 at once.

    Arguments are checked here, when it is called, not at the first token.
    """
    batch = check_request(model, prompt, n, engine, temperature, top_k, seed)
    if n == 0:
        return iter(())
    check_generation(model, batch.shape[1], n, engine, batch.shape[0])
    with torch.no_grad():
        mixer = make_unasked(engine, model.filters(batch.shape[1] + n - 1), batch.shape[0])
    return decode(model, mixer, batch.to(torch.long, copy=True), n, temperature, top_k, seed)


def check_request(
    model: Hyena,
    prompt: Int[Tensor, "*B P"],
    n: int,
    engine: Engine,
    temperature: float,
    top_k: int | None,
    seed: int | None,
) -> Int[Tensor, "B P"]:
    """Refuse what stream cannot do; returns the prompt as (B, P)."""
    if not isinstance(model, Hyena):
        raise TypeError(f"model must be a flashref.Hyena, got {type(model).__name__}")
    batch = prompt.unsqueeze(0) if isinstance(prompt, Tensor) and prompt.dim() == 1 else prompt
    check_tokens("prompt", batch, model, model.config.vocab_size)
    check_count("n", n, 0)
    if top_k is not None:
        check_count("top_k", top_k, 1)
    if seed is not None:
        check_integers(seed=seed)
    # The last token is not fed back, so one more token than the filters hold is possible.
    if batch.shape[1] + n > model.config.l_max + 1:
        most = model.config.l_max + 1 - batch.shape[1]
        raise ValueError(
            f"the filters hold {model.config.l_max} positions: after this prompt n is at most {most}, got {n}"
        )
    if not isinstance(temperature, int | float) or isinstance(temperature, bool):
        raise TypeError(f"temperature must be a number, got {type(temperature).__name__}")
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be finite and >= 0, got {temperature}")
    if seed is not None and not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed must fit into 64 bits, got {seed}")
    check_engine(engine)
    return batch.long()


@torch.no_grad()
def decode(
    model: Hyena,
    mixer: Mixer,
    prompt: Int[Tensor, "B P"],
    n: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int | None = None,
) -> Iterator[Int[Tensor, " B"]]:
    """What stream does once its arguments are checked, through an engine that is already made (and not yet used)."""
    generator = torch.Generator(prompt.device)
    generator.manual_seed(seed) if seed is not None else generator.seed()
    if isinstance(mixer, BLOCK_ENGINES) and mixer.filters.is_cuda and not isinstance(mixer, Checked):
        blocks = BlockDecoder(model, mixer, temperature, top_k, generator)
        blocks.prefill(prompt)
        yield from islice(blocks.tokens(), n)
        return
    decoder = Decoder(model, mixer)
    logits = decoder.prefill(prompt)
    for i in range(n):
        token = sample(logits[:, : model.config.vocab_size], temperature, top_k, generator)
        yield token.clone()  # the caller may change what it gets
        if i + 1 < n:
            logits = decoder.step(token)


def sample(
    logits: Float[Tensor, "B V"], temperature: float, top_k: int | None, generator: torch.Generator
) -> Int[Tensor, " B"]:
    """One token per sequence: the likeliest at temperature 0, else drawn from softmax(logits / temperature).

    Raises FloatingPointError where a NaN or an infinity leaves nothing to draw from. At temperature 0 nobody looks: a
    token is chosen, and means nothing (finite.py).
    """
    if temperature == 0:
        return logits.argmax(-1)
    kept = logits
    if top_k is not None and top_k < logits.shape[-1]:
        # Sorted, not topk: of equal logits the first are kept, as argmax does, and never more than top_k.
        dropped = logits.sort(dim=-1, descending=True, stable=True).indices[:, top_k:]
        kept = logits.scatter(-1, dropped, float("-inf"))
    # The largest logit is subtracted first: a tiny temperature must not overflow.
    weights = torch.softmax((kept - kept.amax(-1, keepdim=True)).double() / temperature, dim=-1)
    try:
        return torch.multinomial(weights, 1, generator=generator).squeeze(1)
    except RuntimeError as error:  # torch has looked already: a look of our own at every token would cost another
        if logits.isfinite().all():
            raise
        raise FloatingPointError(
            "the logits are not finite, so no token can be drawn: the model overflowed, or its weights are wrong; "
            "with engine=flashref.checked() you see where a NaN or an infinity enters"
        ) from error


def _linear(linear: torch.nn.Linear) -> Callable[[Tensor], Tensor]:
    """The map itself, which is faster to call than the module; but a module with hooks needs them (parallel.py)."""
    if linear._forward_hooks:
        return linear
    return partial(F.linear, weight=linear.weight.detach(), bias=linear.bias.detach())


def _norm(norm: torch.nn.LayerNorm) -> tuple[tuple[int, ...], Tensor, Tensor, float]:
    return norm.normalized_shape, norm.weight.detach(), norm.bias.detach(), norm.eps
