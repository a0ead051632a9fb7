"""The pictures that checks answer with: the pairs that an engine gets wrong, the lags of a tile, work, memory."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from flashref.figures.style import COLOURS, PARTS, styled_figure


def mark(value: float, want: float, lags: dict[float, int]) -> str:
    """What a wrong coefficient looks like: 0 missed, 2 twice, or the lag whose tap it is."""
    if abs(value) < 1e-6:
        return "0"
    if abs(value - 2 * want) < 1e-6:
        return "2"
    near = [lag for tap, lag in lags.items() if abs(value - tap) < 1e-6]
    return f"ρ{near[0]}" if near else "?"


@styled_figure
def pairs_of_engine(found: np.ndarray, taps: np.ndarray) -> Figure:
    """What an engine makes of each pair: found[t, j] is how much of input j is in output t, and should be taps[t-j].

    Gray is right. Wrong cells are marked: 0 missed, 2 taken twice, a tap's name where that tap stands in for the right
    one, ? for anything else. Cells above the diagonal are inputs from the future.
    """
    L = len(found)
    lags = {float(tap): lag for lag, tap in enumerate(taps)}
    figure = Figure(figsize=(5.2, 5.2))
    axes = figure.subplots()
    wrong = 0
    for t in range(L):
        for j in range(L):
            want = taps[t - j] if j <= t else 0.0
            right = abs(found[t, j] - want) < 1e-6
            if j > t and right:
                continue
            wrong += not right
            part = ("red_cell" if j == t else "gray_tile") if right else "wrong"
            _cell(axes, j, t, PARTS[part], "" if right else mark(found[t, j], want, lags))
    marks = "0 missed, 2 taken twice, ρ3 the tap of lag 3 instead, ? anything else"
    _grid(axes, L, L, f"input j\n{marks}", "output t")
    axes.set_title(f"{wrong} of the pairs of {L} positions are wrong")
    return figure


@styled_figure
def lags_of_tile(found: np.ndarray, taps: np.ndarray) -> Figure:
    """What a tile makes of each pair: found[i, j] is how much of input j is in its output i; should be taps[U+i-j].

    Each cell shows the lag whose tap was found there, and a wrong one also the lag that it should be; ? is no tap.
    """
    U = len(found)
    lags = {float(tap): lag for lag, tap in enumerate(taps)}
    figure = Figure(figsize=(4.2, 4.2))
    axes = figure.subplots()
    wrong = 0
    for i in range(U):
        for j in range(U):
            want = taps[U + i - j]
            right = abs(found[i, j] - want) < 1e-6
            wrong += not right
            text = f"{U + i - j}"
            if not right:
                seen = mark(found[i, j], want, lags)
                seen = {"0": "none", "2": "twice"}.get(seen, seen.replace("ρ", ""))
                text = f"{seen}\nnot {text}"
            _cell(axes, j, i, PARTS["gray_tile" if right else "wrong"], text)
    _grid(axes, U, U, "input j of the tile", "output i of the tile")
    axes.set_title(
        f"The lag found for each pair: {wrong} of {U * U} wrong" if wrong else "Every pair has its lag, U + i - j"
    )
    return figure


@styled_figure
def work_of_steps(counted: np.ndarray, expected: np.ndarray, name: str, kind: str) -> Figure:
    """Multiply-adds of each step, per channel: counted, and what the kind of engine needs."""
    figure = Figure(figsize=(6.4, 3.4))
    axes = figure.subplots()
    steps = np.arange(len(counted))
    axes.plot(steps, expected, "s", markersize=4, color=COLOURS.get(kind, COLOURS["tiled_cpu"]), label=kind)
    axes.plot(steps, counted, "o", markersize=2, color=PARTS["formula"], label=name)
    axes.set(xlabel="step t", ylabel="multiply-adds per channel", yscale="symlog", ylim=(0, None))
    axes.legend()
    t = int(np.argmax(counted))
    axes.set_title(f"Step {t} of {name} does {counted[t]:,.0f} multiply-adds, that of {kind} {expected[t]:,.0f}")
    return figure


@styled_figure
def work_so_far(counted: np.ndarray, expected: np.ndarray, name: str) -> Figure:
    """Multiply-adds up to each step, per channel: counted, of tiles by FFT, and of eager."""
    figure = Figure(figsize=(6.4, 3.4))
    axes = figure.subplots()
    L = len(counted)
    eager = np.arange(float(L), 0, -1)
    for steps, colour, label, line in (
        (eager, COLOURS["eager"], "eager", "-"),
        (expected, COLOURS["tiled_cpu"], "tiles by FFT", "-"),
        (counted, PARTS["formula"], name, "--"),
    ):
        axes.plot(steps.cumsum(), line, color=colour, label=f"{label}: {steps.sum():,.0f}")
    axes.set(xlabel="step t", ylabel="multiply-adds so far, per channel", ylim=(0, None))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.legend()
    axes.set_title(f"{name} does {counted.sum() / expected.sum():.3g} times the work of tiles by FFT")
    return figure


@styled_figure
def numbers_kept(kept: np.ndarray, allowed: int, name: str) -> Figure:
    """How many numbers that depend on the inputs are kept after each step, a channel, and how many may be."""
    figure = Figure(figsize=(6.4, 3.2))
    axes = figure.subplots()
    steps = np.arange(len(kept))
    axes.fill_between(steps, kept, allowed, where=kept > allowed, color=PARTS["wrong"], label="too many")
    axes.plot(steps, kept, color=PARTS["formula"], label=f"{name} keeps")
    axes.axhline(allowed, color=PARTS["now"], linestyle="--", label=f"allowed: {allowed}")
    axes.set(xlabel="step t", ylabel="numbers per channel", ylim=(0, None))
    axes.legend()
    axes.set_title(f"{name} keeps up to {kept.max()} numbers for {len(kept)} positions; {allowed} are allowed")
    return figure


@styled_figure
def longest_steps(counted: np.ndarray, relaxed: np.ndarray, allowed: float, name: str) -> Figure:
    """Multiply-adds of each step beside those of the relaxed schedule, and how many a step may do."""
    figure = Figure(figsize=(6.8, 3.8))
    axes = figure.subplots()
    steps = np.arange(len(counted))
    axes.plot(steps, relaxed, "s", markersize=3, color=COLOURS["tiled_cpu"], label="relaxed")
    axes.plot(steps, counted, "o", markersize=1.5, color=COLOURS["bounded"], label=name)
    axes.axhline(allowed, color=PARTS["now"], linestyle="--", label="allowed")
    axes.set(xlabel="step t", ylabel="multiply-adds per channel", yscale="log", ylim=(0.8, None))
    figure.legend(loc="outside lower center", ncols=3)
    t = int(counted.argmax())
    axes.set_title(f"Step {t} of {name} does {counted[t]:,.0f} multiply-adds; {allowed:,.0f} are allowed")
    return figure


@styled_figure
def pairs_of_product(marks: dict[tuple[int, int], str], L: int) -> Figure:
    """The pairs (j, k), x_j * rho_k, j + k < L, of two series; marks: what is wrong with a pair, in one character.

    Gray is right, or not asked for. The red cells, the pairs with index 0, lie along two edges.
    """
    side = max([L, *(max(pair) + 1 for pair in marks)])
    figure = Figure(figsize=(4.6, 4.8))
    axes = figure.subplots()
    asked = {(j, k) for j in range(L) for k in range(L - j)}
    for j, k in sorted(asked | set(marks)):
        part = "wrong" if (j, k) in marks else "gray_tile" if j * k else "red_cell"
        _cell(axes, j, k, PARTS[part], marks.get((j, k), ""))
    said = "0 missed, 2 taken twice, < too early, > too late,\n1 taken where it does not belong, ? not at j + k"
    _grid(axes, side, side, f"j of x\n{said}", "k of rho")
    axes.set_title(f"Wrong pairs among those of {L} positions: {len(marks)}")
    return figure


def _cell(axes: Axes, x: int, y: int, colour: str, text: str) -> None:
    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white", linewidth=0.8))
    ink = "white" if colour == PARTS["gray_tile"] else "black"
    axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=9, color=ink)


def _grid(axes: Axes, width: int, height: int, xlabel: str, ylabel: str) -> None:
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xlabel=xlabel, ylabel=ylabel)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(width) + 0.5, range(width))
    axes.set_yticks(np.arange(height) + 0.5, range(height))
