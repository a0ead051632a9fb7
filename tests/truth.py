"""The independent truth: sums written out, in float64, with nothing of the package in them."""

import torch
from torch import Tensor


def causal_sum(x: Tensor, rho: Tensor) -> Tensor:
    """y[..., d, t] = sum_{j<=t} x[..., d, j] * rho[d, t-j] by an L x L Toeplitz matrix per channel; rho 0 beyond K."""
    x, rho = x.cpu().double(), rho.cpu().double()
    L, K = x.shape[-1], rho.shape[-1]
    lag = torch.arange(L)[:, None] - torch.arange(L)
    known = (lag >= 0) & (lag < K)
    if K == 0:
        return torch.zeros_like(x)
    y = [(x[..., d, None, :] * torch.where(known, rho[d][lag.clamp(0, K - 1)], 0.0)).sum(-1) for d in range(len(rho))]
    return torch.stack(y, dim=-2)


def tile_sum(x: Tensor, inputs: range, rho: Tensor, outputs: range) -> Tensor:
    """What some inputs contribute to some outputs: a sum over all pairs (j, t), rho 0 beyond K."""
    x, rho = x.detach().cpu().double(), rho.detach().cpu().double()
    j, t = torch.tensor(list(inputs), dtype=torch.long), torch.tensor(list(outputs), dtype=torch.long)
    lag = t[:, None] - j
    taps = torch.cat([rho, torch.zeros(len(rho), 1, dtype=torch.float64)], dim=-1)[:, lag.clamp(max=rho.shape[-1])]
    return (x[..., None, inputs.start : inputs.stop] * taps).sum(-1)


def assert_close(got: Tensor, truth: Tensor, tolerance: float) -> None:
    """Equal up to a tolerance relative to the largest true value."""
    got, truth = got.detach().cpu().double(), truth.detach()
    assert got.shape == truth.shape
    assert torch.isfinite(got).all()
    if truth.numel():
        error = (got - truth).abs().max().item()
        assert error <= tolerance * max(truth.abs().max().item(), 1e-30), f"error {error}"
