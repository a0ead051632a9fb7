"""The figures of notebook 01: what they show, and what they refuse."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from flashref import schedule
from flashref.figures import PARTS
from flashref.figures.polynomial import product_grid, recursion_unrolled, roots_of_unity


def boxes(axes, part):
    """Corner and size of each box of a part's colour, rounded."""
    found = [p for p in axes.patches if to_hex(p.get_facecolor()).upper() == PARTS[part]]
    return [tuple(round(float(v), 2) for v in (*p.get_xy(), p.get_width(), p.get_height())) for p in found]


@pytest.mark.parametrize(("L", "t"), [(1, 0), (4, 3), (4, 6), (8, 2)])
def test_the_product_grid_marks_one_anti_diagonal_and_the_same_products_as_one_row_beside_their_sum(L, t):
    x, rho = [3, 1, 4, 1, 5, 9, 2, 6][:L], [2, 7, 1, 8, 2, 8, 1, 8][:L]
    grid, slid = product_grid(x, rho, t).axes
    pairs = [(j, t - j) for j in range(L) if 0 <= t - j < L]
    assert [box[:2] for box in boxes(grid, "now")] == pairs
    assert [box[:2] for box in boxes(slid, "now")] == [(j, t) for j, _ in pairs]
    texts = [text.get_text() for text in slid.texts]
    assert texts[: L * L] == [str(x_j * rho_k) for x_j in x for rho_k in rho]
    assert texts[L * L :] == [f"= {z_t}" for z_t in np.convolve(x, rho)]
    assert grid.get_title(loc="left") and slid.get_title(loc="left")


@pytest.mark.parametrize(
    ("x", "rho", "t", "named"),
    [([], [], 0, "x and rho"), ([1] * 9, [1] * 9, 0, "x and rho"), ([1, 2], [1], 0, "x and rho"), ([1], [1], 1, "t")],
)
def test_the_product_grid_refuses_what_cannot_be_drawn(x, rho, t, named):
    with pytest.raises(ValueError, match=f"{named} must"):
        product_grid(x, rho, t)


@pytest.mark.parametrize("S", [1, 2, 7, 8, 32])
def test_the_images_of_the_roots_of_unity_are_the_discrete_fourier_transform_and_each_is_numbered(S):
    x = [3, 1, 4, 1][:S]
    circle, images = roots_of_unity(x, S).axes
    for axes, expected in ((circle, np.exp(-2j * np.pi * np.arange(S) / S)), (images, np.fft.fft(x, S))):
        even, odd = (line for line in axes.lines if line.get_label() in ("even k", "odd k"))
        for line, points in ((even, expected[::2]), (odd, expected[1::2])):
            np.testing.assert_allclose(line.get_xdata() + 1j * line.get_ydata(), points, atol=1e-9)
        numbers = [int(k) for text in axes.texts for k in text.get_text().split(", ")]
        assert sorted(numbers) == list(range(S))
        assert axes.get_xlabel() and axes.get_ylabel() and axes.get_title(loc="left")


@pytest.mark.parametrize(("x", "S", "named"), [([], 8, "x"), ([1] * 17, 8, "x"), ([1], 0, "S"), ([1], 33, "S")])
def test_the_roots_of_unity_refuse_what_cannot_be_drawn(x, S, named):
    with pytest.raises(ValueError, match=f"{named} must"):
        roots_of_unity(x, S)


@pytest.mark.parametrize("L", [2, 4, 8, 16])
def test_the_recursion_shows_for_each_tile_a_call_whose_left_half_is_the_inputs_and_right_half_the_outputs(L):
    calls, triangle = recursion_unrolled(L).axes
    halves = zip(boxes(calls, "gray_tile"), boxes(calls, "owed"), strict=True)
    spans = [(range(int(a), int(a + p)), range(int(b), int(b + q))) for (a, _, p, _), (b, _, q, _) in halves]
    assert spans == [(tile.inputs, tile.outputs) for tile in schedule(L)]
    numbers = [text.get_text() for text in calls.texts if text.get_bbox_patch()]
    assert numbers == [str(n) for n in range(1, L)]
    assert len(boxes(calls, "red_cell")) == L
    assert len(boxes(triangle, "gray_tile")) == L - 1


@pytest.mark.parametrize("L", [0, 1, 3, 12, 32])
def test_the_recursion_refuses_an_l_that_is_no_power_of_two_from_2_to_16(L):
    with pytest.raises(ValueError, match="L must be a power of two"):
        recursion_unrolled(L)


@pytest.mark.parametrize(
    "figure", [lambda: product_grid([1], [1], 0), lambda: roots_of_unity([0, 0]), lambda: recursion_unrolled(2)]
)
def test_the_smallest_pictures_can_be_saved(figure, tmp_path):
    figure().savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 3000
