"""A linear map as a step of a few sequences calls it: all cores of a CPU read its weights.

Reading weights is most of a token. MKL's product of a few rows with a matrix keeps one core busy, however many threads
it may use; a batch of products keeps all of them busy. So a large map is cut into parts, which one call does together.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn import Linear

FEW = 3  # sequences up to which tall weights are read by columns
TALL = 2**15  # weights from which that is worth a copy
PARTS = 8  # at most: more cores than that have nothing to do
LARGE = 3 * 2**16  # weights from which parts gain more than it costs to hand them out


def step_linear(linear: Linear, batch_size: int) -> Callable[[Float[Tensor, "B K"]], Float[Tensor, "B N"]]:
    """The map for steps of B sequences: (B, K) -> (B, N), a fresh tensor, equal to the map's own up to rounding.

    The weights are shared, but for a copy where by_columns says so. With one thread, torch.get_num_threads(), nothing
    is cut. A map with hooks is returned as it is, since these must run (parallel.py).
    """
    if linear._forward_hooks:
        return linear
    weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
    (N, K), columns = weight.shape, by_columns(linear, batch_size)
    parts = _parts(linear, columns)
    if columns:
        weight = weight.T.contiguous().T
    if parts == 1:
        return partial(F.linear, weight=weight, bias=bias)
    bias = weight.new_zeros(N) if bias is None else bias
    if columns:
        return partial(_add_parts, weight.T.view(parts, K // parts, N), bias / parts)
    return partial(_join_parts, weight.view(parts, N // parts, K).mT, bias.view(parts, 1, N // parts))


def by_columns(linear: Linear, batch_size: int) -> bool:
    """Whether step_linear reads the weights, (N, K), from a copy that is stored column by column.

    It does where they are tall, N > K, and not small, for B <= 3: there MKL's products are faster by columns, and
    elsewhere they gain little or are slower (notebook 07 times them).
    """
    N, K = linear.weight.shape
    return N > K and batch_size <= FEW and linear.weight.numel() >= TALL and _is_read_by_mkl(linear)


def numbers_made(linear: Linear, batch_size: int) -> tuple[int, int]:
    """How many numbers step_linear keeps, and how many the map makes beside its answer while it is called."""
    (N, K), columns = linear.weight.shape, by_columns(linear, batch_size)
    parts, copied = _parts(linear, columns), N * K if columns else 0
    if parts == 1:
        return copied, 0
    bias = N if columns or linear.bias is None else 0
    return copied + bias, (parts if columns else 1) * batch_size * N


def _is_read_by_mkl(linear: Linear) -> bool:
    """All that was measured; and a map with hooks is called as it is."""
    weight, known = linear.weight, (torch.float32, torch.float64)
    mkl = torch.backends.mkl.is_available() and not weight.is_cuda
    return mkl and weight.dtype in known and not linear._forward_hooks


def _parts(linear: Linear, columns: bool) -> int:
    """Float64 gained for one sequence and lost for eight; it has one part."""
    weight, (N, K) = linear.weight, linear.weight.shape
    large = weight.dtype == torch.float32 and weight.numel() >= LARGE and _is_read_by_mkl(linear)
    return math.gcd(PARTS, K if columns else N) if large and torch.get_num_threads() > 1 else 1


def _add_parts(weight: Float[Tensor, "s k N"], bias: Float[Tensor, " N"], x: Float[Tensor, "B K"]) -> Tensor:
    """Each part takes some of the inputs, and its share of the bias."""
    s, k, _ = weight.shape
    return torch.baddbmm(bias, x.view(-1, s, k).transpose(0, 1), weight).sum(0)


def _join_parts(weight: Float[Tensor, "s K n"], bias: Float[Tensor, "s 1 n"], x: Float[Tensor, "B K"]) -> Tensor:
    """Each part makes some of the outputs."""
    return torch.baddbmm(bias, x.expand(len(weight), -1, -1), weight).transpose(0, 1).flatten(1)
