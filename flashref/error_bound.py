"""How far off an engine may be: a bound on the rounding error of every output, from what the engine does.

u is half the machine epsilon, gamma_k = k*u / (1 - k*u), and the exact sum is that of the numbers as they are stored.

A direct sum in any order of k terms is off by at most gamma_k * sum |x_j| |rho_{t-j}| (Higham, Accuracy and Stability
of Numerical Algorithms, 2nd ed. 2002, section 3.1). A term that is small stays harmless.

A tile by FFT of n points is off, at every output, by at most gamma_c * ||x||_2 * ||rho||_2 with c = 24*(log2(n) + 1), x
the tile's inputs and rho all taps that it transforms. For powers of two and complex data that is Percival's theorem
(Math. Comp. 72, 2003, theorem 5.1), to first order 3*log2(n) * (1 + sqrt(5) + 1) * u, or 12.7*u a level. The rest of
the 24 is our allowance for passes of 3 and 5 (6*u a level for each of three transforms) and for the real transform back
from half as many complex points, which may double its error. It rests on a library whose sines and cosines are rounded
correctly; what that library does inside is not ours to read, so the tests try it (tests/test_error_growth.py).

The second bound is relative to norms and not to z_t, and so is the error: every output of an FFT is a sum over all its
inputs, so the rounding of the largest reaches the smallest. Where a filter grows, the early outputs are small and its
late taps, which the same tile transforms, are huge; where one input is huge and the filter has faded, the exact output
is small and the tile's error is not. A direct sum has neither.

With these, z_t is off by at most gamma_m * sum_j |x_j| |rho_{t-j}| + (1 + gamma_m) * (the bounds of the tiles by FFT
that t lies in), where m counts the direct terms and those tiles: no number is rounded more often than that on its way
into z_t. Tiles do not share inputs, so their bounds together are at most gamma_c * sqrt(tiles) * ||x||_2 * ||rho||_2:
O(u log^1.5 L) of the product of the norms, where a direct sum has O(u L).

All of it holds where nothing overflows, and nothing so small occurs that it loses digits (denormals).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flashref.bounded import Bounded
from flashref.convolution import fast_length
from flashref.epoched import Epoched
from flashref.mixer import Mixer
from flashref.naive import Eager, Lazy
from flashref.tiled_cpu import TiledCPU
from flashref.tiling import Tile, schedule


@dataclass(frozen=True)
class Piece:
    """Part of a sum z_t: inputs that are added directly (points 0), or by an FFT that transforms the taps at lags."""

    inputs: range
    lags: range = range(0)
    points: int = 0


def gamma(k: float, u: float) -> float:
    """k*u / (1 - k*u): what k roundings of relative size u come to. Infinite where they may leave no digit."""
    return k * u / (1 - k * u) if k * u < 1 else math.inf


def fft_gamma(points: int, u: float) -> float:
    """What a convolution by FFT of that many points may be off, relative to ||x||_2 * ||rho||_2."""
    return gamma(24 * (math.log2(points) + 1), u)


def error_bound(
    mixer: Mixer, m: int, x: Float[Tensor, "B D T"], positions: Sequence[int] | None = None, prompt: int = 0
) -> Float[Tensor, "B D S"]:
    """A bound on |z_t - exact| of mixer m, in float64, at some positions t (all T unless told).

    x: the inputs from position 0 on, in the dtype in which they are given; the first ``prompt`` of them by prefill. For
    bfloat16 the rounding of the output is in it. mixer: one of the exact engines of this package, in any state; only
    its filters and settings are read. Costs O(T) per position. Raises ValueError for another engine.
    """
    T, L = x.shape[-1], mixer.filters.shape[-1]
    u = torch.finfo(mixer.filters.dtype).eps / 2
    rho, sizes = mixer.filters[m].detach().cpu().double().abs(), x.detach().cpu().double().abs()
    tiles = _tiles(mixer, L - prompt)
    found = []
    for t in range(T) if positions is None else positions:
        parts = _pieces(mixer, tiles, t, prompt)
        roundings = sum(1 if part.points else len(part.inputs) for part in parts)
        terms = (sizes[..., : t + 1] * rho[:, : t + 1].flip(-1)).sum(-1)
        by_fft = torch.zeros_like(terms)
        for part in parts:
            if part.points:
                given, taps = (
                    v[..., r.start : r.stop].norm(dim=-1) for v, r in ((sizes, part.inputs), (rho, part.lags))
                )
                by_fft += fft_gamma(part.points, u) * given * taps
        once = gamma(roundings, u)
        bound = once * terms + (1 + once) * by_fft
        if x.dtype != mixer.filters.dtype:  # the answer is rounded once more
            bound = bound + torch.finfo(x.dtype).eps / 2 * (terms + bound)
        found.append(bound)
    return torch.stack(found, dim=-1) if found else sizes[..., :0]


def _tiles(mixer: Mixer, rest: int) -> list[Tile]:
    """The gray tiles behind the prompt, counted from its end."""
    if isinstance(mixer, Lazy | Eager | Epoched):
        return []
    if not isinstance(mixer, TiledCPU):
        raise ValueError(f"no bound is known for engine {mixer.name!r}, only for the exact engines of this package")
    kind = "bounded" if isinstance(mixer, Bounded) else "relaxed"
    return [tile for tile in schedule(rest, kind, mixer.base) if tile.step % mixer.base == 0]


def _pieces(mixer: Mixer, tiles: list[Tile], t: int, P: int) -> list[Piece]:
    """What z_t is the sum of, in the engine's own pieces, for a prompt of P positions."""
    L, i = mixer.filters.shape[-1], t - P
    if isinstance(mixer, Lazy):
        by_prompt = Piece(range(P), range(min(L, P)), fast_length(P + min(L, P) - 1))
        return [by_prompt] if i < 0 else [Piece(range(t + 1))]
    parts = [Piece(range(P), range(L), fast_length(L + P - 1))] if P else []
    if i < 0:
        return parts
    if isinstance(mixer, Eager):
        return [*parts, Piece(range(P, t + 1))]
    begin = i - i % mixer.base  # of the block or epoch
    parts.append(Piece(range(P + begin, t + 1)))
    if isinstance(mixer, Epoched):
        end = min(begin + mixer.base, L - P)
        return [*parts, Piece(range(P, P + begin), range(end), fast_length(end))] if begin else parts
    return parts + [_piece(mixer, tile, P) for tile in tiles if i in tile.outputs]


def _piece(mixer: TiledCPU, tile: Tile, P: int) -> Piece:
    U, n = len(tile.inputs), tile.step
    inputs = range(P + tile.inputs.start, P + tile.inputs.stop)
    far = tile.outputs.start - tile.inputs.start  # U where the two touch
    if isinstance(mixer, Bounded) and tile.outputs.start > n:
        return Piece(inputs, range(far - U, far + U), 2 * U)
    if min(U, len(tile.outputs)) <= mixer.direct_up_to:
        return Piece(inputs)
    return Piece(inputs, range(1, 2 * U), fast_length(2 * U))
