"""Decoding a block of tokens at a time, so that a GPU can replay it as one CUDA graph.

A token needs some ten small kernels per layer, and a GPU runs one in less time than a CPU takes to launch it. Inside a
block of b positions nothing depends on where the block stands: shapes and addresses are the same in every block. So its
launches, sampling included, are recorded once and replayed by one call. Between two replays come the tiles.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flashref import naive_gpu
from flashref.finite import Checked
from flashref.hyena import SHORT_TAPS, Hyena, Layer
from flashref.tiled_gpu import TiledGPU, has_kernels

BLOCK_ENGINES = (TiledGPU, naive_gpu.LazyGPU, naive_gpu.EagerGPU)  # what can compute a block in a graph


class BlockDecoder:
    """A model on its way through a sequence, b tokens at a time: ``prefill(prompt)`` once, then ``tokens()``.

    mixer: one of BLOCK_ENGINES, made from ``model.filters(length)`` and not yet used; it sets b, the batch size, and
    how far one can go.
    temperature, top_k: as in generate. generator: of the model's device; None for PyTorch's own.

    dtype: of the blocks' weights and activations, the model's unless told. The weights, read once per token, bound the
    speed, and bfloat16 halves their bytes. Filters, partial sums and the mixers' arithmetic stay what the mixer's are.
    So leave the model itself in float32 and name bfloat16 here: ``model.to(torch.bfloat16).filters()`` come from a
    network to which, in bfloat16, neighbouring lags look alike. The prompt runs in the model's own dtype.

    Memory: the weights once more if dtype is not the model's, and with a temperature 8*b*B*V bytes of noise.
    """

    def __init__(
        self,
        model: Hyena,
        mixer: TiledGPU | naive_gpu.NaiveGPU,
        temperature: float = 0.0,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check(model, mixer, dtype)
        embedding = model.lm_head.weight.detach()
        dtype = embedding.dtype if dtype is None else dtype
        B, b, V = mixer.batch_size, mixer.base, model.config.vocab_size
        self._model, self._mixer, self._vocabulary = model, mixer, V
        self._temperature, self._top_k, self._generator = temperature, top_k, generator
        with torch.inference_mode(False):  # buffers made inside it could not be updated outside it
            self._layers = [BlockLayer(layer, mixer, i, dtype) for i, layer in enumerate(model.backbone.layers)]
            self._embedding, self._norm = embedding.to(dtype), _norm(model.backbone.ln_f, dtype)
            self._tokens = torch.zeros(b + 1, B, dtype=torch.long, device=embedding.device)  # row 0: the block before
            self._noise = None
            if temperature:
                self._noise = torch.ones(b, B, V, dtype=torch.float64, device=embedding.device)
        self._replay = Replay(embedding.device)

    @torch.no_grad()
    def prefill(self, prompt: Int[Tensor, "B P"]) -> None:
        """Take in a prompt of P >= 1 tokens, by the model's own forward, and draw the first token after it."""
        h = F.embedding(prompt, self._model.backbone.embeddings.word_embeddings.weight)
        for layer in self._layers:
            h = layer.prefill(h)
        logits = self._model.lm_head(self._model.backbone.ln_f(h[:, -1]))
        self._draw_noise()
        self._tokens[-1] = self._choose(logits, 0)
        self._replay = Replay(self._tokens.device)  # a new generation has new buffers

    def tokens(self) -> Iterator[Int[Tensor, " B"]]:
        """The tokens after the prompt, one more than positions are left in the filters; each may be changed.

        They come in blocks: b at once, then a wait.
        """
        if self._mixer.position == 0:
            raise ValueError("there is no token yet: prefill(prompt) first")
        yield self._tokens[-1].clone()
        while left := self._mixer.filters.shape[-1] - self._mixer.position:
            yield from self.block()[:left].unbind()

    @torch.no_grad()
    def block(self) -> Int[Tensor, "b B"]:
        """The next b tokens, a fresh tensor. Those past the filters' end, in the last block, mean nothing.

        Does not wait for a GPU. Raises ValueError if no position is left, or before prefill.
        """
        position, length = self._mixer.position, self._mixer.filters.shape[-1]
        if not 0 < position < length:
            raise ValueError(f"no block is due at position {position} of {length}: prefill(prompt) comes first")
        self._draw_noise()
        self._replay(self._run)
        tokens = self._tokens[1:].clone()
        self._mixer.advance_block()
        return tokens

    def _draw_noise(self) -> None:
        if self._noise is not None:
            self._noise.exponential_(generator=self._generator)

    def _run(self) -> None:
        """b tokens. Reads and writes the same addresses in every block, and never asks the GPU for a value."""
        self._tokens[0] = self._tokens[-1]
        for layer in self._layers:
            layer.begin()
        for i in range(self._mixer.base):
            h = F.embedding(self._token(i), self._embedding)
            for layer in self._layers:
                h = layer.step(h, i)
            logits = F.linear(F.layer_norm(h, *self._norm), self._embedding)
            self._tokens[i + 1] = self._choose(logits, i)

    def _token(self, i: int) -> Int[Tensor, " B"]:
        """What position i of the block reads: the token chosen before it."""
        return self._tokens[i]

    def _choose(self, logits: Float[Tensor, "B V"], i: int) -> Int[Tensor, " B"]:
        """One token per sequence, as generation.sample, with the i-th row of noise.

        Of independent clocks that ring at rates w the k-th is the first with probability w_k / sum(w): exponential
        noise is divided by the rates, and the least wins. torch.multinomial does so too, but first looks at its input.
        """
        logits = logits[:, : self._vocabulary]
        if self._noise is None:
            return logits.argmax(-1)
        if self._top_k is not None and self._top_k < logits.shape[-1]:
            dropped = logits.sort(dim=-1, descending=True, stable=True).indices[:, self._top_k :]
            logits = logits.scatter(-1, dropped, float("-inf"))
        logits = logits.double()  # the largest is subtracted first: a tiny temperature must not overflow
        scaled = (logits - logits.amax(-1, keepdim=True)) / self._temperature
        return (torch.softmax(scaled, dim=-1) / self._noise[i]).argmax(-1)


