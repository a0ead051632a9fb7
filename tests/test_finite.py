"""Infinities, NaN, denormals, huge and tiny numbers: they stay in their channel and sequence, and can be reported."""

import math
from functools import partial

import pytest
import torch
from depth import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engines import ENGINES, TILED, draw, on_every_place, run
from test_error_growth import made
from truth import causal_sum

import flashref
from flashref import Generation, NotFinite, OnlineConvolution, checked, make_mixer
from flashref.alternatives import Distilled
from flashref.decoder import Decoder
from flashref.error_bound import error_bound
from flashref.finite import Checked
from flashref.graphs import BlockDecoder

SPOILED = "an infinity or a NaN put into one channel of one sequence"
BAD = [math.nan, math.inf, -math.inf]
LARGEST = torch.finfo(torch.float32).max


# Who gets to see it. ---------------------------------------------------------------------------------------------


@on_every_place
@given(
    sizes=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 200)),
    base=st.integers(1, 40),
    direct_up_to=st.sampled_from([0, 16]),
    bad=st.sampled_from(BAD),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    data=st.data(),
)
def test_what_is_not_finite_reaches_the_later_outputs_of_its_channel_and_sequence_only(
    engine, device, sizes, base, direct_up_to, bad, dtype, data, tried
):
    x, filters = draw(*sizes, torch.promote_types(dtype, torch.float32), device)
    filters[..., data.draw(st.integers(1, sizes[-1])) :] = 0  # a NaN times a tap of 0 is a NaN too
    x = x.to(dtype)
    prompt = data.draw(st.none() | st.integers(0, sizes[-1]))
    m, b, d, j = (data.draw(st.integers(0, size - 1)) for size in sizes)
    clean = run(made(engine, filters, sizes[1], base, direct_up_to), x, prompt)
    spoiled = x.clone()
    spoiled[m, b, d, j] = bad
    z = run(made(engine, filters, sizes[1], base, direct_up_to), spoiled, prompt)
    assert not torch.isfinite(z[m, b, d, j:]).any()
    in_prompt = prompt is not None and j < prompt
    same = torch.ones_like(z, dtype=torch.bool)
    same[m, b, d, 0 if in_prompt else j :] = False  # one FFT does all of a prompt
    assert torch.equal(z[same], clean[same])  # to the last bit
    if in_prompt:
        assert not torch.isfinite(z[m, b, d, :j]).any()
    tried("faults", SPOILED)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_reset_forgets_what_is_not_finite(engine):
    x, filters = draw(2, 2, 2, 90, torch.float32)
    mixer = made(engine, filters, 2)
    clean = run(mixer, x, 20)
    mixer.reset()
    run(mixer, x * math.nan, 20)
    mixer.reset()
    assert torch.equal(run(mixer, x, 20), clean)


class Spoiling(flashref.Mixer):
    """Before an engine's class: one output of mixer 0, of one sequence and channel, is a NaN. It goes into mixer 1."""

    position_spoiled, sequence, channel = 30, 1, 2

    def _step(self, m, x_t):
        z_t = super()._step(m, x_t)
        if (m, self.position) == (0, self.position_spoiled):
            z_t[self.sequence, self.channel] = math.nan
        return z_t

    def gated_step(self, m, v, gate):
        return self.step(m, v * gate)


def spoiling(engine):
    return type("Spoiling", (Spoiling, flashref.ENGINES[engine]), {})


def small_model(order=2):
    torch.manual_seed(0)
    sizes = {"d_model": 8, "n_layer": 2, "d_inner": 16, "vocab_size": 11, "l_max": 200}
    return flashref.Hyena(flashref.HyenaConfig(**sizes, order=order)).eval()


PROMPT = torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6], [5, 3, 5, 8]])


@pytest.mark.parametrize("engine", ENGINES)
def test_in_a_model_a_nan_reaches_every_logit_of_its_sequence_and_none_of_another(engine, tried):
    model = small_model()
    with torch.no_grad():
        filters = model.filters(90)
        decoders = [Decoder(model, make(filters, 3)) for make in (partial(make_mixer, engine), spoiling(engine))]
        clean, spoiled = (decoder.prefill(PROMPT) for decoder in decoders)
        for position in range(4, 90):
            token = clean.argmax(-1)
            clean, spoiled = (decoder.step(token) for decoder in decoders)
            assert torch.equal(spoiled[[0, 2]], clean[[0, 2]])
            late = position >= Spoiling.position_spoiled
            assert torch.isnan(spoiled[1]).all() if late else torch.equal(spoiled[1], clean[1])
    tried("faults", SPOILED)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("order", [2, 3])
