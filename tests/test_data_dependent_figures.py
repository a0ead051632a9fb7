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


def test_both_halves_of_a_tile_carry_its_step_and_what_meets_itself_carries_it_once():
    (axes,) = figures.product_tiling(product_schedule(16), 16).axes
    numbers = [text.get_text() for text in axes.texts]
    assert all(numbers.count(str(n)) == (1 if n & (n - 1) == 0 else 2) for n in range(2, 16))


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


@pytest.mark.parametrize(
    "draw, error, words",
    [
        (lambda: figures.product_tiling([], 65), ValueError, "L must lie in 0 .. 64"),
        (lambda: figures.product_tiling([], 2.5), TypeError, "L must be an integer, got float"),
        (lambda: figures.product_tiling([], 4, 5), ValueError, "step, the number of values known"),
        (lambda: figures.product_tiling(product_schedule(9), 8), ValueError, "within L = 8"),
        (
            lambda: figures.product_tiling([ProductTile(1, range(3), range(9), range(9))], 8),
            ValueError,
            "within L = 8",
        ),
        (lambda: figures.two_product_tilings(65), ValueError, "L must lie in 0 .. 64"),
        (lambda: figures.product_points([]), ValueError, "at least one length"),
        (lambda: figures.product_points([16, 3]), ValueError, "long enough for a tile by FFT, got 3"),
        (lambda: figures.product_points([64], 0), ValueError, "base must be >= 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(draw, error, words):
    with pytest.raises(error, match=words):
        draw()
