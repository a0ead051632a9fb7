"""A small language model whose filters depend on the data, and generation with it.

The operator is Hyena's of order 2 with one change: the filter's tap at lag i is not made from i alone, but from the
stream at position i, times the decay window. So tap i is known at step i and not before, and generation needs the
relaxed product of two online series (data_dependent.py).

    from flashref import HyenaConfig
    from flashref.data_dependent_model import DataDependentHyena, generate

    model = DataDependentHyena(HyenaConfig(d_model=16, n_layer=2, d_inner=64, vocab_size=256, l_max=1024), seed=0)
    prompt = torch.arange(10)
    tokens = generate(model, prompt, 500)                                   # (1, 510), O(L log^2 L)
    assert (tokens == generate(model, prompt, 500, engine="lazy")).all()    # O(L^2)
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flashref.config import HyenaConfig
from flashref.data_dependent import LazyProduct, OnlineProduct, RelaxedProduct, causal_product
from flashref.generation import sample
from flashref.hyena import MLP, SHORT_TAPS, check_like_weights, check_tokens
from flashref.implicit_filter import DecayWindow
from flashref.tiling import check_count, check_integers

PRODUCTS = {"lazy": LazyProduct, "relaxed": RelaxedProduct}


class DataDependentOperator(nn.Module):
    """u (B, L, D) -> (B, L, D), causal: gates around a long convolution whose filter is made from u as well.

    ``in_proj`` makes four streams, a short filter of 3 taps runs over each: two gates, the value and the taps. With the
    window w: ``x_t = gate_t * value_t``, ``rho_t = w_t * taps_t``, ``z_t = sum_{j<=t} x_j * rho_{t-j}``, and the output
    is ``out_proj(z_t * other_gate_t)``. The bias of the short filter gives every channel a part of rho that does not
    depend on the data: the window itself.
    """

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        D, L = config.d_model, config.l_max
        self.d_model, self.l_max = D, L
        self.in_proj = nn.Linear(D, 4 * D)
        self.short_filter = nn.Conv1d(4 * D, 4 * D, SHORT_TAPS, padding=SHORT_TAPS - 1, groups=4 * D)
        self.out_proj = nn.Linear(D, D)
        decay = DecayWindow(D, config.shift, config.fast_decay, config.slow_decay, config.decay_spacing)
        window = decay(torch.linspace(0, 1, L)[None, :, None], torch.ones(1, L, D))[0]
        self.register_buffer("window", window, persistent=False)  # (L, D)

    def streams(
        self, s: Float[Tensor, "*B C"], window: Float[Tensor, "*L D"]
    ) -> tuple[Float[Tensor, "*B D"], Float[Tensor, "*B D"], Float[Tensor, "*B D"]]:
        """From what the short filter gives: x and rho, whose product is the mixer, and the gate after it."""
        gate_after, gate, value, taps = s.split(self.d_model, dim=-1)
        return gate * value, taps * window, gate_after

    def forward(self, u: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """The whole sequence at once, by FFT: O(L log L) per channel; for training.

        Raises ValueError for a wrong shape or device, or more than l_max positions; TypeError for a wrong dtype.
        """
        check_like_weights("u", u, {"B": None, "L": None, "D": self.d_model}, self.in_proj.weight)
        x, rho, gate_after = self._all_streams(u)
        return self.out_proj(causal_product(x.mT, rho.mT).mT * gate_after)

    def filters(self, u: Float[Tensor, "B L D"]) -> Float[Tensor, "B D L"]:
        """The filter that each sequence makes for itself: rho, (B, D, L), to be looked at. Raises as forward does."""
        check_like_weights("u", u, {"B": None, "L": None, "D": self.d_model}, self.in_proj.weight)
        return self._all_streams(u)[1].mT

    def _all_streams(self, u: Float[Tensor, "B L D"]) -> tuple[Tensor, Tensor, Tensor]:
        L = u.shape[1]
        if L > self.l_max:
            raise ValueError(f"u has {L} positions but the window holds l_max = {self.l_max}")
        return self.streams(self.short_filter(self.in_proj(u).mT)[..., :L].mT, self.window[:L])

    def online(self, length: int | None = None, batch_size: int = 1, engine: str = "relaxed") -> "OnlineOperator":
        """The same operator one position at a time: ``.push(u_t)``, (B, D) -> (B, D), up to length (l_max) times."""
        return OnlineOperator(self, length, batch_size, engine)


class OnlineOperator:
    """A DataDependentOperator position by position; its weights are shared, its forward's FFT is not.

    engine: "relaxed", O(L log^2 L) per channel for L steps, or "lazy", O(L^2). Raises ValueError for another engine or
    a length beyond l_max.
    """

    def __init__(
        self, operator: DataDependentOperator, length: int | None, batch_size: int = 1, engine: str = "relaxed"
    ) -> None:
        check_engine(engine)
        length = operator.l_max if length is None else length
        check_count("length", length, 0)
        if length > operator.l_max:
            raise ValueError(f"length must be at most l_max = {operator.l_max}, got {length}")
        self._operator, weight = operator, operator.in_proj.weight
        self._product: OnlineProduct = PRODUCTS[engine](
            operator.d_model, length, batch_size, weight.dtype, weight.device
        )
        self._taps = operator.short_filter.weight.detach()[:, 0].T.unsqueeze(1)  # (3, 1, C)
        self._recent = weight.new_zeros(SHORT_TAPS, batch_size, weight.shape[0])
        self._shape = {"B": batch_size, "D": operator.d_model}

    @torch.no_grad()
    def push(self, u_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The operator's output for the next position, a fresh tensor.

        Raises ValueError for a wrong shape or device, or past the length; TypeError for a wrong dtype.
        """
        operator, t = self._operator, self._product.position
        check_like_weights("u_t", u_t, self._shape, operator.in_proj.weight)
        if t == self._product.length:
            raise ValueError(f"this operator was made for {t} positions and all are used: make a new .online()")
        self._recent = torch.cat([self._recent[1:], operator.in_proj(u_t)[None]])
        s = (self._taps * self._recent).sum(0) + operator.short_filter.bias
        x_t, rho_t, gate_after = operator.streams(s, operator.window[t])
        return operator.out_proj(self._product.push(x_t, rho_t) * gate_after)


