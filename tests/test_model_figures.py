"""The figures around the convolution: what they show, and what they refuse."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from flashref.figures import PARTS, as_png
from flashref.figures import model as model_figures
from flashref.figures.operator import operator_diagram

LAGS = np.arange(64)
WINDOW = np.exp(-LAGS / 10)
NETWORK = np.cos(LAGS)
TOLD = np.stack([LAGS / 63, np.cos(LAGS / 9), np.cos(LAGS / 3), -np.sin(LAGS / 9), -np.sin(LAGS / 3)], axis=1)


def drawn(figure):
    """The figure's axes, once it is certain that it can be drawn."""
    assert len(as_png(figure)) > 5000
    return figure.axes


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_the_operator_diagram_says_what_each_box_costs():
    (axes,) = drawn(operator_diagram(d_model=10, d_inner=30))
    words = texts(axes)
    for cost in (3 * 10 * 10, 9 * 10, 10 * 10, 2 * 10 * 30):
        assert f"{cost:,}" in words
    assert "gathered (lazy): 10 at t = 0,\n10 more per token" in words
    assert {"mixer", "norm", "MLP", "operator"} <= set(words)


@pytest.mark.parametrize("sizes", [{"d_model": 0}, {"d_inner": 0}, {"d_model": -3}])
def test_the_operator_diagram_refuses_sizes_below_one(sizes):
    with pytest.raises(ValueError, match=f"{next(iter(sizes))} must be >= 1"):
        operator_diagram(**sizes)


def test_filter_steps_shows_what_is_told_the_answers_the_window_and_the_products():
    figure = model_figures.filter_steps(TOLD, {"trained": NETWORK, "new": 0.1 * NETWORK}, WINDOW, lags=20)
    told, answers, window, product = drawn(figure)
    assert [axes.get_ylabel() for axes in (told, answers, window, product)] == ["value", "answer", "factor", "tap"]
    assert [text.get_text() for text in answers.get_legend().get_texts()] == ["trained", "new"]
    assert list(told.lines[0].get_ydata()) == list(TOLD[:20, 0])
    assert list(answers.lines[0].get_ydata()) == list(NETWORK[:20])
    assert list(window.lines[0].get_ydata()) == list(WINDOW[:20])
    assert list(product.lines[0].get_ydata()) == list((NETWORK * WINDOW)[:20])
    assert list(product.lines[1].get_ydata()) == list((0.1 * NETWORK * WINDOW)[:20])
    assert (np.abs(product.lines[0].get_ydata()) <= product.lines[2].get_ydata() + 1e-12).all()  # the scaled window


@pytest.mark.parametrize(
    "told, networks, window, lags, words",
    [
        (TOLD, {}, WINDOW, 20, "networks must hold the answers of one or two"),
        (TOLD, {name: NETWORK for name in "abc"}, WINDOW, 20, "networks must hold the answers of one or two"),
        (TOLD[1:], {"a": NETWORK}, WINDOW, 20, "one length, got 63 and 64"),
        (TOLD, {"a": NETWORK}, WINDOW[1:], 20, "one length, got 64 and 63"),
        (TOLD, {"a": NETWORK}, WINDOW, 1, "lags must lie in 2 .. 64"),
        (TOLD, {"a": NETWORK}, WINDOW, 65, "lags must lie in 2 .. 64"),
    ],
)
def test_filter_steps_refuses_what_does_not_fit(told, networks, window, lags, words):
    with pytest.raises(ValueError, match=words):
        model_figures.filter_steps(told, networks, window, lags)