class Replay:
    """Calls of one function that always does the same to the same addresses: on a GPU, replays of one CUDA graph."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = self._graph = None

    def __call__(self, run: Callable[[], None]) -> None:
        if self._device.type != "cuda":
            return run()
        with torch.cuda.device(self._device):
            if self._stream is None:
                # The first call runs as it is, on the stream that will record the second. That is the warm-up: it
                # compiles kernels and makes handles and workspaces, none of which is allowed while recording.
                self._stream = torch.cuda.Stream()
                self._stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(self._stream):
                    run()
                torch.cuda.current_stream().wait_stream(self._stream)
                return
            if self._graph is None:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=self._stream):  # records and does not run
                    run()
                self._graph = graph
            self._graph.replay()


class BlockLayer:
    """One layer's weights in the blocks' dtype, and its projections in the block: row i+2 is position i's."""

    def __init__(self, layer: Layer, mixer: TiledGPU | naive_gpu.NaiveGPU, index: int, dtype: torch.dtype) -> None:
        operator = layer.mixer
        self._layer, self._mixer, self._mixers = layer, mixer, operator.order - 1
        self._first = index * self._mixers
        self._norm1, self._norm2 = _norm(layer.norm1, dtype), _norm(layer.norm2, dtype)
        self._in, self._out = _weights(operator.in_proj, dtype), _weights(operator.out_proj, dtype)
        self._fc1, self._fc2 = _weights(layer.mlp.fc1, dtype), _weights(layer.mlp.fc2, dtype)
        taps, self._bias = _weights(operator.short_filter, dtype)
        self._taps = taps[:, 0].T.contiguous()  # (3, C)
        B, b = mixer.batch_size, mixer.base
        self._p = self._bias.new_zeros(b + SHORT_TAPS - 1, B, len(self._bias))
        self._y = self._bias.new_zeros(B, operator.d_model)
        self._hyena_step = hyena_step
        if isinstance(mixer, naive_gpu.NaiveGPU):
            self._hyena_step = naive_gpu.hyena_step
        elif has_kernels(self._p.device):
            from flashref import kernels

            self._hyena_step = kernels.hyena_step

    def prefill(self, h: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
        """The layer on a prompt. The engine remembers its long convolutions, and the last rows are kept for the short.

        They are where a block leaves its own last rows. A prompt of one token has a row of zeros before it.
        """
        u = self._layer.norm1(h)
        last = self._layer.mixer.in_proj(u[:, -SHORT_TAPS + 1 :]).transpose(0, 1)
        self._p.zero_()[-len(last) :] = last
        h = h + self._layer.mixer(u, lambda o, v: self._mixer.prefill(self._first + o, v))
        self._block = self._mixer.block(self._first, self._mixers)  # the engine allocates it when a generation begins
        return h + self._layer.mlp(self._layer.norm2(h))

    def begin(self) -> None:
        """A new block: its predecessors' projections are the last rows of the block before."""
        self._p[: SHORT_TAPS - 1] = self._p[-SHORT_TAPS + 1 :].clone()

    def step(self, h: Float[Tensor, "B D"], i: int) -> Float[Tensor, "B D"]:
        """Position i of the block."""
        weight, bias = self._in
        torch.addmm(bias, F.layer_norm(h, *self._norm1), weight.T, out=self._p[i + SHORT_TAPS - 1])
        self._hyena_step(self._p, self._taps, self._bias, *self._block, self._y, i)
        h = h + F.linear(self._y, *self._out)
        inner = F.gelu(F.linear(F.layer_norm(h, *self._norm2), *self._fc1), approximate="tanh")
        return h + F.linear(inner, *self._fc2)


def hyena_step(
    p: Float[Tensor, "b+2 B C"],
    taps: Float[Tensor, "3 C"],
    bias: Float[Tensor, " C"],
    x: Float[Tensor, "b N-1 B D"],
    z: Float[Tensor, "b N-1 B D"],
    rho: Float[Tensor, "b N-1 1 D"],
    y: Float[Tensor, "B D"],
    i: int,
) -> None:
    """kernels.hyena_step in PyTorch's own calls: what the kernel fuses, and what runs where there is no Triton."""
    window = p[i : i + SHORT_TAPS].to(x.dtype)
    streams = bias.to(x.dtype) + (taps.to(x.dtype).unsqueeze(1) * window).sum(0)
    *gates, v = streams.split(y.shape[-1], dim=-1)
    for o in range(x.shape[1]):
        x[i, o] = v * gates[-1 - o]
        v = z[i, o] + (x[: i + 1, o] * rho[: i + 1, o].flip(0)).sum(0)
    y.copy_(v * gates[0])


def _check(model: Hyena, mixer: TiledGPU | naive_gpu.NaiveGPU, dtype: torch.dtype | None) -> None:
    if not isinstance(model, Hyena):
        raise TypeError(f"model must be a flashref.Hyena, got {type(model).__name__}")
    if not isinstance(mixer, BLOCK_ENGINES):
        names = ", ".join(engine.__name__ for engine in BLOCK_ENGINES)
        raise TypeError(f"mixer must be one of {names}, got {type(mixer).__name__}")
    if isinstance(mixer, Checked):
        raise TypeError("mixer must not be a checked one: its checks are in its step, and a block takes none")
    config, shape = model.config, mixer.filters.shape
    if shape[:2] != (config.n_layer * (config.order - 1), config.d_model):
        raise ValueError(f"mixer must be made from model.filters(), got filters of shape {tuple(shape)}")
    if mixer.filters.device != model.lm_head.weight.device:
        device = model.lm_head.weight.device
        raise ValueError(f"mixer must be on {device} where the model is, got {mixer.filters.device}")
    if dtype not in (None, torch.float32, torch.float64, torch.bfloat16):
        raise TypeError(f"dtype must be torch.float32, torch.float64 or torch.bfloat16, got {dtype}")


def _weights(module: torch.nn.Linear | torch.nn.Conv1d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return module.weight.detach().to(dtype), module.bias.detach().to(dtype)


def _norm(norm: torch.nn.LayerNorm, dtype: torch.dtype) -> tuple[tuple[int, ...], Tensor, Tensor, float]:
    return norm.normalized_shape, *_weights(norm, dtype), norm.eps
