"""The Triton kernels against sums in float64: compiled on a CUDA device, interpreted where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from depth import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engines import draw, run, truth
from torch import Tensor
from truth import assert_close, causal_sum, tile_sum

from flashref import tiled_gpu
from flashref.tiled_gpu import KernelTau, TiledGPU, has_kernels

pytest.importorskip("triton", reason="Triton exists on Linux only")
from flashref import kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_cuda = pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2.0**-7}
dtypes = st.sampled_from([torch.float32, torch.float64])


@pytest.fixture(autouse=True, scope="module")
def interpreter():
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
        yield


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(DEVICE, dtype)


def assert_a_tile_is_added(B: int, C: int, U: int, q: int, dtype: torch.dtype) -> None:
    torch.manual_seed(U)
    slots, rho = normal(B, C, U + q + 5, dtype=dtype), normal(C, U + q + 2, dtype=dtype)
    expected = slots.cpu().double()
    expected[..., 2 + U : 2 + U + q] += tile_sum(slots[..., 2:], range(U), rho, range(U, U + q))
    kernels.tau_direct(slots[..., 2 : 2 + U], rho, slots[..., 2 + U : 2 + U + q])
    assert_close(slots, expected, TOLERANCE[dtype])  # and what is around the outputs is as it was


@settings(max_examples=examples(30))
@given(B=st.integers(1, 3), C=st.integers(1, 20), U=st.integers(1, 40), data=st.data(), dtype=dtypes)
def test_a_tile_is_the_sum_added_in_place(B, C, U, data, dtype):
    assert_a_tile_is_added(B, C, U, data.draw(st.integers(1, U)), dtype)


@pytest.mark.parametrize("B, C, U, q", [(1, 3, 128, 128), (2, 1, 128, 1), (1, 2, 1, 150), (1, 300, 2, 2), (3, 5, 0, 4)])
def test_a_tile_of_any_size_is_the_sum(B, C, U, q):
    assert_a_tile_is_added(B, C, U, q, torch.float32)


@pytest.mark.parametrize(
    "shapes",
    [((2, 3, 4), (3, 7), (2, 3, 4)), ((2, 3, 4), (2, 8), (2, 3, 4)), ((2, 3, 4), (3, 8), (1, 3, 4))],
    ids=["too few taps", "other channels", "other sequences"],
)
def test_a_tile_that_would_be_read_past_its_end_is_refused(shapes):
    x, rho, z = (normal(*shape) for shape in shapes)
    with pytest.raises(ValueError, match="do not fit"):
        kernels.tau_direct(x, rho, z)


def test_a_tile_whose_time_is_not_contiguous_is_refused():
    with pytest.raises(ValueError, match="time, the last dimension"):
        kernels.tau_direct(normal(2, 4, 3).mT, normal(3, 8), normal(2, 3, 4))


def step_written_out(p, taps, bias, x, z, rho, i: int) -> tuple[Tensor, Tensor]:
    """One position of an operator, mixer by mixer: its inputs x_i (N-1, B, D) and what out_proj takes in (B, D)."""
    p, taps, bias, x, z, rho = (tensor.cpu().double() for tensor in (p, taps, bias, x, z, rho))
    D = x.shape[-1]
    short = bias + taps[0] * p[i] + taps[1] * p[i + 1] + taps[2] * p[i + 2]
    stream = [short[:, s * D : (s + 1) * D] for s in range(short.shape[1] // D)]
    order, v, inputs = len(stream) - 1, stream[-1], []
    for o in range(order - 1):
        inputs.append(v * stream[order - 1 - o])
        v = z[i, o] + rho[0, o] * inputs[o]
        for k in range(i):
            v = v + x[k, o] * rho[i - k, o]
    return torch.stack(inputs), v * stream[0]


def step_inputs(B: int, D: int, order: int, b: int, blocks: torch.dtype, mixers: torch.dtype) -> list[Tensor]:
    """p, taps, bias, x, z, rho, y; x, z and rho are views of some mixers in the middle of others."""
    torch.manual_seed(b)
    C, mine = (order + 1) * D, slice(2, 1 + order)
    x, z, rho = normal(b, order + 2, B, D), normal(b, order + 2, B, D), normal(b, order + 2, 1, D)
    p, taps, bias, y = normal(b + 2, B, C), normal(3, C), normal(C), normal(B, D)
    return [t.to(blocks) for t in (p, taps, bias)] + [t.to(mixers)[:, mine] for t in (x, z, rho)] + [y.to(blocks)]


@settings(max_examples=examples(30))
@given(
    B=st.integers(1, 3), D=st.integers(1, 40), order=st.integers(2, 4), b=st.integers(1, 9), data=st.data(),
    dtypes=st.sampled_from([(torch.float32,) * 2, (torch.float64,) * 2, (torch.bfloat16, torch.float32)]),
)  # fmt: skip
def test_a_step_is_the_operator_written_out(B, D, order, b, data, dtypes):
    tensors, i = step_inputs(B, D, order, b, *dtypes), data.draw(st.integers(0, b - 1))
    before = [tensor.clone() for tensor in tensors]
    inputs, expected = step_written_out(*before[:-1], i)
    kernels.hyena_step(*tensors, i)
    assert_close(tensors[-1], expected, TOLERANCE[dtypes[0]])
    assert_close(tensors[3][i], inputs, TOLERANCE[dtypes[1]])
    before[3][i] = tensors[3][i]
    assert all(torch.equal(now, old) for now, old in zip(tensors[:-1], before[:-1], strict=True)), "only x[i], y change"


def test_a_step_late_in_a_long_block_is_the_operator_written_out():
    tensors = step_inputs(1, 3, 2, 150, torch.float32, torch.float32)
    _, expected = step_written_out(*tensors[:-1], 149)
    kernels.hyena_step(*tensors, 149)
    assert_close(tensors[-1], expected, 1e-5)


@pytest.mark.parametrize(
    "index, change, words",
    [
        (0, lambda p: p[1:], r"p must have shape \(6, 2, 12\) to fit x \(4, 2, 2, 3\), got \(5, 2, 12\)"),
        (2, lambda bias: bias[1:], "bias must have shape"),
        (5, lambda rho: rho[:-1], "rho must have shape"),
        (6, lambda y: y[:1], "y must have shape"),
        (4, lambda z: z.contiguous(), "x and z must have the same strides"),
        (6, lambda y: y.T.contiguous().T, "all else be contiguous"),
    ],
)
def test_a_step_that_would_be_read_past_its_end_is_refused(index, change, words):
    tensors = step_inputs(2, 3, 3, 4, torch.float64, torch.float64)
    tensors[index] = change(tensors[index])
    with pytest.raises(ValueError, match=words):
        kernels.hyena_step(*tensors, 1)


@pytest.mark.parametrize("i", [-1, 4])
def test_a_position_outside_the_block_is_refused(i):
    with pytest.raises(ValueError, match=f"i must be between 0 and b-1 = 3, got {i}"):
        kernels.hyena_step(*step_inputs(2, 3, 3, 4, torch.float64, torch.float64), i)


@settings(max_examples=examples(30))
@given(B=st.integers(1, 3), D=st.integers(1, 40), b=st.integers(1, 9), data=st.data(), dtype=dtypes)
def test_a_mixers_step_is_its_row_of_the_block_written_out(B, D, b, data, dtype):
    torch.manual_seed(b)
    i = data.draw(st.integers(0, b - 1))
    block, rho, x_i = normal(2, b, 3, B, D, dtype=dtype), normal(b, 3, 1, D, dtype=dtype), normal(B, D, dtype=dtype)
    before, z_i = block.clone(), torch.full_like(x_i, torch.nan)
    kernels.mixer_step(block[0, :, 1], block[1, :, 1], rho[:, 1], x_i, z_i, i)
    before[0, i, 1] = x_i
    assert torch.equal(block, before), "only x[i] and z_i change"
    x, z, taps = (tensor.cpu().double() for tensor in (*before[:, :, 1], rho[:, 1]))
    expected = z[i].clone()
    for k in range(i + 1):
        expected += x[k] * taps[i - k]
    assert_close(z_i, expected, TOLERANCE[dtype])


@pytest.mark.parametrize(
    "index, change, words",
    [
        (1, lambda z: z[1:], "z must have shape"),
        (2, lambda rho: rho[1:], "rho must have shape"),
        (3, lambda x_i: x_i[:1], "x_i must have shape"),
        (4, lambda z_i: z_i.T.contiguous().T, "every position of a mixer and all else be contiguous"),
        (5, lambda i: 4, "i must be between 0 and b-1 = 3, got 4"),
    ],
)
def test_a_mixers_step_that_would_be_read_past_its_end_is_refused(index, change, words):
    arguments = [normal(4, 2, 3), normal(4, 2, 3), normal(4, 1, 3), normal(2, 3), normal(2, 3), 0]
    arguments[index] = change(arguments[index])
    with pytest.raises(ValueError, match=words):
        kernels.mixer_step(*arguments)


@pytest.mark.parametrize(
    "L, prompt, base, direct_up_to", [(60, None, 4, 100), (61, 13, 5, 8), (40, 3, 1, 4), (9, 0, 4, 0)]
)
def test_the_engine_with_its_kernel_is_the_sum(L, prompt, base, direct_up_to):
    x, filters = draw(2, 2, 3, L, device=DEVICE)
    mixer = TiledGPU(filters, 2, base, direct_up_to)
    assert isinstance(mixer._tau, KernelTau) and mixer.direct_up_to == direct_up_to
    assert_close(run(mixer, x, prompt), truth(x, filters), 1e-10)


def test_kernels_are_for_cuda_and_for_the_interpreter(monkeypatch):
    assert has_kernels(torch.device("cuda", 0)) and has_kernels(torch.device(DEVICE))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert has_kernels(torch.device("cuda", 0)) and not has_kernels(torch.device("cpu"))
    monkeypatch.setattr(tiled_gpu, "find_spec", lambda name: None)
    assert not has_kernels(torch.device("cuda", 0))


@pytest.mark.parametrize("value, error", [("8", TypeError), (True, TypeError), (-1, ValueError)])
def test_a_direct_up_to_that_is_no_count_is_refused(value, error):
    with pytest.raises(error, match="direct_up_to must be"):
        TiledGPU(torch.ones(1, 2, 3), direct_up_to=value)


@pytest.mark.parametrize(
    "wins, expected", [([], 8), ([16], 16), ([16, 32, 64], 64), ([16, 64], 16), ([16, 32, 64, 128, 256], 256)]
)
def test_the_measured_size_is_the_last_before_the_fft_wins(monkeypatch, wins, expected):
    timed = []

    def do_bench(tile, **options) -> float:
        assert options["return_mode"] == "median"
        tile()  # both ways run
        timed.append(16 * 2 ** (len(timed) // 2))  # each size is timed twice, the kernel first
        return float(len(timed) % 2 == 1 and timed[-1] not in wins)

    monkeypatch.setattr("triton.testing.do_bench", do_bench)
    measure = tiled_gpu.measured_direct_up_to.__wrapped__  # not what is kept for the process
    assert measure(torch.device(DEVICE), torch.float32, 4) == expected


def test_kernels_compile_for_a_gpu_where_there_is_none():
    """For compute capability 9.0, in the dtypes in use: the interpreter accepts programs that the compiler does not."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "compile_kernels.py"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["tau_direct", "mixer_step", "eager_step", "lazy_step"] * 2 + ["hyena_step"] * 3


