"""The figures of notebook 06: what they show, and what they refuse."""

import pytest
from matplotlib.colors import to_hex

from flashref import figures
from flashref.dependencies import critical_path, jobs_of, needs_of
from flashref.figures import PARTS
from flashref.tiling import schedule
from flashref.timeline import MODES, timeline


def boxes(axes, part):
    colour = PARTS[part].lower()
    return sorted(
        (*p.get_xy(), p.get_width(), p.get_height()) for p in axes.patches if to_hex(p.get_facecolor()) == colour
    )


@pytest.mark.parametrize(("M", "L"), [(1, 2), (3, 8), (4, 10), (2, 7)])
def test_the_graph_shows_every_cell_and_tile_and_frames_the_longest_chain(M, L):
    for axes, batched in zip(figures.dependency_graph(M, L).axes, (False, True), strict=True):
        jobs = jobs_of(M, L, schedule(L), batched)
        chain = critical_path(needs_of(jobs), [1] * len(jobs))
        cells = [(2 * job.step, job.mixers[0]) for job in jobs if job.tile is None]
        assert [(round(x + w / 2), round(y + h / 2)) for x, y, w, h in boxes(axes, "red_cell")] == sorted(cells)
        tiles = boxes(axes, "gray_tile")
        assert len(tiles) == (L - 1) * (1 if batched else M) and all(h > M - 1 for *_, h in tiles if batched)
        assert sum(patch.get_linewidth() > 1 for patch in axes.patches if patch.get_zorder() == 3) == len(chain)
        assert f"{len(chain)} of {len(jobs)} jobs" in axes.get_title(loc="left")
    figures.as_png(axes.figure)


@pytest.mark.parametrize(
    ("M", "L", "error", "words"),
    [
        (0, 4, ValueError, "M must be >= 1"),
        (5, 4, ValueError, "M must be <= 4 and L <= 10"),
        (2, 1, ValueError, "L must be >= 2"),
        (2, 11, ValueError, "M must be <= 4 and L <= 10"),
        (2.0, 4, TypeError, "M must be an integer"),
        (2, None, TypeError, "L must be an integer"),
    ],
)
def test_a_graph_that_cannot_be_drawn_is_refused(M, L, error, words):
    with pytest.raises(error, match=words):
        figures.dependency_graph(M, L)


def test_timelines_show_each_job_at_its_time_on_its_stream_and_the_numbers_in_the_titles():
    lays = {mode: timeline(3, 8, mode, 1) for mode in MODES}
    figure = figures.timelines(lays)
    for axes, (mode, lay) in zip(figure.axes, lays.items(), strict=True):
        jobs = list(zip(lay.jobs, lay.starts, lay.times, lay.streams, strict=True))
        for part in ("red_cell", "gray_tile"):
            expected = [
                (start, stream * 3.6 + job.mixers[0] + 0.06, time, len(job.mixers) - 0.12)
                for job, start, time, stream in jobs
                if (job.tile is None) == (part == "red_cell")
            ]
            assert boxes(axes, part) == [pytest.approx(box) for box in sorted(expected)]
        assert sum(patch.get_gid() == "critical" for patch in axes.patches) == len(lay.critical)
        assert list(axes.lines[0].get_xdata()) == lay.tokens
        title = axes.get_title(loc="left")
        assert title.startswith(f"{mode}: done after {lay.length} units; {lay.calls} calls of tiles")
    assert "units" in figure.axes[-1].get_xlabel()
    figures.as_png(figure)


def test_no_timelines_or_too_many_are_refused():
    lay = timeline(1, 2)
    for lays in ({}, dict.fromkeys("abcde", lay)):
        with pytest.raises(ValueError, match="lays must hold one to four timelines"):
            figures.timelines(lays)


def test_the_bytes_are_stacked_in_kilobytes_and_their_sum_stands_above():
    (axes,) = figures.bytes_per_sequence([1, 8], {"spectra": [3e3, 1e3], "inputs": [5e2, 5e2]}).axes
    assert [patch.get_height() for patch in axes.patches] == pytest.approx([3, 1, 0.5, 0.5])
    assert [text.get_text() for text in axes.texts] == ["3.5", "1.5"]
    assert "kB" in axes.get_ylabel() and axes.get_title(loc="left")


def test_the_measured_times_are_shown_in_microseconds_and_as_multiples_of_the_last_way():
    seconds = {"a": [4e-6, 9e-6], "b": [2e-6, 6e-6], "c": [1e-6, 3e-6]}
    left, right = figures.calls_measured([1, 2], seconds).axes
    assert [list(line.get_ydata()) for line in left.lines] == [pytest.approx([4, 9]), pytest.approx([2, 6]),
                                                               pytest.approx([1, 3])]  # fmt: skip
    assert [list(line.get_ydata()) for line in right.lines] == [pytest.approx([4, 3]), pytest.approx([2, 2]),
                                                                pytest.approx([1, 1])]  # fmt: skip
    assert "c" in right.get_ylabel() and "µs" in left.get_ylabel()


def test_values_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="read must hold one or two kinds"):
        figures.bytes_per_sequence([1, 2], {"spectra": [1.0]})
    with pytest.raises(ValueError, match="seconds must hold two or three ways"):
        figures.calls_measured([1, 2], {"a": [1.0, 2.0]})
    with pytest.raises(ValueError, match="seconds must hold two or three ways"):
        figures.calls_measured([1, 2], {"a": [1.0, 2.0], "b": [1.0]})
