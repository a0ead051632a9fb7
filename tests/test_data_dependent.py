"""The product of two online series, and the model on it, against sums written out in float64."""

import re
import textwrap
from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from truth import assert_close

import flashref
from flashref import HyenaConfig, schedule
from flashref.data_dependent import (
    LazyProduct,
    ProductTile,
    RelaxedProduct,
    causal_product,
    product_cost,
    product_schedule,
    square_schedule,
)
from flashref.data_dependent_model import DataDependentHyena, DataDependentOperator, generate, repeated_words
from flashref.tiling import cost

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
PRODUCTS = [LazyProduct, RelaxedProduct]


def product_sum(x: Tensor, rho: Tensor) -> Tensor:
    """z[..., t] = sum_{j<=t} x[..., j] * rho[..., t-j], term by term along each anti-diagonal, in float64."""
    x, rho = x.double(), rho.double()
    z = [(x[..., : t + 1] * rho[..., : t + 1].flip(-1)).sum(-1) for t in range(x.shape[-1])]
    return torch.stack(z, -1) if z else torch.zeros_like(x)


def draw(B: int, D: int, L: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """x and rho, each (B, D, L)."""
    return torch.randn(2, B, D, L, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def run(product, x: Tensor, rho: Tensor) -> Tensor:
    z = torch.empty_like(x)
    for t in range(x.shape[-1]):
        z[..., t] = product.push(x[..., t], rho[..., t])
        assert product.position == t + 1
    return z


# The schedule. ---------------------------------------------------------------------------------------------------


@given(L=st.integers(0, 200), base=st.integers(1, 20) | st.integers(1, 300))
@example(L=130, base=1)
@example(L=64, base=64)
def test_every_pair_is_multiplied_once_and_in_time(L, base):
    found = Counter()
    for tile in product_schedule(L, base):
        for j, k in tile.pairs():
            found[j, k] += 1
            assert max(j, k) < tile.step <= j + k, f"{tile} at ({j}, {k})"
    assert found == Counter((j, k) for j in range(1, L) for k in range(1, L - j))


@pytest.mark.parametrize("L", [*range(40), 127, 128, 129])
def test_squares_hold_every_pair_once_but_some_are_due_in_their_own_step(L):
    found = Counter()
    for tile in square_schedule(L):
        for j, k in tile.pairs():
            found[j, k] += 1
            assert max(j, k) < tile.step <= j + k + 1
    assert found == Counter((j, k) for j in range(1, L) for k in range(1, L - j))


def test_the_first_tiles_are_those_that_one_finds_by_hand():
    assert product_schedule(7) == [
        ProductTile(2, range(1, 2), range(1, 2), range(2, 3)),  # x_1 rho_1 -> z_2
        ProductTile(3, range(2, 3), range(1, 2), range(3, 4)),  # x_2 rho_1 + rho_2 x_1 -> z_3
        ProductTile(4, range(1, 4), range(1, 4), range(4, 7)),  # what 1, 2, 3 say about 4, 5, 6
        ProductTile(5, range(4, 5), range(1, 2), range(5, 6)),
        ProductTile(6, range(4, 6), range(1, 4), range(6, 7)),
    ]
    assert sorted(product_schedule(7)[2].pairs()) == [(1, 3), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3)]


@pytest.mark.parametrize("base", [1, 2, 3, 8, 50, 64])
def test_the_product_takes_at_most_two_and_a_half_times_the_points_of_the_fixed_filter(base):
    for L in (*range(300), 511, 512, 513, 1000, 3000, 4096, 4097, 6143, 2**14):
        points = product_cost(product_schedule(L, base)).fft_points
        assert points <= 1.5 * cost(schedule(L, base=base)).fft_points, f"L = {L}"


@pytest.mark.parametrize("k", range(2, 13))
def test_the_counts_are_their_closed_formulas_for_powers_of_two(k):
    """In octave N = 2^q: one tile of 3N points, and N/(2U) of three transforms of 2U for each U = 2 .. N/2."""
    L = 2**k
    octaves = [3 * 2**q + sum(2 ** (q - 1 - p) * 3 * 2 ** (p + 1) for p in range(1, q)) for q in range(2, k)]
    assert product_cost(product_schedule(L)).fft_points == sum(octaves) == 3 * L * (k - 2)
    if k >= 8:  # squares take more than two and a half times the fixed filter's points, and less than three times
        assert 2.5 < product_cost(square_schedule(L)).fft_points / (2 * L * (k - 1)) < 3


def test_done_directly_a_product_costs_the_pairs_of_a_fixed_filter():
    for L, base in ((0, 1), (1, 1), (65, 1), (100, 8), (50, 64)):
        pairs = (L - 1) * (L - 2) // 2 if L > 1 else 0
        assert product_cost(product_schedule(L, base), fft_from=10**6).multiply_adds == pairs


@pytest.mark.parametrize("call", [product_schedule, square_schedule])
@pytest.mark.parametrize("L, error", [(-1, ValueError), (2.0, TypeError), (None, TypeError)])
def test_a_schedule_refuses_by_name(call, L, error):
    with pytest.raises(error, match=r"^L must be"):
        call(L)
    with pytest.raises(ValueError, match=r"^base must be >= 1"):
        product_schedule(4, 0)
    with pytest.raises(ValueError, match=r"^fft_from must be >= 2"):
        product_cost([], 1)


# The product. ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base, direct_up_to", [(1, 1), (7, 5), (64, 16)])
def test_every_length_up_to_300_is_the_sum(base, direct_up_to):
    for L in range(301):
        x, rho = draw(1, 1, L, seed=L)
        product = RelaxedProduct(1, L, dtype=torch.float64, base=base)
        product.direct_up_to = direct_up_to
        assert_close(run(product, x, rho), product_sum(x, rho), 1e-10)
        assert product.fft_points == product_cost(product_schedule(L, base), direct_up_to + 1).fft_points


@pytest.mark.parametrize("make", PRODUCTS)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(0, 300)),
    base=st.integers(1, 9) | st.integers(1, 400),
    direct_up_to=st.integers(0, 40),
    dtype=st.sampled_from(list(TOLERANCE)),
)
def test_every_size_is_the_sum_and_again_after_a_reset(make, sizes, base, direct_up_to, dtype):
    B, D, L = sizes
    x, rho = draw(B, D, L, dtype)
    product = make(D, L, B, dtype, **({"base": base} if make is RelaxedProduct else {}))
    product.direct_up_to = direct_up_to
    run(product, rho[..., : L // 2], x[..., : L // 2])
    product.reset()
    assert product.position == 0
    assert_close(run(product, x, rho), product_sum(x, rho), TOLERANCE[dtype])


@pytest.mark.parametrize("points", [1, 300, 2**19])
def test_a_few_thousand_positions_in_chunks_of_channels(points):
    x, rho = draw(2, 3, 2500, torch.float32)
    product = RelaxedProduct(3, 2500, 2)
    product.chunk_points = points
    assert_close(run(product, x, rho), product_sum(x, rho), 1e-4)


def test_32768_positions_in_float32():
    L = 2**15
    x, rho = draw(1, 1, L, torch.float32)
    z = run(RelaxedProduct(1, L), x, rho)
    positions = [*range(5), L // 2 - 1, L // 2, L // 2 + 1, *range(700, L, 701), L - 2, L - 1]
    x, rho = x.double(), rho.double()
    exact = torch.stack([(x[..., : t + 1] * rho[..., : t + 1].flip(-1)).sum(-1) for t in positions], -1)
    assert_close(z[..., positions], exact, 1e-4)


def test_the_offline_product_is_the_sum_and_refuses_by_name():
    x, rho = draw(2, 3, 50)
    assert_close(causal_product(x, rho), product_sum(x, rho), 1e-12)
    with pytest.raises(ValueError, match=r"one shape \(B, D, L\), got \(2, 3, 50\) and \(2, 3, 49\)"):
        causal_product(x, rho[..., :-1])
    with pytest.raises(ValueError, match="one shape"):
        causal_product(x[0], rho[0])
    with pytest.raises(TypeError, match=r"rho must be a torch.Tensor, got list"):
        causal_product(x, [1.0])
    with pytest.raises(TypeError, match="one dtype"):
        causal_product(x, rho.float())


def test_the_example_of_the_module_runs_as_it_stands(capsys):
    text = flashref.data_dependent.__doc__
    exec(textwrap.dedent(text[text.index("    import torch") : text.index("How it works")]), {})
    error, ratio = map(float, re.findall(r"[\d.]+(?:e-\d+)?", capsys.readouterr().out.replace("tensor", "")))
    assert error < 1e-3 and 1 < ratio < 1.5


@pytest.mark.parametrize("make", PRODUCTS)
def test_each_output_may_depend_on_all_before_it(make):
    """Both series are made from the outputs so far: what is pushed cannot have been known before."""
    L, product = 200, make(2, 200, dtype=torch.float64)
    x, rho, z = [torch.ones(1, 2, dtype=torch.float64)], [torch.ones(1, 2, dtype=torch.float64)], []
    for t in range(L):
        z.append(product.push(x[t], rho[t]))
        x.append(torch.cos(z[t]))
        rho.append(0.9**t * torch.sin(z[t] + x[t]))
    assert_close(torch.stack(z, -1), product_sum(torch.stack(x[:L], -1), torch.stack(rho[:L], -1)), 1e-10)


@pytest.mark.parametrize("make", PRODUCTS)
def test_kept_outputs_and_reused_inputs_change_nothing(make):
    x, rho = draw(2, 3, 200)
    product, z, row = make(3, 200, 2, torch.float64), torch.empty_like(x), torch.empty(2, 2, 3, dtype=torch.float64)
    kept = []
    for t in range(200):
        row[0], row[1] = x[..., t], rho[..., t]
        z_t = product.push(*row)
        z[..., t] = z_t
        kept.append(z_t)
        row.fill_(torch.nan)
        if t % 3 == 0:
            z_t.fill_(torch.nan)
    exact = product_sum(x, rho)
    assert_close(z, exact, 1e-10)
    for t in range(200):
        if t % 3:
            assert_close(kept[t], exact[..., t], 1e-9)


@pytest.mark.parametrize("made", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("pushed", [nullcontext, torch.no_grad, torch.inference_mode])
def test_inference_mode_and_gradients_in_any_mix(made, pushed):
    x, rho = draw(1, 2, 90)
    with made():
        product = RelaxedProduct(2, 90, dtype=torch.float64, base=4)
    z = torch.empty_like(x)
    for t in range(90):
        with pushed() if t % 2 else nullcontext():
            z_t = product.push(x[..., t].clone().requires_grad_(), rho[..., t].clone())
            assert not z_t.requires_grad
        z[..., t] = z_t
    assert_close(z, product_sum(x, rho), 1e-10)


@pytest.mark.parametrize("make", PRODUCTS)
def test_after_every_refused_push_the_product_is_as_it_was(make):
    x, rho = draw(2, 3, 70)
    product, z = make(3, 70, 2, torch.float64), torch.empty_like(x)
    for t in range(70):
        good = x[..., t]
        bad = [
            (TypeError, "must be a torch.Tensor, got list", [1.0]),
            (ValueError, r"must have shape \(B, D\) = \(2, 3\), got \(2,\)", good[:, 0]),
            (ValueError, r"must have shape \(B, D\) = \(2, 3\), got \(1, 3\)", good[:1]),
            (TypeError, "must be torch.float64 as the product is, got torch.float32: convert", good.float()),
            (ValueError, "must be on cpu where the product is, got meta", good.to("meta")),
        ]
        for error, words, wrong in bad if t in (0, 1, 63, 64, 69) else ():
            with pytest.raises(error, match=f"^x_t {words}"):
                product.push(wrong, good)
            with pytest.raises(error, match=f"^rho_t {words}"):
                product.push(good, wrong)
        z[..., t] = product.push(good, rho[..., t])
    with pytest.raises(ValueError, match=r"holds 70 positions and all are used: reset\(\)"):
        product.push(good, good)
    assert product.position == 70
    assert_close(z, product_sum(x, rho), 1e-10)


@pytest.mark.parametrize(
    "args, error, words",
    [
        ((0, 5), ValueError, "channels must be >= 1, got 0"),
        ((1, -1), ValueError, "length must be >= 0, got -1"),
        ((1.0, 5), TypeError, "channels must be an integer, got float"),
        ((1, 5, 0), ValueError, "batch_size must be >= 1, got 0"),
        ((1, 5, 1, torch.int64), TypeError, "dtype must be torch.float32 or torch.float64, got torch.int64"),
        ((1, 5, 1, torch.float32, "cpu", 0), ValueError, "base must be >= 1, got 0"),
    ],
)
def test_a_product_that_cannot_be_made_is_refused_by_name(args, error, words):
    with pytest.raises(error, match=words):
        RelaxedProduct(*args)


# The model. ------------------------------------------------------------------------------------------------------

CONFIG = HyenaConfig(d_model=4, n_layer=2, d_inner=8, vocab_size=11, l_max=200, pad_vocab_size_multiple=4)


def model_in_float64(seed: int = 0) -> DataDependentHyena:
    """Weights three times as large as a model's begin with: then the tokens vary."""
    model = DataDependentHyena(CONFIG, seed).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3) if weight.dim() > 1 else weight.add_(0.1)
    return model


def operator_sum(operator: DataDependentOperator, u: Tensor) -> Tensor:
    """The operator's definition, a position, a tap and an anti-diagonal at a time."""
    (_, L, D), w = u.shape, operator.short_filter.weight[:, 0]
    p = operator.in_proj(u)
    s = torch.stack(
        [operator.short_filter.bias + sum(w[:, 2 - i] * p[:, t - i] for i in range(min(3, t + 1))) for t in range(L)], 1
    )
    x, rho = s[..., D : 2 * D] * s[..., 2 * D : 3 * D], s[..., 3 * D :] * operator.window[:L]
    z = product_sum(x.mT, rho.mT).mT
    return operator.out_proj(z * s[..., :D])


def logits_sum(model: DataDependentHyena, tokens: Tensor) -> Tensor:
    h = model.embedding.weight[tokens]
    for layer in model.layers:
        h = h + operator_sum(layer.mixer, layer.norm1(h))
        h = h + layer.mlp(layer.norm2(h))
    return model.ln_f(h) @ model.embedding.weight.T


@pytest.mark.parametrize("B, L", [(1, 1), (2, 2), (3, 70), (1, 200)])
def test_forward_and_push_are_the_operators_definition(B, L):
    operator, u = model_in_float64().layers[0].mixer, draw(B, L, 4)[0]
    exact = operator_sum(operator, u)
    assert_close(operator(u), exact, 1e-10)
    for engine in ("lazy", "relaxed"):
        online = operator.online(L, B, engine)
        assert_close(torch.stack([online.push(u[:, t]) for t in range(L)], 1), exact, 1e-10)
        with pytest.raises(ValueError, match=f"made for {L} positions and all are used"):
            online.push(u[:, 0])


def test_the_filter_of_a_position_depends_on_the_inputs_up_to_it_and_on_no_later_one():
    operator, u = model_in_float64().layers[0].mixer, draw(1, 60, 4)[0]
    assert_close(operator.filters(u[:, :30]), operator.filters(u)[..., :30], 1e-12)
    assert not torch.allclose(operator.filters(2 * u), operator.filters(u))
    changed = u.clone()
    changed[:, 30] += 1
    y, other = operator(u), operator(changed)
    assert_close(other[:, :30], y[:, :30], 1e-12)
    assert ((other - y)[:, 30:].abs().amax(-1) > 1e-9).all()
    assert not torch.allclose(operator(2 * u), 2 * y)  # no linear filter


def test_the_gradient_flows_through_forward_to_every_weight():
    model = DataDependentHyena(CONFIG).double()
    tokens = torch.arange(22).reshape(2, 11) % 11
    torch.nn.functional.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in model.parameters())
    operator = DataDependentOperator(CONFIG).double()
    assert torch.autograd.gradcheck(operator, draw(1, 7, 4)[0].requires_grad_())


@pytest.mark.parametrize("seed", range(3))
def test_generated_tokens_are_those_of_the_naive_way(seed):
    """Greedy, in float64: each token from the whole sequence again, by sums written out."""
    model, prompt = model_in_float64(seed), torch.tensor([[1, 2, 3], [5, 0, 10]])
    naive = prompt
    with torch.no_grad():
        while naive.shape[1] < 150:
            naive = torch.cat([naive, logits_sum(model, naive)[:, -1:, :11].argmax(-1)], dim=1)
    assert len(naive[:, 3:].unique()) > 2
    for engine in ("lazy", "relaxed"):
        assert torch.equal(generate(model, prompt, 147, engine), naive)
    assert torch.equal(generate(model, prompt[0], 147), naive[:1])


def test_a_seed_says_which_tokens_are_drawn_and_which_weights_are_made():
    state = torch.get_rng_state()
    model, prompt = model_in_float64(), torch.tensor([1, 2])
    drawn = [generate(model, prompt, 60, engine, 1.5, seed) for engine in ("relaxed", "lazy") for seed in (1, 2)]
    assert torch.equal(drawn[0], drawn[2]) and torch.equal(drawn[1], drawn[3])
    assert not torch.equal(drawn[0], drawn[1]) and drawn[0].max() < 11
    assert torch.equal(torch.get_rng_state(), state)  # the reader's own random numbers are left alone
    first, again, other = DataDependentHyena(CONFIG, 3), DataDependentHyena(CONFIG, 3), DataDependentHyena(CONFIG, 4)
    assert torch.equal(first.embedding.weight, again.embedding.weight)
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


def test_the_last_token_of_a_full_window_is_not_fed_back():
    model = model_in_float64()
    assert generate(model, torch.zeros(1, dtype=torch.long), 200).shape == (1, 201)
    assert torch.equal(generate(model, torch.tensor([4]), 0), torch.tensor([[4]]))
    with pytest.raises(ValueError, match="after this prompt n is at most 200, got 201"):
        generate(model, torch.zeros(1, dtype=torch.long), 201)


@given(sizes=st.tuples(st.integers(1, 4), st.integers(1, 90)), seed=st.integers(0, 99), longest=st.integers(6, 40))
def test_repeated_words_repeat_from_the_first_mark_on(sizes, seed, longest):
    tokens, known = repeated_words(*sizes, seed, symbols=3, longest=longest)
    assert tokens.shape == known.shape == sizes
    for row, follows in zip(tokens.tolist(), known.tolist(), strict=True):
        first = row.index(3) if 3 in row else len(row)
        assert min(6, len(row)) <= first <= longest and follows == [t > first for t in range(len(row))]
        assert all(row[t] == row[t - first - 1] for t in range(first + 1, len(row)))


def test_one_layer_learns_to_repeat_words_of_any_length_and_goes_on_far_beyond_what_it_saw():
    """100 steps on 96 positions; then a word and its mark are given, and the next 375 tokens are the word again."""
    config = HyenaConfig(d_model=32, n_layer=1, d_inner=64, vocab_size=9, l_max=400, slow_decay=50.0, fast_decay=7.5)
    model = DataDependentHyena(config, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(100):
        tokens, known = repeated_words(32, 96, seed=step)
        logits = model(tokens)[:, :-1][known[:, 1:]]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, tokens[:, 1:][known[:, 1:]]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    tokens, known = repeated_words(8, 401, seed=1000)
    for row, follows in zip(tokens, known, strict=True):
        prompt = row[: int(follows.nonzero()[0])]
        assert (generate(model, prompt, 401 - len(prompt))[0] == row).double().mean() > 0.99


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda m: generate(m.layers[0], torch.tensor([1]), 1), TypeError, "model must be a DataDependentHyena"),
        (lambda m: generate(m, [1], 1), TypeError, "prompt must be a tensor of integers"),
        (lambda m: generate(m, torch.tensor([11]), 1), ValueError, "prompt must lie in 0 .. 10"),
        (lambda m: generate(m, torch.tensor([1]), -1), ValueError, "n must be >= 0"),
        (lambda m: generate(m, torch.tensor([1]), 1, "eager"), ValueError, 'engine must be "lazy" or "relaxed"'),
        (lambda m: generate(m, torch.tensor([1]), 1, temperature=-1), ValueError, "temperature must be a finite"),
        (lambda m: generate(m, torch.tensor([1]), 1, seed=0.5), TypeError, "seed must be an integer"),
        (lambda m: m(torch.ones(1, 201, dtype=torch.long)), ValueError, "hold l_max = 200"),
        (lambda m: m.layers[0].mixer(torch.ones(1, 201, 4).double()), ValueError, "u has 201 positions"),
        (lambda m: m.layers[0].mixer(torch.ones(1, 2, 4)), TypeError, "u must be torch.float64"),
        (lambda m: m.layers[0].mixer.filters(torch.ones(1, 201, 4).double()), ValueError, "u has 201 positions"),
        (lambda m: repeated_words(0, 5, 0), ValueError, "batch_size must be >= 1"),
        (lambda m: repeated_words(1, 5, 0, longest=5), ValueError, "longest must be >= 6"),
        (lambda m: repeated_words(1, 5, None), TypeError, "seed must be an integer"),
        (lambda m: m.layers[0].mixer.online(201), ValueError, "length must be at most l_max = 200, got 201"),
        (lambda m: m.layers[0].mixer.online().push(torch.ones(1, 4)), TypeError, "u_t must be torch.float64"),
        (lambda m: m.layers[0].mixer.online().push(torch.ones(2, 4).double()), ValueError, "u_t must have shape"),
        (lambda m: DataDependentHyena(HyenaConfig(4, 1, 8, 11, 20, order=3)), ValueError, "order must be 2"),
        (lambda m: DataDependentHyena(CONFIG, 0.5), TypeError, "seed must be an integer"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, error, words):
    with pytest.raises(error, match=words):
        call(model_in_float64())
