"""Every engine against the O(L^2) sum in float64, and what a caller may do without changing the answer."""

import itertools
from contextlib import nullcontext

import pytest
import torch
from depth import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from truth import assert_close, causal_sum

import flashref
from flashref import OnlineConvolution, make_mixer
from flashref.convolution import fast_length
from flashref.mixer import PROMPT_POINTS, prompt_channels

ENGINES = ["lazy", "eager", "tiled_cpu", "tiled_gpu", "bounded", "epoched"]
TILED = ENGINES[2:]
PLACES = [(engine, "cpu") for engine in ENGINES]
if torch.cuda.is_available():
    PLACES += [(engine, "cuda") for engine in ENGINES if engine != "tiled_cpu"]
on_every_place = pytest.mark.parametrize("engine, device", PLACES)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


def run(mixer: flashref.Mixer, x: Tensor, prompt: int | None = None) -> Tensor:
    """x (M, B, D, L) through a mixer, the first ``prompt`` positions by prefill."""
    start = prompt or 0
    z = torch.empty_like(x)
    if prompt is not None:
        for m in range(len(x)):
            z[m, ..., :prompt] = mixer.prefill(m, x[m, ..., :prompt])
    assert mixer.position == start
    for t in range(start, x.shape[-1]):
        for m in range(len(x)):
            z[m, ..., t] = mixer.step(m, x[m, ..., t])
        assert mixer.position == t
        mixer.advance()
    assert mixer.position == x.shape[-1]
    return z


def truth(x: Tensor, filters: Tensor) -> Tensor:
    return torch.stack([causal_sum(x_m, rho) for x_m, rho in zip(x, filters, strict=True)])


