"""The plots of a benchmark's records. Every one names the machine and the date below its title.

All but the one of growth show the settings that have B, order and D of the first whole model. They raise ValueError
for records that do not hold what they show.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from flashref.bench import BOUND, NAIVE, Record
from flashref.bench_report import best_naive, find, growth, tiled_of
from flashref.figures.style import COLOURS, PARTS, styled_figure

KINDS = (("mixer", "Mixers alone"), ("end_to_end", "Whole model"))
STEPS = (("median", "|", 13), ("p99", "o", 7), ("longest", "D", 7))  # what a record says of its steps, and its marks


@styled_figure
def time_per_token(records: Sequence[Record], where: str) -> Figure:
    """Mixers and whole model: mean and longest time of a position, over the positions of the longest full run."""
    figure, panels = _over_positions(records)
    for axes, shown in panels:
        for record in shown:
            end, mean, longest = np.array(record.curve).T
            line = _line(record)
            axes.plot(end, mean, **line)
            if record.engine != BOUND:
                axes.plot(end, longest, ".", color=line["color"], markersize=4)
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel("µs per position")
    message = "Lazy climbs, eager falls, tiling is flat with spikes (lines: means, dots: the longest of each part)"
    return _finished(figure, panels, f"{message}\n{where}")


@styled_figure
def cumulative_time(records: Sequence[Record], where: str) -> Figure:
    """Mixers and whole model: seconds until a position, for the longest full run."""
    figure, panels = _over_positions(records)
    for axes, shown in panels:
        for record in shown:
            end, mean, _ = np.array(record.curve).T
            spent = np.cumsum(mean * np.diff(end, prepend=0)) / 1e6
            axes.plot([0, *end], [0, *spent], **_line(record))
        axes.set_ylabel("seconds so far")
    return _finished(figure, panels, f"Lazy's sum bends up, eager's bends down, that of tiling is straight\n{where}")


@styled_figure
def speed_up(records: Sequence[Record], where: str) -> Figure:
    """The better of lazy and eager over the tiled engine, over L; hollow where the naive time is from windows."""
    tiled = tiled_of(records)
    lines = []
    for kind, marker, name in (("mixer", "o", "mixers alone"), ("end_to_end", "s", "whole model")):
        points = []
        for r in _usual(records):
            naive = best_naive(records, r)
            if r.kind == kind and r.engine == tiled and naive:
                points.append((r.L, naive.seconds / r.seconds, naive.extrapolated))
        if points:
            lines.append((marker, name, *map(np.array, zip(*sorted(points), strict=True))))
    if not lines:
        raise ValueError(f"records must hold {tiled} beside lazy or eager in one setting, but hold none")
    figure = Figure(figsize=(8, 4.2))
    axes = figure.subplots()
    for (marker, name, L, ratio, sampled), colour in zip(lines, (COLOURS[tiled], "black"), strict=False):
        axes.plot(L, ratio, "-" if marker == "o" else "--", marker=marker, color=colour, label=name)
        axes.plot(L[sampled], ratio[sampled], marker, color=colour, markerfacecolor="white")
        for at, value in zip(L, ratio, strict=True):
            text = f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
            axes.annotate(text, (at, value), textcoords="offset points", xytext=(7, -12), fontsize=9)
    if any(sampled.any() for *_, sampled in lines):
        axes.plot([], [], "o", color="black", markerfacecolor="white", label="naive timed in windows of positions")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lines[0][2], [f"{L:,}" for L in lines[0][2]])
    axes.minorticks_off()
    axes.set(yscale="log", xlabel="L (positions)", ylabel=f"time of the best naive / {tiled}")
    axes.set_title(f"The longer the sequence, the more tiling saves\n{where}")
    axes.margins(0.12)
    axes.legend(loc="upper left")
    return figure


@styled_figure
def breakdown(records: Sequence[Record], where: str) -> Figure:
    """Where a token's time goes: blocks, and what the mixers add, for every engine at the longest L of all engines.

    Left in microseconds, right in percent.
    """
    ends = [r for r in _usual(records) if r.kind == "end_to_end"]
    L = max(r.L for r in ends)
    here = [r for r in _usual(records) if r.L == L]
    blocks = find(here, "blocks_only", BOUND)
    if blocks is None:
        raise ValueError(f"records must hold the model without its mixers at L = {L}, but have none")
    bound = 1e6 * blocks.seconds / L
    names = [engine for engine in COLOURS if any(r.engine == engine for r in ends if r.L == L)]
    figure = Figure(figsize=(10, 1.4 + 0.5 * len(names)))
    left, right = figure.subplots(1, 2, sharey=True)
    for row, engine in enumerate(names):
        record = find(here, "end_to_end", engine) or find(here, "end_to_end", engine, extrapolated=True)
        us = 1e6 * record.seconds / L
        share = max(0, 1 - bound / us)
        for axes, whole in ((left, us), (right, 100)):
            axes.barh(row, whole * (1 - share), color="0.75", hatch="//", edgecolor="white", linewidth=0)
            axes.barh(row, whole * share, left=whole * (1 - share), color=COLOURS[engine])
        left.text(us, row, f" {us:,.0f}" + (" (sampled)" if record.extrapolated else ""), va="center")
        right.text(101, row, f"{100 * share:.0f} %", va="center")
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.margins(x=0.28)
    right.set_xlim(0, 112)
    left.set_xlabel("µs per token")
    right.set_xlabel("percent of the token's time")
    right.set_title("Hatched: the blocks. In colour: what the mixers add")
    figure.suptitle(
        f"Tiling takes the mixers out of a token's time, L = {L:,}\n{where}", x=0.01, ha="left", fontsize=11
    )
    return figure


@styled_figure
def growth_curve(records: Sequence[Record], where: str) -> Figure:
    """The tiled mixers' time per position over L with its fit, and beside it what it grows with, counted.

    Of the settings that were measured for mixers alone.
    """
    tiled = tiled_of(records)
    L, us, (a, b) = growth(records, tiled)
    # growth names the lengths; the counts are the schedule's, the same for every setting of a length.
    counts = {int(r.L): r.per_position for r in records if r.kind == "mixer" and r.engine == tiled}
    figure = Figure(figsize=(10, 4.2))
    left, right = figure.subplots(1, 2)
    left.plot(L, us, "o", color=COLOURS[tiled], label="measured")
    smooth = np.geomspace(L[0], L[-1], 100)
    fit = f"{a:.1f} {'+' if b >= 0 else '−'} {abs(b):.3f} · (log₂ L)²"
    left.plot(smooth, a + b * np.log2(smooth) ** 2, color=PARTS["formula"], linewidth=1, label=f"fit: {fit}")
    left.set(ylim=(0, 1.25 * us.max()), ylabel="µs per position, all mixers and channels")
    left.set_title(f"{L[-1] / L[0]:.0f} times as long, {us[-1] / us[0]:.1f} times the time per position")
    right.plot(L, L / L[0], "s:", color=COLOURS["lazy"], label="pairs (lazy, eager)")
    for name, label, marker, line in (("fft_points", "FFT points", "^", "-."), ("bytes", "bytes moved", "v", "--")):
        values = np.array([counts[int(n)][name] for n in L])
        right.plot(L, values / values[0], marker, linestyle=line, color=COLOURS[tiled], label=f"{label} ({tiled})")
    right.plot(L, us / us[0], "o-", color="black", markersize=4, label="time measured, beside them")
    right.set(yscale="log", ylabel=f"per position, relative to L = {L[0]:,.0f}")
    right.set_title("What a position costs, counted")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("L (positions)")
        axes.legend(loc="upper left")
    figure.suptitle(where, x=0.01, ha="left", fontsize=10)
    return figure


@styled_figure
def step_distribution(records: Sequence[Record], where: str) -> Figure:
    """Mixers and whole model: median, 99th percentile and longest time of a position, one row for every engine.

    At the largest L at which lazy or eager ran in full, if any did.
    """
    figure = Figure(figsize=(10, 3.6))
    for axes, (kind, name) in zip(figure.subplots(1, 2), KINDS, strict=True):
        shown, L = _longest_full(records, kind)
        order = list(COLOURS)
        shown = sorted((r for r in shown if r.engine in order), key=lambda r: order.index(r.engine))
        for row, record in enumerate(shown):
            colour = COLOURS[record.engine]
            values = [record.step[mark] for mark, *_ in STEPS]
            axes.plot([values[0], values[-1]], [row, row], color=colour, linewidth=3, alpha=0.35)
            for value, (_, marker, size) in zip(values, STEPS, strict=True):
                axes.plot(value, row, marker, color=colour, markersize=size, markeredgewidth=3 if marker == "|" else 1)
            axes.annotate(
                f"{values[-1]:,.0f}", (values[-1], row), xytext=(8, 0), textcoords="offset points", va="center"
            )
        for mark, marker, _ in STEPS:
            axes.plot([], [], marker, color="0.3", markeredgewidth=2 if marker == "|" else 1, label=mark)
        axes.set_yticks(range(len(shown)), [r.engine for r in shown])
        axes.set_ylim(len(shown) - 0.5, -0.6)
        axes.set(xscale="log", xlabel="µs of a position")
        axes.margins(x=0.3)
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high > 30 * low else (1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(f"{name}, L = {L:,}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(STEPS))
    message = "Tiling: a low median and a long longest step; bounded spreads that step out"
    figure.suptitle(f"{message}\n{where}", x=0.01, ha="left", fontsize=11)
    return figure


# What is shown. --------------------------------------------------------------------------------------------------


def _usual(records: Sequence[Record]) -> list[Record]:
    """Those with B, order and D of the first record of a whole model."""
    first = next((r for r in records if r.kind == "end_to_end"), None)
    if first is None:
        raise ValueError("records must hold a whole model (kind end_to_end), but hold none")
    return [r for r in records if (r.B, r.order, r.D) == (first.B, first.order, first.D)]


def _longest_full(records: Sequence[Record], kind: str) -> tuple[list[Record], int]:
    """The full runs of this kind, and the blocks', at the largest L at which lazy or eager ran in full (or any)."""
    usual = _usual(records)
    full = [r for r in usual if r.kind == kind and r.curve]
    if not full:
        raise ValueError(f"records must hold a run of every position of kind {kind}, but hold none")
    L = max([r.L for r in full if r.engine in NAIVE] or [r.L for r in full])
    bound = [r for r in usual if r.kind == "blocks_only" and r.curve] if kind == "end_to_end" else []
    return [r for r in full + bound if r.L == L], L


def _over_positions(records: Sequence[Record]) -> tuple[Figure, list[tuple[Axes, list[Record]]]]:
    figure = Figure(figsize=(11, 4.2))
    panels = []
    for axes, (kind, name) in zip(figure.subplots(1, 2), KINDS, strict=True):
        shown, L = _longest_full(records, kind)
        axes.set_title(f"{name}, L = {L:,}")
        axes.set_xlabel("position (tokens)")
        panels.append((axes, shown))
    return figure, panels


def _line(record: Record) -> dict:
    if record.engine == BOUND:
        return {"color": "black", "linestyle": "--", "linewidth": 1, "label": "blocks alone"}
    return {"color": COLOURS[record.engine], "label": record.engine}


def _finished(figure: Figure, panels: list[tuple[Axes, list[Record]]], title: str) -> Figure:
    """One legend for both panels: the second has every line of the first, and the blocks."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    handles, labels = panels[-1][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure
