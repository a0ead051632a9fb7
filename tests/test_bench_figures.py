"""The plots of a benchmark's records, of small records made by hand: what they show, and what they refuse."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex

from flashref import figures
from flashref.bench import Record
from flashref.figures import bench as bench_figures
from flashref.figures.style import COLOURS

WHERE = "a machine, 2 threads, 2030-01-01"
ENGINES = {"lazy": 80.0, "eager": 40.0, "tiled_cpu": 4.0, "bounded": 8.0}  # microseconds of a position, mixers alone
BLOCKS = 20.0


def record(kind="mixer", engine="lazy", us=80.0, L=128, full=True, **more):
    """A record with these microseconds per position; a full run's second half takes three times the first's."""
    runs = {"step": {"median": us / 2, "p99": 2 * us, "longest": 10 * us}} if full else {}
    if full:
        runs["curve"] = [(L // 2, us / 2, 3 * us), (L, 1.5 * us, 10 * us)]
    sizes = {"M": 4, "D": 8, "B": 1, "L": L, "order": 2} | more
    return Record(kind, engine, "cpu", "float32", seconds=1e-6 * us * L, extrapolated=not full, **runs, **sizes)


def records(L=128, full=True):
    """Mixers and models of all engines at one length, and the blocks; naive ones in full or from windows."""
    made = []
    for engine, us in ENGINES.items():
        runs_all = full or engine not in ("lazy", "eager")
        made += [record("mixer", engine, us, L, runs_all), record("end_to_end", engine, us + BLOCKS, L, runs_all)]
    return [*made, record("blocks_only", "none", BLOCKS, L)]


def grown(a=15.0, b=0.05, D=4, powers=range(10, 15)):
    """Mixers alone whose time per position is a + b * log2(L)^2 exactly."""
    counted = {k: {"multiply_adds": 40.0, "fft_points": 2.0 * (k - 6), "bytes": 300.0 + 10 * k} for k in powers}
    return [
        record("mixer", "tiled_cpu", a + b * k**2, 2**k, D=D, per_position=per_position)
        for k, per_position in counted.items()
    ]


def lines(axes, label):
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return line


def words(figure):
    """Everything that is written in and around a figure's panels."""
    texts = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        texts += [text.get_text() for text in axes.texts]
        texts += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()]
    return "\n".join([*texts, figure.get_suptitle()])


ALL = {
    "time_per_token": records(),
    "cumulative_time": records(),
    "speed_up": records(),
    "breakdown": records(),
    "growth_curve": records() + grown(),
    "step_distribution": records(),
}


@pytest.mark.parametrize("name", ALL)
def test_every_figure_names_the_machine_has_labelled_axes_with_units_and_can_be_saved(name, tmp_path):
    figure = getattr(bench_figures, name)(ALL[name], WHERE)
    assert WHERE in words(figure)
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_ylabel() or figure.axes[0].get_yticklabels()
    assert any(unit in words(figure) for unit in ("µs", "seconds", "time of"))
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


def test_the_figures_are_on_the_front_page_and_the_recorded_times_do_not_hide_the_live_ones():
    assert figures.recorded_time_per_token is bench_figures.time_per_token
    assert figures.time_per_token is not bench_figures.time_per_token
    assert all(getattr(figures, name) is getattr(bench_figures, name) for name in ALL if name != "time_per_token")


def test_time_per_token_shows_means_as_a_line_and_the_longest_as_dots_and_the_blocks_beside_the_model():
    mixers, model = bench_figures.time_per_token(records(), WHERE).axes
    for engine, us in ENGINES.items():
        line = lines(mixers, engine)
        assert (list(line.get_xdata()), list(line.get_ydata())) == ([64, 128], [us / 2, 1.5 * us])
        assert line.get_color() == COLOURS[engine]
    dots = [list(line.get_ydata()) for line in mixers.lines if line.get_marker() == "."]
    assert sorted(dots) == sorted([3 * us, 10 * us] for us in ENGINES.values())
    assert list(lines(model, "blocks alone").get_ydata()) == [BLOCKS / 2, 1.5 * BLOCKS]
    assert not [line for line in mixers.lines if line.get_label() == "blocks alone"]


def test_cumulative_time_ends_at_the_seconds_of_the_run():
    mixers, model = bench_figures.cumulative_time(records(), WHERE).axes
    for engine, us in ENGINES.items():
        assert lines(mixers, engine).get_ydata()[[0, -1]] == pytest.approx([0, 1e-6 * us * 128])
        assert lines(model, engine).get_ydata()[-1] == pytest.approx(1e-6 * (us + BLOCKS) * 128)


def test_positions_are_shown_at_the_longest_length_that_a_naive_engine_ran_in_full():
    figure = bench_figures.time_per_token(records(128) + records(512, full=False), WHERE)
    assert [axes.get_title(loc="left")[-7:] for axes in figure.axes] == ["L = 128"] * 2
    assert "L = 512" in words(bench_figures.time_per_token(records(512, full=False), WHERE))


