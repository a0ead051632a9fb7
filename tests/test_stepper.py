"""The polynomial stepper: every number that it shows, in every order and at every step, and what it refuses."""

import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashref import schedule
from flashref.widgets import polynomial_stepper

KINDS = ["lazy", "eager", "relaxed"]
DIGITS = [3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]


def controls(widget):
    (kind, play, known), shown = widget.children[0].children, widget.children[1]
    return kind, play, known, shown


def cells(html, name):
    """The texts of all cells of a class, from left to right and top to bottom, without their tags."""
    return [re.sub("<.*?>", "", text) for text in re.findall(rf'<td class="{name}".*?>(.*?)</td>', html)]


def done(kind, L, n):
    """The pairs (j, t) whose product is made once n inputs are known and the tile of step n has run."""
    below = {(j, t) for tile in schedule(L, kind) if tile.step <= n for j in tile.inputs for t in tile.outputs}
    return below | {(t, t) for t in range(n)}


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(1, 16).flatmap(lambda L: st.tuples(*[st.lists(st.integers(-99, 99), min_size=L, max_size=L)] * 2)))
def test_the_sums_shown_are_those_of_the_products_made_and_those_given_out_are_the_direct_product(kind, factors):
    x, rho = factors
    L = len(x)
    choose, _, known, shown = controls(polynomial_stepper(x, rho))
    choose.value = kind
    product = np.convolve(x, rho)[:L]
    for n in range(L + 1):
        known.value = n
        made = done(kind, L, n)
        sums = [sum(x[j] * rho[t - j] for j in range(t + 1) if (j, t) in made) for t in range(L)]
        assert cells(shown.value, "sum") == [str(z_t) for z_t in sums]
        assert sums[:n] == list(product[:n])
        if n < L:
            assert sums[n] == product[n] - x[n] * rho[0]  # what is due next lacks only its red cell


@pytest.mark.parametrize("kind", KINDS)
def test_each_product_is_shown_by_its_value_once_made_by_its_factors_while_it_is_made_and_by_a_dot_before(kind):
    x, rho = DIGITS
    choose, _, known, shown = controls(polynomial_stepper(x, rho))
    choose.value = kind
    for n in range(9):
        known.value = n
        before = done(kind, 8, n - 1) | {(t, t) for t in range(n)}
        now = done(kind, 8, n) - before
        rows = re.findall(r"<tr.*?</tr>", shown.value)[-8:]
        for t, row in enumerate(rows):
            expected = [
                f"{x[j]}·{rho[t - j]}" if (j, t) in now else str(x[j] * rho[t - j]) if (j, t) in before else "·"
                for j in range(t + 1)
            ]
            assert [re.sub("<.*?>", "", cell) for cell in re.findall("<td.*?</td>", row)][: t + 1] == expected
        adds = [sum(x[j] * rho[t - j] for j in range(t) if (j, t) in now) for t in range(8)]
        assert cells(shown.value, "adds") == [f"+ {add}" if add else "" for add in adds]


def test_inputs_that_are_not_known_are_hidden_and_states_are_told_apart_in_words():
    _, _, known, shown = controls(polynomial_stepper(*DIGITS))
    known.value = 5
    assert cells(shown.value, "x") == ["3", "1", "4", "1", "5", "?", "?", "?"]
    assert cells(shown.value, "rho") == ["2", "7", "1", "8", "2", "8", "1", "8"]
    assert cells(shown.value, "state") == ["given"] * 5 + ["due", "owed", "owed"]


@pytest.mark.parametrize(
    ("kind", "n", "said"),
    [
        ("relaxed", 4, "makes 16 products: x0 .. x3 times ρ1 .. ρ7 for z4 .. z7"),
        ("lazy", 4, "makes 4 products: x0 .. x3 times ρ1 .. ρ4 for z4."),
        ("eager", 7, "makes one product: x6 times ρ1 for z7."),
        ("eager", 0, "no input is known"),
        ("lazy", 8, "the first 8 coefficients of the product"),
    ],
)
def test_a_sentence_says_what_runs(kind, n, said):
    choose, _, known, shown = controls(polynomial_stepper(*DIGITS))
    choose.value, known.value = kind, n
    (sentence,) = re.findall("<p .*?>(.*?)</p>", shown.value)
    assert said in re.sub("<.*?>", "", sentence)


def test_the_slider_and_the_player_go_from_nothing_known_to_everything_known():
    _, play, known, _ = controls(polynomial_stepper([1] * 11, [1] * 11))
    assert (play.min, play.max, known.min, known.max) == (0, 11, 0, 11)
    assert play.value == known.value


def test_the_still_is_what_the_widget_shows_at_first_and_holds_no_random_names():
    widget = polynomial_stepper()
    bundle = widget._repr_mimebundle_()
    *_, known, shown = controls(widget)
    assert known.value == 4 and bundle["text/html"] == shown.value
    assert bundle["text/plain"] == "The relaxed product of two polynomials with 8 coefficients, 4 of them known."
    assert widget._repr_mimebundle_()["text/html"] == polynomial_stepper(*DIGITS)._repr_mimebundle_()["text/html"]


def test_fractions_and_large_integers_stay_exact_and_arrays_are_taken():
    *_, known, shown = controls(polynomial_stepper([Fraction(1, 3), 10**400], [Fraction(1, 2), 1]))
    known.value = 2
    assert cells(shown.value, "sum") == ["1/6", str(5 * 10**399 + Fraction(1, 3))]
    *_, known, shown = controls(polynomial_stepper(np.array([0.5, 2]), np.array([3, 4])))
    known.value = 2
    assert cells(shown.value, "sum") == ["1.5", "8"]


@pytest.mark.parametrize(
    ("x", "rho", "error", "named"),
    [
        ([], [], ValueError, "x must hold 1 .. 16"),
        ([1] * 17, [1] * 17, ValueError, "x must hold 1 .. 16"),
        ([1, 2], [1], ValueError, "rho must hold as many"),
        ([1, 2], [1, float("nan")], ValueError, r"rho must hold finite.*rho\[1\]"),
        (np.float32([1, np.inf]), [1, 2], ValueError, r"x must hold finite.*x\[1\]"),
        (["1"], [1], TypeError, r"x must hold integers or real numbers, got str at x\[0\]"),
        ([True], [1], TypeError, "got bool"),
        ([1j], [1], TypeError, "got complex"),
        (np.ones((2, 2)), [1, 2], TypeError, "got ndarray"),
        ("12", [1, 2], TypeError, "x must be a list of numbers, got str"),
        ([1], 5, TypeError, "rho must be a list of numbers, got int"),
    ],
)
def test_what_is_no_polynomial_of_1_to_16_coefficients_is_refused(x, rho, error, named):
    with pytest.raises(error, match=named):
        polynomial_stepper(x, rho)
