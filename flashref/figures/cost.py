"""Plots of what the tiles cost: counted, by a formula and timed; over length, size, step, base block and radix."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from flashref.figures.style import COLOURS, PARTS, styled_figure
from flashref.tiling import RadixCost, check_integers, radix_cost

BASES, RADIXES = tuple(2**q for q in range(11)), tuple(2**q for q in range(1, 7))  # what cost_choices compares
KINDS = {  # colour, marker and line of each way to compute the same pairs
    "lazy": (COLOURS["lazy"], "s", "-"),
    "eager": (COLOURS["eager"], "x", (0, (4, 4))),
    "relaxed": (COLOURS["tiled_cpu"], "o", "-"),
    "offline": (PARTS["offline"], "^", "-."),
}


@styled_figure
def tiles_per_size(L: int = 32) -> Figure:
    """The tiles of each size U, laid along the positions: every row touches each of the L positions once.

    A box spans the inputs (light) and the outputs (dark) of one tile, 2U positions; beside a row stand the butterflies
    of its two transforms. Raises TypeError for L that is no integer, ValueError for L that is no power of two, or
    outside 4 .. 64.
    """
    check_integers(L=L)
    if not 4 <= L <= 64 or L & (L - 1):
        raise ValueError(f"L must be a power of two in 4 .. 64 to be drawn, got {L}")
    sizes = [2**q for q in range(L.bit_length() - 1)]
    figure = Figure(figsize=(8.6, 0.9 + 0.5 * len(sizes)))
    axes = figure.subplots()
    for row, U in enumerate(sizes):
        for n in range(U, L, 2 * U):
            for start, colour in ((n - U, PARTS["owed"]), (n, PARTS["gray_tile"])):
                axes.add_patch(Rectangle((start, row - 0.34), U, 0.68, facecolor=colour, linewidth=0))
            axes.add_patch(Rectangle((n - U, row - 0.34), 2 * U, 0.68, fill=False, linewidth=1))
        tiles, each = L // (2 * U), 2 * U * U.bit_length()
        line = f"{tiles} {'tile' if tiles == 1 else 'tiles'} × {each} = {tiles * each} butterflies"
        axes.text(L * 1.02, row, line, va="center")
    axes.set(xlim=(0, L * 1.36), ylim=(-0.6, len(sizes) - 0.4), xlabel="position")
    axes.set_xticks(np.arange(0, L + 1, L // 8 or 1))
    axes.set_yticks(range(len(sizes)), [f"U = {U}" for U in sizes])
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_title("Each size touches every position once: the same points on every row")
    return figure


@styled_figure
def counted_over_length(
    lengths: Sequence[int],
    counted: dict[str, dict[str, Sequence[int]]],
    formula: dict[str, dict[str, Sequence[int]]],
    fits: dict[str, dict[str, tuple[float, float]]],
) -> Figure:
    """What was counted over the length L, on two logarithmic axes: one panel per quantity, one line per kind.

    counted and formula: quantity -> kind ("lazy", "eager", "relaxed", "offline") -> one number per length; fits:
    quantity -> kind -> (slope, intercept) of log2(count) over log2(L). Marks are counted, black dots the formula,
    lines the fits. Raises ValueError for an unknown kind, a count that has not one number per length, or a formula or
    fit that is missing.
    """
    for quantity, kinds in counted.items():
        for kind, numbers in kinds.items():
            if kind not in KINDS or len(numbers) != len(lengths):
                raise ValueError(f"each kind must be one of {', '.join(KINDS)} with a number per length, got {kind!r}")
            if any(kind not in other.get(quantity, {}) for other in (formula, fits)):
                raise ValueError(f"formula and fits must hold what was counted, but lack {kind!r} of {quantity!r}")
    figure = Figure(figsize=(10, 4.6))
    for axes, (quantity, kinds) in zip(
        figure.subplots(1, len(counted), squeeze=False)[0], counted.items(), strict=True
    ):
        for kind, numbers in kinds.items():
            colour, marker, line = KINDS[kind]
            slope, intercept = fits[quantity][kind]
            axes.plot(lengths, 2.0**intercept * np.float64(lengths) ** slope, linestyle=line, color=colour, alpha=0.6)
            size = 8 if kind == "lazy" else 5
            axes.plot(lengths, numbers, marker, color=colour, markersize=size, fillstyle="none", markeredgewidth=1.4)
            axes.plot([], [], marker=marker, linestyle=line, color=colour, label=f"{kind}: slope {slope:.2f}")
            axes.plot(lengths, formula[quantity][kind], ".", color=PARTS["formula"], markersize=2)
        axes.plot([], [], ".", color=PARTS["formula"], markersize=3, label="formula")
        axes.set_xscale("log", base=2)
        axes.set(yscale="log", xlabel="length L (positions)", ylabel=f"{quantity} per channel")
        axes.set_title(f"Tiles take the slope of 2 out of the {quantity}")
        axes.legend()
    return figure


@styled_figure
def tile_times(
    sizes: Sequence[int], seconds: dict[str, Sequence[float]], model: Sequence[float], fitted: Sequence[int]
) -> Figure:
    """The time of one tile over its size U, measured and by the model, and beside it the ratio of the two.

    seconds: for each way to compute a tile its times for the first of the sizes (a list may be shorter than sizes);
    model: the model's time for every size; fitted: the sizes that it was fitted to. Raises ValueError for more than
    three ways, or times that do not fit the sizes.
    """
    styles = [(COLOURS["eager"], "s", ":"), (COLOURS["tiled_cpu"], "o", "-"), (PARTS["now"], "^", "--")]
    if len(seconds) > len(styles) or len(model) != len(sizes) or any(len(s) > len(sizes) for s in seconds.values()):
        raise ValueError(f"needs at most {len(styles)} ways with at most one time for each of {len(sizes)} sizes")
    figure = Figure(figsize=(10, 4.2))
    left, right = figure.subplots(1, 2)
    for (way, times), (colour, marker, line) in zip(seconds.items(), styles, strict=False):
        done = sizes[: len(times)]
        left.plot(done, 1e6 * np.asarray(times), marker=marker, linestyle=line, color=colour, label=way)
        if len(times) == len(sizes):
            right.plot(done, np.asarray(times) / model, marker=marker, linestyle=line, color=colour, label=way)
    left.plot(sizes, 1e6 * np.asarray(model), color=PARTS["formula"], linewidth=1, label="model of the FFT")
    right.axhline(1, color=PARTS["formula"], linewidth=1)
    for axes in (left, right):
        axes.axvspan(min(fitted), max(fitted), color=PARTS["owed"], alpha=0.6, linewidth=0, label="fitted here")
        axes.set_xscale("log", base=2)
        axes.set(xlabel="tile size U (positions)")
        axes.legend()
    left.set(yscale="log", ylabel="time of one tile (µs)")
    left.set_title("A small tile costs what a call costs")
    right.set(ylim=(0, None), ylabel="measured time / model")
    right.set_title("A large one costs more than its arithmetic")
    return figure


@styled_figure
def level_shares(sizes: Sequence[int], counted: Sequence[float], timed: Sequence[float]) -> Figure:
    """Which share of all arithmetic and of all time the tiles of each size U have, as pairs of bars.

    counted and timed: for each size what all its tiles cost together, in any unit. Raises ValueError for lists of
    different lengths or a sum that is not positive.
    """
    if not len(sizes) == len(counted) == len(timed) or not (sum(counted) > 0 and sum(timed) > 0):
        raise ValueError("sizes, counted and timed must be of one length, with a positive sum of costs")
    figure = Figure(figsize=(10, 3.4))
    axes = figure.subplots()
    places = np.arange(len(sizes))
    for offset, costs, colour, hatch, label in (
        (-0.2, counted, PARTS["owed"], "//", "arithmetic, counted"),
        (0.2, timed, COLOURS["tiled_cpu"], None, "time, measured"),
    ):
        shares = 100 * np.asarray(costs, dtype=float) / sum(costs)
        axes.bar(places + offset, shares, 0.4, color=colour, hatch=hatch, edgecolor="black", linewidth=0.6, label=label)
    axes.set_xticks(places, [f"{U:,}" for U in sizes])
    axes.set(xlabel="tile size U (positions)", ylabel="share of the whole (%)")
    axes.set_title("All sizes do similar arithmetic, but the smallest take the time")
    axes.legend(loc="upper center")
    return figure


@styled_figure
def cost_per_step(work: Sequence[int]) -> Figure:
    """What each step costs in multiply-adds, its sum over the steps beside lazy and eager, and the steps by their cost.

    work: the multiply-adds of step n = 1, 2, .. L-1, per channel. Raises ValueError for fewer than three steps.
    """
    if len(work) < 3:
        raise ValueError(f"work must hold the cost of at least three steps, got {len(work)}")
    work = np.asarray(work, dtype=float)
    steps = np.arange(1, len(work) + 1)
    blue = COLOURS["tiled_cpu"]
    figure = Figure(figsize=(10, 6.4))
    grid = figure.add_gridspec(2, 2)
    top, left, right = figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, 0]), figure.add_subplot(grid[1, 1])
    top.vlines(steps, 0.5, work, color=blue, linewidth=0.5, alpha=0.25, rasterized=True)
    top.plot(steps, work, ".", color=blue, markersize=3, rasterized=True)
    top.axhline(work.mean(), color=PARTS["formula"], linestyle="--", linewidth=1, label=f"mean {work.mean():,.0f}")
    top.axhline(np.median(work), color=PARTS["formula"], linestyle=":", label=f"median {np.median(work):,.0f}")
    top.set(xlabel="step n (inputs known)", ylabel="multiply-adds", yscale="log", ylim=(0.7, 8 * work.max()))
    top.set_title(f"Most steps cost almost nothing, the largest {work.max():,.0f} multiply-adds")
    top.legend(loc="upper left", ncols=2)
    for kind, each in (("lazy", steps), ("eager", steps[::-1]), ("relaxed", work)):
        colour, _, line = KINDS[kind]
        left.plot(steps, np.cumsum(each), linestyle=line, color=colour, label=kind, drawstyle="steps-post")
    left.set(xlabel="step n (inputs known)", ylabel="multiply-adds so far")
    left.yaxis.set_major_formatter("{x:,.0f}")
    left.set_title("The sum climbs in stairs")
    left.legend()
    share = np.cumsum(np.sort(work)) / work.sum()
    half = int((share > 0.5).sum())
    right.plot(100 * steps / len(steps), 100 * share, color=blue)
    right.plot([0, 100], [0, 100], color=PARTS["gray_tile"], linestyle=":", label="if all steps cost the same")
    right.set(xlabel="share of the steps, cheapest first (%)", ylabel="share of the cost (%)")
    right.set_title(f"{half} of {len(steps):,} steps do half of the work")
    right.legend(loc="upper left")
    return figure


@styled_figure
def base_curve(bases: Sequence[int], seconds: dict[str, Sequence[float]]) -> Figure:
    """The time of a whole generation over the size b of the base block, a line per entry, the best of each marked.

    seconds: for each label ("measured", "model") the time for each base. Raises ValueError for more than two labels, or
    times that do not fit the bases.
    """
    if len(seconds) > 2 or any(len(times) != len(bases) for times in seconds.values()):
        raise ValueError(f"seconds must hold one or two labels with a time for each of {len(bases)} bases")
    figure = Figure(figsize=(8, 3.6))
    axes = figure.subplots()
    styles = [(COLOURS["tiled_cpu"], "o", "-"), (PARTS["formula"], "s", "--")]
    for (label, times), (colour, marker, line) in zip(seconds.items(), styles, strict=False):
        times = 1e3 * np.asarray(times)
        best = int(times.argmin())
        axes.plot(bases, times, marker=marker, linestyle=line, color=colour, label=f"{label}, best b = {bases[best]}")
        axes.plot(bases[best], times[best], "o", color=colour, markersize=13, fillstyle="none")
    axes.set_xscale("log", base=2)
    axes.set_xticks(bases, bases)
    axes.set(xlabel="base block b (positions)", ylabel="time of all steps (ms)", ylim=(0, None))
    axes.set_title("The curve is steep on the left and flat around its best b")
    axes.legend()
    return figure


@styled_figure
def cost_choices(L: int, base: int = 1, radix: int = 2) -> Figure:
    """What base and radix do to the multiply-adds per position: stacked bars over each, the present choice outlined.

    Left every base from 1 to 1024 with this radix, right every radix from 2 to 64 with this base. Raises as radix_cost
    does, and ValueError for a base above 1024 or a radix above 64, which are not drawn.
    """
    chosen = radix_cost(L, radix, base)
    if base not in BASES or radix not in RADIXES:
        raise ValueError(f"base must be <= 1024 and radix <= 64 to be drawn, got base={base} and radix={radix}")
    figure = Figure(figsize=(10, 3.8))
    axes = figure.subplots(1, 2, sharey=True, width_ratios=(11, 6))
    _stack_costs(axes[0], L, BASES, [radix_cost(L, radix, b) for b in BASES], BASES.index(base))
    _stack_costs(axes[1], L, RADIXES, [radix_cost(L, r, base) for r in RADIXES], RADIXES.index(radix))
    axes[0].set(xlabel=f"base block b (radix {radix})", ylabel="multiply-adds per position")
    axes[1].set(xlabel=f"radix r (base {base})")
    axes[0].set_title(f"L = {L:,}, b = {base}, r = {radix}: {chosen.total / L:,.1f} multiply-adds per position")
    axes[0].legend(loc="upper center", ncols=3)
    axes[0].set_ylim(0, 1.15 * axes[0].get_ylim()[1])
    return figure


def _stack_costs(axes: Axes, L: int, labels: Sequence[int], costs: Sequence[RadixCost], chosen: int) -> None:
    """Bars of direct work, products and transforms per position, one for each label; the chosen one is outlined."""
    places, bottom = np.arange(len(labels)), np.zeros(len(labels))
    for part, colour, hatch in (
        ("direct", COLOURS["eager"], "//"),
        ("products", PARTS["gray_tile"], None),
        ("transforms", COLOURS["tiled_cpu"], None),
    ):
        height = np.array([getattr(cost, part) / L for cost in costs])
        axes.bar(places, height, 0.7, bottom, color=colour, hatch=hatch, edgecolor="white", linewidth=0, label=part)
        bottom += height
    axes.bar(chosen, bottom[chosen], 0.84, fill=False, edgecolor="black", linewidth=2.2)
    axes.set_xticks(places, labels)
    axes.grid(False, axis="x")
