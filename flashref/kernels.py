"""Triton kernels for the GPU engine: a small tile, a step inside a block, and all of an operator between projections.

They are bound by memory and by latency, not by arithmetic, so they read what they need once and fuse what PyTorch would
spread over many launches. They compile for a CUDA device; where TRITON_INTERPRET=1 is set before this file is first
imported, Triton's interpreter runs them on CPU tensors instead. This file needs Triton: tiled_gpu.has_kernels says
whether it is there, and without it PyTorch's own calls do the same work.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

TILE_SUMS = 128  # sums that a program of tau_direct keeps in registers: 4 for each thread of its one warp
LAGS, CHANNELS = 64, 32  # what a program of hyena_step loads at once; 32 floats are one memory transaction
ROWS = 64  # of eager's column and lazy's row in one program


def tau_direct(x: Float[Tensor, "B C U"], rho: Float[Tensor, "C L"], z: Float[Tensor, "B C q"]) -> None:
    """Add to z, in place, what U inputs contribute to the q outputs right after them.

    ``z[b, c, i] += sum_{j < U} x[b, c, j] * rho[c, U+i-j]``. x and z are views, which do not overlap, of one buffer
    (B, C, slots), time last; rho needs at least U+q taps (lags 1 .. U+q-1 are used). Any U and q.

    Costs U*q multiply-adds per channel in one launch, and moves about 4*(U + (U+q) + 2q) bytes in float32: 20 U for
    q = U. An FFT of the tile has less arithmetic but at least four launches, so this is faster up to U of about 128.
    From: tau of Oncescu et al. 2025, done directly.

    Raises ValueError for shapes that do not fit or time that is not contiguous: a kernel would read past the end.
    """
    (B, C, U), q = x.shape, z.shape[-1]
    if z.shape[:2] != x.shape[:2] or len(rho) != C or rho.shape[-1] < U + q:
        raise ValueError(
            f"x (B, C, U), z (B, C, q) and rho (C, L >= U+q) do not fit: {(*x.shape,)}, {(*z.shape,)}, {(*rho.shape,)}"
        )
    if any(tensor.shape[-1] > 1 and tensor.stride(-1) != 1 for tensor in (x, rho, z)):
        raise ValueError("time, the last dimension of x, rho and z, must be contiguous")
    if 0 in (B, C, U, q):
        return
    outputs = triton.next_power_of_2(q)
    rows = max(1, TILE_SUMS // outputs)
    strides = (*x.stride()[:2], *z.stride()[:2], rho.stride(0))
    grid = (triton.cdiv(B * C, rows),)
    with torch.cuda.device_of(x):  # Triton launches on the current device; no change for CPU tensors
        _tau_direct[grid](x, rho, z, B, C, U, q, *strides, ROWS=rows, OUTPUTS=outputs, num_warps=1)


@triton.jit(do_not_specialize="B C U q x_b x_c z_b z_c rho_c".split())
def _tau_direct(
    x, rho, z, B, C, U, q, x_b, x_c, z_b, z_c, rho_c, ROWS: tl.constexpr, OUTPUTS: tl.constexpr
):  # fmt: skip
    # A row is one channel of one sequence. Sequences are innermost, so that a program's rows share a filter's taps.
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    b, c = row % B, row // B
    i = tl.arange(0, OUTPUTS)[None, :]
    exists = c < C
    wanted = exists & (i < q)
    x += b * x_b + c * x_c
    taps = rho + c * rho_c + i
    at = z + b * z_b + c * z_c + i
    sums = tl.zeros((ROWS, OUTPUTS), z.dtype.element_ty)
    for j in range(U):  # what is read again here comes from the L1 cache: memory sees each line once
        sums += tl.load(x + j, mask=exists, other=0.0) * tl.load(taps + (U - j), mask=wanted, other=0.0)
    tl.store(at, tl.load(at, mask=wanted, other=0.0) + sums, mask=wanted)


def hyena_step(
    p: Float[Tensor, "b+2 B C"],
    taps: Float[Tensor, "3 C"],
    bias: Float[Tensor, " C"],
    x: Float[Tensor, "b N-1 B D"],
    z: Float[Tensor, "b N-1 B D"],
    rho: Float[Tensor, "b N-1 1 D"],
    y: Float[Tensor, "B D"],
    i: int,
) -> None:
    """An order-N Hyena operator at position i of a block, all between in_proj and out_proj; y is what out_proj takes.

    p: projections, C = (N+1)*D channels; row i+2 is this position's, rows i and i+1 its predecessors'. taps, bias: the
    short filter. x, z: the block's inputs and partial sums of the operator's mixers; row i of x is written, z is only
    read: a gathered row writes D sums where a pushed column would write (b-i)*D. rho: the long filters' first b taps.
    y is overwritten. p, taps, bias and y share a dtype (bfloat16, float32 or float64); x, z and rho share the
    arithmetic's, float32 or float64. x, z and rho may be views of some mixers of a longer block.

    Costs one launch, where PyTorch's own calls need more than ten, and reads 2*(i+1)*D numbers per mixer and sequence.
    i is no constant of the kernel: one compilation serves all b positions. From: the operator of Poli et al. 2023, its
    long convolutions restricted to the block.

    Raises ValueError for shapes that do not fit or rows that are not contiguous: a kernel would read past the end.
    """
    b, mixers, B, D = x.shape
    C = (mixers + 2) * D
    shapes = {"p": (b + 2, B, C), "taps": (3, C), "bias": (C,), "z": x.shape, "rho": (b, mixers, 1, D), "y": (B, D)}
    _check_block(x, z, i, shapes, (p, taps, bias, z, rho, y), (p, taps, bias, x[0, 0], rho[0, 0], y))
    lags = min(LAGS, triton.next_power_of_2(b))
    strides = (*x.stride()[:2], *rho.stride()[:2])
    with torch.cuda.device_of(x):
        _hyena_step[(triton.cdiv(D, CHANNELS), B)](
            p, taps, bias, x, z, rho, y, i, B, D, *strides, MIXERS=mixers, LAGS=lags, CHANNELS=CHANNELS
        )


def _check_block(
    x: Tensor, z: Tensor, i: int, shapes: dict[str, tuple], tensors: tuple[Tensor, ...], rows: tuple[Tensor, ...]
) -> None:
    """Refuse tensors of other shapes than they must have beside a block x, and rows that are not contiguous."""
    for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
        if tensor.shape != shape:
            raise ValueError(f"{name} must have shape {tuple(shape)} to fit x {tuple(x.shape)}, got {(*tensor.shape,)}")
    if x.stride() != z.stride() or not all(row.is_contiguous() for row in rows):
        raise ValueError("x and z must have the same strides, and every position of a mixer and all else be contiguous")
    if not 0 <= i < len(x):
        raise ValueError(f"i must be between 0 and b-1 = {len(x) - 1}, got {i}")


def mixer_step(
    x: Float[Tensor, "b B D"],
    z: Float[Tensor, "b B D"],
    rho: Float[Tensor, "b 1 D"],
    x_i: Float[Tensor, "B D"],
    z_i: Float[Tensor, "B D"],
    i: int,
) -> None:
    """One mixer alone at position i of a block: x_i goes into row i of x, and z_i is overwritten with the output.

    x, z, rho: the block's inputs, partial sums and the filter's first b taps, as in hyena_step, of one mixer. All of
    one dtype, float32 or float64. One launch, which reads 2*(i+1)*D numbers per sequence. Raises ValueError for what
    does not fit.
    """
    b, B, D = x.shape
    shapes = {"z": x.shape, "rho": (b, 1, D), "x_i": (B, D), "z_i": (B, D)}
    _check_block(x, z, i, shapes, (z, rho, x_i, z_i), (x[0], rho[0], x_i, z_i))
    lags = min(LAGS, triton.next_power_of_2(b))
    with torch.cuda.device_of(x):
        _mixer_step[(triton.cdiv(D, CHANNELS), B)](
            x, z, rho, x_i, z_i, i, D, x.stride(0), rho.stride(0), LAGS=lags, CHANNELS=CHANNELS
        )


@triton.jit(do_not_specialize=["i"])
def _mixer_step(
    x, z, rho, x_t, z_t, i, D, x_i, rho_i, LAGS: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    d = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    exists = d < D
    at = tl.program_id(1).to(tl.int64) * D + d
    v = tl.load(x_t + at, mask=exists, other=0.0)
    tl.store(z_t + at, _in_block(v, x + at, z + at, rho + d, i.to(tl.int64), x_i, rho_i, exists, LAGS), mask=exists)


@triton.jit(do_not_specialize=["i", "B"])
def _hyena_step(
    p, taps, bias, x, z, rho, y, i, B, D, x_i, x_m, rho_i, rho_m,
    MIXERS: tl.constexpr, LAGS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    # A program owns some channels of one sequence and goes through the operator's mixers in order: channels never mix.
    d = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    sequence, i = tl.program_id(1).to(tl.int64), i.to(tl.int64)  # offsets outgrow 32 bits
    exists = d < D
    C = (MIXERS + 2) * D
    p += (i * B + sequence) * C
    v = _stream(p, taps, bias, (MIXERS + 1) * D + d, C, B * C, exists, x.dtype.element_ty)
    for o in tl.static_range(MIXERS):
        v *= _stream(p, taps, bias, (MIXERS - o) * D + d, C, B * C, exists, x.dtype.element_ty)
        start = o * x_m + sequence * D + d  # position 0 of this mixer's block
        filters = rho + o * rho_m + d
        v = _in_block(v, x + start, z + start, filters, i, x_i, rho_i, exists, LAGS)
    v *= _stream(p, taps, bias, d, C, B * C, exists, x.dtype.element_ty)
    tl.store(y + sequence * D + d, v.to(y.dtype.element_ty), mask=exists)


@triton.jit
def _in_block(v, x, z, rho, i, x_i, rho_i, exists, LAGS: tl.constexpr):
    """One mixer at position i of its block: store the input v, return the output. x, z, rho: where its rows begin."""
    tl.store(x + i * x_i, v, mask=exists)
    # The input of this position is still in a register. What was stored before is read, many lags at once, so that the
    # loads wait for memory together and not one after another.
    total = tl.load(z + i * x_i, mask=exists, other=0.0) + v * tl.load(rho, mask=exists, other=0.0)
    for first in range(0, i, LAGS):
        k = first + tl.arange(0, LAGS)[:, None]
        known = (k < i) & exists[None, :]
        x_k = tl.load(x[None, :] + k * x_i, mask=known, other=0.0)
        total += tl.sum(x_k * tl.load(rho[None, :] + (i - k) * rho_i, mask=known, other=0.0), axis=0)
    return total


@triton.jit
def _stream(p, taps, bias, c, C, row, exists, dtype: tl.constexpr):
    """Channels c of the projections after the short filter, in the arithmetic's dtype."""
    total = tl.load(bias + c, mask=exists, other=0.0).to(dtype)
    for k in tl.static_range(3):  # the last tap belongs to the current position
        tap = tl.load(taps + k * C + c, mask=exists, other=0.0).to(dtype)
        total += tap * tl.load(p + k * row + c, mask=exists, other=0.0).to(dtype)
    return total


