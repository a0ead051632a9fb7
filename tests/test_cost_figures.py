"""The figures of what the tiles cost: what they show, and what they refuse."""

import numpy as np
import pytest

from flashref import schedule
from flashref.figures import as_png
from flashref.figures.cost import (
    BASES,
    base_curve,
    cost_choices,
    cost_per_step,
    counted_over_length,
    level_shares,
    tile_times,
    tiles_per_size,
)
from flashref.tiling import radix_cost


def is_drawn(figure, panels):
    assert len(figure.axes) == panels
    for axes in figure.axes:
        assert axes.get_title(loc="left") or panels == 2
        assert axes.get_xlabel()
    assert len(as_png(figure)) > 5000


@pytest.mark.parametrize("L", [4, 8, 64])
def test_tiles_per_size_draws_the_inputs_and_the_outputs_of_every_tile(L):
    figure = tiles_per_size(L)
    is_drawn(figure, 1)
    halves = {(p.get_x(), p.get_x() + p.get_width()) for p in figure.axes[0].patches if p.get_linewidth() == 0}
    tiles = schedule(L)
    assert halves == {(side.start, side.stop) for tile in tiles for side in (tile.inputs, tile.outputs)}


@pytest.mark.parametrize("L", [0, 1, 2, 12, 128])
def test_tiles_per_size_refuses_what_it_cannot_draw(L):
    with pytest.raises(ValueError, match="L must be a power of two in 4"):
        tiles_per_size(L)


def test_counted_over_length_shows_each_count_and_the_slope_of_its_fit():
    lengths, numbers = [16, 32, 64], {"lazy": [1, 4, 16], "relaxed": [1, 2, 4]}
    fits = {"lazy": (2.0, -8.0), "relaxed": (1.0, -4.0)}
    figure = counted_over_length(lengths, {"calls": numbers}, {"calls": numbers}, {"calls": fits})
    is_drawn(figure, 1)
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["lazy: slope 2.00", "relaxed: slope 1.00", "formula"]
    for counts in numbers.values():  # the fit, the marks, the formula
        assert sum(np.allclose(line.get_ydata(), counts) for line in axes.lines if len(line.get_ydata()) == 3) == 3


def test_counted_over_length_refuses_unknown_kinds_and_what_is_missing():
    fits = {"calls": {"lazy": (1, 0)}}
    with pytest.raises(ValueError, match="each kind must be one of"):
        counted_over_length([1, 2], {"calls": {"fast": [1, 2]}}, {}, fits)
    with pytest.raises(ValueError, match="a number per length"):
        counted_over_length([1, 2], {"calls": {"lazy": [1]}}, {"calls": {"lazy": [1]}}, fits)
    with pytest.raises(ValueError, match="formula and fits must hold"):
        counted_over_length([1, 2], {"calls": {"lazy": [1, 2]}}, {}, fits)


def test_tile_times_shows_microseconds_and_the_ratio_to_the_model():
    figure = tile_times([1, 2, 4], {"direct": [1e-6], "FFT": [2e-6, 2e-6, 8e-6]}, [1e-6, 2e-6, 4e-6], [1, 2])
    is_drawn(figure, 2)
    left, right = figure.axes
    assert [list(line.get_ydata()) for line in left.lines] == [pytest.approx(y) for y in ([1], [2, 2, 8], [1, 2, 4])]
    assert list(right.lines[0].get_ydata()) == pytest.approx([2, 1, 2])


@pytest.mark.parametrize(
    "seconds, model", [({"FFT": [1, 2, 3]}, [1, 2]), ({"FFT": [1]}, [1]), ({way: [1] for way in "abcd"}, [1, 2])]
)
def test_tile_times_refuses_times_that_do_not_fit_the_sizes(seconds, model):
    with pytest.raises(ValueError, match="needs at most 3 ways"):
        tile_times([1, 2], seconds, model, [1])


def test_level_shares_shows_percentages_of_each_whole():
    figure = level_shares([1, 2], [1, 3], [6, 2])
    is_drawn(figure, 1)
    assert [bar.get_height() for bar in figure.axes[0].patches] == [25, 75, 75, 25]


@pytest.mark.parametrize("counted, timed", [([1], [1, 2]), ([0, 0], [1, 2]), ([1, 2], [0, 0])])
def test_level_shares_refuses_costs_that_have_no_shares(counted, timed):
    with pytest.raises(ValueError, match="sizes, counted and timed"):
        level_shares([1, 2], counted, timed)


def test_cost_per_step_says_how_few_steps_do_half_of_the_work():
    figure = cost_per_step([1, 1, 1, 1, 10, 1, 1])
    is_drawn(figure, 3)
    assert figure.axes[2].get_title(loc="left") == "1 of 7 steps do half of the work"
    sums = [line.get_ydata()[-1] for line in figure.axes[1].lines]
    assert sums == [28, 28, 16]  # lazy, eager, and what was given
    assert "2 of 3" in cost_per_step([1, 1, 1]).axes[2].get_title(loc="left")


def test_cost_per_step_refuses_too_few_steps():
    with pytest.raises(ValueError, match="at least three steps"):
        cost_per_step([1, 2])


def test_base_curve_shows_milliseconds_and_names_the_best_base():
    figure = base_curve([1, 2, 4], {"measured": [3e-3, 1e-3, 2e-3], "model": [2e-3, 1e-3, 1e-4]})
    is_drawn(figure, 1)
    assert list(figure.axes[0].lines[0].get_ydata()) == pytest.approx([3, 1, 2])
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["measured, best b = 2", "model, best b = 4"]


@pytest.mark.parametrize("seconds", [{"measured": [1]}, {"a": [1, 2], "b": [1, 2], "c": [1, 2]}])
def test_base_curve_refuses_times_that_do_not_fit_the_bases(seconds):
    with pytest.raises(ValueError, match="one or two labels with a time for each of 2 bases"):
        base_curve([1, 2], seconds)


@pytest.mark.parametrize("L, base, radix", [(1, 1, 2), (16, 64, 64), (4096, 64, 8)])
def test_cost_choices_stacks_the_parts_of_every_choice(L, base, radix):
    figure = cost_choices(L, base, radix)
    is_drawn(figure, 2)
    bars = figure.axes[0].patches
    heights = [sum(bars[part * len(BASES) + i].get_height() for part in range(3)) for i in range(len(BASES))]
    assert heights == pytest.approx([radix_cost(L, radix, b).total / L for b in BASES])
    assert f"{radix_cost(L, radix, base).total / L:,.1f}" in figure.axes[0].get_title(loc="left")


@pytest.mark.parametrize(
    "args, words",
    [
        ((100,), "L must be a power of two"),
        ((64, 3), "base must be a power of two"),
        ((64, 2048), "base must be <= 1024"),
        ((64, 1, 128), "radix <= 64"),
    ],
)
def test_cost_choices_refuses_by_name(args, words):
    with pytest.raises(ValueError, match=words):
        cost_choices(*args)
