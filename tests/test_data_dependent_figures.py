"""The figures of the product of two online series: what they show, and what they refuse."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from flashref import figures, schedule
from flashref.data_dependent import ProductTile, product_cost, product_schedule, square_schedule
from flashref.figures import PARTS
from flashref.tiling import cost


def cells(axes, part):
    """The cells (j, k) of one colour, with repetitions."""
    found = [patch for patch in axes.patches if to_hex(patch.get_facecolor()) == PARTS[part].lower()]
    return sorted((round(patch.get_x() - 0.06), round(patch.get_y() - 0.06)) for patch in found)


def pairs(tiles):
    return sorted(pair for tile in tiles for pair in tile.pairs())


@pytest.mark.parametrize("L", [0, 1, 2, 13, 16, 64])
@pytest.mark.parametrize("make", [product_schedule, square_schedule, lambda L: product_schedule(L, 4)])
def test_every_pair_is_drawn_once_and_two_red_cells_for_each_output_but_the_first(make, L):
    (axes,) = figures.product_tiling(make(L), L).axes
    assert cells(axes, "gray_tile") == pairs(make(L)) == sorted((j, k) for j in range(1, L) for k in range(1, L - j))
    assert len(cells(axes, "red_cell")) == max(0, 2 * L - 1)
    assert len(figures.as_png(axes.figure)) > 5000


@pytest.mark.parametrize("step", range(17))
def test_at_a_step_done_now_and_owed_are_told_apart(step):
    tiles = product_schedule(16)
    (axes,) = figures.product_tiling(tiles, 16, step).axes
    assert cells(axes, "gray_tile") == pairs(tile for tile in tiles if tile.step < step)
    assert cells(axes, "now") == pairs(tile for tile in tiles if tile.step == step)
    assert cells(axes, "owed") == pairs(tile for tile in tiles if tile.step > step)
    assert len(cells(axes, "red_cell")) == max(0, 2 * step - 1)


def test_each_piece_of_a_tile_carries_its_step_the_second_is_the_mirror_image_of_the_first():
    tiles = product_schedule(16)
    (axes,) = figures.product_tiling(tiles, 16).axes
    for tile in tiles:
        places = [text.get_position() for text in axes.texts if text.get_text() == str(tile.step)]
        assert len(places) == (1 if tile.meets_itself else 2)
        assert sorted(places) == sorted((k, j) for j, k in places)
        assert all((int(j), int(k)) in set(tile.pairs()) for j, k in places)


def test_the_two_tilings_name_their_points():
    left, right = figures.two_product_tilings(16).axes
    for axes, tiles in ((left, square_schedule(16)), (right, product_schedule(16))):
        assert cells(axes, "gray_tile") == pairs(tiles)
        assert f"{product_cost(tiles).fft_points} FFT points" in axes.get_title(loc="left")


@pytest.mark.parametrize("base", [1, 8])
def test_product_points_shows_each_count_and_its_ratio_to_the_fixed_filter(base):
    lengths = [32, 100, 1024]
    left, right = figures.product_points(lengths, base).axes
    fixed = [cost(schedule(L, base=base)).fft_points for L in lengths]
    product = [product_cost(product_schedule(L, base)).fft_points for L in lengths]
    squares = [product_cost(square_schedule(L)).fft_points for L in lengths]
    counts = [fixed, product, squares][: 3 if base == 1 else 2]
    assert [list(line.get_ydata()) for line in left.lines] == counts
    for line, points in zip(right.lines, counts, strict=False):
        assert list(line.get_ydata()) == pytest.approx(np.divide(points, fixed))
    assert f"{np.divide(product, fixed).max():.2f} times" in right.get_title(loc="left")
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in (left, right))


def test_filters_from_data_marks_the_lags_where_the_mark_stood():
    figure = figures.filters_from_data([[1, 2, 3, 4], [4.0, 3.0, 2.0]], [[1, 3], [0]])
    assert [[bar.get_height() for bar in axes.patches] for axes in figure.axes] == [[1, 2, 3, 4], [4, 3, 2]]
    assert [list(axes.lines[0].get_xdata()) for axes in figure.axes] == [[1, 3], [0]]
    assert [list(axes.lines[0].get_ydata()) for axes in figure.axes] == [[2, 4], [4]]
    assert figure.axes[0].get_title(loc="left") and figure.axes[1].get_xlabel()
    assert len(figures.as_png(figure)) > 5000


@pytest.mark.parametrize(
    "draw, error, words",
    [
        (lambda: figures.product_tiling([], 65), ValueError, "L must lie in 0 .. 64"),
        (lambda: figures.product_tiling([], 2.5), TypeError, "L must be an integer, got float"),
        (lambda: figures.product_tiling([], 4, 2.5), TypeError, "step must be an integer, got float"),
        (lambda: figures.product_tiling([], 4, 5), ValueError, "step, the number of values known"),
        (lambda: figures.product_tiling(product_schedule(9), 8), ValueError, "within L = 8"),
        (
            lambda: figures.product_tiling([ProductTile(1, range(3), range(9), range(9))], 8),
            ValueError,
            "within L = 8",
        ),
        (lambda: figures.two_product_tilings(65), ValueError, "L must lie in 0 .. 64"),
        (lambda: figures.filters_from_data([], []), ValueError, "sizes and marks must hold 1 .. 6"),
        (lambda: figures.filters_from_data([[1]], []), ValueError, "got 1 and 0"),
        (lambda: figures.product_points([]), ValueError, "at least one length"),
        (lambda: figures.product_points([16, 3]), ValueError, "long enough for a tile by FFT, got 3"),
        (lambda: figures.product_points([64], 0), ValueError, "base must be >= 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(draw, error, words):
    with pytest.raises(error, match=words):
        draw()