@needs_cuda
def test_the_measured_size_is_one_of_those_tried():
    assert tiled_gpu.measured_direct_up_to(torch.device("cuda", 0), torch.float32, 1024) in {8, 16, 32, 64, 128, 256}


@needs_cuda
@pytest.mark.parametrize("direct_up_to", [None, 0, 256])
def test_a_long_sequence_on_a_gpu_is_the_sum(direct_up_to):
    x, filters = draw(2, 2, 8, 3000, torch.float32, "cuda")
    assert_close(run(TiledGPU(filters, 2, direct_up_to=direct_up_to), x, 700), truth(x, filters), 1e-4)


@needs_cuda
def test_a_tile_beyond_32_bits_of_offset_is_the_sum():
    C, slots = 2**15 + 3, 2**16 + 128
    if torch.cuda.mem_get_info()[0] < 10**10:
        pytest.skip("needs 10 GB of GPU memory")
    buffer = torch.zeros(1, C, slots, device="cuda")
    buffer[..., -128:-64] = normal(1, C, 64, dtype=torch.float32)
    rho = normal(C, 128, dtype=torch.float32)
    x, z = buffer[..., -128:-64], buffer[..., -64:]
    kernels.tau_direct(x, rho, z)
    expected = causal_sum(torch.cat([x[:, -3:], torch.zeros_like(x[:, -3:])], dim=-1), rho[-3:])[..., 64:]
    assert_close(z[:, -3:], expected, 1e-5)
