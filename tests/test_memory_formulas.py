"""What memory.py computes against what is counted: tensors that are held, and the allocator's own peak."""

import gc

import pytest
import torch
from allocations import allocations
from depth import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from test_memory import reachable

from flashref import ENGINES, Hyena, HyenaConfig, TiledCPU, TiledGPU, generate, make_mixer, step_linear
from flashref.bounded import Bounded
from flashref.budget import generation_memory
from flashref.decoder import BLOCK
from flashref.graphs import BlockDecoder
from flashref.memory import CALLS, Memory, memory_needed, readable
from flashref.mixer import PROMPT_POINTS
from flashref.resumable import Generation

NAIVE = ("lazy", "eager")
tiled_settings = st.fixed_dictionaries(
    {
        "base": st.one_of(st.integers(1, 20), st.integers(60, 130)),
        "direct_up_to": st.sampled_from([0, 4, 16, 40]),
        "chunk_points": st.sampled_from([1, 100, 5000, 2**19]),
    }
)
sizes = st.tuples(st.integers(1, 2), st.integers(2, 6), st.integers(2, 40) | st.integers(2, 180), st.integers(1, 3))


def bytes_of(mixer) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in reachable(mixer).values())


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=examples(5))
@given(sizes=sizes, tiled=tiled_settings, prompt=st.none() | st.integers(0, 180), data=st.data())
def test_what_is_held_is_computed_to_the_byte_and_the_peak_is_bounded(engine, sizes, tiled, prompt, data, tried):
    """The peak of a whole generation, the engine's making included, is reached but for a step's own small tensors."""
    M, D, L, B = sizes
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    own = {} if engine in NAIVE else tiled
    P = 0 if prompt is None else min(prompt, L)
    filters, x = torch.ones(M, D, L, dtype=dtype), torch.ones(B, D, L, dtype=dtype)
    gc.collect()  # nothing of an earlier case may be freed while this one is counted
    with pytest.MonkeyPatch.context() as patch, allocations() as counted:
        patch.setitem(PROMPT_POINTS, "cpu", data.draw(st.sampled_from([1, 1000, PROMPT_POINTS["cpu"]])))
        need = memory_needed(engine, M, D, L, B, P, dtype, **own)
        mixer = ENGINES[engine](filters, B, **own)
        for m in range(M if prompt is not None else 0):
            mixer.prefill(m, x[..., :P])
        late = getattr(mixer, "_late", None)  # let go in the middle, when the largest spectrum is made
        late = 0 if late is None else late.nbytes
        for t in range(P, L):
            for m in range(M):
                mixer.step(m, x[..., t])
            mixer.advance()
    if P < L:
        assert bytes_of(mixer) + late == need.held
    assert counted.peak <= need.total - need.views
    small = 8 * 4 * B * D * (max(L, 8) if L < 70 else 20)
    small += 8 * M * D * (L + 2) if engine == "epoched" else 0  # filters padded, where an FFT asks for it
    assert need.total - need.views - CALLS <= 1.05 * counted.peak + small
    tried("cases", "memory of an engine, computed and counted")


@pytest.mark.parametrize("points", [1, 2**16, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("P, B", [(100, 3), (4090, 1)])
def test_the_peak_of_a_prompt_is_what_is_computed(dtype, P, B, points, monkeypatch):
    """For engines of which it is the largest, at sizes beside which a step's own small tensors are small."""
    monkeypatch.setitem(PROMPT_POINTS, "cpu", points)
    filters, x = torch.ones(1, 64, 4096, dtype=dtype), torch.ones(B, 64, P, dtype=dtype)
    for engine in NAIVE:
        need = memory_needed(engine, 1, 64, 4096, B, P, dtype)
        gc.collect()
        with allocations() as counted:
            mixer = ENGINES[engine](filters, B)
            mixer.prefill(0, x)
        assert abs((need.total - CALLS) / counted.peak - 1) < 0.005, engine
        del mixer


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=examples(3))
@given(data=st.data())
def test_a_whole_generation_stays_below_what_is_computed(engine, data, tried):
    draw = lambda *values: data.draw(st.sampled_from(values))  # noqa: E731
    config = HyenaConfig(
        d_model=draw(4, 16, 32), n_layer=draw(1, 2, 4), d_inner=draw(4, 64, 256), vocab_size=draw(12, 3000),
        l_max=400, order=draw(2, 3, 4), filter_order=draw(4, 64),
    )  # fmt: skip
    model = Hyena(config).to(draw(torch.float32, torch.float64, torch.bfloat16))
    B, P = draw(1, 3), draw(1, 5, 70, 250, 390)
    n = data.draw(st.integers(1, min(100, 401 - P)))
    sampling = draw({}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 3})
    need, prompt = generation_memory(model, P, n, engine, B), torch.ones(B, P, dtype=torch.long)
    gc.collect()
    with allocations() as counted:
        generate(model, prompt, n, engine, progress=False, **sampling)
    most = need.total - need.views - need.weights
    assert counted.peak <= most
    assert most <= 1.4 * counted.peak + CALLS + 64 * B * config.rows + 8 * B * (16 * 32 + 5 * 32 + 2 * 256)
    tried("cases", "memory of a whole generation, computed and counted")


