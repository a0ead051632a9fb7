"""The figures: what they show, and what they refuse."""

import importlib
import inspect
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from flashref import ENGINES, Tile, figures, schedule
from flashref.figures import COLOURS, PARTS, time_per_token

ROOT = Path(__file__).parent.parent


def test_every_engine_has_a_colour_of_its_own():
    assert list(COLOURS) == list(ENGINES)
    assert len(set(COLOURS.values())) == len(ENGINES)


@pytest.mark.parametrize("tokens", [1, 63, 64, 200])
def test_time_per_token_shows_every_token_in_milliseconds_and_a_line_per_engine(tokens, tmp_path):
    times = {"lazy": [2e-3] * tokens, "tiled_cpu": [1e-3] * tokens}
    figure = time_per_token(times)
    (axes,) = figure.axes
    dots = [line for line in axes.lines if line.get_marker() == "."]
    assert [list(line.get_ydata()) for line in dots] == [[2.0] * tokens, [1.0] * tokens]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["lazy", "tiled_cpu"]
    assert axes.get_xlabel() and "ms" in axes.get_ylabel() and axes.get_title(loc="left")
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


@pytest.mark.parametrize("times", [{"fast": [1.0]}, {"lazy": []}])
def test_a_name_that_is_no_engine_or_no_tokens_are_refused(times):
    with pytest.raises(ValueError, match="seconds must hold"):
        time_per_token(times)


