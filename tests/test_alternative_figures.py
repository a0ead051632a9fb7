"""The figures of cost and loss: what they show, how they tell exact from approximate, and what they refuse."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer

from flashref import ENGINES, figures
from flashref.comparison import Compared
from flashref.figures import APPROXIMATE, COLOURS, PARTS, as_png

RECORDS = [
    Compared("none", False, L=64, tokens_per_second=9.0),
    *(
        record
        for L in (64, 256)
        for record in (
            Compared("lazy", True, None, L, 0.0, 1.5, 0.0, 0.0, 10.0 * L),
            Compared("epoched", True, None, L, 0.0, 1.5, 0.0, 0.0, 60.0),
            Compared("distilled", False, 4, L, 0.9, 1.5, -0.001, 0.002, 30.0),
            Compared("distilled", False, 1, L, 0.95, 1.5, 0.1, 0.002, 20.0),
            Compared("truncated", False, 16, L, 0.5, 1.5, 0.2, 0.01, 15.0),
        )
    ),
    Compared("lazy", True, L=1024, microseconds=1e4),
    Compared("distilled", False, 4, 1024, microseconds=31.0),
]


def drawn(figure):
    assert len(as_png(figure)) > 5000
    return figure.axes


def bars(axes):
    return {c.get_label(): c.lines[0] for c in axes.containers if isinstance(c, ErrorbarContainer)}


def test_approximate_engines_have_colours_of_their_own():
    assert not APPROXIMATE.keys() & ENGINES.keys()
    assert len({*APPROXIMATE.values(), *COLOURS.values()}) == len(APPROXIMATE) + len(COLOURS)


def test_cost_and_loss_has_a_plot_for_each_length_and_says_what_is_exact():
    figure = figures.cost_and_loss(RECORDS)
    axes = drawn(figure)
    assert [part.get_title(loc="left") for part in axes] == ["L = 64", "L = 256"]
    for part, L in zip(axes, (64, 256), strict=True):
        exact = {line.get_label(): line for line in part.lines if "(exact)" in line.get_label()}
        assert exact.keys() == {"lazy (exact)", "epoched (exact)"}
        assert exact["lazy (exact)"].get_xdata() == [10 * L] and exact["lazy (exact)"].get_ydata() == [0]
        hollow = bars(part)
        assert hollow.keys() == {"distilled (approximate)", "truncated (approximate)"}
        line = hollow["distilled (approximate)"]
        assert list(line.get_xdata()) == [20, 30] and list(line.get_ydata()) == [0.1, -0.001]  # by size
        assert all(line.get_markerfacecolor() == "white" for line in hollow.values())
        assert to_hex(line.get_color()) == APPROXIMATE["distilled"].lower()
        assert {"1", "4", "16"} <= {text.get_text() for text in part.texts}
    assert "exact" in figure.get_suptitle().lower() and "µs" in axes[0].get_xlabel() and "bits" in axes[0].get_ylabel()


def test_error_and_loss_shows_the_approximate_engines_only():
    (axes,) = drawn(figures.error_and_loss([r for r in RECORDS if r.L == 64]))
    line = bars(axes)["distilled (approximate)"]
    assert list(line.get_xdata()) == [0.95, 0.9] and list(line.get_ydata()) == [0.1, -0.001]
    assert all("approximate" in label for label in bars(axes))


def test_cost_over_length_has_solid_lines_for_exact_engines_and_dashed_ones_for_the_others():
    (axes,) = drawn(figures.cost_over_length(RECORDS))
    lines = {line.get_label(): line for line in axes.lines}
    assert lines.keys() == {"lazy (exact)", "epoched (exact)", "distilled 4 (approximate)"}
    assert list(lines["lazy (exact)"].get_ydata()) == [640, 2560, 1e4]
    assert lines["lazy (exact)"].get_linestyle() == "-" and lines["distilled 4 (approximate)"].get_linestyle() == "--"


def test_distilled_filters_shows_the_filter_and_each_size_without_lag_0():
    rho = {"fast": np.exp(-np.arange(50) / 3), "slow": np.exp(-np.arange(50) / 30)}
    kept = {N: {name: taps / N for name, taps in rho.items()} for N in (2, 4)}
    axes = drawn(figures.distilled_filters(rho, kept, {"fast": 10, "slow": 50}))
    assert [part.get_title(loc="left") for part in axes] == ["fast", "slow"]
    filter_, two, four = axes[0].lines
    assert list(filter_.get_ydata()) == list(rho["fast"][1:10]) and filter_.get_color() == PARTS["filter"]
    assert list(four.get_ydata()) == list(rho["fast"][1:10] / 4) and two.get_label() == "N = 2"


def test_exact_growth_shows_work_and_memory_of_each_engine():
    left, right = drawn(figures.exact_growth([8, 64], {"eager": [4, 32], "epoched": [3, 9]}, {"tiled_cpu": [5, 40]}))
    assert {line.get_label(): list(line.get_ydata()) for line in left.lines} == {"eager": [4, 32], "epoched": [3, 9]}
    assert [line.get_color() for line in right.lines] == [COLOURS["tiled_cpu"]]
    assert "multiply-adds" in left.get_ylabel() and "numbers" in right.get_ylabel()


@pytest.mark.parametrize(
    "draw, words",
    [
        (lambda: figures.cost_and_loss(RECORDS[:1]), "records must hold"),
        (lambda: figures.error_and_loss(RECORDS), "records must be of approximate engines at one length"),
        (lambda: figures.error_and_loss([r for r in RECORDS if r.exact]), "records must be of approximate engines"),
        (lambda: figures.cost_over_length([r for r in RECORDS if r.L == 64]), "more than one length"),
        (lambda: figures.distilled_filters({}, {}, {}), "names of filters"),
        (lambda: figures.distilled_filters({"a": np.ones(3)}, {2: {"b": np.ones(3)}}, {"a": 2}), "names of filters"),
        (lambda: figures.exact_growth([1, 2], {"fast": [1, 2]}, {}), "got 'fast'"),
        (lambda: figures.exact_growth([1, 2], {"lazy": [1]}, {}), "must hold 2 values"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()
