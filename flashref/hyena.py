"""The model around the convolution: the Hyena operator and a language model made of it.

Names and arithmetic are those of the public Hyena operator (Poli et al. 2023, arXiv 2302.10866) and of HyenaDNA
(Nguyen et al. 2023, arXiv 2306.15794), so that their checkpoints load as they are. What is here runs a whole sequence
at once, for training and for a prompt; one token at a time is in decoder.py.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from flashref.config import HyenaConfig
from flashref.convolution import causal_conv
from flashref.implicit_filter import ImplicitFilter

if TYPE_CHECKING:
    from flashref.decoder import OnlineOperator
    from flashref.engines import Engine

SHORT_TAPS = 3  # the length of the short filter; the public models know no other


class HyenaOperator(nn.Module):
    """An order-N Hyena operator: (B, L, D) -> (B, L, D). It holds N-1 mixers, run one after another.

    Projections to N+1 streams, a causal short filter of 3 taps, then from the last stream inwards: multiply by a gate,
    convolve with a long filter; at the end the first gate and a projection (Poli et al. 2023). As we read the paper's
    definition, it counts one more long convolution, of the value before any gate; the public code has none there, or
    one may say that the short filter stands in its place.
    """

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        width = (config.order + 1) * config.d_model
        self.order, self.l_max = config.order, config.l_max
        self.d_model = config.d_model  # the channels that are here: all, unless parallel.py has split them
        self.in_proj = nn.Linear(config.d_model, width)
        self.short_filter = nn.Conv1d(width, width, SHORT_TAPS, padding=SHORT_TAPS - 1, groups=width)
        self.filter_fn = ImplicitFilter(config)
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def filters(self, length: int | None = None) -> Float[Tensor, "N-1 D length"]:
        """The filters of the operator's mixers, (N-1, D, length), with the bias added to lag 0: what an engine needs.

        length defaults to l_max, the most there is. Cost: one pass of the filter network over ``length`` lags.
        """
        length = self.l_max if length is None else length
        if not 0 <= length <= self.l_max:
            raise ValueError(f"length must be between 0 and l_max = {self.l_max}, got {length}")
        taps = self.filter_fn(length)
        lag_zero = torch.zeros_like(taps)
        lag_zero[:, :1] = self.filter_fn.bias[:, None]
        return (taps + lag_zero).unflatten(0, (self.order - 1, self.d_model))

    def forward(
        self, u: Float[Tensor, "B L D"], long_conv: Callable[[int, Tensor], Tensor] | None = None
    ) -> Float[Tensor, "B L D"]:
        """The operator on a whole sequence. ``long_conv(o, v)`` replaces the o-th long convolution of (B, D, L).

        Raises ValueError for a wrong shape or device, or more than l_max positions; TypeError for a wrong dtype.
        """
        check_like_weights("u", u, {"B": None, "L": None, "D": self.in_proj.in_features}, self.in_proj.weight)
        length = u.shape[-2]
        if long_conv is None:
            rho = self.filters(length)

            def long_conv(o: int, v: Tensor) -> Tensor:  # under autocast v is half, the convolution stays float32
                return causal_conv(v.to(rho.dtype), rho[o]).to(v.dtype)

        *gates, v = self._short_conv(self.in_proj(u)).transpose(-1, -2).split(self.d_model, dim=-2)
        for o in range(self.order - 1):
            v = long_conv(o, v * gates[self.order - 1 - o])
        return self.out_proj((v * gates[0]).transpose(-1, -2))

    def _short_conv(self, p: Float[Tensor, "B L C"]) -> Float[Tensor, "B L C"]:
        """The short filter. Three shifted products: on a CPU twice as fast to train as a grouped Conv1d."""
        taps = self.short_filter.weight[:, 0].T
        early = F.pad(p, (0, 0, SHORT_TAPS - 1, 0))
        shifted = (early[:, k : k + p.shape[1]] for k in range(SHORT_TAPS))
        return self.short_filter.bias + sum(tap * x for tap, x in zip(taps, shifted, strict=True))

    def online(self, engine: "Engine" = "auto", batch_size: int = 1) -> "OnlineOperator":
        """The same operator one position at a time: ``.push(u_t)``, (B, D) -> (B, D)."""
        from flashref.decoder import OnlineOperator  # which is built on this file

        return OnlineOperator(self, engine, batch_size)


class MLP(nn.Module):
    """Two linear maps with a GELU (tanh form) between them."""

    def __init__(self, d_model: int, d_inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d_model, d_inner)
        self.fc2 = nn.Linear(d_inner, d_model)

    def forward(self, h: Float[Tensor, "*any D"]) -> Float[Tensor, "*any D"]:
        return self.fc2(F.gelu(self.fc1(h), approximate="tanh"))


class Layer(nn.Module):
    """h + operator(norm1(h)), then h + mlp(norm2(h))."""

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        self.mixer = HyenaOperator(config)
        self.mlp = MLP(config.d_model, config.d_inner)
        self.norm1 = nn.LayerNorm(config.d_model)
        self.norm2 = nn.LayerNorm(config.d_model)

    def forward(self, h: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        h = h + self.mixer(self.norm1(h))
        return h + self.mlp(self.norm2(h))


class Embeddings(nn.Module):
    """Holds the word embedding under its public name."""

    def __init__(self, rows: int, d_model: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(rows, d_model)


class Backbone(nn.Module):
    """Embedding, layers and the final norm, under their public names."""

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config.rows, config.d_model)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.d_model)


class Hyena(nn.Module):
    """A language model of Hyena layers: tokens (B, L) -> logits (B, L, V), V counting the padded rows too.

    The head is tied to the embedding. Convolutions run by FFT: O(L log L) per channel and layer.
    """

    def __init__(self, config: HyenaConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.lm_head = nn.Linear(config.d_model, config.rows, bias=False)
        self.lm_head.weight = self.backbone.embeddings.word_embeddings.weight
        self._initialise()

    def _initialise(self) -> None:
        """GPT-2's initialisation: 0.02 everywhere, the maps that write to the residual stream smaller with depth."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding) and "filter_fn" not in name:
                to_residual = name.endswith(("out_proj", "fc2"))
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * self.config.n_layer if to_residual else 1))
                if getattr(module, "bias", None) is not None:
                    nn.init.zeros_(module.bias)

    def filters(self, length: int | None = None) -> Float[Tensor, "M D length"]:
        """The filters of all mixers, (M, D, length), M = n_layer * (order - 1), layer by layer, bias included."""
        return torch.cat([layer.mixer.filters(length) for layer in self.backbone.layers])

    def forward(self, tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B L V"]:
        """Logits for every position.

        Raises ValueError for tokens that are not (B, L), not a row of the embedding, on another device, or more than
        l_max; TypeError for tokens that are not integers.
        """
        check_tokens("tokens", tokens, self, self.config.rows)
        h = self.backbone.embeddings.word_embeddings(tokens.long())
        for layer in self.backbone.layers:
            h = layer(h)
        return self.lm_head(self.backbone.ln_f(h))


def check_like_weights(name: str, u: Tensor, shape: dict[str, int | None], weight: Tensor) -> None:
    """Refuse what is not a tensor of this shape (None: any size but 0), in dtype and device as the weights are."""
    if not isinstance(u, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(u).__name__}")
    if u.dtype != weight.dtype and not (u.is_floating_point() and torch.is_autocast_enabled(weight.device.type)):
        raise TypeError(f"{name} must be {weight.dtype} as the weights are, got {u.dtype}: convert it with .to()")
    if (
        u.dim() != len(shape)
        or 0 in u.shape
        or any(shape[k] not in (None, n) for k, n in zip(shape, u.shape, strict=True))
    ):
        sizes = ", ".join(f"{k} = {n or 'any'}" for k, n in shape.items())
        raise ValueError(f"{name} must have shape ({', '.join(shape)}) with {sizes}, got {tuple(u.shape)}")
    if u.device != weight.device:
        raise ValueError(f"{name} must be on {weight.device} where the weights are, got {u.device}")


def check_tokens(name: str, tokens: Tensor, model: Hyena, vocabulary: int) -> None:
    """Refuse what is not a (B, L) integer tensor of tokens below ``vocabulary``, no longer than the model's filters."""
    if not isinstance(tokens, Tensor) or tokens.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8):
        got = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"{name} must be a tensor of integers (torch.int64), got {got}")
    if tokens.dim() != 2:
        raise ValueError(f"{name} must have shape (B, L), got {tuple(tokens.shape)}")
    if 0 in tokens.shape:
        raise ValueError(f"{name} must hold at least one token, got shape {tuple(tokens.shape)}")
    if tokens.shape[-1] > model.config.l_max:
        raise ValueError(f"{name} has {tokens.shape[-1]} positions but the filters hold l_max = {model.config.l_max}")
    if tokens.device != model.lm_head.weight.device:
        raise ValueError(f"{name} must be on {model.lm_head.weight.device} where the model is, got {tokens.device}")
    if not 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary:
        raise ValueError(
            f"{name} must lie in 0 .. {vocabulary - 1}, got values from {int(tokens.min())} to {int(tokens.max())}"
        )
