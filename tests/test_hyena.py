"""The operator and the model against their definitions written out in loops, and that they can be trained."""

import math

import pytest
import torch
from test_engines import ENGINES, MODES, TOLERANCE
from torch import Tensor
from truth import assert_close, causal_sum

from flashref import Hyena, HyenaConfig, HyenaOperator


def config(**changes) -> HyenaConfig:
    sizes = {"d_model": 6, "n_layer": 2, "d_inner": 10, "vocab_size": 11, "l_max": 48, "filter_order": 8}
    return HyenaConfig(**{**sizes, **changes})


def randomised(kind: type[torch.nn.Module], sizes: HyenaConfig, seed: int = 0) -> torch.nn.Module:
    """In float64, and with no weight left at a value that would hide a mistake (a bias of 0, a norm of 1)."""
    torch.manual_seed(seed)
    module = kind(sizes).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def operator_written_out(w: dict[str, Tensor], u: Tensor, order: int, shift: float) -> Tensor:
    """DESIGN, "The operator": u (L, D) -> (L, D), from the weights by name."""
    L, D = u.shape
    s = u @ w["in_proj.weight"].T + w["in_proj.bias"]
    short = torch.zeros_like(s)
    for t in range(L):
        short[t] = w["short_filter.bias"]
        for k in range(3):  # the last of the three taps belongs to the current position
            if t - 2 + k >= 0:
                short[t] += w["short_filter.weight"][:, 0, k] * s[t - 2 + k]
    streams = [short[:, i * D : (i + 1) * D] for i in range(order + 1)]

    h = w["filter_fn.pos_emb.z"][0, :L]
    for layer in (0, 2, 4):
        name = "filter_fn.implicit_filter."
        h = h @ w[f"{name}{layer}.weight"].T + w[f"{name}{layer}.bias"]
        h = torch.sin(w[f"{name}{layer + 1}.freq"] * h)
    h = h @ w["filter_fn.implicit_filter.6.weight"].T
    decay = torch.exp(-w["filter_fn.pos_emb.t"][0, :L] * w["filter_fn.modulation.deltas"][0].abs())
    h = h * (decay + shift)  # (L, (N-1) D), o outermost

    v = streams[order]
    for o in range(order - 1):
        v = v * streams[order - 1 - o]
        mine = slice(o * D, (o + 1) * D)
        v = causal_sum(v.T, h[:, mine].T).T + w["filter_fn.bias"][mine] * v
    return (v * streams[0]) @ w["out_proj.weight"].T + w["out_proj.bias"]


def norm(h: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    centred = h - h.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def model_written_out(model: Hyena, tokens: Tensor) -> Tensor:
    """DESIGN, "The model": tokens (L,) -> logits (L, V)."""
    w = {name.removeprefix("backbone."): value for name, value in model.state_dict().items()}
    h = w["embeddings.word_embeddings.weight"][tokens]
    for i in range(model.config.n_layer):
        prefix = f"layers.{i}."
        layer = {name.removeprefix(prefix): value for name, value in w.items() if name.startswith(prefix)}
        mixer = {name.removeprefix("mixer."): value for name, value in layer.items()}
        h = h + operator_written_out(mixer, norm(h, layer, "norm1"), model.config.order, model.config.shift)
        a = norm(h, layer, "norm2") @ layer["mlp.fc1.weight"].T + layer["mlp.fc1.bias"]
        a = 0.5 * a * (1 + torch.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3)))
        h = h + a @ layer["mlp.fc2.weight"].T + layer["mlp.fc2.bias"]
    return norm(h, w, "ln_f") @ w["embeddings.word_embeddings.weight"].T


@pytest.mark.parametrize("order", [2, 3, 4, 5])
@pytest.mark.parametrize("L", [1, 2, 3, 30, 48])
def test_the_operator_is_its_definition(order, L):
    op = randomised(HyenaOperator, config(order=order, shift=0.07))
    u = torch.randn(2, L, 6, dtype=torch.float64)
    truth = torch.stack([operator_written_out(op.state_dict(), u_b, order, 0.07) for u_b in u])
    assert_close(op(u), truth, 1e-10)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("order", [2, 3, 4, 5])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_operator_online_is_its_definition(engine, order, dtype):
    op = randomised(HyenaOperator, config(order=order)).to(dtype)
    u = torch.randn(2, 48, 6, dtype=dtype)
    online = op.online(engine=engine, batch_size=2)
    buffer, y = torch.empty(2, 6, dtype=dtype), []
    for t in range(48):
        y.append(online.push(buffer.copy_(u[:, t])))
        buffer.fill_(torch.nan)  # the caller may reuse it, and keep what came out
    weights = op.double().state_dict()
    truth = torch.stack([operator_written_out(weights, u_b.double(), order, 0.05) for u_b in u])
    assert_close(torch.stack(y, 1), truth, TOLERANCE[dtype])


@pytest.mark.parametrize("order", [2, 3, 4])
def test_the_model_is_its_definition(order):
    model = randomised(Hyena, config(order=order, pad_vocab_size_multiple=8))
    tokens = torch.randint(11, (2, 40))
    logits = model(tokens)
    assert logits.shape == (2, 40, 16)
    assert_close(logits, torch.stack([model_written_out(model, row) for row in tokens]), 1e-10)


