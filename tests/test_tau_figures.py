"""The figures of one tile and its explorer: what they show, and what they refuse."""

import base64

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from truth import tile_sum

from flashref import figures
from flashref.figures.style import PARTS
from flashref.figures.tau import WAYS, pareto_front
from flashref.widgets import circle_explorer


def cells(axes, part):
    """Corner and text of the cells of one colour; a cell's text stands at its middle."""
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    found = [p.get_xy() for p in axes.patches if to_hex(p.get_facecolor()) == PARTS[part].lower()]
    return {(x, y): texts.get((x + 0.5, y + 0.5), "") for x, y in found}


def lines(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


@pytest.mark.parametrize("U", [1, 2, 3, 4, 8])
def test_the_matrix_of_a_tile_holds_the_lags_of_the_sum(U):
    """Its rows, read as taps and multiplied with the inputs, are the sum over all pairs."""
    left, _ = figures.toeplitz_on_a_circle(U).axes
    lags = cells(left, "now")
    assert len(lags) == U * U
    x, rho = torch.arange(1.0, U + 1), torch.arange(2.0 * U) ** 2
    got = [sum(x[j] * rho[int(lags[j, i])] for j in range(U)) for i in range(U)]
    assert got == tile_sum(x[None], range(U), rho[None], range(U, 2 * U))[0].tolist()


@pytest.mark.parametrize("U, N", [(1, 1), *((U, N) for U in (1, 2, 3, 5, 8) for N in range(2 * U - U // 2, 2 * U + 2))])
def test_the_circle_marks_just_the_places_where_a_circular_convolution_differs_from_the_tile(U, N):
    _, right = figures.toeplitz_on_a_circle(U, N).axes
    wrong = {(int(j), int(i)) for j, i in cells(right, "wrong")}
    kept = wrong | {(int(j), int(i)) for j, i in cells(right, "now")}
    expected = set()
    for j in range(U):  # input j alone: where does which tap land?
        for k in range(2 * U):
            landed = [w for w in range(U, 2 * U) if (j + k) % N == w % N]
            expected |= {(j, w % N) for w in landed if k != w - j}
    assert wrong == expected
    assert kept == {(j, w % N) for j in range(U) for w in range(U, 2 * U)}
    assert bool(wrong) == (N < 2 * U)
    assert (f"{len(wrong)} of the tile's" in right.get_title(loc="left")) == bool(wrong)


def test_one_point_less_than_2U_harms_one_cell_by_lag_0_alone():
    _, right = figures.toeplitz_on_a_circle(5, 9).axes
    assert cells(right, "wrong") == {(0, 0): "0+9"}


@pytest.mark.parametrize("U, N", [(0, 1), (9, 18), (4, 3), (4, 17)])
def test_a_circle_that_cannot_be_drawn_is_refused(U, N):
    with pytest.raises(ValueError, match="U must lie in 1"):
        figures.toeplitz_on_a_circle(U, N)


def test_time_per_output_divides_by_outputs_and_channels_and_marks_the_crossing():
    seconds = {"direct": [[2e-6, 3e-6, 9e-6], [8e-6, 8e-6, 8e-6]], "spectra kept": [[4e-6], [4e-6], [8e-6]]}
    (axes,) = figures.time_per_output([1, 2, 4], seconds, channels=10, crossing=1).axes
    drawn = lines(axes)
    assert drawn["direct"].get_ydata() == pytest.approx([200, 400])
    assert drawn["spectra kept"].get_ydata() == pytest.approx([400, 200, 200])
    assert axes.collections[0].get_paths()[0].vertices[:, 1].max() == pytest.approx(400)  # the band: to the median
    assert "up to U = 1," in axes.get_title(loc="left") and "ns" in axes.get_ylabel()
    (axes,) = figures.time_per_output([1, 2, 4], seconds, channels=10, crossing=0).axes
    assert axes.get_title(loc="left") == "Here the FFT always wins"


def test_the_front_holds_what_no_other_point_beats():
    costs = {"a": (3, 0), "b": (2, 5), "c": (2.5, 6), "d": (1, 9), "e": (3, 0)}
    assert pareto_front(costs) == ["a", "e", "b", "d"]
    points = {label: ("FFT", *cost) for label, cost in costs.items()}
    (axes,) = figures.pareto(points, 64).axes
    hollow = [line for line in axes.lines if line.get_marker() == "^" and line.get_fillstyle() == "none"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in hollow] == [(6e-6, 2.5)]
    assert "L = 64" in axes.get_ylabel()


def test_error_growth_draws_every_line_and_leaves_zeros_out():
    errors = {("direct", "float32"): [0.0, 1e-7], ("FFT", "bfloat16 inputs"): [1e-3, 2e-3]}
    (axes,) = figures.error_growth([1, 2], errors, {"law": [1e-8, 2e-8]}).axes
    drawn = lines(axes)
    assert list(drawn) == ["direct, float32", "FFT, bfloat16 inputs", "law"]
    assert np.isnan(drawn["direct, float32"].get_ydata()[0]) and drawn["direct, float32"].get_ydata()[1] == 1e-7


def test_dynamic_range_draws_outputs_and_errors_as_absolute_values():
    (axes,) = figures.dynamic_range([1.0, -1e-9], {"direct": [1e-8, 1e-17]}, 6e-8).axes
    drawn = lines(axes)
    assert drawn["the outputs, |z|"].get_ydata() == pytest.approx([1, 1e-9], rel=1e-12)
    assert list(drawn["error, direct"].get_ydata()) == [1e-8, 1e-17]


@pytest.mark.parametrize("U", [1, 2, 8, 16])
def test_the_kernels_picture_shows_for_every_step_the_taps_that_meet_its_input(U):
    (axes,) = figures.kernel_program(U).axes
    windows = {(p.get_x(), p.get_y()) for p in axes.patches if p.get_height() == 0.7}
    assert {(x, round(y - 3.7)) for x, y in windows} == {(U + i - j, j) for i in range(U) for j in range(U)}
    numbers, taps = U + 2 * U + (2 * U - 1), {x for x, _ in windows}
    assert taps == set(range(1, 2 * U)) and f"{numbers} numbers move for {U * U} " in axes.get_title(loc="left")


def test_the_roof_is_the_lower_of_bandwidth_and_peak():
    (axes,) = figures.roofline([8, 512], [0.5, 50.0], bandwidth=2e12, peak=40e12, source="a page").axes
    points = next(line for label, line in lines(axes).items() if label.startswith("direct tile"))
    assert points.get_ydata() == pytest.approx([1, 40])
    assert any(text.get_text() == "20 flop per byte" for text in axes.texts)
    assert axes.get_title(loc="left").startswith("Published, not measured")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.time_per_output([1], {"slow": [[1.0]]}, 1, 1),
        lambda: figures.time_per_output([1], {"direct": [[]]}, 1, 1),
        lambda: figures.time_per_output([1], {"direct": [[1.0], [1.0]]}, 1, 1),
        lambda: figures.pareto({}, 8),
        lambda: figures.pareto({"a": ("slow", 1.0, 1.0)}, 8),
        lambda: figures.error_growth([1], {("direct", "int8"): [1.0]}, {}),
        lambda: figures.error_growth([1], {("direct", "float32"): [1.0, 2.0]}, {}),
        lambda: figures.error_growth([1], {}, {"law": []}),
        lambda: figures.dynamic_range([1.0], {"direct": []}, 1.0),
        lambda: figures.dynamic_range([1.0], {"slow": [1.0]}, 1.0),
        lambda: figures.kernel_program(0),
        lambda: figures.kernel_program(17),
        lambda: figures.roofline([], [], 1.0, 1.0, ""),
        lambda: figures.roofline([8], [0.0], 1.0, 1.0, ""),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw):
    with pytest.raises(ValueError, match=r"must|needs"):
        draw()


@pytest.mark.parametrize("draw", [lambda: figures.toeplitz_on_a_circle(2.0), lambda: figures.kernel_program(True)])
def test_a_size_that_is_no_integer_is_refused(draw):
    with pytest.raises(TypeError, match="U must be an integer"):
        draw()


def test_every_way_has_a_colour_and_a_mark_of_its_own():
    assert len({colour for colour, *_ in WAYS.values()}) == len({mark for _, mark, _ in WAYS.values()}) == len(WAYS)


def test_the_circle_explorer_follows_its_sliders():
    widget = circle_explorer(4, 8)
    row, picture, line = widget.children
    size, circle = row.children
    still = picture.value
    assert "Two transforms of 8 points: 16. The plain way, three of 4U: 48." in line.value
    circle.value = 7
    assert picture.value != still and "Two transforms of 7 points: 14" in line.value
    for U in (1, 8, 2, 3):
        size.value = U
        assert (circle.min, circle.value, circle.max) == (U, 2 * U, 4 * U)
        assert picture.value == figures.as_png(figures.toeplitz_on_a_circle(U))
        assert f"three of 4U: {12 * U}." in line.value
    size.value, circle.value = 4, 8
    assert picture.value == still


def test_without_a_kernel_the_circle_explorer_is_a_picture_and_a_sentence():
    bundle = circle_explorer(3, 5)._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]) == figures.as_png(figures.toeplitz_on_a_circle(3, 5))
    assert bundle["text/plain"] == "A tile of 3 inputs on a circle of 5 points, as matrices of lags."