def test_filters_shows_a_row_per_model_and_a_column_per_channel_as_far_as_the_window_reaches():
    networks = {"new": np.stack([NETWORK, 2 * NETWORK]), "trained": np.stack([3 * NETWORK, 4 * NETWORK])}
    windows = np.stack([WINDOW, np.exp(-LAGS / 2)])
    figure = model_figures.filters(networks, windows, [1, 0], "Four")
    grid = drawn(figure)
    assert [axes.get_ylabel() for axes in grid] == ["tap", ""] * 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["filter", "decay window, scaled"]
    reach = [int((windows[1] > 0.005).sum()), int((windows[0] > 0.005).sum())]
    curves = [list(axes.lines[0].get_ydata()) for axes in grid]
    assert [len(curve) for curve in curves] == reach * 2
    assert curves[0] == list((2 * NETWORK * windows[1])[: reach[0]])
    assert curves[3] == list((3 * NETWORK * windows[0])[: reach[1]])
    assert [axes.get_title(loc="left") for axes in grid][2] == "trained, channel 1"


@pytest.mark.parametrize(
    "networks, channels, words",
    [
        ({}, [0], "networks must hold arrays of the window's shape"),
        ({"a": np.ones((2, 63))}, [0], "networks must hold arrays of the window's shape"),
        ({"a": np.ones((2, 64))}, [], "channels must name 1 to 6"),
        ({"a": np.ones((2, 64))}, [0] * 7, "channels must name 1 to 6"),
        ({"a": np.ones((2, 64))}, [2], "channels must lie in 0 .. 1"),
        ({"a": np.ones((2, 64))}, [-1], "channels must lie in 0 .. 1"),
    ],
)
def test_filters_refuses_what_does_not_fit(networks, channels, words):
    with pytest.raises(ValueError, match=words):
        model_figures.filters(networks, np.stack([WINDOW, WINDOW]), channels)


@pytest.mark.parametrize("log_lag", [False, True])
@pytest.mark.parametrize("log_magnitude", [False, True])
def test_one_filter_shows_the_taps_the_window_over_them_and_where_the_energy_has_come(log_lag, log_magnitude):
    (axes,) = drawn(model_figures.one_filter(NETWORK, WINDOW, "A name", log_lag, log_magnitude))
    taps, lines = NETWORK * WINDOW, {line.get_label(): line for line in axes.lines}
    assert list(lines["filter"].get_ydata()) == list(np.abs(taps) if log_magnitude else taps)
    assert list(lines["decay window, scaled"].get_ydata()) == pytest.approx(list(WINDOW))  # the largest answer is 1
    assert lines["99 % of the energy"].get_xdata()[0] == model_figures.energy_lags(taps)
    assert (axes.get_xscale(), axes.get_yscale()) == tuple(
        "log" if log else "linear" for log in (log_lag, log_magnitude)
    )
    assert axes.get_title(loc="left") == "A name"


@pytest.mark.parametrize("taps", [[2.0], [0.0, 0.0], [1.0] * 300])
def test_one_filter_draws_a_filter_of_one_tap_of_zeros_or_without_decay(taps):
    drawn(model_figures.one_filter(np.array(taps), np.ones(len(taps)), "odd", log_magnitude=True))


@pytest.mark.parametrize("network, window", [([], []), ([1.0, 2.0], [1.0])])
def test_one_filter_refuses_no_taps_and_lengths_that_differ(network, window):
    with pytest.raises(ValueError, match="network and window must have one length >= 1"):
        model_figures.one_filter(np.array(network), np.array(window), "bad")


@pytest.mark.parametrize(
    "taps, lags", [([3.0], 1), ([10.0, 0.1], 1), ([1.0] * 100, 99), ([0.0, 0.0, -2.0], 3), ([1.0, 1.0, 0.0, 0.0], 2)]
)
def test_energy_lags_counts_the_first_lags_that_hold_99_percent_of_the_squares(taps, lags):
    assert model_figures.energy_lags(np.array(taps)) == lags


def test_loss_curve_shows_every_step_and_names_its_levels():
    (axes,) = drawn(model_figures.loss_curve([1, 2, 3], [7.0, 5.0, 4.0], {"nothing": 8.0}, "Falls", (2, "change")))
    assert list(axes.lines[0].get_xdata()) == [1, 2, 3] and list(axes.lines[0].get_ydata()) == [7.0, 5.0, 4.0]
    assert list(axes.lines[1].get_ydata()) == [8.0, 8.0]
    assert texts(axes) == ["8.00 nothing", "change"]
    bottom, top = axes.get_ylim()
    assert bottom < 4 and top > 8


