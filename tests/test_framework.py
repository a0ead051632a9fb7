"""The general framework: exact for every mixer with P1 and P2, the work that was promised, and what it refuses."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from truth import assert_close, causal_sum

from flashref import schedule
from flashref.framework import ContributionMixer, Known, Online, PropertyError, offline
from flashref.framework_examples import AttentionFree, LongConvolution, MaxPlus

D = 2


def row(rng, width=D):
    return torch.from_numpy(rng.standard_normal(width))


def three_rows(rng, width=D):
    return row(rng, width), row(rng, width), row(rng, width)


def weighted_mean(x, w):
    """AFT written out: softmax over j of k_j + w_{t-j}, all pairs at once. x: (L, 3, D), w: (D, L)."""
    q, k, v = x.unbind(1)
    lag = torch.arange(len(x))[:, None] - torch.arange(len(x))
    scores = torch.where(lag[..., None] >= 0, k + w.T[lag.clamp(min=0)], -torch.inf)
    return torch.sigmoid(q) * (scores.softmax(1) * v).sum(1)


def running_maximum(x, rho):
    lag = torch.arange(len(x))[:, None] - torch.arange(len(x))
    return torch.where(lag[..., None] >= 0, x + rho.T[lag.clamp(min=0)], -torch.inf).amax(1)


# mixer, how an input is drawn, all outputs from stacked inputs and the filter by the definition
EXAMPLES = {
    "long convolution": (LongConvolution, row, lambda x, rho: causal_sum(x.T, rho).T),
    "max-plus": (MaxPlus, row, running_maximum),
    "attention free": (AttentionFree, three_rows, weighted_mean),
}
on_every_example = pytest.mark.parametrize("name", EXAMPLES)


def stacked(x):
    return torch.stack([torch.stack(x_t) if isinstance(x_t, tuple) else x_t for x_t in x])


def drawn(name, L, seed=0):
    make, draw, definition = EXAMPLES[name]
    rng = np.random.default_rng(seed)
    taps = torch.from_numpy(rng.standard_normal((D, L)))
    x = [draw(rng) for _ in range(L)]
    return make(taps), x, definition(stacked(x), taps) if L else torch.zeros(0, D, dtype=torch.float64)


def run(mixer, x, base=1, prompt=None):
    online = Online(mixer, len(x), base)
    z = [] if prompt is None else online.prefill(x[:prompt])
    assert online.position == len(z)
    for x_t in x[len(z) :]:
        z.append(online.push(x_t))
    assert online.position == len(x)
    return z


class Concatenation(ContributionMixer):
    """Strings: associative, does not commute, has no inverse; cont names the input and the lag."""

    def cont(self, x, j, t):
        return f"{x[j]}{t - j} "

    def agg(self, earlier, later):
        return earlier + later

    def read(self, x, t, total):
        return f"{x[t]}: {total}"


class MatrixProduct(ContributionMixer):
    """2x2 matrices: associative, does not commute. Integers, so that nothing is rounded."""

    def cont(self, x, j, t):
        return x[j]

    def agg(self, earlier, later):
        return earlier @ later


class SoFar(Concatenation):
    """P2 lets cont read everything up to j, not x_j alone."""

    def cont(self, x, j, t):
        return f"{len(set(x[: j + 1]))}{max(x[k] for k in range(j + 1))} "


@on_every_example
def test_every_length_from_0_to_300_is_the_definition(name):
    for L in range(301):
        mixer, x, expected = drawn(name, L, seed=L)
        base, prompt = 1 + L * 7 % 13, (None, 0, L // 3, L)[L % 4]
        z = run(mixer, x, base, prompt)
        assert_close(torch.stack(z) if L else expected, expected, 1e-10)


@on_every_example
@given(L=st.integers(0, 40), base=st.integers(1, 50), prompt=st.none() | st.integers(0, 40))
def test_every_base_and_prompt_with_its_own_tile_and_with_tiles_made_of_cont(name, L, base, prompt):
    mixer, x, expected = drawn(name, L, seed=base)
    prompt = None if prompt is None else min(prompt, L)
    for plain in (False, True):
        if plain:
            mixer.tile = ContributionMixer.tile.__get__(mixer)
        z = run(mixer, x, base, prompt)
        assert_close(torch.stack(z) if L else expected, expected, 1e-10)


@on_every_example
def test_the_offline_definition_is_the_definition_written_out(name):
    mixer, x, expected = drawn(name, 50)
    assert_close(torch.stack(offline(mixer, x)), expected, 1e-12)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@on_every_example
def test_rows_may_have_batch_dimensions(name, batch):
    mixer, _, _ = drawn(name, 20)
    g = torch.Generator().manual_seed(0)
    shape = (20, *((3,) if name == "attention free" else ()), *batch, D)
    x = torch.randn(shape, generator=g, dtype=torch.float64)
    inputs = [tuple(x_t.unbind(0)) if name == "attention free" else x_t for x_t in x]
    z = torch.stack(run(mixer, inputs, 3, 5))
    assert z.shape == (20, *batch, D)
    assert_close(z, torch.stack(offline(mixer, inputs)), 1e-10)


@given(text=st.text("abc", max_size=40), base=st.integers(1, 9), prompt=st.none() | st.integers(0, 40))
def test_aggregates_that_do_not_commute_come_in_the_order_of_their_inputs(text, base, prompt):
    x, prompt = list(text), None if prompt is None else min(prompt, len(text))
    expected = [f"{x[t]}: " + "".join(f"{x[j]}{t - j} " for j in range(t + 1)) for t in range(len(x))]
    assert run(Concatenation(), x, base, prompt) == expected
    so_far = [f"{x[t]}: " + "".join(f"{len(set(x[: j + 1]))}{max(x[: j + 1])} " for j in range(t + 1))
              for t in range(len(x))]  # fmt: skip
    assert run(SoFar(), x, base, prompt) == so_far


@pytest.mark.parametrize("base", [1, 2, 5])
def test_products_of_matrices_are_exact(base):
    rng = np.random.default_rng(0)
    x = [np.array([[1, a], [0, 1]], dtype=object) if b else np.array([[1, 0], [a, 1]], dtype=object)
         for a, b in rng.integers(0, 2, (60, 2)).tolist()]  # fmt: skip
    expected, product = [], np.eye(2, dtype=object)
    for x_t in x:
        product = product @ x_t
        expected.append(product)
    assert all((z == e).all() for z, e in zip(run(MatrixProduct(), x, base, 7), expected, strict=True))


@pytest.mark.parametrize("order", ["relaxed", "lazy", "eager"])
def test_in_a_schedule_whose_tiles_end_at_their_step_the_inputs_of_each_output_come_in_order(order):
    """What the proof for agg that does not commute rests on."""
    for L in range(40):
        reached = {t: 0 for t in range(L)}
        for tile in schedule(L, order):
            for t in tile.outputs:
                assert tile.inputs.start == reached[t]
                reached[t] = tile.inputs.stop
        assert reached == {t: t for t in range(L)}


class Counting(LongConvolution):
    def __init__(self, L):
        super().__init__(torch.ones(1, max(L, 1), dtype=torch.float64))
        self.tiles, self.conts, self.joins = [], 0, 0

    def cont(self, x, j, t):
        self.conts += 1
        return super().cont(x, j, t)

    def agg(self, earlier, later):
        self.joins += 1
        return super().agg(earlier, later)

    def tile(self, x, inputs, outputs):
        assert len(x) == inputs.stop == outputs.start, "a tile is given what is known, up to its last input"
        self.tiles.append((inputs, outputs))
        return super().tile(x, inputs, outputs)


@pytest.mark.parametrize("k", range(9))
def test_of_2_to_the_k_positions_a_gets_l_over_2u_tiles_of_each_size_and_there_are_l_red_cells(k):
    L, mixer = 2**k, Counting(2**k)
    run(mixer, [torch.ones(1, dtype=torch.float64)] * L)
    sizes = Counter(len(inputs) for inputs, _ in mixer.tiles)
    assert sizes == {2**q: L // 2 ** (q + 1) for q in range(k)}
    assert all(len(inputs) == len(outputs) for inputs, outputs in mixer.tiles)
    assert mixer.conts == L
    assert mixer.joins == L * k / 2


@given(L=st.integers(1, 100), base=st.integers(1, 20), prompt=st.none() | st.integers(1, 100))
def test_a_gets_the_gray_tiles_of_the_schedule_and_one_more_for_a_prompt(L, base, prompt):
    prompt, mixer = 0 if prompt is None else min(prompt, L), Counting(L)
    online = Online(mixer, L, base)
    online.prefill([torch.ones(1, dtype=torch.float64)] * prompt)
    in_prompt = len(mixer.tiles)
    mixer.conts = 0
    for _ in range(L - prompt):
        online.push(torch.ones(1, dtype=torch.float64))
    gray = [tile for tile in schedule(L - prompt, base=base) if tile.step % base == 0]
    assert [(len(i), len(o)) for i, o in mixer.tiles[in_prompt:]] == [(len(t.inputs), len(t.outputs)) for t in gray]
    if 0 < prompt < L:
        assert mixer.tiles[in_prompt - 1] == (range(prompt), range(prompt, L))
    columns = sum(len(t.outputs) for t in schedule(L - prompt, base=base) if t.step % base)
    assert mixer.conts == L - prompt + columns


def test_without_a_fast_tile_every_pair_is_asked_for_once():
    class Pairs(Concatenation):
        def cont(self, x, j, t):
            self.asked[j, t] += 1
            return super().cont(x, j, t)

    for L in range(30):
        mixer = Pairs()
        mixer.asked = Counter()
        run(mixer, ["a"] * L, 3, L // 3)
        assert mixer.asked == {(j, t): 1 for t in range(L) for j in range(t + 1)}


def test_of_the_aggregates_only_those_that_are_still_owed_are_kept():
    online = Online(MatrixProduct(), 20, 3)
    online.prefill([np.eye(2)] * 4)
    for t in range(4, 20):
        assert set(online._sums) == set(range(t, 20))
        online.push(np.eye(2))
    assert not online._sums


def test_kept_outputs_and_reused_inputs_change_nothing():
    class First(ContributionMixer):
        """Hands out what it was given: the input itself is the contribution, the aggregate and the output."""

        def cont(self, x, j, t):
            return x[j]

        def agg(self, earlier, later):
            return earlier

    buffer, kept, online = torch.empty(1), [], Online(First(), 9)
    for t in range(9):
        kept.append(online.push(buffer.fill_(t + 5)))
        kept[-1] += 100
    assert torch.stack(kept).flatten().tolist() == [105.0] * 9


@on_every_example
def test_reset_starts_afresh_and_a_refused_call_changes_nothing(name):
    mixer, x, expected = drawn(name, 20)
    online = Online(mixer, 20, 3)
    z = [online.push(x_t) for x_t in x[:6]]
    with pytest.raises((IndexError, TypeError, RuntimeError, ValueError)):
        online.push("no row")
    assert online.position == 6
    with pytest.raises(ValueError, match="comes before any input, and 6 are known"):
        online.prefill(x[:2])
    z += [online.push(x_t) for x_t in x[6:]]
    with pytest.raises(ValueError, match="length is 20 and as many inputs are known"):
        online.push(x[0])
    assert_close(torch.stack(z), expected, 1e-10)
    online.reset()
    with pytest.raises(ValueError, match="at most length = 20 inputs, got 21"):
        online.prefill([*x, x[0]])
    assert_close(torch.stack(online.prefill(x[:9]) + [online.push(x_t) for x_t in x[9:]]), expected, 1e-10)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((None, 4), TypeError, "mixer must be a ContributionMixer, got NoneType"),
        ((MatrixProduct(), -1), ValueError, "length must be >= 0, got -1"),
        ((MatrixProduct(), 4.0), TypeError, "length must be an integer"),
        ((MatrixProduct(), 4, 0), ValueError, "base must be >= 1, got 0"),
    ],
)
def test_what_cannot_run_is_refused(arguments, error, said):
    with pytest.raises(error, match=said):
        Online(*arguments)


def test_a_tile_that_answers_for_too_few_outputs_is_refused():
    class Short(Concatenation):
        def tile(self, x, inputs, outputs):
            return super().tile(x, inputs, outputs)[:-1]

    with pytest.raises(ValueError, match=r"Short\.tile must return 1 aggregates, one for each output, got 0"):
        Online(Short(), 4).push("a")


@pytest.mark.parametrize("read", [lambda x: x[3], lambda x: x[-1], lambda x: x[1:4], lambda x: x[:], list])
def test_an_input_after_the_last_that_may_be_read_is_refused(read):
    with pytest.raises(PropertyError, match=r"P2 .* input 3 is read after 2"):
        read(Known([5, 6, 7, 8], 2))


def test_inputs_that_may_be_read_are_those_of_a_list():
    x = [5, 6, 7, 8]
    known = Known(x, 2)
    assert [known[0], known[2], known[-2], known[:3], known[1:2], len(known)] == [5, 7, 7, x[:3], [6], 4]
    assert list(Known(x, 3)) == x


def test_a_slice_beyond_what_is_known_is_refused_where_a_list_would_cut_it():
    with pytest.raises(PropertyError, match="input 4 is read after 3"):
        Known([5, 6, 7, 8], 3)[2:5]
