"""Long filters as sums of a few exponentials: what a state space model of N numbers per channel can remember of them.

Kung's method: the Hankel matrix of a filter that is a sum of N exponentials has rank N, and its column space is shifted
by one lag by a matrix whose eigenvalues are the exponentials' bases (Kung 1978; as ESPRIT: Roy and Kailath 1989). For
any other filter the N strongest directions are taken. Distilling Hyena's filters is an idea of Massaroli et al. 2023,
arXiv 2310.18780, who solve a nonlinear interpolation problem for it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from flashref.mixer import check_filters
from flashref.tiling import check_count

LEAST_ROWS = 128  # of a Hankel matrix: enough to hear slow exponentials
PIECE = 2**22  # numbers of a temporary


@dataclass(frozen=True)
class Modes:
    """``taps[m, d, k] = Re sum_i residues[m, d, i] * poles[m, d, i]**k``: the filter from lag 1 on, k = lag - 1.

    Every pole lies in the unit disc. A pair of complex poles is kept once, with twice its residue; where channels have
    different numbers of pairs, the rest is filled up with poles at 0. state_size: N, which counts both of a pair.
    """

    poles: Complex[Tensor, "M D K"]
    residues: Complex[Tensor, "M D K"]
    state_size: int

    def taps(self, count: int) -> Float[Tensor, "M D count"]:
        """The first ``count`` taps, float64. Costs count * K per channel."""
        flat = (t.to(torch.complex128).flatten(0, 1) for t in (self.poles, self.residues))
        pieces = [(c.unsqueeze(-2) @ powers(p, count)).real for p, c in _pieces(count * self.poles.shape[-1], *flat)]
        return torch.cat(pieces).squeeze(-2).unflatten(0, self.poles.shape[:2])


@torch.no_grad()
def distil(filters: Float[Tensor, "M D L"], state_size: int) -> Modes:
    """The filters' taps from lag 1 on as sums of ``state_size`` exponentials per channel, in the filters' precision.

    Poles from the eigenvectors of a Hankel matrix of n = max(128, 4N) rows (at most half of the lags, so a filter of L
    taps gets at most L/2 poles); those outside the unit disc are moved to its edge; then residues by least squares over
    all lags. A sum of N exponentials in the disc is found to rounding times the condition of its Hankel matrix, large
    where bases nearly coincide. All in float64; costs O(n^3 + L N^2) per channel. Raises ValueError or TypeError for
    filters that a mixer would refuse, or state_size < 1.
    """
    check_filters("filters", filters, "(M, D, L)")
    check_count("state_size", state_size, 1)
    taps = filters.detach().double()[..., 1:].flatten(0, 1)
    lags, precision = taps.shape[-1], torch.promote_types(filters.dtype, torch.float32).to_complex()
    rows = min(max(LEAST_ROWS, 4 * state_size), (lags + 1) // 2)
    N = min(state_size, rows)
    if rows == 0:  # no lag but 0
        none = torch.zeros(*filters.shape[:2], 0, dtype=precision, device=filters.device)
        return Modes(none, none, state_size)
    poles = torch.cat([_poles(h, rows, N) for (h,) in _pieces(rows * rows, taps)])
    poles = _upper_half(stable(poles.to(precision)))
    residues = torch.cat([_residues(p, h) for p, h in _pieces(4 * lags * N, poles, taps)])
    shape = filters.shape[:2]
    return Modes(poles.unflatten(0, shape), residues.unflatten(0, shape), state_size)


def stable(poles: Complex[Tensor, "*any"]) -> Complex[Tensor, "*any"]:
    """The poles, those on or beyond the unit circle moved to just inside it, along their rays."""
    limit, modulus = 1 - 2 * torch.finfo(poles.dtype).eps, poles.abs()
    return poles * torch.where(modulus > limit, limit / modulus, 1)


def _poles(h: Float[Tensor, "C T"], rows: int, N: int) -> Complex[Tensor, "C N"]:
    """The eigenvalues of the shift by one lag, on the N strongest directions of each channel's Hankel matrix."""
    hankel = h[:, : 2 * rows - 1].unfold(-1, rows, 1)
    scale = hankel.abs().amax((-1, -2), keepdim=True)
    strength, vectors = torch.linalg.eigh(hankel / torch.where(scale > 0, scale, 1))  # symmetric: as good as an SVD
    chosen = strength.abs().argsort(dim=-1, descending=True)[:, :N]
    V = vectors.gather(-1, chosen[:, None].expand(-1, rows, -1))
    # The shift solves upper @ shift = lower. The columns of V are orthonormal, so upper' upper = 1 - last last', whose
    # inverse is known; where the last row has length 1 there is none, and 1 - last last' is its own pseudo-inverse.
    last = V[:, -1:].mT
    left = 1 - (last * last).sum(1, keepdim=True)
    weight = torch.where(left > 1e-10, 1 / left.clamp(min=1e-10), -1.0)
    shift = V[:, :-1].mT @ V[:, 1:]
    return torch.linalg.eigvals(shift + weight * last @ (last.mT @ shift))


def _upper_half(poles: Complex[Tensor, "C N"]) -> Complex[Tensor, "C K"]:
    """Of each pair of conjugate poles one; channels that have fewer than others are filled up with poles at 0."""
    kept = poles.imag >= 0
    first = torch.argsort((~kept).int(), dim=-1, stable=True)[:, : int(kept.sum(-1).max())]
    return torch.where(kept.gather(-1, first), poles.gather(-1, first), 0)


def _residues(poles: Complex[Tensor, "C K"], h: Float[Tensor, "C T"]) -> Complex[Tensor, "C K"]:
    """The residues that bring the modes closest to h, by least squares.

    Where poles nearly coincide, huge residues that cancel would gain little and drown in the rounding of the poles'
    precision, so directions weaker than ``least`` are left out.
    """
    least = 1e-9 if poles.dtype == torch.complex128 else 1e-4
    columns = powers(poles.to(torch.complex128), h.shape[-1]).mT
    q, r = torch.linalg.qr(torch.cat([columns.real, -columns.imag], dim=-1))
    found = torch.linalg.pinv(r, rtol=least) @ (q.mT @ h.unsqueeze(-1))
    return torch.complex(*found.squeeze(-1).chunk(2, dim=-1)).to(poles.dtype)


def powers(poles: Complex[Tensor, "*any K"], count: int) -> Complex[Tensor, "*any K count"]:
    """poles**k for k = 0 .. count-1; 0**0 is 1."""
    k = torch.arange(count, device=poles.device)
    return torch.polar(poles.abs().unsqueeze(-1) ** k, poles.angle().unsqueeze(-1) * k)


def _pieces(numbers: int, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Tensors cut along the channels, of which each needs so many numbers, so that temporaries stay small."""
    size = max(1, PIECE // max(1, numbers))
    return list(zip(*(tensor.split(size) for tensor in tensors), strict=True))
