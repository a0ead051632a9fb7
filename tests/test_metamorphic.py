"""What must hold between two runs of one engine, whatever the sum is: linear, shifted, cut short, kept apart, split.

Where two runs make the same operations on the same numbers they agree to the last bit, and the test says torch.equal.
Where another order of the channels, another batch size or another prompt puts a number into another lane of the
processor or another FFT, they agree up to rounding. Rows of bfloat16 go into an engine of float32.
"""

from dataclasses import dataclass

import pytest
import torch
from depth import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engines import ENGINES, TILED, TOLERANCE, run
from torch import Tensor

from flashref import Mixer, make_mixer
from flashref.alternatives import Truncated

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
every_engine = pytest.mark.parametrize("engine", ENGINES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32", "bfloat16"])


@dataclass(frozen=True)
class Sizes:
    """Of a random run: M mixers, B sequences, D channels, L positions, P of them a prompt or none, a tiled engine's
    block and the largest tile that it does directly."""

    M: int
    B: int
    D: int
    L: int
    P: int | None
    base: int
    direct_up_to: int
    seed: int

    def engine(self, engine: str, filters: Tensor, B: int | None = None) -> Mixer:
        filters = filters if filters.dtype == torch.float64 else filters.float()
        mixer = make_mixer(engine, filters, B or self.B, **({"base": self.base} if engine in TILED else {}))
        if engine in TILED:
            mixer._tau.direct_up_to = self.direct_up_to
        if engine == "bounded":
            mixer.piece_points = 16
        return mixer

    def go(self, engine: str, x: Tensor, filters: Tensor, prompt: int | None = -1) -> Tensor:
        prompt = self.P if prompt == -1 else prompt
        return run(self.engine(engine, filters, x.shape[1]), x, prompt)

    def draw(self, dtype: torch.dtype, *more: int) -> tuple[Tensor, Tensor]:
        """Inputs (M, B, D, L) and filters (M, D, L); ``more`` draws others."""
        g = torch.Generator().manual_seed(hash((self.seed, more)) % 2**32)
        x = torch.randn(self.M, self.B, self.D, self.L, generator=g, dtype=torch.float64)
        return x.to(dtype), torch.randn(self.M, self.D, self.L, generator=g, dtype=torch.float64).to(dtype)


@st.composite
def sizes(draw, least: int = 1) -> Sizes:
    M, B, D, L = draw(st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 5), st.integers(least, 70)))
    P = draw(st.none() | st.integers(0, L))
    return Sizes(M, B, D, L, P, draw(st.integers(1, 20)), draw(st.sampled_from([0, 4, 16])), draw(st.integers(0, 99)))


def assert_same(a: Tensor, b: Tensor, *terms: Tensor) -> None:
    """a and b agree up to rounding, where they are sums of numbers as large as in a, b and the terms."""
    assert a.shape == b.shape and a.dtype == b.dtype and torch.isfinite(a).all() and torch.isfinite(b).all()
    largest = max((t.abs().max().item() for t in (a, b, *terms) if t.numel()), default=0.0)
    tolerance = 2.0**-6 if a.dtype == torch.bfloat16 else TOLERANCE[a.dtype]
    assert not a.numel() or (a.double() - b.double()).abs().max().item() <= tolerance * largest


@every_dtype
@every_engine
@settings(max_examples=examples(8))
@given(size=sizes())
def test_the_outputs_are_linear_in_the_inputs_and_in_the_filters(engine, dtype, size, tried):
    (x, rho), (y, sigma) = size.draw(dtype), size.draw(dtype, 1)
    if dtype == torch.bfloat16:  # whole numbers up to 8, so that a sum of two of them is a bfloat16 again
        x, rho, y, sigma = (t.float().mul(3).round().clamp(-8, 8).to(dtype) for t in (x, rho, y, sigma))
    of_x, of_y = size.go(engine, x, rho), size.go(engine, y, rho)
    assert_same(size.go(engine, x + y, rho), of_x + of_y, of_x, of_y)
    of_sigma = size.go(engine, x, sigma)
    assert_same(size.go(engine, x, rho + sigma), of_x + of_sigma, of_x, of_sigma)
    tried("cases", "linear in inputs and filters")


@every_dtype
@every_engine
@settings(max_examples=examples(8))
@given(size=sizes(), power=st.integers(-20, 20), sign=st.sampled_from([-1, 1]))
def test_a_power_of_two_goes_through_to_the_last_bit(engine, dtype, size, power, sign, tried):
    x, rho = size.draw(dtype)
    want = size.go(engine, x, rho) * (sign * 2.0**power)
    assert torch.equal(size.go(engine, x * (sign * 2.0**power), rho), want)
    assert torch.equal(size.go(engine, x, rho * (sign * 2.0**power)), want)
    tried("cases", "scaled by a power of two, to the last bit", 2)


@every_dtype
@every_engine
@settings(max_examples=examples(8))
@given(size=sizes(), by=st.integers(0, 70))
def test_inputs_that_come_later_give_the_same_outputs_later(engine, dtype, size, by, tried):
    by = min(by, size.L)
    x, rho = size.draw(dtype)
    late = torch.cat([torch.zeros_like(x[..., :by]), x[..., : size.L - by]], dim=-1)
    z, of_late = size.go(engine, x, rho), size.go(engine, late, rho)
    assert_same(of_late[..., by:], z[..., : size.L - by], z)
    if size.P is None:  # in a prompt's FFT zeros come out as rounding errors
        assert not of_late[..., :by].any()
    assert_same(of_late[..., :by], torch.zeros_like(late[..., :by]), z)
    tried("cases", "shifted in time")


