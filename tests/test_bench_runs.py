"""What the benchmark times is what it says: mixers run a block at a time give the sum, with the kernels and without."""

from importlib.util import find_spec

import pytest
import torch
from truth import assert_close, causal_sum

from flashref.bench_runs import MixerBlockRun, mixer_step
from flashref.tiled_gpu import TiledGPU


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("L, P, base", [(40, 0, 8), (45, 5, 8), (17, 16, 4), (9, 3, 1)])
def test_mixers_alone_in_blocks_give_the_sum(L, P, base, kernels, monkeypatch):
    if kernels:
        if find_spec("triton") is None or torch.cuda.is_available():
            pytest.skip("Triton's interpreter runs where there is Triton and no CUDA device")
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    torch.manual_seed(0)
    M, B, D, R = 2, 2, 3, 16
    filters, rows = torch.randn(M, D, L, dtype=torch.float64), torch.randn(R, M, B, D, dtype=torch.float64)
    run = MixerBlockRun(TiledGPU(filters, B, base, direct_up_to=4), rows)
    assert (run.mixer_step is not mixer_step) == kernels
    x = rows[torch.arange(L) % R, -1].permute(1, 2, 0)
    truth = causal_sum(x, filters[-1])
    for _ in range(2):  # a second run begins anew
        run.start(P)
        z = torch.stack([run.step(t).clone() for t in range(P, L)], dim=-1)
        assert_close(z, truth[..., P:], 1e-10)
