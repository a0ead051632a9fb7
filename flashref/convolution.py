"""The offline truth: a causal convolution of a sequence that is known in full.

Everything else in this package computes the same numbers while the sequence is still arriving.
"""

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@cache
def fast_length(n: int) -> int:
    """The smallest even FFT length >= n whose only prime factors are 2, 3 and 5 (at least 2).

    FFTs of such lengths are fast everywhere, and from n = 1000 on they are at most 7 % longer than asked for.
    """
    best = 2
    while best < n:
        best *= 2
    fives = 2
    while fives < best:
        threes = fives
        while threes < best:
            length = threes
            while length < n:
                length *= 2
            best = min(best, length)
            threes *= 3
        fives *= 5
    return best


def causal_conv(
    x: Float[Tensor, "*batch D L"], rho: Float[Tensor, "D K"], method: str = "fft"
) -> Float[Tensor, "*batch D L"]:
    """Causal convolution per channel: ``y[..., d, t] = sum_{j<=t} x[..., d, j] * rho[d, t-j]``.

    x: (..., D, L), any leading dimensions. rho: (D, K); for K < L the filter is zero beyond K, for K > L the rest is
    unused. Returns (..., D, L) in the dtype of x.

    ``method="fft"`` costs O(L log L) per channel, ``method="direct"`` the O(L K) sum, and keeps nothing but the sum.
    bfloat16 is computed in float32 and rounded once, at the end. Both methods are differentiable.

    Raises TypeError for a dtype that is not floating or differs between x and rho, ValueError for shapes that do not
    fit or an unknown method.
    """
    _check_conv(x, rho, method)
    length, taps = x.shape[-1], min(rho.shape[-1], x.shape[-1])
    if x.numel() == 0 or taps == 0:
        return torch.zeros_like(x)
    compute = torch.promote_types(x.dtype, torch.float32)
    wide, rho = x.to(compute), rho[:, :taps].to(compute)
    if method == "direct":
        y = _direct(wide, rho)
    else:
        n = fast_length(length + taps - 1)
        y = torch.fft.irfft(torch.fft.rfft(wide, n) * torch.fft.rfft(rho, n), n)[..., :length]
    return y.to(x.dtype)


def _direct(x: Float[Tensor, "*batch D L"], rho: Float[Tensor, "D K"]) -> Float[Tensor, "*batch D L"]:
    channels, taps = rho.shape
    flat = F.pad(x.reshape(-1, channels, x.shape[-1]), (taps - 1, 0))
    # conv1d correlates, so the filter is flipped; one group per channel keeps channels apart.
    return F.conv1d(flat, rho.flip(-1).unsqueeze(1), groups=channels).reshape(x.shape)


def _check_conv(x: Tensor, rho: Tensor, method: str) -> None:
    for name, tensor in (("x", x), ("rho", rho)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be a floating-point tensor, got {tensor.dtype}: convert it with .float()")
    if x.dtype != rho.dtype:
        raise TypeError(f"x and rho must have one dtype, got {x.dtype} and {rho.dtype}: convert one with .to()")
    if rho.dim() != 2:
        raise ValueError(f"rho must have shape (D, K), got {tuple(rho.shape)}")
    if x.dim() < 2 or x.shape[-2] != rho.shape[0]:
        raise ValueError(f"x must have shape (..., D, L) with D = {rho.shape[0]} as in rho, got {tuple(x.shape)}")
    if x.device != rho.device:
        raise ValueError(f"x and rho must be on one device, got {x.device} and {rho.device}")
    if method not in ("fft", "direct"):
        raise ValueError(f'method must be "fft" or "direct", got {method!r}')
