"""The Attention Free Transformer layer against its definition, for small keys and for keys that exp cannot hold."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_framework import run, weighted_mean
from truth import assert_close

from flashref import ENGINES
from flashref.attention_free import AttentionFreeLayer
from flashref.framework_examples import AttentionFree

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-4}


def drawn(L, D=2, B=1, dtype=torch.float64, spread=1.0, slope=0.0, seed=0):
    """A layer with random weights, keys about ``spread`` large, a bias that falls by ``slope`` a lag; and an input."""
    g = torch.Generator().manual_seed(seed)
    layer = AttentionFreeLayer(D, max(L, 1)).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g, dtype=torch.float64))
        layer.key.weight.mul_(spread)
        layer.w -= slope * torch.arange(layer.l_max)
    return layer, torch.randn(B, L, D, generator=g, dtype=torch.float64).to(dtype)


@torch.no_grad()
def truth(layer, u):
    """Written out in float64 from the layer's q, k, v, which are rounded before as the layer's are."""
    x = torch.stack([layer.query(u), layer.key(u), layer.value(u)], 2).double()  # (B, L, 3, D)
    return torch.stack([weighted_mean(sequence, layer.w.double()) for sequence in x])


def pushed(layer, u, engine="tiled_cpu", prompt=None):
    online = layer.online(engine, u.shape[0])
    y = [] if prompt is None else [online.prefill(u[:, :prompt])]
    assert online.position == (prompt or 0)
    y += [online.push(u_t)[:, None] for u_t in u[:, prompt or 0 :].unbind(1)]
    assert online.position == u.shape[1]
    return (torch.cat(y, 1) if y else torch.zeros_like(u)), online


def test_every_length_from_0_to_300_is_the_definition_in_training_form_and_online():
    for L in range(301):
        layer, u = drawn(L, seed=L)
        expected = truth(layer, u)
        assert_close(layer(u), expected, 1e-11)
        assert_close(pushed(layer, u, prompt=(None, 0, L // 2, L)[L % 4])[0], expected, 1e-11)


@pytest.mark.parametrize("engine", ENGINES)
@given(
    L=st.integers(1, 80), prompt=st.none() | st.integers(0, 80), spread=st.sampled_from([0.1, 3.0, 30.0, 300.0]),
    slope=st.sampled_from([0.0, 0.1, 10.0]), dtype=st.sampled_from(list(TOLERANCE)), seed=st.integers(0, 99),
)  # fmt: skip
def test_on_every_engine_keys_and_biases_of_any_size_give_the_definition(engine, L, prompt, spread, slope, dtype, seed):
    layer, u = drawn(L, 2, 2, dtype, spread, slope, seed)
    y, online = pushed(layer, u, engine, None if prompt is None else min(prompt, L))
    for got in (y, layer(u)):
        assert got.dtype == dtype
        assert_close(got, truth(layer, u), TOLERANCE[dtype])
    assert 0 <= online.direct <= L


def keyed(keys, slope, dtype, w=None):
    """One channel whose keys and values are given: u is (key, value), and the gate is open."""
    layer = AttentionFreeLayer(2, len(keys)).to(dtype)
    with torch.no_grad():
        layer.query.weight.zero_()
        layer.query.bias.fill_(100.0)
        layer.key.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        layer.value.weight.copy_(torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        layer.key.bias.zero_()
        layer.value.bias.zero_()
        layer.w.copy_(-slope * torch.arange(len(keys)) if w is None else torch.tensor(w).expand(2, -1))
    values = torch.arange(1.0, len(keys) + 1, dtype=dtype)
    return layer, torch.stack([torch.tensor(keys, dtype=dtype), values], -1)[None]


KEYS = {
    "0, 500, -500, 1000": [0.0, 500.0, -500.0, 1000.0],
    "a huge key, then small ones": [1000.0] + [0.0] * 99,
    "small keys, then a huge one": [0.0] * 99 + [1000.0],
    "keys that grow": [30.0 * t for t in range(100)],
    "keys that fall": [-30.0 * t for t in range(100)],
    "huge keys all alike": [5000.0] * 100,
    "tiny keys all alike": [-5000.0] * 100,
    "beyond what float32 can square": [0.0, 1e30, -1e30, 0.0],
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("slope", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("keys", KEYS)
def test_large_keys_give_what_the_safe_definition_gives(keys, slope, dtype):
    layer, u = keyed(KEYS[keys], slope, dtype)
    expected = truth(layer, u)
    assert_close(layer(u), expected, TOLERANCE[dtype])
    for prompt in (None, 1, 2, 3, len(KEYS[keys])):
        assert_close(pushed(layer, u, prompt=prompt)[0], expected, TOLERANCE[dtype])


def test_the_keys_0_500_minus_500_1000_by_hand():
    """Without bias each output is the value of the largest key so far: all others weigh exp(-500)."""
    layer, u = keyed([0.0, 500.0, -500.0, 1000.0], 0.0, torch.float32)
    assert pushed(layer, u)[0][0, :, 0].tolist() == [1.0, 2.0, 2.0, 4.0]


def test_a_huge_key_whose_bias_decays_leaves_the_word_to_the_small_ones_and_not_0_over_0():
    """exp(1000 - 600 t) falls behind exp(0) at t = 2, where exp(-1000) has long been 0 in the engine."""
    layer, u = keyed([1000.0, 0.0, 0.0, 0.0], 600.0, torch.float64)
    y, online = pushed(layer, u)
    assert y[0, :, 0].tolist() == pytest.approx([1.0, 1.0, 3.0, 4.0])
    assert online.direct == 3 and online.moved == 0


def test_a_bias_of_any_height_is_normalised_by_its_maximum():
    layer, u = keyed([0.0, 1.0, 2.0, 3.0], 0.0, torch.float32, w=[5000.0, 5001.0, 4999.0, 5000.0])
    assert_close(pushed(layer, u)[0], truth(layer, u), 1e-5)
    assert_close(layer(u), truth(layer, u), 1e-5)


def test_a_large_key_and_a_large_bias_are_added_without_rounding_in_a_direct_sum():
    """In float32 1000.03 + 7000.02 is off by 2e-4, and exp of it by as much."""
    layer, u = keyed([1000.03, 0.02, 0.07, 0.05], 0.0, torch.float32, w=[7000.02, 6000.04, 5000.06, 5000.01])
    with torch.no_grad():
        layer.value.weight.mul_(1000.0)
    y, online = pushed(layer, u)
    assert online.direct > 0
    assert_close(y, truth(layer, u), 3e-6)


@pytest.mark.parametrize(("dtype", "room"), [(torch.float32, 44), (torch.float64, 354)])
def test_the_shift_moves_only_when_exp_might_overflow_and_ordinary_keys_need_no_direct_sum(dtype, room):
    layer, u = drawn(300, 4, 2, dtype)
    _, online = pushed(layer, u)
    assert (online.moved, online.direct) == (0, 0)
    for step, moves in ((room - 1, 0), (room + 1, 1)):
        layer, u = keyed([0.0, step, step, step + 1.0], 0.0, dtype)
        assert pushed(layer, u)[1].moved == moves


def test_the_layer_is_the_frameworks_mixer_between_projections():
    layer, u = drawn(60, 3)
    with torch.no_grad():
        x = list(zip(layer.query(u[0]), layer.key(u[0]), layer.value(u[0]), strict=True))
    z = torch.stack(run(AttentionFree(layer.w), x, 4, 10))
    assert_close(layer(u)[0], z, 1e-11)


@pytest.mark.parametrize(("spread", "slope"), [(5.0, 0.0), (5.0, 3.0), (1000.0, 0.0)])
def test_gradients_are_those_of_the_definition_in_outputs_by_fft_and_in_direct_ones(spread, slope):
    """With keys of a thousand the convolutions give 0/0, whose gradient must not get out."""
    layer, u = drawn(12, 2, 1, spread=spread, slope=slope)
    parameters = list(layer.parameters())

    def written_out():
        x = torch.stack([layer.query(u), layer.key(u), layer.value(u)], 2)
        return weighted_mean(x[0], layer.w)[None]

    weights = torch.linspace(-1, 1, u.numel(), dtype=u.dtype).view_as(u)
    got = torch.autograd.grad((layer(u) * weights).sum(), parameters)
    expected = torch.autograd.grad((written_out() * weights).sum(), parameters)
    flat = [torch.cat([g.flatten() for g in grads]) for grads in (got, expected)]  # the key's bias has none: it cancels
    assert_close(*flat, 1e-9)


def test_it_learns_which_lag_to_copy():
    torch.manual_seed(0)
    layer, u = AttentionFreeLayer(4, 32), torch.randn(16, 32, 4)
    target = u.roll(3, 1)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.1)
    losses = []
    for _ in range(60):
        loss = (layer(u) - target)[:, 3:].square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert (layer.w.argmax(-1) == 3).all()
    assert_close(pushed(layer, u)[0], truth(layer, u), 2e-4)


def test_refused_calls_name_what_is_wrong_and_change_nothing():
    layer, u = drawn(10, 2, 3)
    online = layer.online(batch_size=3)
    for call, error, said in [
        (lambda: layer(u.float()), TypeError, "u must be torch.float64"),
        (lambda: layer("u"), TypeError, "u must be a torch.Tensor, got str"),
        (lambda: layer(u[0]), ValueError, r"u must have shape \(B, L, D\) with D = 2, got \(10, 2\)"),
        (lambda: layer(u.repeat(1, 2, 1)), ValueError, "at most l_max = 10 positions, got 20"),
        (lambda: online.push(u), ValueError, r"u_t must have shape \(B, D\) with B = 3, D = 2, got \(3, 10, 2\)"),
        (lambda: online.push(u[:2, 0]), ValueError, r"got \(2, 2\)"),
        (lambda: online.prefill(u[:2]), ValueError, r"u must have shape \(B, P, D\) with B = 3, D = 2, got \(2, 10"),
        (lambda: online.prefill(u.repeat(1, 2, 1)), ValueError, "at most l_max = 10 positions, got 20"),
        (lambda: layer.online("fast"), ValueError, "engine must be one of"),
        (lambda: layer.online(batch_size=0), ValueError, "batch_size must be >= 1"),
        (lambda: AttentionFreeLayer(0, 3), ValueError, "d_model must be >= 1"),
        (lambda: AttentionFreeLayer(3, 0), ValueError, "l_max must be >= 1"),
    ]:
        with pytest.raises(error, match=said):
            call()
    y = torch.stack([online.push(u_t) for u_t in u.unbind(1)], 1)
    assert_close(y, truth(layer, u), 1e-11)
    with pytest.raises(ValueError, match="the bias holds 10 positions and all are used"):
        online.push(u[:, 0])
    with pytest.raises(ValueError, match="a prompt comes before any position, and 10 are there"):
        online.prefill(u)


def test_an_online_layer_made_or_begun_in_inference_mode_goes_on_outside_it():
    layer, u = drawn(40, 2, spread=5.0)
    with torch.inference_mode():
        online = layer.online()
        y = [online.prefill(u[:, :10])] + [online.push(u[:, t])[:, None] for t in range(10, 20)]
    y += [online.push(u[:, t])[:, None] for t in range(20, 40)]
    assert_close(torch.cat([part.clone() for part in y], 1), truth(layer, u), 1e-11)


def test_the_online_layer_keeps_its_weights_and_what_it_gave_out():
    layer, u = drawn(40, 2, spread=5.0, slope=3.0)
    expected, online, buffer, kept = truth(layer, u), layer.online(), torch.empty_like(u[:, 0]), []
    with torch.no_grad():
        layer.w.zero_()
    for u_t in u.unbind(1):
        kept.append(online.push(buffer.copy_(u_t)))
    assert_close(torch.stack(kept, 1), expected, 1e-11)
    assert 0 < online.direct < 40  # by the engine and directly