def test_an_operator_keeps_sequences_apart_at_once_and_step_by_step(engine, order, tried):
    operator = small_model(order).backbone.layers[0].mixer
    u = torch.randn(3, 120, 8, generator=torch.Generator().manual_seed(0))
    spoiled = u.clone()
    spoiled[1, 30, 4] = math.nan
    others = [0, 2]
    with torch.no_grad():
        assert torch.equal(operator(spoiled)[others], operator(u)[others])
        first, second = operator.online(engine, 3), operator.online(engine, 3)
        for t in range(120):
            clean, bad = first.push(u[:, t]), second.push(spoiled[:, t])
            assert torch.equal(bad[others], clean[others])
            assert torch.isnan(bad[1]).all() if t >= 30 else torch.equal(bad[1], clean[1])
    tried("faults", SPOILED, 2)


def test_without_a_check_a_likeliest_token_is_still_chosen_and_a_draw_refuses():
    model = small_model()
    clean = flashref.generate(model, PROMPT, 60, engine="tiled_cpu", progress=False)
    spoiled = flashref.generate(model, PROMPT, 60, engine=spoiling("tiled_cpu"), progress=False)
    assert torch.equal(spoiled[[0, 2]], clean[[0, 2]]) and not torch.equal(spoiled[1], clean[1])
    with pytest.raises(FloatingPointError, match="no token can be drawn"):
        flashref.generate(model, PROMPT, 60, engine=spoiling("tiled_cpu"), temperature=1.0, progress=False)


# The check that one may ask for. ---------------------------------------------------------------------------------


@on_every_place
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("prompt", [None, 0, 30])
def test_a_checked_engine_gives_the_same_bits(engine, device, dtype, prompt):
    x, filters = draw(2, 2, 3, 150, torch.promote_types(dtype, torch.float32), device)
    x = x.to(dtype)
    mixer = make_mixer(checked(engine), filters, 2)
    assert isinstance(mixer, flashref.ENGINES[engine]) and mixer.name == engine
    for _ in range(2):
        assert torch.equal(run(mixer, x, prompt), run(make_mixer(engine, filters, 2), x, prompt))
        mixer.reset()


@on_every_place
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("j", [0, 20, 77])
def test_the_step_at_which_it_enters_is_reported_and_refused(engine, device, bad, j, tried):
    x, filters = draw(2, 2, 3, 100, torch.float32, device)
    mixer, z = make_mixer(checked(engine), filters, 2), torch.empty_like(x)
    for t in range(100):
        for m in range(2):
            if (m, t) == (1, j):
                spoiled = x[m, ..., t].clone()
                spoiled[1, 2], spoiled[0, 1] = math.nan, bad
                for call in (mixer.step, lambda m, v: mixer.gated_step(m, v, torch.ones_like(v))):
                    with pytest.raises(
                        NotFinite, match=f"input of mixer 1 is {bad} at position {j}, in sequence 0"
                    ) as e:
                        call(m, spoiled)
                    found = (e.value.mixer, e.value.position, e.value.sequence, e.value.channel)
                    assert found == (1, j, 0, 1) and isinstance(e.value, FloatingPointError)
                    tried("faults", SPOILED)
            z[m, ..., t] = mixer.step(m, x[m, ..., t])
        mixer.advance()
    assert torch.equal(z, run(make_mixer(engine, filters, 2), x))  # what was refused changed nothing


@on_every_place
def test_in_a_prompt_the_earliest_position_is_reported(engine, device):
    x, filters = draw(2, 2, 3, 100, torch.float32, device)
    mixer = make_mixer(checked(engine), filters, 2)
    mixer.prefill(0, x[0, ..., :60])
    spoiled = x[1, ..., :60].clone()
    spoiled[1, 2, 40], spoiled[0, 0, 50] = math.inf, math.nan
    with pytest.raises(NotFinite, match="input of mixer 1 is inf at position 40, in sequence 1, channel 2"):
        mixer.prefill(1, spoiled)
    mixer.prefill(1, x[1, ..., :60])  # and the prompt goes on
    assert mixer.position == 60


@pytest.mark.parametrize("engine", ENGINES)
def test_an_overflow_inside_a_mixer_is_reported_as_its_output(engine):
    filters = torch.ones(1, 2, 50)
    mixer = make_mixer(checked(engine), filters)
    x_t = torch.tensor([[1.0, 1e38]])
    with pytest.raises(NotFinite, match="output of mixer 0, whose inputs are finite, is inf at position 3, in") as e:
        for _ in range(50):
            mixer.step(0, x_t)
            mixer.advance()
    assert e.value.channel == 1
    mixer.reset()
    mixer.step(0, torch.full((1, 2), 3e38))  # two of them overflow in a sum, which is no reason to refuse either


