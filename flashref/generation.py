"""From a model to text: prefill, decode, sample, stream."""

from collections.abc import Iterator
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from flashref.budget import check_generation
from flashref.decoder import Decoder
from flashref.engines import Engine, check_engine, make_unasked
from flashref.finite import Checked
from flashref.graphs import BLOCK_ENGINES, BlockDecoder
from flashref.hyena import Hyena, check_tokens
from flashref.mixer import Mixer
from flashref.tiling import check_count, check_integers


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
