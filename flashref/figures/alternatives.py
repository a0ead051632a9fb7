"""Plots of what exactness costs and what giving it up loses. Exact engines are filled, approximate ones hollow."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flashref.comparison import Compared
from flashref.figures.style import APPROXIMATE, COLOURS, PARTS, styled_figure

MARKERS = {"distilled": "o", "truncated": "s", "dilated": "^"}
LOOKS = (  # of up to three state sizes in one plot
    {"color": APPROXIMATE["distilled"], "linewidth": 2.5},
    {"color": "black", "linewidth": 1.3, "linestyle": (0, (4, 2))},
    {"color": APPROXIMATE["dilated"], "linewidth": 1.5, "linestyle": ":"},
)
TICKS = [t * 10**k for k in range(6) for t in (1, 2, 5)]  # of an axis of microseconds
EXACT_MARKERS = {"lazy": "P", "eager": "X", "tiled_cpu": "*", "tiled_gpu": "*", "bounded": "D", "epoched": "d"}


@styled_figure
def distilled_filters(
    filters: Mapping[str, Float[np.ndarray, " L"]],
    distilled: Mapping[int, Mapping[str, Float[np.ndarray, " L"]]],
    lags: Mapping[str, int],
) -> Figure:
    """Some filters, and what state space models of some sizes keep of them, over each one's first lags, 0 left out.

    filters: by name; distilled: for each state size the same names; lags: how many to show of each. Raises ValueError
    for no filter, or a name that one of them lacks.
    """
    if not filters or any(kept.keys() != filters.keys() for kept in (*distilled.values(), lags)):
        raise ValueError(f"distilled and lags must have the names of filters, {list(filters)}")
    figure = Figure(figsize=(11, 4))
    grid = figure.subplots(1, len(filters), squeeze=False)[0]
    for axes, (name, rho) in zip(grid, filters.items(), strict=True):
        shown = np.arange(1, lags[name])
        axes.plot(shown, rho[shown], linewidth=0.8, color=PARTS["filter"], label="the filter")
        for (N, kept), look in zip(distilled.items(), LOOKS, strict=False):
            axes.plot(shown, kept[name][shown], **look, label=f"N = {N}")
        axes.set(xlabel="lag (tokens)", ylabel="tap")
        axes.set_title(name)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle("What a few exponentials keep of a filter", x=0.01, ha="left")
    return figure


@styled_figure
def error_and_loss(records: Sequence[Compared]) -> Figure:
    """What a model loses over the relative l2 error of its filters, for the approximate engines at one length.

    Raises ValueError if no record is of an approximate engine with a loss, or their lengths differ.
    """
    records = [r for r in records if not r.exact and r.lost is not None]
    if len({r.L for r in records}) != 1:
        raise ValueError(f"records must be of approximate engines at one length, got {sorted({r.L for r in records})}")
    figure = Figure(figsize=(10, 4.2))
    axes = figure.subplots()
    for engine in dict.fromkeys(r.engine for r in records):
        _draw_sizes(axes, [r for r in records if r.engine == engine], "relative_error")
    _loss_axis(axes)
    axes.set(xlabel="relative error of all filters (l2)", ylabel="lost (bits per byte above exact)")
    axes.set_title("How far a filter is off does not say what the model loses")
    figure.legend(loc="outside right upper")
    return figure


@styled_figure
def cost_and_loss(records: Sequence[Compared]) -> Figure:
    """The cross-over: what a position costs in the mixers against what the model loses, one plot for each length.

    Exact engines lie on the line of no loss. Numbers are state sizes and windows, bars twice the standard error. Raises
    ValueError if no record has both a cost and a loss.
    """
    records = [r for r in records if r.microseconds is not None and r.lost is not None]
    if not records:
        raise ValueError("records must hold at least one with microseconds and lost")
    lengths = sorted({r.L for r in records})
    figure = Figure(figsize=(5.6 * len(lengths), 5))
    for axes, L in zip(figure.subplots(1, len(lengths), sharey=True, squeeze=False)[0], lengths, strict=True):
        here = [r for r in records if r.L == L]
        for r in here:
            if r.exact:
                look = {"marker": EXACT_MARKERS[r.engine], "color": COLOURS[r.engine], "markersize": 11}
                axes.plot(r.microseconds, 0, linestyle="", label=f"{r.engine} (exact)", zorder=4, **look)
        for engine in dict.fromkeys(r.engine for r in here if not r.exact):
            _draw_sizes(axes, [r for r in here if r.engine == engine], "microseconds")
        _loss_axis(axes)
        axes.set(xlabel="time of a position, all mixers (µs)", xscale="log")
        ticks = [t for t in TICKS if axes.get_xlim()[0] <= t <= axes.get_xlim()[1]]
        axes.set_xticks(ticks, [f"{t:,}" for t in ticks])
        axes.minorticks_off()
        axes.set_title(f"L = {L:,}")
    figure.axes[0].set_ylabel("lost (bits per byte above exact)")
    handles, labels = figure.axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    figure.suptitle("Exact engines lose nothing and cost more in longer texts; a window or a recurrence costs the same")
    return figure


@styled_figure
def cost_over_length(records: Sequence[Compared]) -> Figure:
    """What a position costs in the mixers over the length of the text: exact engines with lines, approximate dashed.

    One line for each engine and size that was timed at more than one length. Raises ValueError if there is none.
    """
    lines: dict[str, list[Compared]] = {}
    for r in sorted((r for r in records if r.microseconds is not None), key=lambda r: r.L):
        lines.setdefault(r.label, []).append(r)
    most = max(map(len, lines.values()), default=0)
    if most < 2:
        raise ValueError("records must hold times of an engine at more than one length")
    figure = Figure(figsize=(10, 4.2))
    axes = figure.subplots()
    seen: dict[str, int] = {}
    for label, line in lines.items():
        if len(line) == most or line[0].exact:
            nth = seen[line[0].engine] = seen.get(line[0].engine, -1) + 1
            _draw_line(axes, label, line, ("--", ":", "-.")[nth % 3])
    axes.set(xlabel="length of the text, L (tokens)", ylabel="time of a position, all mixers (µs)")
    axes.set(xscale="log", yscale="log")
    axes.set_xticks([L for L in sorted({r.L for r in records})], [f"{L:,}" for L in sorted({r.L for r in records})])
    axes.minorticks_off()
    axes.set_title("What is exact gets dearer with the length, some of it slowly")
    figure.legend(loc="outside right upper")
    return figure


@styled_figure
def exact_growth(
    lengths: Sequence[int], multiply_adds: Mapping[str, Sequence[float]], numbers: Mapping[str, Sequence[float]]
) -> Figure:
    """Counted multiply-adds per position and numbers held, for one channel of one sequence, over the length.

    Both by engine, one value for each length. Raises ValueError for a name that is no engine or another count.
    """
    for name, values in (*multiply_adds.items(), *numbers.items()):
        if name not in COLOURS or len(values) != len(lengths):
            raise ValueError(f"multiply_adds and numbers must hold {len(lengths)} values per engine, got {name!r}")
    figure = Figure(figsize=(11, 3.8))
    left, right = figure.subplots(1, 2)
    for axes, found in ((left, multiply_adds), (right, numbers)):
        for name, values in found.items():
            axes.plot(lengths, values, marker=EXACT_MARKERS[name], color=COLOURS[name], label=name)
        axes.set(xscale="log", yscale="log", xlabel="length of the text, L (tokens)")
        axes.legend()
    left.set_title("Epochs: between eager and tiles in work ...")
    left.set_ylabel("multiply-adds per position")
    right.set_title("... and they keep no spectra")
    right.set_ylabel("numbers held beside the filter")
    return figure


def _draw_sizes(axes: Axes, records: Sequence[Compared], x: str) -> None:
    """The sizes of one approximate engine: hollow markers, joined, each with its size beside it."""
    records = sorted(records, key=lambda r: r.size)
    engine = records[0].engine
    colour, places = APPROXIMATE[engine], [getattr(r, x) for r in records]
    axes.errorbar(
        *(places, [r.lost for r in records], [2 * (r.standard_error or 0) for r in records]),
        **{"marker": MARKERS[engine], "markerfacecolor": "white", "color": colour, "linewidth": 1},
        label=f"{engine} (approximate)",
    )
    for place, r in zip(places, records, strict=True):
        axes.annotate(r.size, (place, r.lost), (5, 5), textcoords="offset points", color=colour, fontsize=8)


def _draw_line(axes: Axes, label: str, line: Sequence[Compared], style: str) -> None:
    look = {"marker": EXACT_MARKERS.get(line[0].engine), "color": COLOURS.get(line[0].engine)}
    if not line[0].exact:
        engine = line[0].engine
        look = {"marker": MARKERS[engine], "color": APPROXIMATE[engine], "markerfacecolor": "white", "linestyle": style}
    kind = "exact" if line[0].exact else "approximate"
    axes.plot([r.L for r in line], [r.microseconds for r in line], label=f"{label} ({kind})", **look)


def _loss_axis(axes: Axes) -> None:
    """Losses over three powers of ten, and around zero on an even scale, for there they may be negative."""
    axes.axhline(0, color=PARTS["formula"], linewidth=0.8)
    axes.set_yscale("symlog", linthresh=0.003, linscale=0.7)
    ticks = (-0.003, 0, 0.003, 0.01, 0.03, 0.1, 0.3)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