def patches(axes, part):
    """The rectangles of one colour, as (x, y, width, height) in cells."""
    found = [
        patch for patch in axes.patches if patch.get_fill() and to_hex(patch.get_facecolor()) == PARTS[part].lower()
    ]
    return sorted((*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in found)


def cells(tiles):
    return sorted((t.inputs.start, t.outputs.start, len(t.inputs), len(t.outputs)) for t in tiles)


@pytest.mark.parametrize("L", [0, 1, 2, 13, 16, 64, 256])
@pytest.mark.parametrize("kind", ["lazy", "eager", "relaxed"])
def test_the_tiling_shows_one_rectangle_for_each_tile_of_the_schedule_and_every_red_cell(L, kind):
    tiles = schedule(L, kind)
    (axes,) = figures.tiling(tiles, L).axes
    assert patches(axes, "gray_tile") == cells(tiles)
    assert len(patches(axes, "red_cell")) == L
    figures.as_png(axes.figure)


@pytest.mark.parametrize("step", range(17))
def test_the_tiling_at_a_step_tells_done_now_and_owed_apart(step):
    tiles = schedule(16)
    (axes,) = figures.tiling(tiles, 16, step).axes
    assert patches(axes, "gray_tile") == cells(tile for tile in tiles if tile.step < step)
    assert patches(axes, "now") == cells(tile for tile in tiles if tile.step == step)
    assert patches(axes, "owed") == cells(tile for tile in tiles if tile.step > step)
    assert len(patches(axes, "red_cell")) == step


def test_the_three_tilings_are_those_of_the_three_schedules():
    for axes, kind in zip(figures.three_tilings(16).axes, ("lazy", "eager", "relaxed"), strict=True):
        assert patches(axes, "gray_tile") == cells(schedule(16, kind))
        assert axes.get_title(loc="left").startswith(kind)


@pytest.mark.parametrize(
    ("L", "step", "named"), [(-1, None, "L must"), (257, None, "L must"), (16, -1, "step"), (16, 17, "step")]
)
def test_a_tiling_that_cannot_be_drawn_is_refused_by_the_name_of_what_is_wrong(L, step, named):
    with pytest.raises(ValueError, match=named):
        figures.tiling([], L, step)


def test_a_tile_beyond_the_last_position_is_refused():
    with pytest.raises(ValueError, match="within L = 4"):
        figures.tiling(schedule(8), 4)


@pytest.mark.parametrize("L", [0, 1, 2, 20, 64])
def test_the_coverage_of_a_right_schedule_has_no_mark(L):
    (axes,) = figures.coverage(schedule(L), L).axes
    assert len(patches(axes, "gray_tile")) == L * (L - 1) // 2 and not patches(axes, "wrong")
    assert "every pair runs once" in axes.get_title(loc="left")


@pytest.mark.parametrize(
    ("tiles", "marked", "sign"),
    [
        ([Tile(2, range(1, 2), range(2, 3))], {(0, 1), (0, 2)}, "0"),
        ([*schedule(3), Tile(1, range(0, 1), range(2, 3))], {(0, 2)}, "2"),
        ([Tile(1, range(2), range(2, 3)), Tile(1, range(1), range(1, 2))], {(1, 2)}, "<"),
        ([Tile(2, range(2), range(2, 3)), Tile(2, range(1), range(1, 2))], {(0, 1)}, ">"),
        ([*schedule(3), Tile(3, range(2, 3), range(3, 4))], set(), ""),
    ],
)
def test_the_coverage_of_a_wrong_schedule_marks_just_the_wrong_pairs(tiles, marked, sign):
    (axes,) = figures.coverage(tiles, 3).axes
    wrong = {(x, y) for x, y, _, _ in patches(axes, "wrong")}
    assert wrong == marked
    assert [text.get_text() for text in axes.texts if text.get_text()] == [sign] * len(marked)


@pytest.mark.parametrize(("j", "t", "best"), [(3, 10, 8), (4, 7, 6), (0, 15, 8), (14, 15, 15), (0, 1, 1)])
def test_the_ruler_marks_the_step_whose_tile_holds_the_pair(j, t, best):
    (axes,) = figures.ruler(16, j, t).axes
    (now,) = patches(axes, "now")
    assert now[0] + now[2] / 2 == best
    (tile,) = [tile for tile in schedule(16) if j in tile.inputs and t in tile.outputs]
    assert tile.step == best


@pytest.mark.parametrize("pair", [(3, 3), (4, 3), (-1, 3), (3, 16)])
def test_the_ruler_refuses_a_pair_that_has_no_step(pair):
    with pytest.raises(ValueError, match="j, t and L"):
        figures.ruler(16, *pair)


@pytest.mark.parametrize(
    ("draw", "named"),
    [
        (lambda: figures.ruler(2.5, 0, 1), "L must be an integer, got float"),
        (lambda: figures.ruler(16, 0.0, 1), "j must be an integer, got float"),
        (lambda: figures.ruler(16, 0, "1"), "t must be an integer, got str"),
        (lambda: figures.circular_trick(2.5), "U must be an integer, got float"),
        (lambda: figures.circular_trick(True), "U must be an integer, got bool"),
        (lambda: figures.single_buffer(2.5), "L must be an integer, got float"),
        (lambda: figures.single_buffer(8, 2.5), "base must be an integer, got float"),
        (lambda: figures.coverage([], 2.5), "L must be an integer, got float"),
        (lambda: figures.tiling([], 2.5), "L must be an integer, got float"),
        (lambda: figures.tiling([], 4, 2.5), "step must be an integer, got float"),
        (lambda: figures.three_tilings(2.5), "L must be an integer, got float"),
        (lambda: figures.roots_of_unity([1, 2], 2.5), "S must be an integer, got float"),
        (lambda: figures.product_grid([1], [1], 0.0), "t must be an integer, got float"),
        (lambda: figures.recursion_unrolled(2.5), "L must be an integer, got float"),
        (lambda: figures.recursion_unrolled(8.0), "L must be an integer, got float"),
        (lambda: figures.tiles_per_size(2.5), "L must be an integer, got float"),
        (lambda: figures.tiles_per_size(None), "L must be an integer, got NoneType"),
    ],
)
def test_what_must_be_an_integer_is_refused_by_its_name_and_the_type_that_came(draw, named):
    with pytest.raises(TypeError, match=f"^{named}$"):
        draw()


@pytest.mark.parametrize("U", [1, 2, 4, 16])
def test_the_circular_trick_keeps_the_last_half_of_the_circle(U):
    (axes,) = figures.circular_trick(U).axes
    kept = patches(axes, "now")
    assert {x for x, *_ in kept} == set(range(U, 2 * U)) and len(kept) == 2 * U  # once above, once below
    assert f"{3 * U - 1} values" in " ".join(text.get_text() for text in axes.texts)


@pytest.mark.parametrize("U", [0, 17])
def test_the_circular_trick_refuses_what_cannot_be_drawn(U):
    with pytest.raises(ValueError, match="U must"):
        figures.circular_trick(U)


@pytest.mark.parametrize("L", [1, 2, 7, 16, 64])
def test_the_single_buffer_has_half_the_slots_and_shows_each_input_from_its_step_on(L):
    (axes,) = figures.single_buffer(L).axes
    h = -(-L // 2)
    dark = {(x, y) for x, y, *_ in patches(axes, "gray_tile")}
    assert dark == {(p % h, n) for n in range(L) for p in range(n) if p // h == n // h}
    assert axes.get_xlim() == (0, h)


@pytest.mark.parametrize(("L", "base", "named"), [(0, 1, "L must"), (65, 1, "L must"), (8, 0, "base")])
def test_the_single_buffer_refuses_what_cannot_be_drawn(L, base, named):
    with pytest.raises(ValueError, match=named):
        figures.single_buffer(L, base)


def test_the_picture_in_the_readme_is_the_figure_as_it_is_drawn_now(tmp_path):
    """To draw it again: make notebooks."""
    figures.three_tilings().savefig(tmp_path / "now.png", dpi=150)
    now, committed = (imread(path) for path in (tmp_path / "now.png", ROOT / "docs" / "three_tilings.png"))
    assert now.shape == committed.shape
    assert np.abs(now - committed).mean() < 0.01  # another version of matplotlib may smooth letters otherwise


def test_the_front_page_of_the_figures_names_every_figure():
    modules = [f"flashref.figures.{path.stem}" for path in (ROOT / "flashref" / "figures").glob("[a-z]*.py")]
    drawn = {
        name
        for module in modules
        for name, value in vars(importlib.import_module(module)).items()
        if not name.startswith("_")
        and inspect.isfunction(value)
        and value.__module__ == module
        and inspect.signature(value).return_annotation is Figure
    }
    assert len(modules) >= 5 and drawn and drawn <= set(figures.__all__)


def test_a_figure_leaves_the_readers_own_settings_alone():
    with matplotlib.rc_context({"font.size": 3, "axes.grid": True}):
        before = dict(matplotlib.rcParams)
        figures.three_tilings(8)
        assert dict(matplotlib.rcParams) == before
