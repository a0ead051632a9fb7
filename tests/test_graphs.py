"""Decoding by blocks: the tokens of full passes, drawn as they should be, at addresses that stay, on CUDA too."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch
from test_generation import VOCABULARY, by_full_passes, make, prompts
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from truth import assert_close

from flashref import Hyena, HyenaConfig, make_mixer
from flashref.graphs import BlockDecoder, Replay
from flashref.tiled_gpu import TiledGPU

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
on_every_device = pytest.mark.parametrize("device", DEVICES)
# Sequences, prompt, new tokens, base: one block and many, whole and cut, base 1, and as many tokens as there can be.
RUNS = [(1, 1, 48, 4), (3, 5, 30, 7), (2, 48, 1, 4), (3, 20, 29, 64), (1, 2, 47, 1), (3, 3, 17, 8), (1, 7, 2, 1)]


@pytest.fixture
def interpreter() -> Iterator[None]:
    if find_spec("triton") is None or torch.cuda.is_available():
        pytest.skip("Triton's interpreter runs where there is Triton and no CUDA device")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        yield


def decoder(model: Hyena, B: int, length: int, base: int, seed: int | None = None, **settings) -> BlockDecoder:
    device = model.lm_head.weight.device
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        mixer = TiledGPU(model.filters(length), B, base, direct_up_to=8)
    return BlockDecoder(model, mixer, generator=generator, **settings)


def tokens_after(prompt: Tensor, n: int, model: Hyena, base: int, **settings) -> Tensor:
    """The prompt and all tokens that there can be after it, n of them."""
    device = model.lm_head.weight.device
    decoding = decoder(model, len(prompt), prompt.shape[1] + n - 1, base, **settings)
    decoding.prefill(prompt.to(device))
    return torch.cat([prompt, torch.stack(list(decoding.tokens()), dim=1).cpu()], dim=1)


@on_every_device
@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("B, P, n, base", RUNS)
def test_greedy_tokens_are_those_of_full_forward_passes(B, P, n, base, order, device):
    model, prompt = make(order, 10 + B + P), prompts(B, P)
    with torch.no_grad():
        expected = by_full_passes(model, prompt, n)
    assert torch.equal(tokens_after(prompt, n, model.to(device), base), expected)


@pytest.mark.parametrize("B, P, n, base, order", [(1, 1, 11, 4, 2), (3, 5, 8, 3, 3)])
def test_with_the_kernels_too(B, P, n, base, order, interpreter):
    model, prompt = make(order), prompts(B, P)
    with torch.no_grad():
        expected = by_full_passes(model, prompt, n)
    assert torch.equal(tokens_after(prompt, n, model, base), expected)


@on_every_device
def test_a_float32_model_too(device):
    model, prompt = make().float(), prompts(2, 5)
    with torch.no_grad():
        expected = by_full_passes(model, prompt, 30)
    assert torch.equal(tokens_after(prompt, 30, model.to(device), 8), expected)


@on_every_device
def test_bfloat16_blocks_leave_the_filters_and_the_prompt_in_float32(device):
    model, prompt = make().float(), prompts(2, 5)
    with torch.no_grad():
        expected = by_full_passes(model, prompt, 3)
        filters = model.filters(44)
    model.to(device)
    tokens = tokens_after(prompt, 40, model, 8, dtype=torch.bfloat16)
    assert torch.equal(tokens[:, :8], expected)  # later on, rounding may turn a near tie
    decoding = decoder(model, 2, 44, 8, dtype=torch.bfloat16)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert_close(decoding._mixer.filters, filters.double(), 1e-5)
    assert {block.dtype for block in (decoding._embedding, decoding._layers[0]._p)} == {torch.bfloat16}


def test_filters_of_a_bfloat16_model_have_lost_what_filters_before_the_cast_keep():
    model = make().float()
    with torch.no_grad():
        filters = model.filters().clone()
        lost = model.bfloat16().filters().float()
    assert (lost - filters).abs().max() > 2.0**-7 * filters.abs().max()
    prompt = prompts(2, 5)
    decoding = BlockDecoder(model, TiledGPU(filters, 2, 8))  # the weights in bfloat16, the filters from before
    decoding.prefill(prompt)
    assert len(list(decoding.tokens())) == filters.shape[-1] - 5 + 1


@on_every_device
@pytest.mark.parametrize("settings", [{"temperature": 1.5}, {"temperature": 3.0, "top_k": 4}])
def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(settings, device):
    model, prompt = make().to(device), prompts(2, 5)
    first, again, other = (tokens_after(prompt, 40, model, 8, seed=seed, **settings) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def chances(logits: Tensor, temperature: float, top_k: int | None) -> Tensor:
    """By definition: the weights of the top_k likeliest, over their sum."""
    weights = torch.exp(logits[..., :VOCABULARY] / temperature)
    if top_k is not None:
        weights = torch.where(weights >= weights.sort(descending=True).values[..., [top_k - 1]], weights, 0.0)
    return weights / weights.sum(-1, keepdim=True)


@on_every_device
@pytest.mark.parametrize("temperature, top_k", [(2.0, None), (4.0, 3), (4.0, 100)])
def test_tokens_are_drawn_as_often_as_they_should_be(temperature, top_k, device):
    """The first, which the prompt gives, and the next two, which are drawn in one block."""
    model, N = make(seed=3), 20000
    drawn = tokens_after(
        prompts(1, 4).expand(N, 4), 3, model.to(device), 2, seed=1, temperature=temperature, top_k=top_k
    )
    expected, paths = torch.ones(1, dtype=torch.float64), prompts(1, 4)
    model.cpu()
    for n in range(1, 4):
        with torch.no_grad():
            now = chances(model(paths)[:, -1], temperature, None if top_k == 100 else top_k)
        expected = (expected[:, None] * now).flatten()
        paths = torch.cat(
            [paths.repeat_interleave(VOCABULARY, 0), torch.arange(VOCABULARY).repeat(len(paths))[:, None]], 1
        )
        code = (drawn[:, 4 : 4 + n] * VOCABULARY ** torch.arange(n - 1, -1, -1)).sum(-1)
        counts = torch.bincount(code, minlength=VOCABULARY**n)
        assert not counts[expected == 0].any()
        # A count is binomial; five standard deviations, and a few for the rare.
        assert ((counts - N * expected).abs() <= 5 * (N * expected).sqrt() + 5).all()


class OuterTensors(TorchDispatchMode):
    """Notes where each tensor lies that an operation uses or changes, if it was there before the mode began."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self._made = [], {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        given = self._tensors((args, kwargs or {}))
        result = operation(*args, **(kwargs or {}))
        old = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.places += [
            (str(operation), tensor.data_ptr(), tensor.shape, tensor.stride())
            for tensor in given
            if tensor.untyped_storage().data_ptr() not in self._made
        ]
        for tensor in self._tensors(result):
            if (place := tensor.untyped_storage().data_ptr()) not in old:
                self._made[place] = tensor  # kept, so that no later tensor gets its place
        return result

    def _tensors(self, value) -> list[Tensor]:
        return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


