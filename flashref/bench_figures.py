"""The plots of a benchmark's records. Every one names the machine and the date below its title."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from flashref.bench import BOUND, NAIVE, Record
from flashref.bench_report import best_naive, find, tiled_of
from flashref.figure_style import COLOURS, styled_figure


@styled_figure
def time_per_token(records: Sequence[Record], where: str) -> Figure:
    """Mixers and whole model: mean and longest time of a position, over the positions of the longest full run."""
    return _over_positions(records, where, cumulative=False)


@styled_figure
def cumulative_time(records: Sequence[Record], where: str) -> Figure:
    """Mixers and whole model: seconds until a position, for the longest full run."""
    return _over_positions(records, where, cumulative=True)


@styled_figure
def speed_up(records: Sequence[Record], where: str) -> Figure:
    """The better of lazy and eager over the tiled engine, over L; hollow where the naive time is from windows."""
    figure = Figure(figsize=(8, 4.2))
    axes = figure.subplots()
    tiled = tiled_of(records)
    for kind, marker, name in (("mixer", "o", "mixers alone"), ("end_to_end", "s", "whole model")):
        points = []
        for r in records:
            naive = best_naive(records, r)
            if r.kind == kind and r.engine == tiled and naive and (r.B, r.order, r.D) == _usual(records):
                points.append((r.L, naive.seconds / r.seconds, naive.extrapolated))
        points.sort()
        if not points:
            continue
        L, ratio, sampled = map(np.array, zip(*points, strict=True))
        (line,) = axes.plot(L, ratio, "-", label=name)
        for hollow in (False, True):
            here = sampled == hollow
            face = "white" if hollow else line.get_color()
            axes.plot(L[here], ratio[here], marker, color=line.get_color(), markerfacecolor=face, linestyle="none")
        for at, value in zip(L, ratio, strict=True):
            axes.annotate(f"{value:.1f}", (at, value), textcoords="offset points", xytext=(6, -12), fontsize=9)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="L (positions)", ylabel="best naive / tiled")
    axes.set_title(f"The longer the sequence, the more tiling saves\n{where}", loc="left")
    axes.margins(0.1)
    axes.legend()
    return figure


@styled_figure
def breakdown(records: Sequence[Record], where: str) -> Figure:
    """Where a token's time goes: blocks, and what the mixers add, for every engine at the longest L of all engines."""
    figure = Figure(figsize=(8, 3.6))
    axes = figure.subplots()
    ends = [r for r in records if r.kind == "end_to_end" and (r.B, r.order, r.D) == _usual(records)]
    L = max(r.L for r in ends)
    here = [r for r in records if r.L == L and (r.B, r.order, r.D) == _usual(records)]
    bound = 1e6 * find(here, "blocks_only", BOUND).seconds / L
    names = list(dict.fromkeys(r.engine for r in ends if r.L == L))
    for row, engine in enumerate(names):
        record = find(here, "end_to_end", engine) or find(here, "end_to_end", engine, extrapolated=True)
        us = 1e6 * record.seconds / L
        axes.barh(row, bound, color="0.75")
        axes.barh(row, max(0, us - bound), left=bound, color=COLOURS[engine])
        axes.text(us, row, f" {us:,.0f} us" + (" (sampled)" if record.extrapolated else ""), va="center")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("microseconds per token; grey: the blocks alone, in colour: what the mixers add")
    axes.set_title(f"Where a token's time goes, L = {L:,}\n{where}", loc="left")
    return figure


def _over_positions(records: Sequence[Record], where: str, cumulative: bool) -> Figure:
    figure = Figure(figsize=(11, 4))
    for axes, kind, name in zip(figure.subplots(1, 2), ("mixer", "end_to_end"), ("Mixers", "Model"), strict=True):
        full = [r for r in records if r.kind == kind and r.curve and (r.B, r.order, r.D) == _usual(records)]
        naive = [r.L for r in full if r.engine in NAIVE]
        L = max(naive or [r.L for r in full])
        for r in full:
            if r.L != L:
                continue
            end, mean, longest = np.array(r.curve).T
            if cumulative:
                axes.plot(end, np.cumsum(mean * np.diff(end, prepend=0)) / 1e6, color=COLOURS[r.engine], label=r.engine)
            else:
                axes.plot(end, mean, color=COLOURS[r.engine], label=f"{r.engine}, mean")
                axes.plot(end, longest, ".", color=COLOURS[r.engine], markersize=3)
        axes.set_xlabel("position (tokens)")
        axes.set_yscale("linear" if cumulative else "log")
        axes.set_ylabel("seconds so far" if cumulative else "microseconds per position; dots: the longest")
        axes.set_title(f"{name}, L = {L:,}", loc="left")
        axes.legend(fontsize=9)
    figure.suptitle(where, x=0.01, ha="left", fontsize=10)
    return figure


def _usual(records: Sequence[Record]) -> tuple[int, int, int]:
    """B, order and D of the first record of a whole model."""
    first = next(r for r in records if r.kind == "end_to_end")
    return first.B, first.order, first.D
