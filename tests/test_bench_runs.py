"""What the benchmark times is what it says: mixers run a block at a time give the sum, with the kernels and without."""

import weakref
from functools import partial
from importlib.util import find_spec

import pytest
import torch
from tqdm.auto import tqdm
from truth import assert_close, causal_sum

from flashref import Hyena, HyenaConfig, bench, make_mixer
from flashref.bench_runs import BlockRun, MixerBlockRun, MixerRun
from flashref.graphs import BLOCK_ENGINES


@pytest.fixture(params=["with kernels", "without"])
def kernels(request, monkeypatch):
    if request.param == "with kernels":
        if find_spec("triton") is None or torch.cuda.is_available():
            pytest.skip("Triton's interpreter runs where there is Triton and no CUDA device")
        monkeypatch.setenv("TRITON_INTERPRET", "1")


def made(engine, filters, B, base):
    mixer = engine(filters, B)
    mixer.base = base  # the naive engines have no argument for it
    return engine(filters, B, base) if engine.name == "tiled_gpu" else mixer


@pytest.mark.parametrize("engine", BLOCK_ENGINES)
@pytest.mark.parametrize("L, P, base", [(70, 0, 8), (45, 5, 8), (17, 16, 4), (9, 3, 1)])
def test_mixers_alone_in_blocks_give_the_sum(engine, L, P, base, kernels):
    torch.manual_seed(0)
    M, B, D, R = 2, 2, 3, 16
    filters, rows = torch.randn(M, D, L, dtype=torch.float64), torch.randn(R, M, B, D, dtype=torch.float64)
    run = MixerBlockRun(made(engine, filters, B, base), rows)
    x = rows[torch.arange(L) % R]
    truth = torch.stack([causal_sum(x[:, m].permute(1, 2, 0), filters[m]) for m in range(M)])
    for _ in range(2):  # a second run begins anew
        run.start(P)
        z = torch.stack([torch.stack(tuple(run.step(t))) for t in range(P, L)], dim=-1)
        assert_close(z, truth[..., P:], 1e-10)


@pytest.mark.parametrize("engine", BLOCK_ENGINES)
@pytest.mark.parametrize("order, L, P, base", [(2, 40, 0, 8), (3, 45, 5, 8), (2, 20, 19, 4)])
def test_a_model_in_blocks_chooses_what_its_forward_does_of_given_tokens(engine, order, L, P, base, kernels):
    torch.manual_seed(0)
    config = HyenaConfig(d_model=6, n_layer=2, d_inner=8, vocab_size=11, l_max=L, order=order, emb_dim=3)
    model, tokens = Hyena(config).double().eval(), torch.randint(11, (2, L))
    with torch.no_grad():
        filters, expected = model.filters(), model(tokens).argmax(-1)
        run = BlockRun(model, made(engine, filters, 2, base), tokens)
        for _ in range(2):
            run.start(P)
            chosen = torch.stack([run.step(t)[0].clone() for t in range(P, L)], dim=1)
            assert torch.equal(chosen, expected[:, P:])


def test_on_a_gpu_the_sampled_engines_are_made_when_the_others_are_gone_one_after_another():
    """Only the order of things, on a CPU: three engines at the lengths that are measured would not fit on a GPU."""
    setting = bench.Setting(2000, M=1, D=4, repeats=1, naive_in_full=100)
    filters, rows = torch.randn(1, 4, 2000) / 2000, torch.randn(64, 1, 1, 4)
    alive, held = weakref.WeakSet(), []

    def make(engine):
        alive.add(run := MixerRun(make_mixer(engine, filters), rows))
        held.append(len(alive))
        return run

    makers = {engine: partial(make, engine) for engine in ("lazy", "eager", "tiled_cpu")}
    truth = bench._mixers(filters, rows)
    records = bench._in_turns("mixer", setting, makers, "cuda", tqdm(disable=True), truth)
    assert held == [1, 1, 1]
    assert [(r.engine, r.extrapolated, bool(r.step)) for r in records] == [
        ("tiled_cpu", False, False), ("lazy", True, False), ("eager", True, False)
    ]  # fmt: skip