@on_every_device
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "top_k": 3}])
def test_every_block_does_the_same_at_the_same_addresses(settings, device):
    decoding = decoder(make(3).to(device), 2, 40, 4, **settings)
    decoding.prefill(prompts(2, 3).to(device))
    blocks = []
    for _ in range(9):
        with torch.no_grad(), OuterTensors() as outer:
            decoding._run()
        decoding._mixer.advance_block()
        blocks.append(outer.places)
    assert len(blocks[0]) > 4 * 2 * 20 and len({place for _, place, *_ in blocks[0]}) > 50
    assert all(block == blocks[0] for block in blocks)


def test_tokens_and_blocks_are_the_callers_to_change():
    model, prompt = make(), prompts(2, 5)
    expected = tokens_after(prompt, 30, model, 4)
    decoding, found = decoder(model, 2, 34, 4), [prompt]
    decoding.prefill(prompt)
    for token in decoding.tokens():
        found.append(token[:, None].clone())
        token.fill_(7)
    assert torch.equal(torch.cat(found, dim=1), expected)


@pytest.mark.parametrize("outer", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_gradients_and_inference_mode_change_nothing(outer):
    model, prompt = make(), prompts(2, 5)
    expected = tokens_after(prompt, 30, model, 4)
    with outer():
        decoding = decoder(model, 2, 34, 4)
        decoding.prefill(prompt)
        head = decoding.block()
    assert torch.equal(torch.stack(list(decoding.tokens())[1:], 1), expected[:, 10:]) and not head.requires_grad


def test_a_mixer_that_was_reset_starts_the_next_generation():
    model = make()
    decoding = decoder(model, 2, 34, 4)
    for P in (5, 9, 1):  # nothing of a longer prompt is left behind
        decoding._mixer.reset()
        decoding.prefill(prompts(2, P))
        assert torch.equal(
            torch.stack(list(decoding.tokens()), 1), tokens_after(prompts(2, P), 35 - P, model, 4)[:, P:]
        )


def test_what_comes_before_a_prompt_or_after_the_last_position_is_refused():
    decoding = decoder(make(), 1, 8, 4)
    with pytest.raises(ValueError, match="no block is due at position 0 of 8"):
        decoding.block()
    with pytest.raises(ValueError, match=r"there is no token yet: prefill\(prompt\) first"):
        next(decoding.tokens())
    decoding.prefill(prompts(1, 5))
    decoding.block()
    with pytest.raises(ValueError, match="no block is due at position 8 of 8"):
        decoding.block()


def test_a_block_of_an_engine_that_stands_inside_one_is_refused():
    mixer = TiledGPU(torch.ones(1, 2, 9), base=4)
    mixer.step(0, torch.ones(1, 2))
    with pytest.raises(ValueError, match="no block begins at position 0"):
        mixer.advance_block()
    mixer.advance()
    with pytest.raises(ValueError, match="no block begins at position 1"):
        mixer.advance_block()


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"model": "hyena"}, TypeError, "model must be a flashref.Hyena, got str"),
        ({"mixer": "auto"}, TypeError, "mixer must be one of TiledGPU, LazyGPU, EagerGPU, got str"),
        ({"mixer": make_mixer("tiled_cpu", torch.ones(2, 6, 9))}, TypeError, "got TiledCPU"),
        ({"mixer": TiledGPU(torch.ones(3, 6, 9))}, ValueError, r"made from model.filters\(\), got .* \(3, 6, 9\)"),
        ({"dtype": torch.int64}, TypeError, "dtype must be torch.float32, .* got torch.int64"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, error, words):
    with pytest.raises(error, match=words):
        BlockDecoder(**{"model": make(), "mixer": TiledGPU(torch.ones(2, 6, 9)), **change})


