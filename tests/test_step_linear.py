"""The linear maps of a step: the map's own numbers, however its weights are stored and cut, and what that costs."""

import itertools

import pytest
import torch
from allocations import allocations
from test_generation import by_full_passes, make, prompts
from test_memory import reachable
from torch.nn import Linear

from flashref import Hyena, HyenaConfig, generate, step_linear
from flashref.budget import generation_memory
from flashref.step_linear import FEW, LARGE, PARTS, by_columns, numbers_made

EPS = torch.finfo(torch.float32).eps


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request):
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


@pytest.fixture
def all_in_parts(monkeypatch):
    """Every map is cut, however small, as large ones are where there are threads."""
    monkeypatch.setattr(step_linear, "TALL", 0)
    monkeypatch.setattr(step_linear, "LARGE", 0)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def how(linear: Linear, B: int) -> str:
    """How a step of B sequences reads a map, from what it keeps."""
    map = step_linear.step_linear(linear, B)
    return {"linear": "whole", "_add_parts": "inputs", "_join_parts": "outputs"}[map.func.__name__]


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("K, N", list(itertools.product([1, 3, 8, 12, 40, 192, 256], [1, 3, 8, 12, 40, 192, 1024])))
@torch.no_grad()
def test_a_map_in_parts_is_the_map(all_in_parts, few, K, N, bias):
    torch.manual_seed(K + N)
    linear = Linear(K, N, bias)
    for B in (1, 2, FEW) if few else (FEW + 1, 9):
        x, map = torch.randn(B, 2 * K), step_linear.step_linear(linear, B)
        for given in (x[:, ::2], x[:, :K].contiguous(), x[:1, :K].expand(B, K)):  # however it lies in memory
            true = given.double() @ linear.weight.double().T + (linear.bias.double() if bias else 0)
            scale = given.double().abs() @ linear.weight.double().abs().T + (linear.bias.double().abs() if bias else 0)
            z = map(given)
            assert z.shape == (B, N) and z.dtype == torch.float32
            assert ((z - true).abs() <= (K + PARTS) * EPS * scale).all()
            again = map(given)
            assert torch.equal(again, z) and again.data_ptr() != z.data_ptr()


@pytest.mark.parametrize(
    "K, N, B, dtype, expected",
    [
        (256, 768, 1, torch.float32, ("inputs", True)),
        (256, 768, FEW, torch.float32, ("inputs", True)),
        (256, 768, FEW + 1, torch.float32, ("outputs", False)),
        (1024, 256, 1, torch.float32, ("outputs", False)),
        (1024, 256, 9, torch.float32, ("outputs", False)),
        (768, 256, 1, torch.float32, ("outputs", False)),
        (255, 1024, 1, torch.float32, ("whole", True)),  # 255 inputs have no parts
        (1024, 255, 1, torch.float32, ("whole", False)),
        (256, 256, 1, torch.float32, ("whole", False)),  # not worth it
        (128, 256, 1, torch.float32, ("whole", True)),  # as many weights as are worth a copy
        (64, 192, 1, torch.float32, ("whole", False)),
        (256, 768, 1, torch.float64, ("whole", True)),
        (256, 768, FEW + 1, torch.float64, ("whole", False)),
        (256, 768, 1, torch.bfloat16, ("whole", False)),
    ],
)
def test_large_maps_are_cut_where_there_are_threads_and_tall_ones_read_by_columns(threads, K, N, B, dtype, expected):
    linear = Linear(K, N, dtype=dtype)
    assert K * N >= LARGE or expected[0] == "whole"
    parts, columns = expected
    assert (how(linear, B), by_columns(linear, B)) == (parts if threads > 1 else "whole", columns)
    assert not step_linear.step_linear(linear, B)(torch.ones(B, K, dtype=dtype)).requires_grad


@pytest.mark.parametrize("B", [1, FEW, FEW + 1, 9])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("K, N", [(256, 1024), (1024, 256), (128, 384), (256, 256), (64, 192)])
@torch.no_grad()
def test_what_a_map_keeps_and_makes_is_computed_to_the_byte(threads, K, N, bias, B):
    linear, x = Linear(K, N, bias), torch.randn(B, K)
    theirs = {t.untyped_storage().data_ptr() for t in linear.parameters()}
    map = step_linear.step_linear(linear, B)
    kept, made = numbers_made(linear, B)
    assert sum(t.untyped_storage().nbytes() for p, t in reachable(map).items() if p not in theirs) == 4 * kept
    with allocations() as counted:
        z = map(x)
    assert counted.peak == z.nbytes + 4 * made - (z.nbytes if how(linear, B) == "outputs" and B == 1 else 0)


def test_a_map_with_hooks_is_called_as_it_is():
    model, called = Hyena(HyenaConfig(d_model=256, n_layer=1, d_inner=1024, l_max=16, vocab_size=11)), []
    fc1 = model.backbone.layers[0].mlp.fc1
    assert by_columns(fc1, 1)
    hook = fc1.register_forward_hook(lambda *_: called.append(1))
    assert not by_columns(fc1, 1) and step_linear.step_linear(fc1, 1) is fc1 and numbers_made(fc1, 1) == (0, 0)
    tokens = generate(model, prompts(1, 4), 6)
    assert len(called) == 1 + 5  # the prompt, and each token that is fed back
    hook.remove()
    assert torch.equal(generate(model, prompts(1, 4), 6), tokens)


@pytest.mark.parametrize("engine", ["lazy", "tiled_cpu"])
@pytest.mark.parametrize("order", [2, 3])
def test_a_model_in_parts_writes_the_tokens_of_full_passes(all_in_parts, order, engine):
    for B, P, n in [(1, 1, 48), (3, 5, 30), (4, 20, 29)]:
        model, prompt = make(order, B), prompts(B, P)
        with torch.no_grad():
            assert torch.equal(generate(model, prompt, n, engine), by_full_passes(model, prompt, n))


@pytest.mark.parametrize("B", [1, FEW, FEW + 1])
def test_a_generation_in_parts_stays_below_what_is_computed(all_in_parts, B):
    """At sizes where, for three sequences, what the maps make decides."""
    model = Hyena(HyenaConfig(d_model=64, n_layer=2, d_inner=1024, vocab_size=12, l_max=40))
    need, prompt = generation_memory(model, 1, 10, "tiled_cpu", B), torch.ones(B, 1, dtype=torch.long)
    with allocations() as counted:
        generate(model, prompt, 10, "tiled_cpu", progress=False)
    assert counted.peak <= need.total - need.views - need.weights <= 1.15 * counted.peak