@pytest.mark.parametrize("steps, bits", [([], []), ([1, 2], [3.0])])
def test_loss_curve_refuses_no_steps_and_lengths_that_differ(steps, bits):
    with pytest.raises(ValueError, match="steps and bits must have one length >= 1"):
        model_figures.loss_curve(steps, bits, {"nothing": 8.0}, "title")


def test_compression_has_a_bar_for_each_number_and_the_model_stands_out():
    (axes,) = drawn(model_figures.compression({"long": {"model": 1.5, "xz": 1.6}, "short": {"xz": 2.25}}, "Bits"))
    assert [bar.get_width() for bar in axes.patches] == [1.5, 1.6, 2.25]
    assert [to_hex(bar.get_facecolor()) == PARTS["filter"].lower() for bar in axes.patches] == [True, False, False]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["model", "xz", "xz"]
    assert {"long", "short", " 2.25"} <= set(texts(axes))


@pytest.mark.parametrize("bits", [{}, {"text": {}}])
def test_compression_refuses_nothing_to_compare(bits):
    with pytest.raises(ValueError, match="bits must hold at least one number"):
        model_figures.compression(bits, "Bits")


def test_prompt_tiling_counts_the_tiles_from_the_end_of_the_prompt():
    (axes,) = drawn(model_figures.prompt_tiling(P=4, L=12))
    steps = [int(text) for text in texts(axes) if text.isdigit()]
    assert steps == [5, 6, 7, 8, 9, 10, 11]
    (rectangle,) = [patch for patch in axes.patches if patch.get_hatch() and hasattr(patch, "get_width")]
    assert (*rectangle.get_xy(), rectangle.get_width(), rectangle.get_height()) == (0, 4, 4, 8)


@pytest.mark.parametrize("P, L", [(0, 5), (1, 1), (5, 5), (3, 11)])
def test_prompt_tiling_draws_no_prompt_and_nothing_but_a_prompt(P, L):
    drawn(model_figures.prompt_tiling(P, L))


@pytest.mark.parametrize("P, L, words", [(-1, 4, "P must"), (5, 4, "P must"), (0, 0, "L must"), (1, 65, "L must")])
def test_prompt_tiling_refuses_what_it_cannot_draw(P, L, words):
    with pytest.raises(ValueError, match=words):
        model_figures.prompt_tiling(P, L)


def test_logit_gaps_has_a_dot_per_position_and_its_line_is_where_twice_the_difference_is_the_gap():
    gap = np.array([0.0, 0.5, 3.0])
    single, double = np.array([1e-5, 2e-5, 0.0]), np.array([1e-14, 2e-14, 3e-14])
    (axes,) = drawn(model_figures.logit_gaps(gap, {"float32": single, "float64": double}))
    dots, more, line = axes.lines[:3]
    assert list(dots.get_xdata())[1:] == [0.5, 3.0] and list(dots.get_ydata())[:2] == [1e-5, 2e-5]
    assert list(more.get_ydata()) == list(double)
    assert dots.get_marker() != more.get_marker()
    assert axes.get_ylabel() == "largest difference of a logit\namong engines and truth"
    assert list(line.get_ydata()) == pytest.approx(list(line.get_xdata() / 2))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["float32", "float64"]


@pytest.mark.parametrize(
    "gap, difference, words",
    [([], [], "one length >= 1"), ([1.0, 2.0], [1.0], "one length >= 1"), ([-1.0], [1.0], "must not be negative")],
)
def test_logit_gaps_refuses_what_does_not_fit(gap, difference, words):
    with pytest.raises(ValueError, match=words):
        model_figures.logit_gaps(np.array(gap), {"float32": np.array(difference)})