def test_nothing_imports_triton_before_a_kernel_runs():
    program = "import sys, flashref, flashref.graphs; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


# What only a GPU can show. -------------------------------------------------------------------------------------------


def larger(vocabulary: int = 4099) -> Hyena:
    torch.manual_seed(0)
    config = HyenaConfig(d_model=64, n_layer=3, d_inner=128, vocab_size=vocabulary, l_max=1024, order=3)
    model = Hyena(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.cuda()


@needs_cuda
@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 1.0, "seed": 5}, {"temperature": 1.0, "top_k": 50, "seed": 5}]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_replayed_graph_gives_the_tokens_of_blocks_without_one(settings, dtype, monkeypatch):
    model, prompt = larger(), torch.randint(4099, (3, 100))
    if dtype != torch.float64:
        model = model.float()
    replayed = tokens_after(prompt, 500, model, 64, dtype=dtype, **settings)
    monkeypatch.setattr(Replay, "__call__", lambda self, run: run())
    eager = tokens_after(prompt, 500, model, 64, dtype=dtype, **settings)
    # In float64 no tie is near. In the others the same kernels run, but a library may pick others while recording.
    same = 600 if dtype == torch.float64 else 200  # from 165 on they are replayed
    assert torch.equal(replayed[:, :same], eager[:, :same])


@needs_cuda
def test_a_graph_is_recorded_once_and_replayed_for_every_block_after_the_first():
    decoding = decoder(larger(), 2, 600, 64)
    decoding.prefill(torch.randint(4099, (2, 10), device="cuda"))
    decoding.block()
    assert decoding._replay._graph is None
    decoding.block()
    graph = decoding._replay._graph
    assert isinstance(graph, torch.cuda.CUDAGraph)
    decoding.block()
    assert decoding._replay._graph is graph


@needs_cuda
@pytest.mark.parametrize("vocabulary, B", [(50257, 1), (300, 600)])
def test_the_sorts_of_large_vocabularies_and_batches_can_be_recorded(vocabulary, B):
    prompt = torch.randint(vocabulary, (B, 5))
    tokens = tokens_after(prompt, 40, larger(vocabulary), 8, temperature=1.0, top_k=20, seed=1)
    assert tokens.shape == (B, 45) and 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary


@needs_cuda
def test_a_generation_after_a_reset_records_anew():
    model, decoding = larger(), None
    for P in (50, 90):
        prompt = torch.randint(4099, (2, P))
        if decoding is None:
            decoding = decoder(model, 2, 600, 64)
        decoding._mixer.reset()
        decoding.prefill(prompt.cuda())
        found = torch.stack(list(decoding.tokens()), 1).cpu()
        assert torch.equal(found, tokens_after(prompt, 601 - P, model, 32)[:, P:])