def test_the_filters_of_the_model_are_those_of_its_layers_with_the_bias_at_lag_0():
    model = randomised(Hyena, config(order=3))
    filters = model.filters()
    assert filters.shape == (4, 6, 48)
    for i, layer in enumerate(model.backbone.layers):
        taps = layer.mixer.filter_fn(48).unflatten(0, (2, 6)).clone()
        taps[..., 0] += layer.mixer.filter_fn.bias.view(2, 6)
        assert torch.equal(filters[2 * i : 2 * i + 2], taps)
    assert_close(model.filters(17), filters[..., :17].detach(), 1e-12)


@pytest.mark.parametrize("made, pushed", [(a, b) for a in MODES for b in MODES])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_online_operator_works_in_any_mix_of_modes(engine, made, pushed):
    op = randomised(HyenaOperator, config(order=3))
    u = torch.randn(1, 48, 6, dtype=torch.float64, requires_grad=True)
    with MODES[made]():
        online = op.online(engine=engine)
    y = torch.empty(1, 48, 6, dtype=torch.float64)
    for t in range(48):
        with MODES[pushed if t < 20 else list(MODES)[t % 3]]():
            y[:, t] = online.push(u[:, t])
    assert_close(y, operator_written_out(op.state_dict(), u[0].detach(), 3, 0.05)[None], 1e-10)


@pytest.mark.parametrize("order", [2, 4])
def test_a_token_does_not_change_the_logits_before_it(order):
    model = randomised(Hyena, config(order=order))
    tokens = torch.randint(11, (1, 48))
    logits = model(tokens)
    for t in (0, 1, 20, 47):
        changed = tokens.clone()
        changed[0, t] = (changed[0, t] + 1) % 11
        difference = (model(changed) - logits).abs().amax(-1)[0]
        assert (difference[:t] < 1e-12).all()
        assert difference[t] > 1e-6


def test_every_weight_gets_the_gradient_of_the_definition():
    """Autograd through the package's FFTs against autograd through the loops of this file."""
    op = randomised(HyenaOperator, config(order=3))
    u, weigh = torch.randn(1, 20, 6, dtype=torch.float64), torch.randn(20, 6, dtype=torch.float64)
    (op(u)[0] * weigh).sum().backward()
    leaves = {name: value.clone().requires_grad_() for name, value in op.state_dict().items()}
    (operator_written_out(leaves, u[0], 3, 0.05) * weigh).sum().backward()
    for name, parameter in op.named_parameters():
        assert parameter.grad.abs().max() > 0, name
        assert_close(parameter.grad, leaves[name].grad, 1e-9)


def test_training_reduces_the_loss():
    torch.manual_seed(4)
    model = Hyena(config(order=2))
    tokens = torch.arange(48).remainder(5)[None].repeat(2, 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 2.0 and losses[-1] < 0.5


@pytest.mark.parametrize(
    "u, error, words",
    [
        ([1.0], TypeError, "must be a torch.Tensor, got list"),
        (torch.ones(2, 6), TypeError, "must be torch.float64 as the weights are, got torch.float32"),
        (torch.ones(6, dtype=torch.float64), ValueError, "must have shape"),
        (torch.ones(2, 5, dtype=torch.float64), ValueError, r"must have shape .* D = 6, got"),
        (torch.ones(0, 6, dtype=torch.float64), ValueError, "must have shape"),
        (torch.ones(2, 6, dtype=torch.float64, device="meta"), ValueError, "must be on cpu"),
    ],
)
def test_bad_input_of_an_operator_is_refused_and_changes_nothing(u, error, words):
    op = randomised(HyenaOperator, config(order=3))
    with pytest.raises(error, match="^u " + words):
        op(u[None] if isinstance(u, Tensor) else u)
    good = torch.randn(2, 48, 6, dtype=torch.float64)
    online = op.online(batch_size=2)
    y = []
    for t in range(48):
        with pytest.raises(error, match="^u_t " + words):
            online.push(u)
        y.append(online.push(good[:, t]))
    with pytest.raises(ValueError, match="the filters hold 48 positions and all are used"):
        online.push(good[:, 0])
    assert_close(torch.stack(y, 1), op(good).detach(), 1e-10)
    with pytest.raises(ValueError, match="48"):
        op(torch.ones(1, 49, 6, dtype=torch.float64))
    with pytest.raises(ValueError, match="engine must be one of"):
        op.online(engine="fast")


@pytest.mark.parametrize(
    "tokens, error, words",
    [
        ([[1]], TypeError, "tokens must be a tensor of integers"),
        (torch.ones(1, 3), TypeError, "tokens must be a tensor of integers"),
        (torch.ones(3, dtype=torch.int64), ValueError, r"tokens must have shape \(B, L\)"),
        (torch.ones(1, 0, dtype=torch.int64), ValueError, "tokens must hold at least one token"),
        (torch.ones(1, 49, dtype=torch.int64), ValueError, "49 positions but the filters hold l_max = 48"),
        (torch.full((1, 2), 11), ValueError, "tokens must lie in 0 .. 10"),
        (torch.full((1, 2), -1), ValueError, "tokens must lie in 0 .. 10"),
        (torch.ones(1, 2, dtype=torch.int64, device="meta"), ValueError, "tokens must be on cpu"),
    ],
)
def test_bad_tokens_are_refused_by_name(tokens, error, words):
    with pytest.raises(error, match=words):
        Hyena(config())(tokens)
