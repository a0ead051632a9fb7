"""The search for counterexamples to P1 and P2: what it finds, and what it must not find."""

import numpy as np
import pytest
import torch
from test_framework import EXAMPLES, Concatenation, MatrixProduct, SoFar, drawn, stacked, three_rows
from truth import assert_close

from flashref.framework import ContributionMixer, Online, PropertyError, offline
from flashref.framework_examples import SoftmaxAttention
from flashref.properties import check_properties


def letter(rng):
    return "abc"[rng.integers(3)]


def number(rng):
    return float(rng.standard_normal())


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_found_against_the_three_examples(name, seed):
    mixer, _, _ = drawn(name, 12, seed)
    check_properties(mixer, EXAMPLES[name][1], seed=seed)


def test_nothing_is_found_against_strings_and_matrices():
    for mixer in (Concatenation(), SoFar()):
        check_properties(mixer, letter)
    check_properties(MatrixProduct(), lambda rng: rng.standard_normal((2, 2)))


def test_softmax_attention_lacks_p2_and_two_lines_of_numbers_show_it():
    with pytest.raises(PropertyError) as caught:
        check_properties(SoftmaxAttention(), lambda rng: three_rows(rng, 1))
    assert caught.value.property == "P2"
    head, *lines = str(caught.value).splitlines()
    assert head.startswith("SoftmaxAttention lacks P2 (query independent): cont(j=0, t=1)")
    assert len(lines) == 2
    for line in lines:  # the score of the first key is q_1 * k_0
        inputs, _, contribution = line.partition(": cont = ")
        (_, k_0, v_0), (q_1, _, _) = eval(inputs.split("inputs ")[1])
        s, v, one = eval(contribution)
        assert s == pytest.approx(q_1 * k_0, rel=1e-2) and v == v_0 and one == 1


def test_softmax_attention_has_p1_and_is_refused_online_by_the_name_of_p2_before_anything_changes():
    rng = np.random.default_rng(0)
    x = [three_rows(rng, 4) for _ in range(12)]
    q, k, v = stacked(x).unbind(1)
    scores = torch.where(torch.ones(12, 12).tril() > 0, q @ k.T / 2, -torch.inf)
    assert_close(torch.stack(offline(SoftmaxAttention(), x)), scores.softmax(-1) @ v, 1e-12)
    online = Online(SoftmaxAttention(), 12)
    with pytest.raises(PropertyError, match=r"P2 .* is lacking: input 1 is read after 0"):
        online.push(x[0])
    assert online.position == 0


class Sum(ContributionMixer):
    def cont(self, x, j, t):
        return x[j]

    def agg(self, earlier, later):
        return earlier + later


class ReadsTheNextIfItIsLarge(Sum):
    """For standard normal inputs that is once in a billion: no value changes, but the reading is seen."""

    def cont(self, x, j, t):
        return x[j] + (100.0 if len(x) > j + 1 and x[j + 1] > 6 else 0.0)


class ReadsTheLastAtOneLag(Sum):
    def cont(self, x, j, t):
        return x[j] + (x[t] if t - j == 7 else 0.0)


class CountsTheInputs(Sum):
    def cont(self, x, j, t):
        return x[j] * len(x)


class Remembers(Sum):
    """Reads nothing late, but depends on what it was asked before."""

    calls = 0

    def cont(self, x, j, t):
        self.calls += 1
        return x[j] + self.calls


class Halves(Sum):
    def agg(self, earlier, later):
        return (earlier + later) / 2


class Differences(Sum):
    def agg(self, earlier, later):
        return earlier - later


class SaturatesLate(Sum):
    """Associative as long as the sum is small."""

    def agg(self, earlier, later):
        return max(-2.0, min(2.0, earlier + later))


class TileForgetsTheFirst(Sum):
    def tile(self, x, inputs, outputs):
        return [sum(x[j] for j in inputs[1:]) for _ in outputs]


class TileDoubles(Sum):
    """A ratio does not see a factor in both of its parts, until they are added to others."""

    def cont(self, x, j, t):
        return x[j] * 1.0, 1.0

    def agg(self, earlier, later):
        return earlier[0] + later[0], earlier[1] + later[1]

    def read(self, x, t, total):
        return total[0] / total[1]

    def tile(self, x, inputs, outputs):
        return [(2 * num, 2 * den) for num, den in super().tile(x, inputs, outputs)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("mixer", "lacks"),
    [
        (ReadsTheNextIfItIsLarge, "P2"),
        (ReadsTheLastAtOneLag, "P2"),
        (CountsTheInputs, "P2"),
        (Remembers, "P2"),
        (Halves, "P1"),
        (Differences, "P1"),
        (SaturatesLate, "P1"),
        (TileForgetsTheFirst, "tile"),
        (TileDoubles, "tile"),
    ],
)
def test_a_mixer_that_lacks_a_property_is_caught(mixer, lacks, seed):
    with pytest.raises(PropertyError, match=mixer.__name__) as caught:
        check_properties(mixer(), number, seed=seed)
    assert caught.value.property == lacks


def test_what_is_refused_by_the_checker_cannot_run_wrongly_online():
    """A late read in a run is refused, even where it would not have changed the value."""
    for mixer in (ReadsTheNextIfItIsLarge, ReadsTheLastAtOneLag):
        online = Online(mixer(), 20)
        with pytest.raises(PropertyError):
            for t in range(20):
                online.push(float(t))


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"mixer": 3}, TypeError, "mixer must be a ContributionMixer, got int"),
        ({"length": 0}, ValueError, "length must be >= 1"),
        ({"trials": 0}, ValueError, "trials must be >= 1"),
    ],
)
def test_the_checker_refuses_what_it_cannot_check(arguments, error, said):
    with pytest.raises(error, match=said):
        check_properties(**({"mixer": Sum(), "draw": number} | arguments))
