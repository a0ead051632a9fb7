"""Text from a model: the same tokens from every engine, drawn as they should be, and nothing done by a refused call."""

import itertools

import pytest
import torch
from test_engines import ENGINES, MODES, PLACES
from test_hyena import config, randomised

from flashref import Hyena, generate, stream

L_MAX, VOCABULARY = 48, 11


def make(order: int = 2, seed: int = 0, **sizes: int) -> Hyena:
    """A random model whose greedy text does not fall into one token for ever."""
    model = randomised(Hyena, config(order=order, pad_vocab_size_multiple=8, **sizes), seed)
    with torch.no_grad():
        model.backbone.embeddings.word_embeddings.weight.normal_()
        model.backbone.ln_f.weight.normal_()
        for layer in model.backbone.layers:
            for linear in (layer.mixer.in_proj, layer.mixer.out_proj, layer.mlp.fc1, layer.mlp.fc2):
                linear.weight.normal_()
    return model


def by_full_passes(model: Hyena, prompt: torch.Tensor, n: int) -> torch.Tensor:
    """The likeliest token, n times, each from a forward pass over everything so far."""
    tokens = prompt
    for _ in range(n):
        logits = model(tokens)[:, -1, :VOCABULARY]
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
    return tokens


def prompts(B: int, P: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (B, P), generator=torch.Generator().manual_seed(B + P))


@pytest.mark.parametrize("engine, device", PLACES)
@pytest.mark.parametrize("order", [2, 3, 4])
def test_greedy_tokens_are_those_of_full_forward_passes(order, engine, device):
    for seed, (B, P, n) in enumerate([(1, 1, 48), (3, 5, 30), (2, 48, 1), (2, 20, 29), (1, 2, 47)]):
        model, prompt = make(order, 10 + seed), prompts(B, P)
        with torch.no_grad():
            expected = by_full_passes(model, prompt, n)
        assert len(expected[:, P:].unique()) > 2 or n == 1, "a model that repeats one token would check nothing"
        tokens = generate(model.to(device), prompt.to(device), n, engine=engine)
        assert tokens.dtype == torch.int64
        assert torch.equal(tokens.cpu(), expected)


def test_a_prompt_without_a_batch_is_a_batch_of_one():
    model, prompt = make(), prompts(1, 6)
    assert torch.equal(generate(model, prompt[0], 10), generate(model, prompt, 10))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_a_prompt_of_any_integers_is_the_same_prompt(dtype):
    model, prompt = make(), prompts(2, 6)
    assert torch.equal(generate(model, prompt.to(dtype), 10), generate(model, prompt, 10))


def test_no_new_tokens_is_the_prompt():
    prompt = prompts(2, 6)
    tokens = generate(make(), prompt, 0)
    assert torch.equal(tokens, prompt) and list(stream(make(), prompt, 0)) == []
    tokens.fill_(0)
    assert torch.equal(prompt, prompts(2, 6)), "the caller's prompt is not what comes back"


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_of_a_batch_are_the_single_runs(engine):
    model, prompt = make(3), prompts(4, 9)
    together = generate(model, prompt, 30, engine=engine)
    assert torch.equal(together, torch.cat([generate(model, row, 30, engine=engine) for row in prompt]))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.5, "seed": 3}, {"temperature": 3.0, "top_k": 4, "seed": 3}])
def test_stream_yields_what_generate_returns_whatever_the_caller_does_to_it(engine, settings):
    model, prompt = make(3), prompts(2, 7)
    expected = generate(model, prompt, 30, engine=engine, **settings)
    given, seen = prompt.clone(), []
    tokens = stream(model, given, 30, engine=engine, **settings)
    given.fill_(0)
    for token in tokens:
        assert token.shape == (2,) and token.dtype == torch.int64
        seen.append(token.clone())
        token.fill_(0)
    assert torch.equal(torch.stack(seen, dim=1), expected[:, 7:])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stream_may_be_made_and_drawn_from_in_any_mix_of_modes(engine):
    model, prompt = make(3), prompts(2, 5)
    expected = generate(model, prompt, 40, engine=engine)[:, 5:]
    for made, first in itertools.product(MODES, repeat=2):
        with MODES[made]():
            tokens = stream(model, prompt, 40, engine=engine)
        seen = []
        for i in range(40):
            with MODES[first if i < 4 else list(MODES)[i % 3]]():
                seen.append(next(tokens))
        assert torch.equal(torch.stack(seen, dim=1), expected)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("engine", ENGINES)