@pytest.mark.parametrize("engine", ["lazy", "eager", "tiled_cpu", "bounded", "epoched"])
@pytest.mark.parametrize("B, columns", [(3, 2 * (8 * 32 + 8 * 16) + 8 * 12), (4, 0)])  # in_proj, fc1 and the head
def test_what_a_generation_keeps_beside_the_mixers_is_counted_too(engine, B, columns, monkeypatch):
    monkeypatch.setattr(step_linear, "TALL", 0)
    model = Hyena(HyenaConfig(d_model=8, n_layer=2, d_inner=16, vocab_size=12, l_max=300, order=3))
    run = Generation(model, torch.ones(B, 1, dtype=torch.long), 300, engine)
    for _ in run:
        pass
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    held = [t for place, t in reachable(run).items() if place not in weights]
    late = B * 32 * 4 * (299 - 192) if engine == "tiled_cpu" else 0  # 299 positions after the prompt: 3 blocks of 5
    need = generation_memory(model, 1, 300, engine, B)
    assert sum(t.untyped_storage().nbytes() for t in held) + late == need.held - need.weights
    assert need.weights == sum(t.numel() * 4 for t in {t.data_ptr(): t for t in model.state_dict().values()}.values())
    decoder = set(reachable(run._decoder)) - weights - set(reachable(run._mixer))
    slots = 2 * ((BLOCK + 2) * B + 3) * 32  # of the two layers' short filters, with the taps
    assert sum(t.untyped_storage().nbytes() for place, t in reachable(run).items() if place in decoder) == 4 * (
        columns + slots
    )


def test_a_graphs_decoder_keeps_what_is_computed_for_a_gpu(monkeypatch):
    """Its own tensors, counted on the CPU; what a recorded graph keeps for itself needs a GPU."""
    model = Hyena(HyenaConfig(d_model=8, n_layer=2, d_inner=16, vocab_size=12, l_max=100, order=3))
    mixer = make_mixer("tiled_gpu", model.filters(100).detach(), 2)
    before = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()} | set(reachable(mixer))
    decoder = BlockDecoder(model, mixer, temperature=1.0)
    kept = sum(t.untyped_storage().nbytes() for place, t in reachable(decoder).items() if place not in before)
    at = 8 * (2 * 65 + 64 * 2 * 12)  # tokens and noise
    layers = 2 * 4 * ((64 + 2) * 2 * 32 + 3 * 32 + 2 * 8)
    assert kept == at + layers


@pytest.mark.parametrize("engine", ENGINES)
def test_a_second_generation_never_holds_more_at_once_than_the_first(engine, monkeypatch):
    monkeypatch.setattr(Bounded, "piece_points", 16)  # else what an FFT takes for a moment hides the rest
    monkeypatch.setattr(TiledCPU, "chunk_points", 16)
    monkeypatch.setattr(TiledGPU, "chunk_points", 16)
    filters, x, peaks = torch.ones(1, 16, 200), torch.ones(1, 16), []
    for generations in (1, 3):
        gc.collect()
        with allocations() as counted:
            mixer = ENGINES[engine](filters)
            for _ in range(generations):
                mixer.reset()
                for _ in range(200):
                    mixer.step(0, x)
                    mixer.advance()
        peaks.append(counted.peak)
        del mixer
    assert peaks[1] <= peaks[0] + 1024


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_filters_are_checked_without_a_copy_of_them(dtype):
    filters = torch.ones(4, 8, 4096, dtype=dtype)
    with allocations() as counted:
        make_mixer("lazy", filters)
    assert counted.peak <= filters.numel() * max(4, dtype.itemsize) + 4096


def test_the_sizes_of_a_paper_are_what_one_computes_by_hand():
    need = memory_needed("tiled_cpu", 18, 768, 2**17, base=64)
    taps = 18 * 768 * 2**17
    assert need.filters == 4 * taps and abs(need.spectra / (8 * taps) - 1) < 0.001 and need.weights == 0
    assert need.sums == 4 * 18 * 768 * (2**16 + 16)
    assert need.total == sum(need.parts.values()) and need.total < 14.1 * taps
    assert memory_needed("auto", 18, 768, 2**17, base=64) == need
    assert memory_needed("tiled_cpu", 18, 768, 2**17, dtype=torch.bfloat16, base=64) == need


def test_bytes_are_written_with_three_digits_and_a_unit():
    written = {0: "0 B", 999: "999 B", 1000: "0.98 KiB", 2**20: "1.00 MiB", 15 * 2**29: "7.50 GiB", 2**50: "1024 TiB"}
    assert {size: readable(size) for size in written} == written
    names, _, row = str(Memory("lazy", filters=2**20, work=512)).splitlines()
    assert names.split("  ")[0] == "engine" and names.split()[1:] == ["filters", "work", "in", "all"]
    assert row.split() == ["lazy", "1.00", "MiB", "512", "B", "1.00", "MiB"]


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"engine": "fast"}, ValueError, "engine must be one of lazy, eager"),
        ({"M": 0}, ValueError, "M must be >= 1, got 0"),
        ({"D": 2.0}, TypeError, "D must be an integer"),
        ({"L": -1}, ValueError, "L must be >= 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1"),
        ({"prompt_length": 9}, ValueError, "prompt_length must be at most L = 8, got 9"),
        ({"base": 0}, ValueError, "base must be >= 1"),
    ],
)
def test_sizes_that_cannot_be_are_refused_by_name(change, error, words):
    with pytest.raises(error, match=words):
        memory_needed(**{"engine": "tiled_cpu", "M": 1, "D": 2, "L": 8, **change})