def test_the_speed_up_is_over_the_better_naive_engine_and_hollow_where_that_was_sampled():
    (axes,) = bench_figures.speed_up(records(128) + records(512, full=False), WHERE).axes
    assert list(lines(axes, "mixers alone").get_ydata()) == pytest.approx([10, 10])
    assert list(lines(axes, "whole model").get_ydata()) == pytest.approx([2.5, 2.5])
    hollow = [
        line
        for line in axes.lines
        if line.get_markerfacecolor() == "white" and len(line.get_xdata()) and line.get_label().startswith("_")
    ]
    assert [list(line.get_xdata()) for line in hollow] == [[512], [512]]


@pytest.mark.parametrize("figure", ["speed_up", "breakdown", "time_per_token", "step_distribution"])
def test_other_batches_orders_and_widths_than_the_first_models_are_left_out(figure):
    others = [replace(r, **size) for r in records(2048) for size in ({"B": 8}, {"D": 99}, {"order": 3})]
    text = words(getattr(bench_figures, figure)(records() + others, WHERE))
    assert "2,048" not in text


def test_the_breakdown_adds_the_mixers_to_the_blocks_and_says_their_share():
    figure = bench_figures.breakdown(records(128) + records(512, full=False), WHERE)
    left, right = figure.axes
    assert "L = 512" in figure.get_suptitle()
    assert [label.get_text() for label in left.get_yticklabels()] == list(ENGINES)
    widths = [(bar.get_width(), to_hex(bar.get_facecolor())) for bar in left.patches]
    for (blocks, _), (mixers, colour), (engine, us) in zip(widths[::2], widths[1::2], ENGINES.items(), strict=True):
        assert (blocks, mixers) == pytest.approx((BLOCKS, us))
        assert colour == COLOURS[engine].lower()
    assert [text.get_text() for text in left.texts] == [" 100 (sampled)", " 60 (sampled)", " 24", " 28"]
    assert [text.get_text() for text in right.texts] == ["80 %", "67 %", "17 %", "29 %"]


def test_a_model_that_was_faster_than_its_blocks_has_mixers_that_add_nothing():
    fast = [replace(r, seconds=1e-6 * 0.9 * BLOCKS * 128) if r.kind == "end_to_end" else r for r in records()]
    left, right = bench_figures.breakdown(fast, WHERE).axes
    assert {bar.get_width() for bar in left.patches[1::2]} == {0}
    assert {text.get_text() for text in right.texts} == {"0 %"}


def test_the_growth_shows_the_fit_and_the_counts_relative_to_the_shortest():
    left, right = bench_figures.growth_curve(records() + grown(), WHERE).axes
    assert left.get_title(loc="left") == f"16 times as long, {(15 + 0.05 * 14**2) / (15 + 0.05 * 10**2):.1f} times " + (
        "the time per position"
    )
    (fit,) = [line for line in left.lines if line.get_label().startswith("fit")]
    assert fit.get_label() == "fit: 15.0 + 0.050 · (log₂ L)²"
    assert np.allclose(fit.get_ydata()[[0, -1]], [15 + 0.05 * 100, 15 + 0.05 * 196])
    assert list(lines(right, "FFT points (tiled_cpu)").get_ydata()) == [1, 1.25, 1.5, 1.75, 2]
    assert list(lines(right, "pairs (lazy, eager)").get_ydata()) == [1, 2, 4, 8, 16]


def test_the_steps_are_shown_as_median_p99_and_longest_in_the_order_of_the_engines():
    mixers, model = bench_figures.step_distribution(records()[::-1], WHERE).axes
    assert [label.get_text() for label in mixers.get_yticklabels()] == list(ENGINES)
    for row, us in enumerate(ENGINES.values()):
        shown = {line.get_xdata()[0] for line in mixers.lines if list(line.get_ydata()) == [row]}
        assert shown == {us / 2, 2 * us, 10 * us}
    assert [label.get_text() for label in model.get_yticklabels()] == list(ENGINES)  # the blocks are no engine


@pytest.mark.parametrize(
    ("name", "given", "named"),
    [
        ("time_per_token", [], "a whole model"),
        ("cumulative_time", grown(), "a whole model"),
        ("speed_up", [record("mixer")], "a whole model"),
        ("breakdown", [], "a whole model"),
        ("step_distribution", [], "a whole model"),
        ("time_per_token", [r for r in records() if r.kind != "mixer"], "every position of kind mixer"),
        ("step_distribution", [replace(r, curve=[], step={}) for r in records()], "every position of kind mixer"),
        ("speed_up", [r for r in records() if r.engine in ("tiled_cpu", "none")], "beside lazy or eager"),
        ("breakdown", [r for r in records() if r.kind != "blocks_only"], "without its mixers at L = 128"),
        ("growth_curve", records(), "a fit needs four lengths"),
        ("growth_curve", records() + grown(powers=range(10, 13)), "a fit needs four lengths"),
    ],
)
def test_records_that_do_not_hold_what_a_figure_shows_are_refused(name, given, named):
    with pytest.raises(ValueError, match=named):
        getattr(bench_figures, name)(given, WHERE)