@pytest.mark.parametrize("engine", ENGINES)
def test_an_overflow_in_a_prompts_output_names_the_prompt_and_no_position(engine):
    """The sums overflow from position 50 on, and the FFT that does them has no finite output at all."""
    x = torch.zeros(2, 2, 60)
    x[1, 1, 50:] = 3e38
    mixer = make_mixer(checked(engine), torch.ones(1, 2, 100), 2)
    words = "output of mixer 0, whose inputs are finite, is (nan|-?inf) in the prompt of 60 positions, in sequence 1, "
    with pytest.raises(NotFinite, match=words + "channel 1: it entered there") as e:
        mixer.prefill(0, x)
    assert (e.value.position, e.value.sequence, e.value.channel, e.value.mixer) == (None, 1, 1, 0)
    mixer.prefill(0, torch.ones(2, 2, 60))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_copy_of_a_checked_engine_is_checked_too(engine):
    x, filters = draw(1, 1, 2, 90, torch.float32)
    mixer, other = make_mixer(checked(engine), filters), make_mixer(checked(engine), filters)
    for t in range(70):
        mixer.step(0, x[0, ..., t])
        mixer.advance()
    other.restore(mixer.snapshot())
    for copy in (mixer, mixer.fork(), other):
        for t in range(70, 80):
            copy.step(0, x[0, ..., t])
            copy.advance()
        with pytest.raises(NotFinite, match="at position 80"):
            copy.step(0, x[0, ..., 80] * math.nan)


@pytest.mark.parametrize("engine", ENGINES)
def test_in_a_model_the_position_mixer_sequence_and_channel_are_reported(engine, tried):
    model = small_model()
    clean = flashref.generate(model, PROMPT, 60, engine="lazy", progress=False)
    assert torch.equal(flashref.generate(model, PROMPT, 60, engine=checked(engine), progress=False), clean)
    tokens = []
    with pytest.raises(NotFinite, match="at position 30, in sequence 1, channel 2") as e:
        for token in flashref.stream(model, PROMPT, 60, engine=checked(spoiling(engine))):
            tokens.append(token)
    assert e.value.mixer == 0
    assert torch.equal(torch.stack(tokens, 1), clean[:, 4:31])  # all that was made before stands
    tried("faults", SPOILED)


@pytest.mark.parametrize("order", [2, 3])
def test_weights_that_overflow_are_reported_where_they_do(order):
    model = small_model(order)
    with torch.no_grad():
        model.backbone.layers[1].mixer.in_proj.bias.fill_(1e30)
    with pytest.raises(NotFinite, match=f"input of mixer {order - 1} is .*inf at position 0, in sequence 0, channel 0"):
        flashref.generate(model, PROMPT, 5, engine=checked(), progress=False)
    model = small_model(order)
    with torch.no_grad():
        model.backbone.ln_f.bias[:] = math.inf
    with pytest.raises(NotFinite, match=r"a logit is .* at position 3, in sequence 0, token 0") as e:
        flashref.generate(model, PROMPT, 5, engine=checked(), progress=False)
    assert e.value.mixer is None


def test_a_checked_generation_is_put_away_resumed_and_forked_checked(tmp_path):
    model = small_model()
    run = Generation(model, PROMPT, 60, engine=checked("tiled_cpu"), temperature=1.0, seed=0)
    want = flashref.generate(model, PROMPT, 60, engine="tiled_cpu", temperature=1.0, seed=0, progress=False)
    for _ in range(20):
        next(run)
    run.save(tmp_path / "run")
    for other in (Generation.resume(tmp_path / "run", model), run.fork()):
        assert isinstance(other._mixer, Checked)
        for _ in other:
            pass
        assert torch.equal(other.tokens, want)
    plain = Generation(model, PROMPT, 60, engine="tiled_cpu")
    plain.save(tmp_path / "run")
    assert not isinstance(Generation.resume(tmp_path / "run", model)._mixer, Checked)
    run = Generation(model, PROMPT, 60, engine=checked(spoiling("tiled_cpu")))
    with pytest.raises(NotFinite):
        list(run)
    assert run.broken and run.tokens.shape[1] == 31


def test_checked_takes_what_engines_are_given_as_and_goes_where_they_go():
    rho = torch.randn(2, 60, generator=torch.Generator().manual_seed(0))
    for engine in ("auto", partial(make_mixer, "tiled_cpu", base=8), partial(Distilled, state_size=2), checked("lazy")):
        conv = OnlineConvolution(rho, engine=checked(engine))
        conv.push(torch.ones(1, 2))
        with pytest.raises(NotFinite, match="at position 1"):
            conv.push(torch.tensor([[1.0, math.nan]]))
    with pytest.raises(ValueError, match="engine must be one of"):
        checked("fast")


