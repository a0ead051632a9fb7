"""The sizes of a Hyena, under the names that the public models give them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HyenaConfig:
    """The sizes of a model. w and the decays matter only when one is made: what is loaded has them in its weights.

    d_model: D, channels of the residual stream. n_layer: layers, each with order-1 mixers. d_inner: width of the MLP.
    vocab_size: tokens that may be generated; the embedding is padded with unused rows up to a multiple of
    pad_vocab_size_multiple. l_max: taps of every long filter, hence the longest sequence. order: N, the number of
    gates. filter_order, emb_dim: width and input size (odd) of the network that makes the filters; w: the initial
    frequency of its sines. shift: the floor of the decay window (0.05 in HyenaDNA, 0 in the stand-alone operator).
    fast_decay, slow_decay: after this fraction of l_max the window of the fastest (slowest) channel is down to 0.01;
    decay_spacing: the rates between them in equal steps ("linear", the public models) or equal ratios ("log").
    """

    d_model: int
    n_layer: int
    d_inner: int
    vocab_size: int
    l_max: int
    order: int = 2
    filter_order: int = 64
    emb_dim: int = 5
    w: float = 10.0
    shift: float = 0.05
    fast_decay: float = 0.3
    slow_decay: float = 1.5
    decay_spacing: str = "linear"
    pad_vocab_size_multiple: int = 1

    def __post_init__(self) -> None:
        for name in ("d_model", "n_layer", "d_inner", "vocab_size", "l_max", "filter_order", "pad_vocab_size_multiple"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
        for name in ("w", "shift", "fast_decay", "slow_decay"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not abs(value) <= 1e30:
                raise ValueError(f"{name} must be a finite number of at most 1e30, got {value!r}")
            if name.endswith("decay") and value < 1e-30:  # the rate of a shorter one would be no float32
                raise ValueError(f"{name} must be at least 1e-30, got {value!r}")
        if self.decay_spacing not in ("linear", "log"):
            raise ValueError(f'decay_spacing must be "linear" or "log", got {self.decay_spacing!r}')
        if not isinstance(self.order, int) or self.order < 2:
            raise ValueError(f"order must be an integer >= 2 (order 2 has one long convolution), got {self.order!r}")
        if not isinstance(self.emb_dim, int) or self.emb_dim < 3 or self.emb_dim % 2 == 0:
            raise ValueError(f"emb_dim must be odd and >= 3 (time, cosines, sines), got {self.emb_dim!r}")
        for name, value in vars(self).items():
            if isinstance(value, int) and value >= 2**31:
                raise ValueError(f"{name} must be below 2^31, got {value:,}")

    @property
    def rows(self) -> int:
        """Rows of the padded embedding: the V of the logits."""
        multiple = self.pad_vocab_size_multiple
        return -(-self.vocab_size // multiple) * multiple