class DataDependentLayer(nn.Module):
    """h + operator(norm1(h)), then h + mlp(norm2(h)): a Hyena layer around the other operator."""

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        self.mixer = DataDependentOperator(config)
        self.mlp = MLP(config.d_model, config.d_inner)
        self.norm1 = nn.LayerNorm(config.d_model)
        self.norm2 = nn.LayerNorm(config.d_model)

    def forward(self, h: Float[Tensor, "*any D"], mix: Callable[[Tensor], Tensor]) -> Float[Tensor, "*any D"]:
        """``mix`` is the operator: its forward on a sequence, or the push of its online form on one position."""
        h = h + mix(self.norm1(h))
        return h + self.mlp(self.norm2(h))


class DataDependentHyena(nn.Module):
    """A language model of such layers: tokens (B, L) -> logits (B, L, V), V counting the padded rows too.

    config: as for Hyena; the order must be 2, and what concerns the filter network is not used. seed: the weights'.
    The head is tied to the embedding. O(L log L) per channel and layer.
    """

    def __init__(self, config: HyenaConfig, seed: int = 0) -> None:
        super().__init__()
        check_integers(seed=seed)
        if config.order != 2:
            raise ValueError(f"order must be 2, one product in each layer, got {config.order}")
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(config.rows, config.d_model)
            self.layers = nn.ModuleList(DataDependentLayer(config) for _ in range(config.n_layer))
            self.ln_f = nn.LayerNorm(config.d_model)
            self.lm_head = nn.Linear(config.d_model, config.rows, bias=False)
            self.lm_head.weight = self.embedding.weight
            nn.init.normal_(self.embedding.weight, std=0.02)
            for layer in self.layers:  # what writes to the residual stream is made smaller with depth, as in GPT-2
                for linear in (layer.mixer.out_proj, layer.mlp.fc2):
                    nn.init.normal_(linear.weight, std=0.02 / math.sqrt(2 * config.n_layer))

    def forward(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B L V"]:
        """Logits for every position. Raises ValueError or TypeError for tokens that do not fit."""
        check_tokens("tokens", tokens, self, self.config.rows)
        return self.logits(tokens.long(), [layer.mixer for layer in self.layers])

    def logits(
        self, tokens: Int[Tensor, "*any"], mixes: Sequence[Callable[[Tensor], Tensor]]
    ) -> Float[Tensor, "*any V"]:
        """The model with these for its operators: tokens (B, L) with their forwards, (B,) with their online forms."""
        h = self.embedding(tokens)
        for layer, mix in zip(self.layers, mixes, strict=True):
            h = layer(h, mix)
        return self.lm_head(self.ln_f(h))


@torch.no_grad()
def generate(
    model: DataDependentHyena,
    prompt: Int[Tensor, "*B P"],
    n: int,
    engine: str = "relaxed",
    temperature: float = 0.0,
    seed: int | None = None,
) -> Int[Tensor, "B P+n"]:
    """The prompt, (P,) or (B, P), and n tokens after it: (B, P+n).

    engine: "relaxed" or "lazy". temperature 0 takes the likeliest token; above 0 tokens are drawn, the same ones with
    the same seed. The prompt goes through the layers a position at a time, too, so that there is one way to go.
    Costs P+n-1 passes through the blocks, and per channel and layer O((P+n) log^2) or O((P+n)^2). Raises ValueError or
    TypeError for what does not fit; a refused call does nothing.
    """
    if not isinstance(model, DataDependentHyena):
        raise TypeError(f"model must be a DataDependentHyena, got {type(model).__name__}")
    batch = prompt.unsqueeze(0) if isinstance(prompt, Tensor) and prompt.dim() == 1 else prompt
    check_tokens("prompt", batch, model, model.config.vocab_size)
    check_count("n", n, 0)
    check_engine(engine)
    (B, P), l_max = batch.shape, model.config.l_max
    if P + n > l_max + 1:  # the last token is not fed back
        raise ValueError(f"the windows hold {l_max} positions: after this prompt n is at most {l_max + 1 - P}, got {n}")
    if not isinstance(temperature, int | float) or not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be a finite number >= 0, got {temperature!r}")
    generator = torch.Generator(batch.device)
    if seed is None:
        generator.seed()
    else:
        check_integers(seed=seed)
        generator.manual_seed(seed)
    mixes = [layer.mixer.online(P + n - 1, B, engine).push for layer in model.layers]
    tokens = list(batch.long().unbind(1))
    for t in range(P + n - 1):
        logits = model.logits(tokens[t], mixes)
        if t + 1 >= P:
            tokens.append(sample(logits[:, : model.config.vocab_size], temperature, None, generator))
    return torch.stack(tokens, dim=1)


def repeated_words(
    batch_size: int, length: int, seed: int, symbols: int = 8, longest: int = 31
) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """A task for a filter that depends on the data: a word, a mark, and the same again and again up to the length.

    A word has 6 to ``longest`` symbols, 0 .. symbols-1, drawn at random; the mark is the token ``symbols``. How far to
    look back is known from the position of the first mark alone. Returns the tokens, and where they follow from those
    before: everywhere behind the first mark. Raises ValueError or TypeError for what does not fit.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("length", length, 1), ("symbols", symbols, 2)):
        check_count(name, value, least)
    check_count("longest", longest, 6)
    check_integers(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    size, t = torch.randint(6, longest + 1, (batch_size, 1), generator=generator), torch.arange(length)
    word = torch.randint(0, symbols, (batch_size, longest), generator=generator)
    place = t % (size + 1)
    tokens = torch.where(place == size, symbols, word.gather(1, place.clamp(max=longest - 1)))
    return tokens, t > size


def check_engine(engine: str) -> None:
    """Refuse a name that is no way to multiply two online series."""
    if engine not in PRODUCTS:
        raise ValueError(f'engine must be "lazy" or "relaxed", got {engine!r}')
