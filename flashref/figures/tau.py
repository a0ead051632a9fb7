"""Plots of one tile: its matrix on a circle, its time and memory, its errors, and what a program of the kernel touches.

Ways of a tile have one colour in all of them. A way is "direct", "FFT", "spectra kept" or "hybrid".
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter

from flashref.figures.style import COLOURS, PARTS, styled_figure
from flashref.tiling import check_integers

WAYS = {  # colour, marker and line
    "direct": (COLOURS["eager"], "s", ":"),
    "FFT": (PARTS["offline"], "^", "-."),
    "spectra kept": (COLOURS["tiled_cpu"], "o", "-"),
    "hybrid": (PARTS["now"], "D", "--"),
}
TYPES = {"float32": "o", "float64": "s", "bfloat16 inputs": "^"}


@styled_figure
def toeplitz_on_a_circle(U: int = 4, N: int | None = None) -> Figure:
    """A tile as a matrix of lags, and what a circular convolution of N points (None: 2U) computes in its place.

    Left the tile: a row for each output, a column for each input, the lag in each cell. Right the N x N matrix of the
    circle with taps 0 .. 2U-1: columns that meet the zeros behind the inputs are pale, rows that are thrown away gray.
    Of the rows that are kept a cell is green where it holds the lag that the tile wants and no other, marked where not.
    Raises TypeError for what is no integer, ValueError for U outside 1 .. 8 or N outside U .. 4U.
    """
    N = 2 * U if N is None else N
    check_integers(U=U, N=N)
    if not 1 <= U <= 8 or not U <= N <= 4 * U:
        raise ValueError(f"U must lie in 1 .. 8 and N in U .. 4U to be drawn, got U = {U} and N = {N}")
    figure = Figure(figsize=(9.6, 5.4))
    left, right = figure.subplots(1, 2, width_ratios=(max(U / N, 0.42), 1))
    for i in range(U):
        for j in range(U):
            _cell(left, j, i, str(U + i - j), "now", 130 / U)
    kept, wrong = {w % N: w for w in range(U, 2 * U)}, 0
    for i in range(N):
        for j in range(N):
            lags = [k for k in range(2 * U) if (i - j - k) % N == 0]
            part = "owed" if j >= U else "gray_tile"
            if i in kept and j < U:
                part = "now" if lags == [kept[i] - j] else "wrong"
                wrong += part == "wrong"
            _cell(right, j, i, "+".join(map(str, lags)) if N <= 16 else "", part, 130 / N)
    for axes, size, columns, rows in (
        (left, U, [f"$x_{{{j}}}$" for j in range(U)], [f"$z_{{{U + i}}}$" for i in range(U)]),
        (right, N, [f"$x_{{{j}}}$" if j < U else "0" for j in range(N)], list(range(N))),
    ):
        axes.set(xlim=(0, size), ylim=(size, 0), aspect="equal", anchor="NW")
        shown = slice(None, None, -(-size // 16))  # every second label where there are over 16
        axes.set_xticks(np.arange(size)[shown] + 0.5, columns[shown], fontsize=9)
        axes.set_yticks(np.arange(size)[shown] + 0.5, rows[shown], fontsize=9)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
    left.set_title(f"The tile: lags 1 to {2 * U - 1}\n")
    ends = f"{wrong} of the tile's {U * U} cells wrong" if wrong else "the rows that are kept are the tile"
    right.set_title(f"A circle of {N}: {ends}\n")
    return figure


def _cell(axes: Axes, x: float, y: float, text: str, part: str, size: float) -> None:
    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=PARTS[part], edgecolor="white", linewidth=1))
    ink = "white" if part in ("now", "gray_tile") else "#666666" if part == "owed" else "black"
    size = min(12, size / max(1, len(text) / 2)) if "$" not in text else size
    axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", color=ink, fontsize=size)


@styled_figure
def time_per_output(
    sizes: Sequence[int], seconds: dict[str, Sequence[Sequence[float]]], channels: int, crossing: int
) -> Figure:
    """The time of a tile for each output of each channel over its size U: least of the repeats, and up to the median.

    seconds: for each way the repeats of one tile for the first of the sizes (a way may stop early). crossing: the
    largest U at which direct is not slower, 0 for none. Raises ValueError for an unknown way, or repeats that are
    empty or for more sizes than there are.
    """
    for way, repeats in seconds.items():
        if way not in WAYS or len(repeats) > len(sizes) or not all(len(r) for r in repeats):
            raise ValueError(f"each way must be one of {', '.join(WAYS)} with repeats for the first sizes, got {way!r}")
    figure = Figure(figsize=(8.6, 4.4))
    axes = figure.subplots()
    for way, repeats in seconds.items():
        colour, marker, line = WAYS[way]
        done = np.array(sizes[: len(repeats)])
        least, middle = (1e9 / (done * channels) * [f(r) for r in repeats] for f in (np.min, np.median))
        axes.fill_between(done, least, middle, color=colour, alpha=0.25, linewidth=0)
        axes.plot(done, least, marker=marker, linestyle=line, color=colour, label=way, markersize=5)
    if crossing:
        axes.axvline(crossing * 2**0.5, color=PARTS["formula"], linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{U:,}" for U in sizes])
    axes.set(yscale="log", xlabel="tile size U (positions)", ylabel="time per output and channel (ns)")
    axes.set_title(f"Here direct wins up to U = {crossing}, the FFT beyond" if crossing else "Here the FFT always wins")
    axes.legend(title="line: least of all repeats, band: up to the median")
    return figure


@styled_figure
def pareto(points: dict[str, tuple[str, float, float]], L: int) -> Figure:
    """Time of all tiles of L positions against the memory kept for them, and the front of what no other point beats.

    points: label -> (way, seconds, bytes). A point is on the front if no other is at most as slow and as large and
    better in one of the two. Raises ValueError for no points or an unknown way.
    """
    if not points or any(way not in WAYS for way, _, _ in points.values()):
        raise ValueError(f"points must hold labels with one of the ways {', '.join(WAYS)}, got {list(points)}")
    figure = Figure(figsize=(8.6, 4.4))
    axes = figure.subplots()
    front = pareto_front({label: costs for label, (_, *costs) in points.items()})
    line = np.array([points[label][1:] for label in front])
    axes.step(line[:, 1] / 1e6, line[:, 0], where="post", color="black", linewidth=0.8, label="Pareto front")
    for label, (way, seconds, kept) in points.items():
        colour, marker, _ = WAYS[way]
        axes.plot(kept / 1e6, seconds, marker, color=colour, fillstyle="full" if label in front else "none")
        if label != way:  # the legend names the others
            axes.annotate(label, (kept / 1e6, seconds), (0, 7), textcoords="offset points", fontsize=9, rotation=40)
    for way in dict.fromkeys(way for way, _, _ in points.values()):
        axes.plot([], [], WAYS[way][1], color=WAYS[way][0], label=way)
    least = min((kept for *_, kept in points.values() if kept), default=1e6)
    axes.set_xscale("symlog", linthresh=least / 1e6)  # logarithmic, with room for a zero
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.margins(x=0.1, y=0.2)
    axes.set(xlabel="spectra kept (MB)", ylabel=f"time of all tiles of L = {L:,} (s)")
    axes.set_title("More memory, less time; hollow points are beaten by others")
    axes.legend()
    return figure


def pareto_front(costs: dict[str, Sequence[float]]) -> list[str]:
    """The labels that no other beats, by rising second cost. One beats another: nowhere worse, and better once."""

    def beats(a: Sequence[float], b: Sequence[float]) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)

    front = [label for label, mine in costs.items() if not any(beats(other, mine) for other in costs.values())]
    return sorted(front, key=lambda label: costs[label][1])


@styled_figure
def error_growth(
    sizes: Sequence[int], errors: dict[tuple[str, str], Sequence[float]], laws: dict[str, Sequence[float]]
) -> Figure:
    """The error of a tile relative to the norm of its outputs over U: a line for each way and dtype, laws in black.

    errors: (way, dtype) -> one per size, the dtype "float32", "float64" or "bfloat16 inputs"; zeros are left out. laws:
    what is expected, label -> one per size. Raises ValueError for an unknown way or dtype, or lists of other lengths.
    """
    if any(way not in WAYS or dtype not in TYPES for way, dtype in errors):
        raise ValueError(f"errors must be named by a way and one of {', '.join(TYPES)}, got {list(errors)}")
    if any(len(values) != len(sizes) for values in (*errors.values(), *laws.values())):
        raise ValueError(f"errors and laws must hold one number for each of {len(sizes)} sizes")
    figure = Figure(figsize=(8.6, 4.8))
    axes = figure.subplots()
    for (way, dtype), values in errors.items():
        colour, _, line = WAYS[way]
        values = np.where(np.asarray(values) > 0, values, np.nan)
        axes.plot(sizes, values, marker=TYPES[dtype], linestyle=line, color=colour, label=f"{way}, {dtype}")
    for (label, values), line in zip(laws.items(), ("-", "--", "-.", ":"), strict=False):
        axes.plot(sizes, values, linestyle=line, color=PARTS["formula"], linewidth=0.9, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes[::2], [f"{U:,}" for U in sizes[::2]])
    axes.set(yscale="log", xlabel="tile size U (positions)", ylabel="error / norm of the outputs")
    axes.set_title("A sum's error grows with U, the FFT's hardly; rounded inputs outweigh both")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@styled_figure
def dynamic_range(outputs: Sequence[float], errors: dict[str, Sequence[float]], floor: float) -> Figure:
    """The size of a tile's outputs and of each way's errors, output by output. floor: what one rounding of the norm is.

    Raises ValueError for an unknown way, or errors that are not one per output.
    """
    for way, values in errors.items():
        if way not in WAYS or len(values) != len(outputs):
            raise ValueError(f"errors must hold one number per output for ways of {', '.join(WAYS)}, got {way!r}")
    figure = Figure(figsize=(8.6, 4.2))
    axes = figure.subplots()
    places = np.arange(len(outputs))
    axes.plot(places, np.abs(outputs), color=PARTS["formula"], label="the outputs, |z|")
    for way, values in errors.items():
        colour, marker, _ = WAYS[way]
        axes.plot(places, np.where(np.asarray(values) > 0, values, np.nan), marker, color=colour, markersize=2.5,
                  label=f"error, {way}")  # fmt: skip
    axes.axhline(floor, color=PARTS["formula"], linestyle=":", linewidth=1, label="norm × unit roundoff")
    axes.set(yscale="log", xlabel="output i of the tile", ylabel="absolute value")
    axes.set_title("The FFT's error is the same everywhere, the direct sum's shrinks with the output")
    axes.legend(markerscale=3)
    return figure


@styled_figure
def kernel_program(U: int = 8) -> Figure:
    """What one row of a program of the Triton kernel reads and writes: slots of the buffer, and the taps of step j.

    Above, the buffer: U inputs are read once, U sums read and written once. Below, the filter, and for every step j of
    the loop the U taps that meet input j, lags U-j .. 2U-1-j. Raises TypeError for U that is no integer, ValueError for
    U outside 1 .. 16.
    """
    check_integers(U=U)
    if not 1 <= U <= 16:
        raise ValueError(f"U must lie in 1 .. 16 to be drawn, got {U}")
    figure = Figure(figsize=(9, 1.9 + 0.3 * U))
    axes = figure.subplots()
    axes.set(xlim=(-0.32 * U, 2.75 * U), ylim=(U + 3.7, -0.2))
    axes.set_axis_off()
    small = min(10, 90 / U)
    for s in range(2 * U):
        part, text = ("gray_tile", f"$x_{{{s}}}$") if s < U else ("now", f"$z_{{{s}}}$")
        _cell(axes, s, 0, text, part, small)
        _cell(axes, s, 2.2, f"$\\rho_{{{s}}}$", "block" if s else "owed", small)
    for j in range(U):
        for i in range(U):
            axes.add_patch(Rectangle((U + i - j, 3.7 + j), 1, 0.7, facecolor=PARTS["block"], edgecolor="white"))
        axes.text(U - j - 0.15, 4.05 + j, f"$x_{{{j}}}\\,\\times$", ha="right", va="center", fontsize=small)
        lags = f"lags {U - j} to {2 * U - 1 - j}"
        axes.text(2 * U + 0.2, 4.05 + j, f"j = {j}: {lags}", va="center", fontsize=small)
    axes.text(-0.15, 0.5, "buffer", ha="right", va="center")
    axes.text(-0.15, 2.7, "filter", ha="right", va="center")
    axes.text(U / 2, 1.2, f"{U} inputs: read", ha="center", va="top")
    axes.text(1.5 * U, 1.2, f"{U} sums: read, written", ha="center", va="top")
    axes.text(2 * U + 0.2, 2.7, f"{2 * U - 1} taps: read", va="center")
    axes.set_title(f"{5 * U - 1} numbers move for {U * U} multiply-adds")
    return figure


@styled_figure
def roofline(sizes: Sequence[int], intensity: Sequence[float], bandwidth: float, peak: float, source: str) -> Figure:
    """What memory and arithmetic allow at most, over flops per byte, and where tiles of the sizes stand below it.

    bandwidth: bytes per second; peak: flops per second; source: where both were published. Nothing in it is measured.
    Raises ValueError for no sizes, intensities that are not one per size, or what is not positive.
    """
    if not len(sizes) or len(intensity) != len(sizes) or not min(bandwidth, peak, *intensity) > 0:
        raise ValueError("needs sizes with one intensity each, and positive intensities, bandwidth and peak")
    figure = Figure(figsize=(8.6, 4.2))
    axes = figure.subplots()
    ridge = peak / bandwidth
    wide = np.geomspace(min(*intensity, ridge) / 2, max(*intensity, ridge) * 2, 200)
    axes.plot(wide, np.minimum(bandwidth * wide, peak) / 1e12, color=PARTS["formula"], label=f"roof: {source}")
    heights = np.minimum(bandwidth * np.asarray(intensity), peak) / 1e12
    axes.plot(intensity, heights, "s", color=COLOURS["tiled_gpu"], label="direct tile, the most that is possible")
    for U, x, y in zip(sizes, intensity, heights, strict=True):
        place = {"xytext": (-5, 6), "ha": "right"} if x < ridge else {"xytext": (2, -15)}
        axes.annotate(f"U = {U}", (x, y), textcoords="offset points", fontsize=9, **place)
    axes.axvline(ridge, color=PARTS["formula"], linestyle=":", linewidth=1)
    axes.text(ridge * 1.05, heights.min(), f"{ridge:.0f} flop per byte", va="bottom")
    axes.set(xscale="log", yscale="log", xlabel="flop per byte moved", ylabel="teraflop/s, at most")
    axes.set_title("Published, not measured: left of the ridge a tile waits for memory")
    axes.legend(loc="upper left")
    axes.set_ylim(top=3 * peak / 1e12)
    return figure
