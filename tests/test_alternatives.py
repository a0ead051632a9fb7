"""The approximate engines: exact for the filters that they can hold, a plain convolution always, and honest."""

from functools import partial

import pytest
import torch
from depth import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engines import MODES, TOLERANCE, draw, run, truth
from truth import assert_close

import flashref
from flashref import make_mixer
from flashref.alternatives import Approximate, Dilated, Distilled, FewLags, Truncated
from flashref.distillation import Modes, distil, stable

MAKERS = {
    "truncated": partial(Truncated, window=20),
    "truncated to one tap": partial(Truncated, window=1),
    "truncated to more than there is": partial(Truncated, window=1000),
    "dilated": partial(Dilated, window=8),
    "few lags": partial(FewLags, lags=[range(0, 9, 3), range(9, 10), range(30, 100, 7)]),
    "distilled": partial(Distilled, state_size=5),
    "distilled to one": partial(Distilled, state_size=1),
    "distilled to more than there is": partial(Distilled, state_size=200),
}
# With more states than a filter needs, residues may be large and cancel: see _residues.
LOOSE = {torch.float64: 1e-7, torch.float32: 1e-3}
each = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
sizes = st.tuples(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.one_of(st.integers(0, 40), st.integers(0, 200))
)


def tolerance(mixer: Approximate, dtype: torch.dtype = torch.float64) -> float:
    return (LOOSE if getattr(mixer, "modes", None) and mixer.modes.state_size == 200 else TOLERANCE)[dtype]


def cancels(mixer: Approximate, x: torch.Tensor, exact: torch.Tensor) -> float:
    """How much larger than the outputs are the states' shares of them: where poles nearly coincide they cancel."""
    if getattr(mixer, "modes", None) is None or not exact.numel():
        return 1.0
    shares = mixer.modes.residues.abs().double().sum(-1).amax() * x.abs().double().amax() * x.shape[-1] ** 0.5
    return max(1.0, (shares / exact.abs().amax().clamp(min=1e-30)).item())


def decaying(filters: torch.Tensor) -> torch.Tensor:
    """Random filters that fade, as a model's do."""
    return filters * torch.exp(-torch.arange(filters.shape[-1]) / 20)


@each
@settings(max_examples=examples(25))
@given(sizes=sizes, prompt=st.none() | st.integers(0, 200), dtype=st.sampled_from(list(TOLERANCE)))
def test_an_engine_is_the_sum_with_its_own_filters_with_and_without_a_prompt(make, sizes, prompt, dtype):
    x, filters = draw(*sizes, dtype)
    prompt = None if prompt is None else min(prompt, sizes[-1])
    mixer = make_mixer(make, decaying(filters).to(dtype), sizes[1])
    exact = truth(x, mixer.filters)
    for _ in range(2):  # again after a reset
        rounding = torch.finfo(mixer.filters.dtype).eps * cancels(mixer, x, exact)
        assert_close(run(mixer, x, prompt), exact, tolerance(mixer, dtype) + rounding)
        mixer.reset()


@each
def test_a_prompt_then_steps_equals_steps_alone(make):
    x, filters = draw(2, 2, 3, 150)
    mixer = make_mixer(make, decaying(filters), 2)
    alone = run(mixer, x)
    for prompt in (0, 1, 63, 64, 65, 149, 150):
        mixer.reset()
        assert_close(run(mixer, x, prompt), alone, tolerance(mixer))


@each
def test_the_error_is_that_of_the_impulse_response_and_its_bound_holds_and_is_reached(make):
    x, filters = draw(2, 1, 3, 120)
    filters = decaying(filters)
    mixer = make_mixer(make, filters)
    impulse = torch.zeros(2, 1, 3, 120, dtype=torch.float64)
    impulse[..., 0] = 1
    difference = (run(mixer, impulse)[:, 0] - filters).abs()
    error = mixer.error
    size = filters.abs().amax().item()
    assert ((error.relative - difference.norm(dim=-1) / filters.norm(dim=-1)).abs() < tolerance(mixer)).all()
    assert ((error.largest - difference.amax(-1)).abs() < size * tolerance(mixer)).all()
    assert ((error.l1 - difference.sum(-1)).abs() < 100 * size * tolerance(mixer)).all()

    worst = (mixer.filters - filters).sign().flip(-1).unsqueeze(1)  # the inputs that the bound is made for
    for x in (x, 3 * worst):  # noqa: B020
        mixer.reset()
        off = (run(mixer, x)[:, 0] - truth(x, filters)[:, 0]).abs()
        bound = error.bound(x.abs().amax((1, 3)))
        assert (off <= bound.unsqueeze(-1) + 100 * tolerance(mixer)).all()
    assert ((off[..., -1] - bound).abs() < 100 * tolerance(mixer)).all()


@pytest.mark.parametrize("window", [1, 2, 7, 64, 100, 101])
def test_a_truncated_filter_is_the_filter_up_to_the_window_and_zero_beyond(window):
    x, filters = draw(2, 2, 3, 100)
    cut = torch.where(torch.arange(100) < window, filters, 0)
    mixer = Truncated(filters, 2, window)
    assert torch.equal(mixer.filters, cut)
    assert_close(run(mixer, x), truth(x, cut), 1e-10)


def test_a_dilated_filter_keeps_all_lags_of_the_window_and_half_as_many_in_each_octave_beyond():
    mixer = Dilated(torch.ones(1, 1, 70), window=8)
    kept = [*range(8), *range(8, 16, 2), *range(16, 32, 4), *range(32, 64, 8), 64]
    assert mixer.filters[0, 0].nonzero().flatten().tolist() == kept
    assert [lag for r in mixer.lags for lag in r] == kept


@settings(max_examples=examples(60))
@given(N=st.integers(1, 8), seed=st.integers(0, 10**6), count=st.sampled_from([40, 300]), real=st.booleans())
def test_a_sum_of_n_exponentials_is_distilled_exactly(N, seed, count, real):
    """Written out in float64: real bases, or pairs of complex ones, inside the disc or on its edge.

    Up to rounding, which grows with the condition of the Hankel matrix: the closer two bases, the harder to tell apart.
    """
    g = torch.Generator().manual_seed(seed)
    lags = torch.arange(count, dtype=torch.float64)
    modulus = 0.4 + 0.6 * torch.rand(2, 3, N, generator=g, dtype=torch.float64)
    modulus[0, 0, 0] = 1.0
    c = torch.randn(2, 3, N, 2, generator=g, dtype=torch.float64)
    angle = 3 * torch.rand(2, 3, N, 1, generator=g, dtype=torch.float64) * (not real)
    terms = c[..., :1] * torch.cos(angle * lags) + c[..., 1:] * torch.sin(angle * lags)
    tail = (modulus[..., None] ** lags * terms).sum(-2)
    filters = torch.cat([torch.randn(2, 3, 1, generator=g, dtype=torch.float64), tail], dim=-1)
    n = N if real else 2 * N
    mixer = Distilled(filters, state_size=n)
    rows = min(128, (count + 1) // 2)
    strength = torch.linalg.svdvals(tail[..., : 2 * rows - 1].unfold(-1, rows, 1))
    condition = (strength[..., 0] / strength[..., n - 1]).max().item()
    tolerance = min(1e-11 + 100 * 2**-52 * condition, 1e-5)
    assert_close(mixer.filters, filters, tolerance)
    x = torch.randn(2, 1, 3, count + 1, generator=g, dtype=torch.float64)
    assert_close(run(mixer, x, 10), truth(x, filters), tolerance)


def nasty(kind: int, count: int, g: torch.Generator) -> torch.Tensor:
    lags = torch.arange(count, dtype=torch.float64)
    at = int(torch.randint(max(1, count), (), generator=g))
    return [
        lambda: 1.2**lags,  # grows
        lambda: torch.zeros(count, dtype=torch.float64),
        lambda: torch.ones(count, dtype=torch.float64),
        lambda: (-1.0) ** lags,
        lambda: (lags == at).double(),  # an impulse, anywhere
        lambda: lags,  # a double pole on the circle
        lambda: torch.randn(count, generator=g, dtype=torch.float64),
        lambda: torch.randn(count, generator=g, dtype=torch.float64) * 1.1**lags,
        lambda: 1e-200 * torch.cos(lags),
        lambda: 1e30 * torch.cos(lags**2),
    ][kind]()


@settings(max_examples=examples(150))
@given(
    kind=st.integers(0, 9), count=st.integers(0, 300), N=st.integers(1, 20), seed=st.integers(0, 9),
    dtype=st.sampled_from(list(TOLERANCE)),
)  # fmt: skip
def test_no_pole_leaves_the_unit_disc_whatever_the_filter_and_no_error_exceeds_the_filter(kind, count, N, seed, dtype):
    filters = nasty(kind, count, torch.Generator().manual_seed(seed)).to(dtype).view(1, 1, count)
    modes = distil(filters, N)
    assert modes.poles.shape[-1] <= N and modes.poles.dtype == dtype.to_complex()
    assert (modes.poles.abs() <= 1).all() and torch.isfinite(torch.view_as_real(modes.residues)).all()
    mixer = Distilled(filters, modes=modes)
    assert torch.isfinite(mixer.filters).all()
    if filters[..., 1:].any():  # a least squares fit is no worse than nothing
        assert mixer.error.relative <= 1 + 1e-5
    else:
        assert mixer.error.largest.max() == 0 or count == 0


def test_more_states_are_no_worse_on_a_filter_that_fades():
    filters = decaying(draw(1, 1, 3, 200)[1])
    errors = [Distilled(filters, state_size=N).error.relative.max().item() for N in (2, 8, 32, 90)]
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.3 and errors[-1] < 1e-3


def test_poles_on_or_beyond_the_circle_come_to_rest_just_inside_it_on_their_rays():
    poles = torch.tensor([0, 0.5j, 1, -1, 3, -4j, 0.6 + 0.8j], dtype=torch.complex64)
    found = stable(poles)
    assert torch.equal(found[:2], poles[:2]) and (found.abs() <= 1).all()
    assert_close(found[2:].abs(), torch.ones(5, dtype=torch.float64), 1e-6)
    assert_close(torch.view_as_real(found[2:]), torch.view_as_real((poles / poles.abs())[2:]).double(), 1e-6)


def test_modes_can_be_used_again_for_fewer_positions():
    x, filters = draw(2, 1, 3, 90)
    modes = distil(filters, 6)
    short = Distilled(filters[..., :50], modes=modes)
    assert torch.equal(short.filters, Distilled(filters, state_size=6).filters[..., :50])
    assert_close(run(short, x[..., :50]), truth(x[..., :50], short.filters), 1e-10)


@each
@pytest.mark.parametrize("made", MODES)
def test_inference_mode_and_gradients_change_nothing(make, made):
    x, filters = draw(2, 1, 2, 80)
    with MODES[made]():
        mixer = make_mixer(make, filters.clone().requires_grad_())
        given = x.clone().requires_grad_()
    exact = truth(x, mixer.filters)
    for stepped in MODES:
        with MODES[stepped]():
            z = run(mixer, given.clone(), 9)
        assert_close(z, exact, tolerance(mixer))
        mixer.reset()


@each
def test_bfloat16_inputs_are_computed_in_float32(make):
    x, filters = draw(1, 2, 3, 100, torch.bfloat16)
    mixer = make_mixer(make, decaying(filters.float()), 2)
    z, exact = run(mixer, x, 30), truth(x, mixer.filters)
    assert z.dtype == torch.bfloat16
    assert ((z.double() - exact).abs() <= 2.0**-8 * exact.abs() + 1e-4 * exact.abs().max()).all()


@pytest.fixture(scope="module")
def model() -> flashref.Hyena:
    torch.manual_seed(0)
    return flashref.Hyena(flashref.HyenaConfig(d_model=8, n_layer=2, d_inner=16, vocab_size=30, l_max=200)).double()


def test_generate_and_stream_take_an_engine_that_is_made_by_a_callable(model):
    """An approximation that leaves nothing out writes what the exact engines write; a coarse one need not."""
    prompt, how = torch.tensor([1, 2, 3]), {"temperature": 1.0, "seed": 3}
    exact = flashref.generate(model, prompt, 150, "lazy", progress=False, **how)
    everything = partial(Truncated, window=200)
    assert torch.equal(flashref.generate(model, prompt, 150, everything, progress=False, **how), exact)
    streamed = [int(token) for token in flashref.stream(model, prompt, 150, everything, **how)]
    assert streamed == exact[0, 3:].tolist()
    assert torch.equal(flashref.generate(model, prompt, 150, flashref.Eager, progress=False, **how), exact)
    coarse = flashref.generate(model, prompt, 150, partial(Distilled, state_size=2), progress=False, **how)
    assert coarse.shape == exact.shape
    conv = flashref.OnlineConvolution(torch.ones(1, 4), partial(Truncated, window=2))
    assert [conv.push(torch.ones(1, 1)).item() for _ in range(4)] == [1, 2, 2, 2]


@pytest.mark.parametrize(
    "engine, error, words",
    [
        (lambda filters, B: filters, TypeError, "engine must make a flashref.Mixer .* it made Tensor"),
        (lambda filters, B: flashref.Lazy(filters[..., :5], B), ValueError, "engine must make a mixer with M, D, L"),
        (lambda filters, B: flashref.Lazy(filters, B + 1), ValueError, "engine must make a mixer with M, D, L"),
    ],
)
def test_a_callable_that_makes_something_else_is_refused(model, engine, error, words):
    with pytest.raises(error, match=words):
        make_mixer(engine, torch.ones(1, 2, 8))
    with pytest.raises(error, match=words):
        flashref.generate(model, torch.tensor([1]), 20, engine)


def test_a_mixer_that_was_used_is_refused():
    used = flashref.Lazy(torch.ones(1, 2, 8))
    used.step(0, torch.ones(1, 2))
    used.advance()
    with pytest.raises(ValueError, match="position"):
        make_mixer(lambda *_: used, torch.ones(1, 2, 8))
    with pytest.raises(ValueError, match="base belongs to the tiled engines only"):
        make_mixer(flashref.Lazy, torch.ones(1, 2, 8), base=8)


ONES = torch.ones(1, 2, 8)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: Truncated(ONES, window=0), ValueError, "window must be >= 1, got 0"),
        (lambda: Truncated(ONES, window=2.0), TypeError, "window must be an integer"),
        (lambda: Dilated(ONES, window=0), ValueError, "window must be >= 1, got 0"),
        (lambda: Dilated(None), TypeError, "filters must be a torch.Tensor"),
        (lambda: Distilled(ONES, state_size=0), ValueError, "state_size must be >= 1"),
        (lambda: Distilled(ONES, state_size=True), TypeError, "state_size must be an integer"),
        (lambda: Distilled(ONES[0]), ValueError, r"filters must have shape \(M, D, L\)"),
        (lambda: Distilled(ONES * torch.nan), ValueError, "filters must be finite"),
        (lambda: Distilled(ONES, modes=distil(ONES[:, :1], 2)), ValueError, r"modes must be of \(M, D\) = \(1, 2\)"),
        (lambda: Distilled(ONES, modes=3), TypeError, "modes must be a Modes"),
        (lambda: Distilled(ONES, 0), ValueError, "batch_size must be >= 1"),
        (lambda: distil(ONES, 0), ValueError, "state_size must be >= 1"),
        (lambda: distil(ONES.long(), 1), TypeError, "filters must be float32"),
        (lambda: FewLags(ONES, 1, [range(1, 3)]), ValueError, "lags must be ranges that begin at 0"),
        (lambda: FewLags(ONES, 1, [range(3), range(2, 5)]), ValueError, "lags must be ranges that begin at 0"),
        (lambda: FewLags(ONES, 1, []), ValueError, "lags must be ranges that begin at 0"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, error, words):
    with pytest.raises(error, match=words):
        call()


@each
def test_the_approximate_engines_are_marked_and_refuse_wrong_calls_as_all_mixers_do(make):
    mixer = make_mixer(make, ONES)
    assert isinstance(mixer, Approximate) and not mixer.exact and mixer.name not in flashref.ENGINES
    with pytest.raises(ValueError, match="advance is out of order"):
        mixer.advance()
    with pytest.raises(ValueError, match=r"x_t must have shape \(B, D\)"):
        mixer.step(0, torch.ones(1, 3))
    assert mixer.position == 0


def test_every_engine_with_a_name_is_exact():
    assert all(engine.exact for engine in flashref.ENGINES.values())


def test_modes_say_how_many_states_they_stand_for():
    modes = distil(draw(1, 1, 2, 100)[1], 6)
    assert isinstance(modes, Modes) and modes.state_size == 6
    counted = (1 + (modes.poles.imag > 0).int()).sum(-1)
    assert (counted >= 6).all()  # channels with fewer pairs are filled up
