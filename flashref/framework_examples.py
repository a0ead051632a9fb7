"""Mixers for the general framework: three that have P1 and P2, and softmax attention, which lacks P2.

An input of the first two is a row (..., D); of the last two it is three of them: query, key and value.
"""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from flashref.framework import ContributionMixer
from flashref.mixer import check_filters
from flashref.tau import spectrum, tau_fft

Row = Float[Tensor, "*batch D"]
QueryKeyValue = tuple[Row, Row, Row]
Weighted = tuple[Row, Row, Row]  # s, num, den: weights sum to exp(s) * den, weighted values to exp(s) * num


class LongConvolution(ContributionMixer[Row, Row, Row]):
    """z_t = sum_{j<=t} x_j * rho_{t-j}. rho: (D, L), with as many lags as there are positions.

    T(U) is two FFTs of 2U points per channel: O(L log^2 L) in all. ValueError or TypeError for what is no filter.
    """

    def __init__(self, rho: Float[Tensor, "D L"]) -> None:
        check_filters("rho", rho, "(D, L)")
        self.rho = rho.detach().clone()
        self._spectrum = cache(lambda U: spectrum(self.rho, U))

    def cont(self, x: Sequence[Row], j: int, t: int) -> Row:
        return x[j] * self.rho[:, t - j]

    def agg(self, earlier: Row, later: Row) -> Row:
        return earlier + later

    def tile(self, x: Sequence[Row], inputs: range, outputs: range) -> Sequence[Row]:
        p, q = len(inputs), len(outputs)
        U = max(p, q)  # a prompt has fewer inputs than outputs: zeros before it
        padded = F.pad(torch.stack(x[inputs.start : inputs.stop], -1), (U - p, 0))
        return tau_fft(padded, self._spectrum(U), q).unbind(-1)


class MaxPlus(ContributionMixer[Row, Row, Row]):
    """z_t = max_{j<=t} (x_j + rho_{t-j}): a running maximum with a position bias. rho: (D, L).

    Here * has become +, and + has become max. No FFT does this, so a tile is U^2 additions in one call: T(U) = U^2.
    """

    def __init__(self, rho: Float[Tensor, "D L"]) -> None:
        check_filters("rho", rho, "(D, L)")
        self.rho = rho.detach().clone()

    def cont(self, x: Sequence[Row], j: int, t: int) -> Row:
        return x[j] + self.rho[:, t - j]

    def agg(self, earlier: Row, later: Row) -> Row:
        return torch.maximum(earlier, later)

    def tile(self, x: Sequence[Row], inputs: range, outputs: range) -> Sequence[Row]:
        rows = torch.stack(x[inputs.start : inputs.stop], -1)
        return (rows + _taps(self.rho, inputs, outputs, rows.dim())).amax(-1).unbind()


class WeightedMean(ContributionMixer[QueryKeyValue, Weighted, Row]):
    """z_t = sum_j exp(score(j, t)) v_j / sum_j exp(score(j, t)). Softmax attention and AFT differ in the score only.

    An aggregate carries its largest score s, and the two sums divided by exp(s): a score of 1000 overflows nothing,
    and s may grow at any time. agg brings both to the larger s; it is associative.
    """

    @abstractmethod
    def score(self, x: Sequence[QueryKeyValue], j: int, t: int) -> Row:
        """The logarithm of the weight that output t gives to value j."""

    def cont(self, x: Sequence[QueryKeyValue], j: int, t: int) -> Weighted:
        _, _, v = x[j]
        return self.score(x, j, t).expand_as(v), v, torch.ones_like(v)

    def agg(self, earlier: Weighted, later: Weighted) -> Weighted:
        s = torch.maximum(earlier[0], later[0])
        old, new = (earlier[0] - s).exp(), (later[0] - s).exp()
        return s, earlier[1] * old + later[1] * new, earlier[2] * old + later[2] * new

    def read(self, x: Sequence[QueryKeyValue], t: int, total: Weighted) -> Row:
        _, num, den = total
        return num / den


class AttentionFree(WeightedMean):
    """An Attention Free Transformer (Zhai et al. 2021, arXiv 2105.14103) whose position bias w (D, L) is Toeplitz.

    Element by element z_t = sigmoid(q_t) * sum_j exp(k_j + w_{t-j}) v_j / sum_j exp(k_j + w_{t-j}).

    The query is not in the score, so P2 holds; it gates in read. T(U) = U^2, safe for any keys: the truth for the layer
    of attention_free.py, which makes two fast convolutions of it.
    """

    def __init__(self, w: Float[Tensor, "D L"]) -> None:
        check_filters("w", w, "(D, L)")
        self.w = w.detach().clone()

    def score(self, x: Sequence[QueryKeyValue], j: int, t: int) -> Row:
        _, k, _ = x[j]
        return k + self.w[:, t - j]

    def read(self, x: Sequence[QueryKeyValue], t: int, total: Weighted) -> Row:
        q, _, _ = x[t]
        return torch.sigmoid(q) * super().read(x, t, total)

    def tile(self, x: Sequence[QueryKeyValue], inputs: range, outputs: range) -> Sequence[Weighted]:
        _, k, v = (torch.stack(rows, -1) for rows in zip(*x[inputs.start : inputs.stop], strict=True))
        scores = k + _taps(self.w, inputs, outputs, k.dim())
        s = scores.amax(-1, keepdim=True)
        weights = (scores - s).exp()
        return list(zip(s[..., 0], (weights * v).sum(-1), weights.sum(-1), strict=True))


class SoftmaxAttention(WeightedMean):
    """Softmax attention of one head: the score is the product of q_t and k_j. It has P1 and lacks P2."""

    def score(self, x: Sequence[QueryKeyValue], j: int, t: int) -> Row:
        q, _, _ = x[t]
        _, k, _ = x[j]
        return (q * k).sum(-1, keepdim=True) / k.shape[-1] ** 0.5


def _taps(rho: Float[Tensor, "D L"], inputs: range, outputs: range, dims: int) -> Float[Tensor, "q *batch D p"]:
    """rho at lag t - j for every output t and input j; ``dims`` of the inputs, time included."""
    lag = torch.tensor(outputs)[:, None] - torch.tensor(inputs)
    taps = rho[:, lag].transpose(0, 1)
    return taps.reshape(len(outputs), *[1] * (dims - 2), *taps.shape[1:])