def eager_step(
    z: Float[Tensor, "L B D"],
    taps: Float[Tensor, "L 1 D"],
    x_i: Float[Tensor, "B D"],
    z_i: Float[Tensor, "B D"],
    first: Int[Tensor, ""],
    i: int,
) -> None:
    """Eager at position t = first + i: ``z[t+k] += taps[k] * x_i`` for all k < L-t, and z_i is z[t]. All contiguous.

    first is read on the device, so that a CUDA graph may replay this at another place; for t >= L nothing is done.
    """
    L, B, D = z.shape
    rows = min(ROWS, triton.next_power_of_2(L))
    with torch.cuda.device_of(z):
        _eager_step[(triton.cdiv(L, rows), triton.cdiv(D, CHANNELS), B)](
            z, taps, x_i, z_i, first, i, L, B, D, ROWS=rows, CHANNELS=CHANNELS
        )


@triton.jit(do_not_specialize=["i", "B"])
def _eager_step(z, taps, x_i, z_i, first, i, L, B, D, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    t = tl.load(first) + i
    k = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    d = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    sequence = tl.program_id(2).to(tl.int64)
    pushed = (k < L - t) & (d < D)
    x = tl.load(x_i + sequence * D + d, mask=d < D, other=0.0)
    at = z + ((t + k) * B + sequence) * D + d
    sums = tl.load(at, mask=pushed, other=0.0) + tl.load(taps + k * D + d, mask=pushed, other=0.0) * x
    tl.store(at, sums, mask=pushed)
    tl.store(z_i + sequence * D + d + k * 0, sums, mask=pushed & (k == 0))


def lazy_step(
    x: Float[Tensor, "L B D"],
    reversed_taps: Float[Tensor, "L 1 D"],
    x_i: Float[Tensor, "B D"],
    z_i: Float[Tensor, "B D"],
    first: Int[Tensor, ""],
    i: int,
) -> None:
    """Lazy at position t = first + i: x_i goes into row t of x, z_i is the sum of ``x[j] * taps[t-j]`` over j <= t.

    reversed_taps: taps[k] stands in row L-1-k. All contiguous. first as in eager_step; for t >= L nothing is done.
    """
    L, B, D = x.shape
    rows = min(ROWS, triton.next_power_of_2(L))
    sums = x.new_empty(triton.cdiv(L, rows), B, D)
    with torch.cuda.device_of(x):
        _lazy_step[(len(sums), triton.cdiv(D, CHANNELS), B)](
            x, reversed_taps, x_i, sums, first, i, L, B, D, ROWS=rows, CHANNELS=CHANNELS
        )
    torch.sum(sums, 0, out=z_i)


@triton.jit(do_not_specialize=["i", "B"])
def _lazy_step(x, reversed_taps, x_i, sums, first, i, L, B, D, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    t = tl.load(first) + i
    piece, sequence = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    j = piece * ROWS + tl.arange(0, ROWS)[:, None]
    d = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    given = tl.load(x_i + sequence * D + d, mask=d < D, other=0.0)
    known = (j < t) & (t < L) & (d < D)
    x_j = tl.load(x + (j * B + sequence) * D + d, mask=known, other=0.0)
    x_j = tl.where(j == t, given, x_j)  # the program that owns row t keeps the input, and no other reads it
    tl.store(x + (j * B + sequence) * D + d, x_j, mask=(j == t) & (t < L) & (d < D))
    taps = tl.load(reversed_taps + (L - 1 - t + j) * D + d, mask=(j <= t) & (t < L) & (d < D), other=0.0)
    total = tl.sum(x_j * taps, axis=0)[None, :]
    tl.store(sums + (piece * B + sequence) * D + d, total, mask=d < D)