@every_dtype
@every_engine
@settings(max_examples=examples(8))
@given(size=sizes(), K=st.integers(1, 70))
def test_a_filter_that_is_zero_from_lag_k_on_forgets_what_is_older(engine, dtype, size, K, tried):
    K = min(K, size.L)
    x, rho = size.draw(dtype)
    padded = torch.cat([rho[..., :K], torch.zeros_like(rho[..., K:])], dim=-1)
    z = size.go(engine, x, padded)
    wide = rho if rho.dtype == torch.float64 else rho.float()
    assert_same(z, run(Truncated(wide, size.B, window=K), x), z)
    # Up to K positions nothing is forgotten yet: an engine of K taps does the same, and cannot go further.
    of_k_taps = size.go(engine, x[..., :K], rho[..., :K], None)
    assert_same(z[..., :K], of_k_taps, z)
    # And what came more than K positions ago may have been anything.
    other = size.draw(dtype, 1)[0]
    mixed = torch.cat([other[..., : size.L // 2], x[..., size.L // 2 :]], dim=-1)
    since = size.L // 2 + K - 1
    assert_same(size.go(engine, mixed, padded)[..., since:], z[..., since:], z)
    tried("cases", "zero from lag K on", 3)


@every_dtype
@every_engine
@settings(max_examples=examples(8))
@given(
    size=sizes(),
    axis=st.sampled_from(["mixer", "sequence", "channel"]),
    how=st.sampled_from([1e3, torch.nan, torch.inf]),
)
def test_what_one_sequence_channel_or_mixer_gets_changes_no_bit_of_the_others(engine, dtype, size, axis, how, tried):
    """Not even NaN and infinity get across: nothing ever adds numbers of two channels, sequences or mixers."""
    x, rho = size.draw(dtype)
    along = ["mixer", "sequence", "channel"].index(axis)
    which = size.seed % x.shape[along]
    others = [i for i in range(x.shape[along]) if i != which]
    y, sigma = x.clone(), rho.clone()
    y.select(along, which).mul_(how)
    if axis != "sequence":  # the sequences share the filters
        sigma.select(0 if axis == "mixer" else 1, which).mul_(-3)
    rest = torch.tensor(others, dtype=torch.long)
    z, changed = size.go(engine, x, rho), size.go(engine, y, sigma)
    assert torch.equal(changed.index_select(along, rest), z.index_select(along, rest))
    tried("cases", "one sequence, channel or mixer changed: no bit of the others")


@every_dtype
@every_engine
@settings(max_examples=examples(8))
@given(size=sizes(), data=st.data())
def test_sequences_channels_and_mixers_may_stand_in_any_order_and_alone(engine, dtype, size, data, tried):
    """Up to rounding: in another lane of the processor the last bit of a sum may be rounded otherwise."""
    x, rho = size.draw(dtype)
    m, b, d = (torch.tensor(data.draw(st.permutations(range(n)))) for n in (size.M, size.B, size.D))
    z = size.go(engine, x, rho)
    shuffled = size.go(engine, x[m][:, b][:, :, d], rho[m][:, d])
    assert_same(shuffled, z[m][:, b][:, :, d], z)
    m, b, d = m[:1], b[:1], d[:1]
    alone = size.go(engine, x[m][:, b][:, :, d], rho[m][:, d])
    assert_same(alone, z[m][:, b][:, :, d], z)
    tried("cases", "sequences, channels and mixers in another order, and alone", 2)


@every_dtype
@every_engine
@settings(max_examples=examples(8))
@given(size=sizes(), prompts=st.lists(st.integers(0, 70), min_size=1, max_size=3))
def test_a_prompt_of_any_length_then_steps_is_steps_alone(engine, dtype, size, prompts, tried):
    x, rho = size.draw(dtype)
    alone = size.go(engine, x, rho, None)
    for P in prompts:
        assert_same(size.go(engine, x, rho, min(P, size.L)), alone)
        tried("cases", "a prompt and steps, against steps alone")


@every_dtype
@every_engine
@settings(max_examples=examples(8))
@given(size=sizes(), data=st.data())
def test_a_run_that_is_handed_on_again_and_again_is_the_run_to_the_last_bit(engine, dtype, size, data, tried):
    """At positions drawn anew for every run the generation goes on in a fork, or in another engine by its snapshot."""
    x, rho = size.draw(dtype)
    start = size.P or 0
    cuts = data.draw(st.dictionaries(st.integers(start, size.L), st.booleans(), max_size=6))
    mixer, z = size.engine(engine, rho), torch.empty_like(x)
    for m in range(size.M if size.P is not None else 0):
        z[m, ..., :start] = mixer.prefill(m, x[m, ..., :start])
    for t in range(start, size.L):
        if cuts.get(t):
            mixer = mixer.fork()
        elif t in cuts:
            kept, mixer = mixer.snapshot(), size.engine(engine, rho)
            mixer.restore(kept)
        for m in range(size.M):
            z[m, ..., t] = mixer.step(m, x[m, ..., t])
        mixer.advance()
    assert torch.equal(z, size.go(engine, x, rho))
    tried("cases", "handed on at any positions, to the last bit", len(cuts))
