"""An Attention Free Transformer layer whose numerator and denominator are two long convolutions.

Zhai et al. 2021 (arXiv 2105.14103) give output t as a weighted mean of the values, gated by the query. With a Toeplitz
position bias w the weights are exp(k_j + w_{t-j}) = exp(k_j) exp(w_{t-j}), so the mean is

    num_t / den_t,   num = (exp(k) v) * exp(w),   den = exp(k) * exp(w)     (* is a causal convolution),

and whatever computes convolutions computes this layer: an FFT in training, an engine in generation. P1 and P2 hold.

What exp does to a convolution. A common factor of all exp(k_j) cancels in num/den, and so does one of exp(w): the layer
subtracts a shift from k and the largest bias from w, and nothing overflows. But one FFT mixes large numbers with small
ones: its rounding errors are a fraction of the largest weight that went in. Where den_t is far below that (a huge key
lies in the future of a prompt, or its bias has decayed), the quotient would be noise, or 0/0. Such outputs are computed
again, directly: a softmax over j of k_j + w_{t-j}, in O(t). So every output is right to about FLOOR^-1 roundings of
the dtype (relative to the largest value), and how often the direct sum was taken is counted.
"""

from math import log

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flashref.convolution import causal_conv
from flashref.engines import make_mixer
from flashref.tiling import check_count

FLOOR = 2.0**-10  # an output whose weights sum to less than this part of the largest weight is computed directly


class AttentionFreeLayer(nn.Module):
    """q, k and v from the input by three projections, and for each channel
    y_t = sigmoid(q_t) * sum_{j<=t} exp(k_j + w_{t-j}) v_j / sum_{j<=t} exp(k_j + w_{t-j}): (B, L, D) -> (B, L, D).

    The bias ``w`` (D, l_max) is learned, one number for each channel and lag, and begins at 0. float32 or float64.
    """

    def __init__(self, d_model: int, l_max: int) -> None:
        check_count("d_model", d_model, 1)
        check_count("l_max", l_max, 1)
        super().__init__()
        self.d_model, self.l_max = d_model, l_max
        self.query, self.key, self.value = (nn.Linear(d_model, d_model) for _ in range(3))
        self.w = nn.Parameter(torch.zeros(d_model, l_max))

    def filter(self, length: int) -> Float[Tensor, "D length"]:
        """exp(w) divided by its largest value, for each channel: the filter of both convolutions."""
        w = self.w[:, :length]
        return (w - w.amax(-1, keepdim=True)).exp() if length else w

    def forward(self, u: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """All positions at once, as in training: two FFT convolutions, O(L log L) per channel, and O(t) for each output
        t that is computed directly. Raises ValueError for a wrong shape or L > l_max; TypeError for a wrong dtype."""
        length = _length("u", u, {"B": None, "L": None, "D": self.d_model}, self.w)
        if u.numel() == 0:
            return torch.zeros_like(u)
        k, v = self.key(u).mT, self.value(u).mT
        shift = k.detach().amax(-1, keepdim=True)
        mean, _ = _mean(causal_conv(_weighted(k - shift, v), self.filter(length)), k, v, self.w)
        return torch.sigmoid(self.query(u)) * mean.mT

    def online(self, engine: str = "auto", batch_size: int = 1) -> "OnlineAttentionFree":
        """The layer one position at a time. Its bias is taken as it is now, its projections are shared."""
        return OnlineAttentionFree(self, engine, batch_size)


class OnlineAttentionFree:
    """``prefill(u)`` with a prompt or not at all, then ``push(u_t)``, (B, D) -> (B, D), up to l_max positions.

    Numerator and denominator share a filter: they are 2B sequences of one mixer. The shift is what the keys of a
    channel have reached; a key that leaves it behind by so much that exp might overflow (44 in float32, 354 in
    float64) moves it: the engine is reset and takes all past inputs as a prompt with the new shift, O(t log t). Keys in
    a range of that width never do. Memory beside the engine's: k and v, 2*B*D*l_max numbers.

    direct: how many positions had an output that was computed directly. moved: how often the shift moved.
    """

    @torch.no_grad()
    def __init__(self, layer: AttentionFreeLayer, engine: str = "auto", batch_size: int = 1) -> None:
        check_count("batch_size", batch_size, 1)
        self._layer, D, L = layer, layer.d_model, layer.l_max
        self._w = layer.w.detach().clone()
        self._mixer = make_mixer(engine, layer.filter(L)[None], 2 * batch_size)
        self._batch, self._room = batch_size, log(torch.finfo(self._w.dtype).max) / 2
        with torch.inference_mode(False):  # made inside it, they could not be updated outside it
            self._k, self._v = self._w.new_zeros(2, batch_size, D, L)
        self.position = self.direct = self.moved = 0

    @torch.no_grad()
    def prefill(self, u: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
        """The outputs on a prompt, before any push. Costs and raises what forward does; ValueError after a push."""
        layer = self._layer
        P = _length("u", u, {"B": self._batch, "P": None, "D": layer.d_model}, self._w)
        if self.position:
            raise ValueError(f"a prompt comes before any position, and {self.position} are there")
        if P == 0:
            return torch.zeros_like(u)
        self._k[..., :P], self._v[..., :P] = layer.key(u).mT, layer.value(u).mT
        mean, self.direct = _mean(self._restart(P), self._k[..., :P], self._v[..., :P], self._w)
        self.position = P
        return torch.sigmoid(layer.query(u)) * mean.mT

    @torch.no_grad()
    def push(self, u_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """The next position's output, a fresh tensor. Raises ValueError for a wrong shape or past l_max."""
        layer, t = self._layer, self.position
        _length("u_t", u_t, {"B": self._batch, "D": layer.d_model}, self._w)
        if t == layer.l_max:
            raise ValueError(f"the bias holds {t} positions and all are used: make a new .online()")
        k, v = layer.key(u_t), layer.value(u_t)
        self._k[..., t], self._v[..., t] = k, v
        if t == 0:
            self._shift = self._top = k
        elif (k - self._shift > self._room).any():
            self._restart(t, reaching=k)
            self.moved += 1
        self._top = torch.maximum(self._top, k)
        weighted = _weighted(k - self._shift, v).flatten(0, 1)
        num, den = self._mixer.step(0, weighted).unflatten(0, (2, self._batch))
        self._mixer.advance()
        low, mean = den < FLOOR * (self._top - self._shift).exp(), num / den
        if low.any():
            mean = _direct(self._k, self._v, self._w, t)
            self.direct += 1
        self.position = t + 1
        return torch.sigmoid(layer.query(u_t)) * mean

    def _restart(self, n: int, reaching: Float[Tensor, "B D"] | None = None) -> Float[Tensor, "2 B D n"]:
        """Give the engine the first n positions as a prompt, with a shift that is the largest key so far, and return
        its outputs on them: numerators and denominators."""
        self._top = self._k[..., :n].amax(-1)
        self._shift = self._top if reaching is None else torch.maximum(self._top, reaching)
        weighted = _weighted(self._k[..., :n] - self._shift[..., None], self._v[..., :n])
        self._mixer.reset()
        return self._mixer.prefill(0, weighted.flatten(0, 1)).unflatten(0, (2, self._batch))


def _weighted(k: Float[Tensor, "B D *L"], v: Float[Tensor, "B D *L"]) -> Float[Tensor, "2 B D *L"]:
    """What goes into the two convolutions."""
    weights = k.exp()
    return torch.stack([weights * v, weights])


def _mean(
    sums: Float[Tensor, "2 B D L"], k: Float[Tensor, "B D L"], v: Float[Tensor, "B D L"], w: Float[Tensor, "D L"]
) -> tuple[Float[Tensor, "B D L"], int]:
    """num/den of a whole sequence whose largest weight is 1, and for how many positions it was computed directly."""
    num, den = sums
    low = den < FLOOR
    mean = num / torch.where(low, 1.0, den)
    positions = low.any(0).any(0).nonzero()[:, 0]
    if len(positions):
        direct = torch.stack([_direct(k, v, w, t) for t in positions.tolist()], -1)
        mean = mean.index_copy(-1, positions, direct)
    return mean, len(positions)


def _direct(
    k: Float[Tensor, "B D L"], v: Float[Tensor, "B D L"], w: Float[Tensor, "D L"], t: int
) -> Float[Tensor, "B D"]:
    """The definition for one output, safe for any keys: O(t). The sum k + w of large numbers is not rounded."""
    scores = k[..., : t + 1].double() + w[:, : t + 1].flip(-1).double()
    return (torch.softmax(scores, -1) * v[..., : t + 1]).sum(-1).to(v.dtype)


def _length(name: str, u: Tensor, shape: dict[str, int | None], w: Float[Tensor, "D l_max"]) -> int:
    """Refuse what is not a tensor of this shape (None: any size), or too long; else the number of positions."""
    if not isinstance(u, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(u).__name__}")
    if u.dtype != w.dtype:
        raise TypeError(f"{name} must be {w.dtype} as the weights are, got {u.dtype}: convert it with .to()")
    if u.dim() != len(shape) or any(size not in (None, n) for size, n in zip(shape.values(), u.shape, strict=True)):
        sizes = ", ".join(f"{axis} = {size}" for axis, size in shape.items() if size is not None)
        raise ValueError(f"{name} must have shape ({', '.join(shape)}) with {sizes}, got {tuple(u.shape)}")
    if u.dim() == 3 and u.shape[1] > w.shape[1]:
        raise ValueError(f"{name} must have at most l_max = {w.shape[1]} positions, got {u.shape[1]}")
    return u.shape[1]