def test_two_streams_side_by_side_do_not_touch_each_other(engine):
    model, prompt = make(), prompts(2, 5)
    expected = [generate(model, row, 30, engine=engine)[:, 5:] for row in prompt]
    seen = list(zip(*(stream(model, row, 30, engine=engine) for row in prompt), strict=True))
    for i in range(2):
        assert torch.equal(torch.stack([tokens[i] for tokens in seen], dim=1), expected[i])


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(engine):
    model, prompt = make(), prompts(2, 3)
    draw = lambda **seed: generate(model, prompt, 40, engine=engine, temperature=5.0, **seed)  # noqa: E731
    assert torch.equal(draw(seed=1), draw(seed=1))
    assert not torch.equal(draw(seed=1), draw(seed=2))
    assert not torch.equal(draw(), draw())
    state = torch.random.get_rng_state()
    draw()
    assert torch.equal(torch.random.get_rng_state(), state), "PyTorch's own generator is the caller's"


def flat(model: Hyena) -> Hyena:
    """Every token is as likely as every other."""
    with torch.no_grad():
        model.backbone.ln_f.weight.zero_()
        model.backbone.ln_f.bias.zero_()
    return model


@pytest.mark.parametrize("model", [make(), flat(make())], ids=["ordinary", "all tokens alike"])
def test_top_k_of_one_is_greedy(model):
    prompt = prompts(3, 4)
    assert torch.equal(generate(model, prompt, 20, temperature=2.0, top_k=1), generate(model, prompt, 20))


def test_a_temperature_close_to_0_is_greedy():
    model, prompt = make(), prompts(3, 4)
    for temperature in (1e-9, 1e-300, 5e-324):
        assert torch.equal(generate(model, prompt, 20, temperature=temperature), generate(model, prompt, 20))


@pytest.mark.parametrize("model", [make(), flat(make())], ids=["ordinary", "all tokens alike"])
@pytest.mark.parametrize("temperature", [2.5, 6.0])
@pytest.mark.parametrize("top_k", [None, 4, 11, 50])
def test_tokens_are_drawn_as_often_as_softmax_says(model, temperature, top_k):
    """Pearson's chi-squared over the first new token of 6000 equal prompts; the 99.9 % quantile is below 30."""
    draws, prompt = 6000, prompts(1, 5)
    tokens = generate(model, prompt.repeat(draws, 1), 1, temperature=temperature, top_k=top_k, seed=0)[:, -1]
    with torch.no_grad():
        logits = model(prompt)[0, -1, :VOCABULARY] / temperature
    allowed = sorted(range(VOCABULARY), key=lambda i: -logits[i].item())[:top_k]
    weights = logits[allowed].exp()
    expected = draws * weights / weights.sum()
    seen = torch.bincount(tokens, minlength=VOCABULARY)
    assert seen.sum() == seen[allowed].sum() == draws
    assert expected.min() > 5
    assert ((seen[allowed] - expected) ** 2 / expected).sum() < 30