def test_a_decoder_of_blocks_refuses_a_checked_engine():
    model = small_model()
    with torch.no_grad():
        mixer = make_mixer(checked("tiled_gpu"), model.filters(50))
    with pytest.raises(TypeError, match="checked"):
        BlockDecoder(model, mixer)


# Huge, tiny and denormal numbers. --------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=examples(20))
@given(k=st.integers(-60, 60), prompt=st.none() | st.integers(0, 200), direct_up_to=st.sampled_from([0, 16]))
def test_inputs_times_a_power_of_two_give_the_outputs_times_it_to_the_last_bit(engine, k, prompt, direct_up_to, tried):
    x, filters = draw(1, 2, 2, 200, torch.float32)
    z = run(made(engine, filters, 2, 16, direct_up_to), x, prompt)
    scaled = run(made(engine, filters, 2, 16, direct_up_to), x * 2.0**k, prompt)
    assert torch.equal(scaled, z * 2.0**k)
    tried("cases", "scales of the inputs, from 1e-45 to 1e38")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scale", [1e30, 1e-30])
@pytest.mark.parametrize("prompt", [0, 200])
def test_huge_and_tiny_inputs_are_within_the_bound(engine, scale, prompt, tried):
    x, filters = draw(1, 2, 2, 600, torch.float32)
    x = x * scale
    mixer = make_mixer(engine, filters, 2)
    error = (run(mixer, x, prompt)[0].double() - causal_sum(x[0], filters[0])).abs()
    assert (error <= error_bound(mixer, 0, x[0], prompt=prompt)).all()
    tried("cases", "scales of the inputs, from 1e-45 to 1e38")


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=examples(15))
@given(exponent=st.integers(-149, -127), prompt=st.none() | st.integers(0, 500), direct_up_to=st.sampled_from([0, 16]))
def test_denormals_lose_the_digits_below_the_smallest_and_are_not_taken_for_zero(
    engine, exponent, prompt, direct_up_to, tried
):
    smallest = 2.0**-149
    x, filters = draw(1, 1, 1, 500, torch.float32)
    filters = filters / filters.abs().sum()
    x = x * 2.0**exponent
    assert x.any()
    mixer = made(engine, filters, 1, 16, direct_up_to)
    exact = causal_sum(x[0], filters[0])
    error = (run(mixer, x, prompt)[0].double() - exact).abs()
    # Each product and each twiddle may lose half of the smallest number, and what an FFT loses anywhere may add up.
    # Flushed to zero, a number would be off by up to 2^23 of them.
    lost = smallest * (500 if engine in ("lazy", "eager") and not prompt else 4 * 1000)
    assert (error <= error_bound(mixer, 0, x[0], prompt=prompt or 0) + lost).all()
    tried("cases", "scales of the inputs, from 1e-45 to 1e38")


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=examples(25))
@given(k=st.integers(90, 127), prompt=st.none() | st.integers(0, 300), seed=st.integers(0, 2**31))
def test_a_sum_that_does_not_fit_is_never_a_finite_number_and_one_with_room_always_is(engine, k, prompt, seed, tried):
    g = torch.Generator().manual_seed(seed)
    x, filters = torch.randn(1, 1, 2, 300, generator=g) * 2.0**k, torch.randn(1, 2, 300, generator=g)
    x = x.clamp(-LARGEST, LARGEST)
    mixer = made(engine, filters, 1, 16)
    z, exact = run(mixer, x, prompt), causal_sum(x[0], filters[0])
    assert not torch.isfinite(z[0][exact.abs() > 1.001 * LARGEST]).any()
    # Room: an FFT adds before it divides by its length n, so n times the sums of all moduli has to fit, twice.
    n, sizes = fft_points(300), x[0].double().abs().sum(-1) * filters[0].double().abs().sum(-1)
    fits = 2 * n * sizes[0] < LARGEST
    assert torch.isfinite(z[0, 0][fits]).all()
    tried("cases", "scales of the inputs, from 1e-45 to 1e38")


def fft_points(L):
    """Of the longest FFT that any engine does in L positions: a prompt's."""
    return flashref.convolution.fast_length(2 * L)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_fft_may_overflow_where_a_direct_sum_does_not_and_then_says_so(engine):
    """A first half of inputs at 1e36 and 4096 positions: the sums fit, and times the points of the FFT they do not."""
    L = 4096
    x, filters = torch.zeros(1, 1, 1, L), torch.full((1, 1, L), 1.0)
    x[..., : L // 2] = LARGEST / L
    z = run(make_mixer(engine, filters), x)[0]
    assert causal_sum(x[0], filters[0]).max() < 0.6 * LARGEST
    if engine in ("lazy", "eager"):
        assert torch.isfinite(z).all()
    else:
        assert not torch.isfinite(z).all()
    assert engine not in TILED or torch.isfinite(z[..., :64]).all()
