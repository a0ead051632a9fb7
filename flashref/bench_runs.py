"""What the benchmark runs: a mixer or a model one position at a time, and calls that are timed as a whole."""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flashref.convolution import causal_conv, fast_length
from flashref.decoder import Decoder
from flashref.graphs import BlockDecoder, Replay
from flashref.hyena import Hyena
from flashref.mixer import Mixer
from flashref.naive_gpu import NaiveGPU
from flashref.tiled_cpu import TiledCPU
from flashref.tiled_gpu import TiledGPU
from flashref.tiling import cost, schedule

WARM_UP, WINDOW = 8, 96  # positions that are stepped through after a prompt before any is timed, and then timed


class Run(Protocol):
    """Something that goes through L positions, from any of them on.

    mixer: the engine in it. warm_up: how many positions after a start are not typical; window: of how many the time is
    sampled.
    """

    mixer: Mixer
    warm_up: int
    window: int

    def start(self, P: int) -> None:
        """Begin anew, with the first P positions given at once."""

    def step(self, t: int) -> Sequence[Tensor]:
        """Position t; what came out is compared between engines. The next step may overwrite it."""


class NoMixer(Mixer):
    """Mixers removed: z = x. It bounds what any engine can reach."""

    name = "none"

    def _begin(self) -> None: ...

    def _remember(self, m: int, x: Float[Tensor, "B D P"]) -> Float[Tensor, "B D P"]:
        return x

    def _step(self, m: int, x_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        return x_t

    def gated_step(self, m: int, v: Float[Tensor, "B D"], gate: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        self._next = m + 1  # all that is left of a step, so that the bound is as low as it can be
        return v * gate

    def _advance(self) -> None: ...


class MixerRun:
    """M mixers alone, fed from a ring of random rows. What comes out are the outputs of all mixers."""

    warm_up, window = WARM_UP, WINDOW

    def __init__(self, mixer: Mixer, rows: Float[Tensor, "R M B D"]) -> None:
        self.mixer, self.rows = mixer, [list(row) for row in rows]
        self.prompt = rows.permute(1, 2, 3, 0)

    def start(self, P: int) -> None:
        self.mixer.reset()
        for m, ring in enumerate(self.prompt):
            self.mixer.prefill(m, ring.repeat(1, 1, -(-P // ring.shape[-1]))[..., :P])

    def step(self, t: int) -> list[Tensor]:
        z_t = [self.mixer.step(m, x_t) for m, x_t in enumerate(self.rows[t % len(self.rows)])]
        self.mixer.advance()
        return z_t


class MixerBlockRun:
    """M mixers alone, a block of positions at a time: on a GPU one CUDA graph, and the tiles after it.

    Every mixer has launches of its own at every position, as in a model, where one waits for the other.
    """

    def __init__(self, mixer: TiledGPU | NaiveGPU, rows: Float[Tensor, "R M B D"]) -> None:
        self.mixer, self.rows = mixer, rows
        self.warm_up, self.window = 2 * mixer.base, 4 * mixer.base

    def start(self, P: int) -> None:
        MixerRun(self.mixer, self.rows).start(P)
        self.first = P
        self.given = self.rows.new_zeros(self.mixer.base, *self.rows.shape[1:])  # where the graph reads them
        self.outputs = torch.zeros_like(self.given)
        self.replay = Replay(self.rows.device)

    def step(self, t: int) -> Sequence[Tensor]:
        i = (t - self.first) % self.mixer.base
        if i == 0:
            at = torch.arange(t, t + self.mixer.base, device=self.rows.device) % len(self.rows)
            self.given.copy_(self.rows[at])
            self.replay(self._run)
            self.mixer.advance_block()
        return self.outputs[i]

    def _run(self) -> None:
        for i in range(self.mixer.base):
            for m in range(len(self.mixer.filters)):
                self.mixer.in_block(m, self.given[i, m], self.outputs[i, m], i)


class ModelRun:
    """A whole model, fed with given tokens; the likeliest next token is computed too, as when it generates.

    What comes out are the logits; with choose, the token.
    """

    warm_up, window = WARM_UP, WINDOW

    def __init__(self, model: Hyena, mixer: Mixer, tokens: Int[Tensor, "B L"], choose: bool = False) -> None:
        self.model, self.mixer, self.tokens, self.choose = model, mixer, tokens, choose
        self.columns = list(tokens.unbind(1))

    def start(self, P: int) -> None:
        self.mixer.reset()
        self.decoder = Decoder(self.model, self.mixer)
        if P:
            self.decoder.prefill(self.tokens[:, :P])

    def step(self, t: int) -> list[Tensor]:
        logits = self.decoder.step(self.columns[t])
        chosen = logits.argmax(-1)
        return [chosen if self.choose else logits]


class ReadingDecoder(BlockDecoder):
    """A block decoder that reads given tokens, and still chooses its own."""

    def __init__(self, model: Hyena, mixer: TiledGPU | NaiveGPU) -> None:
        super().__init__(model, mixer)
        self.given = torch.zeros_like(self._tokens[1:])

    def _token(self, i: int) -> Int[Tensor, " B"]:
        return self.given[i]


class BlockRun:
    """A whole model that reads given tokens a block at a time, as generate does on a GPU, with a CUDA graph.

    What comes out are the tokens that it would have written. mixers: False leaves tiled_gpu's mixers out, but for the
    red cell of a block's first position: that is the bound.
    """

    def __init__(
        self, model: Hyena, mixer: TiledGPU | NaiveGPU, tokens: Int[Tensor, "B L"], mixers: bool = True
    ) -> None:
        self.mixer, self.tokens, self.mixers = mixer, tokens, mixers
        self.warm_up, self.window = 2 * mixer.base, 4 * mixer.base
        self.decoder = ReadingDecoder(model, mixer)
        if not mixers:
            for layer in self.decoder._layers:
                layer._hyena_step = lambda *args, real=layer._hyena_step: real(*args[:-1], 0)
            mixer._advance = lambda: None

    def start(self, P: int) -> None:
        """P = 0 takes the first token as a prompt: position 0 is then already done, and its step takes no time."""
        self.mixer.reset()
        self.first = max(1, P)
        self.decoder.prefill(self.tokens[:, : self.first])

    def step(self, t: int) -> list[Tensor]:
        if t < self.first:
            return [self.decoder._tokens[-1]]
        i = (t - self.first) % self.mixer.base
        if i == 0:
            given = self.tokens[:, t : t + self.mixer.base].T
            self.decoder.given[: len(given)] = given
            self.chosen = self.decoder.block()
        return [self.chosen[i]]


def time_call(call: Callable[[], object]) -> float:
    """Seconds for one call."""
    synchronise()
    begin = time.perf_counter()
    call()
    synchronise()
    return time.perf_counter() - begin


def time_prefill(model: Hyena, mixer: Mixer, prompt: Int[Tensor, "B P"]) -> float:
    """Seconds for a prompt through a model and an engine."""

    def prefill() -> None:
        mixer.reset()
        Decoder(model, mixer).prefill(prompt)

    return time_call(prefill)


def time_forward(model: Hyena, filters: Float[Tensor, "M D L"], prompt: Int[Tensor, "B P"]) -> float:
    """Seconds for the model on a prompt up to its last logits, the filters at hand, and nothing kept of it."""
    taps, mixers = filters[..., : prompt.shape[1]], model.config.order - 1

    def forward() -> None:
        h = model.backbone.embeddings.word_embeddings(prompt)
        for layer, rho in zip(model.backbone.layers, taps.split(mixers), strict=True):
            h = h + layer.mixer(layer.norm1(h), lambda o, v, rho=rho: causal_conv(v, rho[o]))
            h = h + layer.mlp(layer.norm2(h))
        model.lm_head(model.backbone.ln_f(h[:, -1]))

    return time_call(forward)


def time_tiles(mixer: TiledCPU) -> float:
    """Seconds for all gray tiles of a generation, without its steps."""
    M, D, L = mixer.filters.shape
    mixer.reset()
    for m in range(M):
        mixer.prefill(m, mixer.filters.new_zeros(mixer.batch_size, D, 0))

    def tiles() -> None:
        for n in range(mixer.base, L, mixer.base):
            mixer._position = n
            mixer._advance()
            for k in range(1, min(mixer.base, L - n) if mixer.name == "bounded" else 0):
                mixer._work(n + k)  # its tiles run in pieces, on the way to the next block

    return time_call(tiles)


def time_offline(filters: Float[Tensor, "M D L"], batch_size: int) -> float:
    """Seconds for one causal convolution of the same data known in full: spectra cached, chunked as the tiles are."""
    chunk_points = (TiledGPU if filters.is_cuda else TiledCPU).chunk_points
    M, D, L = filters.shape
    n = fast_length(2 * L)
    rho, x = filters.reshape(M * D, L), torch.randn(batch_size, M * D, L, device=filters.device, dtype=filters.dtype)
    size = max(1, chunk_points // (batch_size * n))
    chunks = [slice(c, c + size) for c in range(0, M * D, size)]
    spectra = [torch.fft.rfft(rho[c], n) for c in chunks]
    z = x if x.is_cuda else torch.zeros_like(x)  # a GPU that holds the setting of the paper has no room for both

    def convolve() -> None:
        for c, s in zip(chunks, spectra, strict=True):
            z[:, c] = torch.fft.irfft(torch.fft.rfft(x[:, c], n).mul_(s), n)[..., :L]

    return time_call(convolve)


def counted_per_position(mixer: Mixer, L: int) -> dict[str, float]:
    """Multiply-adds, FFT points and bytes moved in float32, per position and channel, red cells left out.

    Counted from the schedule that the engine runs, with its base; nothing for an engine without one.
    """
    tiled = isinstance(mixer, TiledCPU)
    kind = "relaxed" if tiled and mixer.name in ("tiled_cpu", "tiled_gpu") else mixer.name
    if kind not in ("lazy", "eager", "relaxed", "bounded"):
        return {}
    tiles = schedule(L, kind, mixer.base if tiled else 1)
    fft_from = max(2, mixer.direct_up_to + 1) if kind == "relaxed" else 2
    counted = cost(tiles, fft_from)
    points = counted.fft_points
    if kind == "bounded":  # two tiles with the same outputs share the FFT back; the second's inputs were transformed
        shared = [
            tile for before, tile in pairwise(tiles) if before.outputs == tile.outputs and before.step == tile.step
        ]
        points -= cost(shared, fft_from).fft_points
    return {
        "multiply_adds": round(counted.multiply_adds / L, 2),
        "fft_points": round(points / L, 2),
        "bytes": round(4 * counted.numbers_moved / L, 1),
    }


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