def test_rows_that_pad_the_vocabulary_are_never_generated():
    model, prompt = make(), prompts(2, 4)
    with torch.no_grad():
        model.backbone.ln_f.weight.zero_()  # so that the logits are the embedding's products with the bias
        model.backbone.embeddings.word_embeddings.weight[VOCABULARY:] = 100 * model.backbone.ln_f.bias
        assert (model(prompt).argmax(-1) >= VOCABULARY).all()
    for settings in ({}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 3}, {"temperature": 1.0, "top_k": 16}):
        assert (generate(model, prompt, 40, **settings) < VOCABULARY).all()
    with pytest.raises(ValueError, match=r"prompt must lie in 0 .. 10, got values from 11 to 11"):
        generate(model, torch.tensor([VOCABULARY]), 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes_generate_too(dtype):
    model = make().to(dtype)
    for engine in ENGINES:
        tokens = generate(model, prompts(2, 5), 40, engine=engine)
        # Rounding may turn a near tie, which changes all that follows: the first few tokens are those of full passes.
        assert tokens.shape == (2, 45)
        with torch.no_grad():
            assert torch.equal(tokens[:, :8], by_full_passes(model, prompts(2, 5), 3))


def test_a_run_that_is_not_watched_prints_nothing(capfd):
    generate(make(), prompts(1, 5), 20)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("call", [generate, stream])
@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"model": "hyena"}, TypeError, "model must be a flashref.Hyena, got str"),
        ({"prompt": [1, 2]}, TypeError, "prompt must be a tensor of integers .* got list"),
        ({"prompt": "text"}, TypeError, "prompt must be a tensor of integers .* got str"),
        ({"prompt": torch.ones(3)}, TypeError, "prompt must be a tensor of integers .* got torch.float32"),
        (
            {"prompt": torch.ones(3, dtype=torch.bool)},
            TypeError,
            "prompt must be a tensor of integers .* got torch.bool",
        ),
        ({"prompt": torch.tensor(3)}, ValueError, "prompt must have shape"),
        ({"prompt": torch.ones(1, 1, 3, dtype=torch.int64)}, ValueError, "prompt must have shape"),
        ({"prompt": torch.ones(0, dtype=torch.int64)}, ValueError, "prompt must hold at least one token"),
        ({"prompt": torch.ones(2, 0, dtype=torch.int64)}, ValueError, "prompt must hold at least one token"),
        ({"prompt": torch.ones(0, 2, dtype=torch.int64)}, ValueError, "prompt must hold at least one token"),
        ({"prompt": torch.tensor([3, 11])}, ValueError, r"prompt must lie in 0 .. 10, got values from 3 to 11"),
        ({"prompt": torch.tensor([-1, 2])}, ValueError, r"prompt must lie in 0 .. 10, got values from -1 to 2"),
        ({"prompt": torch.ones(2, dtype=torch.int64, device="meta")}, ValueError, "prompt must be on cpu"),
        (
            {"prompt": torch.ones(49, dtype=torch.int64), "n": 1},
            ValueError,
            "49 positions but the filters hold",
        ),
        ({"n": -1}, ValueError, "n must be >= 0, got -1"),
        ({"n": 47}, ValueError, "the filters hold 48 positions: after this prompt n is at most 46, got 47"),
        ({"n": 2.0}, TypeError, "n must be an integer"),
        ({"n": None}, TypeError, "n must be an integer"),
        ({"engine": "fast"}, ValueError, 'engine must be one of "lazy"'),
        ({"temperature": -0.1}, ValueError, "temperature must be finite and >= 0, got -0.1"),
        ({"temperature": float("nan")}, ValueError, "temperature must be finite"),
        ({"temperature": float("inf")}, ValueError, "temperature must be finite"),
        ({"temperature": "1"}, TypeError, "temperature must be a number"),
        ({"top_k": 0}, ValueError, "top_k must be >= 1, got 0"),
        ({"top_k": 1.5}, TypeError, "top_k must be an integer"),
        ({"seed": "x"}, TypeError, "seed must be an integer"),
        ({"seed": 2**64}, ValueError, "seed must fit into 64 bits"),
    ],
)
def test_bad_input_is_refused_when_called_and_by_name(call, change, error, words):
    good = {"model": make(), "prompt": torch.tensor([1, 2, 3]), "n": 2}
    with pytest.raises(error, match=words):
        call(**{**good, **change})


def test_filters_that_are_not_finite_are_refused_when_stream_is_called():
    model = make()
    with torch.no_grad():
        model.backbone.layers[1].mixer.filter_fn.bias[2] = torch.nan
    with pytest.raises(ValueError, match=r"filters must be finite, got nan at filters\[1, 2, 0\]"):
        stream(model, torch.tensor([1]), 4)


def test_a_prompt_of_one_and_as_many_tokens_as_the_filters_hold():
    assert generate(make(), torch.tensor([3]), L_MAX).shape == (1, L_MAX + 1)
    assert generate(make(), torch.ones(L_MAX, dtype=torch.int64), 1).shape == (1, L_MAX + 1)
