"""Plots of all layers at once: the graph of cells and tiles, timelines, what a batch reads, one call against many."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from flashref.dependencies import Job, critical_path, jobs_of, needs_of
from flashref.figures.style import COLOURS, PARTS, styled_figure
from flashref.tiling import check_count, schedule
from flashref.timeline import Timeline


@styled_figure
def dependency_graph(M: int = 3, L: int = 8) -> Figure:
    """Cells and tiles over positions and mixers, with an arrow for what must end before; every job takes one unit.

    Above a tile for each mixer, below one for all. A dot is x_t of a mixer. Of a tile's arrows only those from its last
    inputs and to its first outputs are drawn: the chain of cells implies the others. The longest chain is black. Raises
    TypeError for what is no integer, ValueError for M outside 1 .. 4 or L outside 2 .. 10, which cannot be drawn.
    """
    check_count("M", M, 1)
    check_count("L", L, 2)
    if M > 4 or L > 10:
        raise ValueError(f"M must be <= 4 and L <= 10 to be drawn, got M={M} and L={L}")
    figure = Figure(figsize=(10, 1.6 + 1.8 * M))
    for axes, batched in zip(figure.subplots(2, 1), (False, True), strict=True):
        jobs = jobs_of(M, L, schedule(L), batched)
        needs = needs_of(jobs)
        chain = critical_path(needs, [1] * len(jobs))
        black = {(jobs[i], jobs[j]) for i, j in pairwise(chain)}
        for i, job in enumerate(jobs):
            x, y = 2 * job.step - (job.tile is not None), (job.mixers[0] + job.mixers[-1]) / 2
            half = 0.24 if job.tile is None else len(job.mixers) / 2 - 0.2
            colour = PARTS["red_cell" if job.tile is None else "gray_tile"]
            line = {"edgecolor": "black", "linewidth": 2.2 if i in chain else 0}
            axes.add_patch(Rectangle((x - 0.3, y - half), 0.6, 2 * half, facecolor=colour, zorder=3, **line))
            text = job.step if job.tile is None else len(job.tile.inputs)
            axes.text(x, y, text, ha="center", va="center", color="white", fontsize=9, zorder=4)
            _arrows(axes, job, M, black)
        axes.set(xlim=(-0.6, 2 * L - 1.4), ylim=(M - 0.5, -0.7), yticks=range(M), xticks=range(0, 2 * L, 2))
        axes.set_xticklabels(range(L))
        axes.set_ylabel("mixer m")
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        what = f"One tile for all {M} mixers" if batched else "A tile for each mixer"
        axes.set_title(f"{what}: {len(chain)} of {len(jobs)} jobs are in the longest chain")
    axes.set_xlabel("position t (red: cells), between positions the tile with U inputs (gray)")
    return figure


def _arrows(axes: Axes, job: Job, M: int, black: set[tuple[Job, Job]]) -> None:
    """The arrows into a job. From a dot above cell (m, t), which is x_t of mixer m: to the cell, and to a tile."""
    x = 2 * job.step - (job.tile is not None)
    chained = [before for before, after in black if after == job]
    cell = next((before for before in chained if before.tile is None), None)
    for m in job.mixers:
        if job.tile is None:
            dot = (x, m - 0.5)
            above = (x, m - 0.76) if m else (x - 1.7, M - 1)  # the foot of the cell that makes x_t, or its side
            axes.plot(*dot, "o", color="black", markersize=3.5, zorder=4)
            if m or job.step:
                _arrow(axes, above, dot, cell is not None, "-")
            _arrow(axes, dot, (x, m - 0.24), cell is not None)
            if job.step:
                _arrow(axes, (x - 0.7, m + 0.1), (x - 0.3, m + 0.1), bool(chained) and cell is None)
        else:
            last_input = cell is not None and m == (cell.mixers[0] + 1) % M
            _arrow(axes, (x - 1, m - 0.5), (x - 0.3, m - 0.15), last_input)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], black: bool, head: str = "-|>") -> None:
    style = {"arrowstyle": head, "shrinkA": 0, "shrinkB": 0, "linewidth": 2 if black else 0.9}
    style["color"] = "black" if black else PARTS["gray_tile"]
    axes.annotate("", end, start, arrowprops=style, zorder=2)  # behind the tiles, whose numbers it would cross


@styled_figure
def timelines(lays: Mapping[str, Timeline]) -> Figure:
    """Timelines below each other on one axis: a row for each mixer of each stream, cells red, tiles gray.

    A tile for all mixers is as high as all rows. The foot of a job on the longest chain of needs is black; a tick below
    is a position that is complete. Raises ValueError for none, or more than four.
    """
    if not 1 <= len(lays) <= 4:
        raise ValueError(f"lays must hold one to four timelines, got {len(lays)}")
    heights = [_rows(lay) for lay in lays.values()]
    figure = Figure(figsize=(10, 0.8 + 0.24 * sum(heights) + 0.55 * len(lays)))
    grid = figure.subplots(len(lays), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    longest = max(lay.length for lay in lays.values())
    for axes, (name, lay) in zip(grid, lays.items(), strict=True):
        M = 1 + max(job.mixers[-1] for job in lay.jobs)
        points = 72 * 9 / longest  # about how many a unit of time is wide
        for i, job in enumerate(lay.jobs):
            y, height = lay.streams[i] * (M + 0.6) + job.mixers[0], len(job.mixers)
            x, width = lay.starts[i], lay.times[i]
            colour = PARTS["red_cell" if job.tile is None else "gray_tile"]
            box = {"facecolor": colour, "edgecolor": "white", "linewidth": min(0.8, points / 4)}
            axes.add_patch(Rectangle((x, y + 0.06), width, height - 0.12, **box))
            text = str(job.step if job.tile is None else len(job.tile.inputs))
            if width * points > 7 * len(text):
                axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color="white", fontsize=7)
            if i in lay.critical:
                foot = {"facecolor": "black", "linewidth": 0, "gid": "critical"}
                axes.add_patch(Rectangle((x, y + height - 0.2), width, 0.14, **foot))
        rows = _rows(lay)
        axes.plot(lay.tokens, [rows + 0.15] * len(lay.tokens), "|", color="black", markersize=6, clip_on=False)
        places = [stream * (M + 0.6) + m for stream in range(1 + max(lay.streams)) for m in range(M)]
        axes.set_yticks([y + 0.5 for y in places], [f"{m}" for _ in range(1 + max(lay.streams)) for m in range(M)])
        axes.set(xlim=(0, longest), ylim=(rows + 0.3, -0.1), ylabel="mixer")
        axes.grid(False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        idle = "" if len(lay.idle) == 1 else f", second stream idle for {lay.idle[1]}"
        calls = f"{lay.calls} calls of tiles, longest chain {lay.critical_length}{idle}"
        axes.set_title(f"{name}: done after {lay.length} units; {calls}")
    grid[-1].set_xlabel("time (units); a tick below the rows: a position is complete")
    return figure


def _rows(lay: Timeline) -> float:
    M, streams = 1 + max(job.mixers[-1] for job in lay.jobs), 1 + max(lay.streams)
    return streams * M + 0.6 * (streams - 1)


@styled_figure
def bytes_per_sequence(batches: Sequence[int], read: Mapping[str, Sequence[float]]) -> Figure:
    """What the tiles move per position and sequence over the number of sequences B, as stacked bars.

    read: for each of at most two kinds of data its bytes per position and sequence, for each B. Raises ValueError for
    lists that do not fit.
    """
    if not 1 <= len(read) <= 2 or any(len(values) != len(batches) for values in read.values()):
        raise ValueError(f"read must hold one or two kinds of data, each with a value for {len(batches)} batches")
    figure = Figure(figsize=(7, 3.4))
    axes = figure.subplots()
    places, bottom = np.arange(len(batches)), np.zeros(len(batches))
    for (name, values), colour, hatch in zip(
        read.items(), (PARTS["filter"], PARTS["gray_tile"]), ("", "//"), strict=False
    ):
        height = np.asarray(values) / 1e3
        axes.bar(places, height, 0.6, bottom, color=colour, hatch=hatch, edgecolor="white", linewidth=0, label=name)
        bottom += height
    for place, height in zip(places, bottom, strict=True):
        axes.text(place, height, f"{height:.1f}", ha="center", va="bottom")
    axes.set_xticks(places, batches)
    axes.set(xlabel="sequences B in one call", ylabel="kB per position and sequence", ylim=(0, 1.15 * bottom.max()))
    axes.set_title("The filters' spectra are read once, however many sequences share them")
    axes.grid(False, axis="x")
    axes.legend()
    return figure


@styled_figure
def calls_measured(sizes: Sequence[int], seconds: Mapping[str, Sequence[float]]) -> Figure:
    """The time of the tiles of all mixers over their size U, and how much longer each way takes than the last one.

    seconds: for each way its time for every size, three ways at most. Raises ValueError for lists that do not fit.
    """
    styles = [(COLOURS["eager"], "s", ":"), (COLOURS["tiled_cpu"], "o", "-"), (PARTS["now"], "^", "--")]
    if not 2 <= len(seconds) <= len(styles) or any(len(times) != len(sizes) for times in seconds.values()):
        raise ValueError(f"seconds must hold two or three ways, each with a time for {len(sizes)} sizes")
    figure = Figure(figsize=(10, 3.8))
    left, right = figure.subplots(1, 2)
    *_, against = seconds
    for (way, times), (colour, marker, line) in zip(seconds.items(), styles, strict=False):
        style = {"marker": marker, "linestyle": line, "color": colour, "label": way}
        left.plot(sizes, 1e6 * np.asarray(times), **style)
        right.plot(sizes, np.asarray(times) / np.asarray(seconds[against]), **style)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set(xlabel="tile size U (positions)")
    left.set(yscale="log", ylabel="time of one tile, all mixers (µs)")
    left.set_title("Small tiles cost their calls, large ones their data")
    left.legend()
    right.set(ylim=(0, None), ylabel=f"times as long as {against}")
    right.set_title("One call wins for small tiles, not for large ones")
    return figure