def draw(M, B, D, L, dtype=torch.float64, device="cpu", seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(M, B, D, L, generator=g, dtype=torch.float64).to(device, dtype)
    return x, torch.randn(M, D, L, generator=g, dtype=torch.float64).to(device, dtype)


sizes = st.tuples(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.one_of(st.integers(0, 40), st.integers(0, 300))
)
bases = st.one_of(st.integers(1, 9), st.integers(1, 400))


@on_every_place
@settings(max_examples=examples(150))
@given(sizes=sizes, base=bases, prompt=st.none() | st.integers(0, 300), dtype=st.sampled_from(list(TOLERANCE)))
def test_every_engine_is_the_sum(engine, device, sizes, base, prompt, dtype):
    x, filters = draw(*sizes, dtype, device)
    prompt = None if prompt is None else min(prompt, sizes[-1])
    mixer = make_mixer(engine, filters, sizes[1], **({"base": base} if engine in TILED else {}))
    for _ in range(2):  # again after a reset
        assert_close(run(mixer, x, prompt), truth(x, filters), TOLERANCE[dtype])
        mixer.reset()


@on_every_place
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_gated_step_is_the_step_of_the_product(engine, device, dtype):
    x, filters = draw(2, 2, 3, 70, device=device)
    x, gates = x.to(dtype), draw(2, 2, 3, 70, device=device, seed=1)[0].to(dtype)
    filters = filters if dtype == torch.float64 else filters.float()
    one, other = (make_mixer(engine, filters, 2, **({"base": 8} if engine in TILED else {})) for _ in range(2))
    for t in range(70):
        for m in range(2):
            want = one.step(m, x[m, ..., t] * gates[m, ..., t])
            assert torch.equal(other.gated_step(m, x[m, ..., t], gates[m, ..., t]), want)
        with pytest.raises(ValueError, match="step\\(0\\) is out of order"):
            other.gated_step(0, x[0, ..., t], gates[0, ..., t])
        with pytest.raises(ValueError, match=r"step\(2\) is out of order: next is advance"):
            other.gated_step(2, x[1, ..., t], gates[1, ..., t])
        one.advance()
        other.advance()


@pytest.mark.parametrize("base", [1, 2, 3])
@pytest.mark.parametrize("engine", TILED)
def test_every_length_and_every_prompt_of_short_sequences(engine, base):
    for L in range(20):
        for prompt in (None, *range(L + 1)):
            x, filters = draw(2, 1, 1, L)
            assert_close(run(make_mixer(engine, filters, base=base), x, prompt), truth(x, filters), 1e-10)


@on_every_place
@pytest.mark.parametrize("prompt", [None, 0, 37])
def test_bfloat16_inputs_are_computed_in_float32_and_rounded_once(engine, device, prompt):
    for filters_dtype in (torch.bfloat16, torch.float32):
        x, filters = draw(2, 2, 3, 150, torch.bfloat16, device)
        z, exact = run(make_mixer(engine, filters.to(filters_dtype), 2), x, prompt), truth(x, filters)
        assert z.dtype == torch.bfloat16
        assert ((z.cpu().double() - exact).abs() <= 2.0**-8 * exact.abs() + 1e-4 * exact.abs().max()).all()


@on_every_place
@pytest.mark.parametrize("prompt, base", [(None, 64), (1000, 17)])
def test_a_few_thousand_positions(engine, device, prompt, base):
    x, filters = draw(1, 1, 2, 2500, torch.float32, device)
    mixer = make_mixer(engine, filters, **({"base": base} if engine in TILED else {}))
    assert_close(run(mixer, x, prompt), truth(x, filters), 1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_65536_positions_in_float32(engine):
    L = 2**16
    x, filters = draw(1, 1, 2, L, torch.float32)
    z = run(make_mixer(engine, filters), x)[0, 0].double()
    positions = [*range(5), 4095, 4096, L // 2 - 1, L // 2, L // 2 + 1, *range(700, L, 701), L - 2, L - 1]
    x, rho = x[0, 0].double(), filters[0].double()
    exact = torch.stack([(x[:, : t + 1] * rho[:, : t + 1].flip(-1)).sum(-1) for t in positions], dim=-1)
    assert_close(z[:, positions], exact, 1e-4)


@on_every_place
def test_the_tile_picks_of_one_engine_do_not_depend_on_chunks_of_channels(engine, device):
    """Few points a call: every large tile is cut into several calls."""
    x, filters = draw(2, 3, 5, 200, torch.float64, device)
    mixer = make_mixer(engine, filters, 3)
    if engine in TILED:
        mixer._tau.chunk_points, mixer._tau.direct_up_to = 500, 3
        mixer.piece_points = 30  # the bounded engine's
    assert_close(run(mixer, x), truth(x, filters), 1e-10)


@pytest.mark.parametrize("most, sizes", [(0, [1] * 5), (1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (9, [5])])
@pytest.mark.parametrize("device", sorted({device for _, device in PLACES}))
def test_a_prompt_is_taken_in_a_few_channels_at_a_time(device, most, sizes, monkeypatch):
    """As many as have PROMPT_POINTS points together, or one; on a GPU as many as fill 1 GiB in float32."""
    assert prompt_channels(2, 2**20, "cuda") == 128
    (x, filters), P, seen, irfft = draw(2, 3, 5, 40, device=device), 11, [], torch.fft.irfft
    monkeypatch.setitem(PROMPT_POINTS, device, most * 3 * fast_length(40 + P - 1))
    monkeypatch.setattr(torch.fft, "irfft", lambda X, n: seen.append(X.shape[1]) or irfft(X, n))
    mixer = make_mixer("eager", filters, 3)
    z = mixer.prefill(0, x[0, ..., :P])
    assert seen == sizes
    assert_close(z, truth(x, filters)[0, ..., :P], 1e-12)
    mixer.prefill(1, x[1, ..., :P])
    x[..., P:] = 0  # what the prompt alone contributes to the position after it
    assert_close(mixer.step(0, x[0, ..., P]), truth(x, filters)[0, ..., P], 1e-12)


@pytest.mark.parametrize("piece, rows", [(1, 1), (6, 1), (59, 9), (60, 10), (10**6, 70)])
def test_a_row_that_is_added_up_in_pieces_is_the_same_row(piece, rows):
    x, filters = draw(2, 2, 3, 70)
    mixer = make_mixer("lazy", filters, 2)
    mixer.piece = piece
    assert_close(run(mixer, x, 20), truth(x, filters), 1e-10)
    assert len(mixer._sums) == rows


@on_every_place
@pytest.mark.parametrize("permuted", [(2, 1, 0), (1, 0, 2), (0, 2, 1)])
def test_filters_and_inputs_in_any_memory_layout_are_the_same_numbers(engine, device, permuted):
    x, filters = draw(2, 2, 3, 90, torch.float64, device)
    order = [permuted.index(i) for i in range(3)]
    filters = filters.permute(permuted).contiguous().permute(order)
    x = x.transpose(1, 3).contiguous().transpose(1, 3)
    assert not filters.is_contiguous()
    assert_close(run(make_mixer(engine, filters, 2), x, 40), truth(x, filters), 1e-10)


@on_every_place
@pytest.mark.parametrize("prompt", [0, 10, 70])
def test_kept_outputs_and_reused_inputs_change_nothing(engine, device, prompt):
    """The caller keeps every output, one input buffer is reused and then spoiled, and so are the filters."""
    x, filters = draw(2, 2, 3, 150, torch.float64, device)
    given_filters = filters.clone()
    mixer = make_mixer(engine, given_filters, 2)
    given_filters.fill_(torch.nan)
    kept, prompts, buffer = [[], []], [], torch.empty_like(x[0, ..., 0])
    for m in range(2):
        given_prompt = x[m, ..., :prompt].clone()
        prompts.append(mixer.prefill(m, given_prompt))
        given_prompt.fill_(torch.nan)
    for t in range(prompt, 150):
        for m in range(2):
            kept[m].append(mixer.step(m, buffer.copy_(x[m, ..., t])))
            buffer.fill_(torch.nan)
        mixer.advance()
    z = torch.stack([torch.cat([prompts[m], torch.stack(kept[m], -1)], -1) for m in range(2)])
    assert_close(z, truth(x, filters), 1e-10)


@on_every_place
def test_outputs_that_the_caller_overwrites_change_nothing(engine, device):
    x, filters = draw(2, 2, 3, 150, torch.float64, device)
    mixer, z = make_mixer(engine, filters, 2), torch.empty_like(x)
    for m in range(2):
        given = mixer.prefill(m, x[m, ..., :20])
        z[m, ..., :20] = given
        given.fill_(torch.nan)
    for t in range(20, 150):
        for m in range(2):
            given = mixer.step(m, x[m, ..., t])
            z[m, ..., t] = given
            given.fill_(torch.nan)
        mixer.advance()
    assert_close(z, truth(x, filters), 1e-10)


MODES = {"plain": nullcontext, "no_grad": torch.no_grad, "inference": torch.inference_mode}


@on_every_place
@pytest.mark.parametrize("made, prefilled, stepped", list(itertools.product(MODES, repeat=3)))
def test_inference_mode_and_gradients_in_any_mix(engine, device, made, prefilled, stepped):
    """Made, prefilled and stepped in one mode each, then in all by turns; filters and inputs require gradients."""
    x, filters = draw(2, 1, 2, 80, torch.float64, device)
    base = {"base": 4} if engine in TILED else {}
    exact = truth(x, filters)
    with MODES[made]():
        mixer = make_mixer(engine, filters.clone().requires_grad_(), **base)
        given = x.clone().requires_grad_()
    for _ in range(2):
        z = torch.empty_like(x)
        with MODES[prefilled]():
            for m in range(2):
                z[m, ..., :9] = mixer.prefill(m, given[m, ..., :9])
        for t in range(9, 80):
            with MODES[stepped if t < 30 else list(MODES)[t % 3]]():
                for m in range(2):
                    z_t = mixer.step(m, given[m, ..., t] if t % 2 else x[m, ..., t].clone())
                    assert not z_t.requires_grad
                    z[m, ..., t] = z_t
                mixer.advance()
        assert_close(z, exact, 1e-10)
        mixer.reset()


@on_every_place
@pytest.mark.parametrize("prompt", [None, 25])
def test_online_convolution_is_the_sum(engine, device, prompt):
    x, rho = draw(1, 2, 3, 100, torch.float64, device)
    conv = OnlineConvolution(rho[0], engine=engine, batch_size=2)
    for _ in range(2):
        start = [] if prompt is None else [conv.prefill(x[0, ..., :prompt])]
        assert conv.position == (prompt or 0)
        z = [conv.push(x[0, ..., t]) for t in range(prompt or 0, 100)]
        assert_close(torch.cat([*start, torch.stack(z, -1)], -1), causal_sum(x[0], rho[0]), 1e-10)
        with pytest.raises(ValueError, match="100 positions and all are used"):
            conv.push(x[0, ..., 0])
        conv.reset()


@on_every_place
def test_reset_in_the_middle_of_anything_starts_afresh(engine, device):
    x, filters = draw(2, 1, 2, 60, torch.float64, device)
    mixer = make_mixer(engine, filters)
    mixer.prefill(0, x[0, ..., :50])
    mixer.reset()  # in the middle of a prompt
    assert mixer.position == 0
    assert_close(run(mixer, x, 20), truth(x, filters), 1e-10)
    mixer.reset()
    for m in range(2):
        mixer.prefill(m, x[m, ..., :7])
    mixer.step(0, x[0, ..., 7])
    mixer.reset()  # in the middle of a step, before the second half has its slots
    assert_close(run(mixer, x), truth(x, filters), 1e-10)


def test_auto_takes_the_engine_for_the_device():
    assert make_mixer("auto", torch.ones(1, 1, 4)).name == "tiled_cpu"
    if torch.cuda.is_available():
        assert make_mixer("auto", torch.ones(1, 1, 4, device="cuda")).name == "tiled_gpu"


def test_a_block_has_64_positions_unless_told():
    for engine in (flashref.TiledCPU, flashref.TiledGPU, flashref.ENGINES["bounded"]):
        assert engine(torch.ones(1, 1, 4)).base == 64


def test_engines_are_listed_in_their_order():
    assert list(flashref.ENGINES) == ENGINES
    assert [cls.name for cls in flashref.ENGINES.values()] == ENGINES
