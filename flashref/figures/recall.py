"""Plots of the recall task: a sequence of it, where the filters of a trained model reach, and who answers rightly."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from flashref.figures.style import COLOURS, PARTS, styled_figure
from flashref.recall import Task

KINDS = {  # what a token of the task is, and its colour
    "question": "#C4BEDB",
    "answer": "#E6E3F0",
    "key": PARTS["owed"],
    "value": "#F4F4F4",
    "blank": "#FFFFFF",
}
SHOWN = 4  # pages at either end


@styled_figure
def recall_sequence(task: Task, tokens: Int[np.ndarray, " L"], key: int = 0) -> Figure:
    """One sequence of the task, a page to a row, up to the page that asks about the first row; pages between left out.

    tokens: back + 1 pages or more, of which the last back + 1 are meant. What the last page asks of ``key``, and where
    its answer stands, have a thick frame; the values of the same key on other pages a thin one. Raises ValueError for
    tokens that are not whole pages or too few, or a key that the task does not have.
    """
    if len(tokens) % task.page or len(tokens) < task.page * (task.back + 1):
        raise ValueError(f"tokens must be at least {task.back + 1} pages of {task.page}, got {len(tokens)} tokens")
    if not 0 <= key < task.keys:
        raise ValueError(f"key must lie in 0 .. {task.keys - 1}, got {key}")
    pages = np.asarray(tokens).reshape(-1, task.page)[-task.back - 1 :]
    shown = [p for p in range(len(pages)) if min(p, task.back - p) < SHOWN]
    rows = [p if p < SHOWN or task.back < 2 * SHOWN else p - task.back + 2 * SHOWN for p in shown]  # one row is a gap
    figure = Figure(figsize=(9.5, 1.5 + 0.3 * (rows[-1] + 1)))
    axes = figure.subplots()
    for row, page in zip(rows, pages[shown], strict=True):
        for place, token in enumerate(page.tolist()):
            kind = "blank" if place >= 4 * task.keys else list(KINDS)[place % 2 + 2 * (place >= 2 * task.keys)]
            axes.add_patch(Rectangle((place, row), 1, 1, facecolor=KINDS[kind], edgecolor="white", linewidth=1))
            axes.text(place + 0.5, row + 0.5, task.name(token), ha="center", va="center", fontsize=8)
        written = 2 * task.keys + int(np.flatnonzero(page[2 * task.keys :] == key)[0])
        meant = row == 0
        _frame(axes, written, row, PARTS["now"] if meant else COLOURS["lazy"], 2.5 if meant else 1)
    asked = int(np.flatnonzero(pages[-1] == task.keys + key)[0])
    _frame(axes, asked, rows[-1], PARTS["now"], 2.5)
    if left_out := len(pages) - len(shown):
        axes.text(0, SHOWN + 0.5, f"... {left_out} more pages ...", va="center", fontsize=9)
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    axes.set(xlim=(-0.1, task.page + 0.1), ylim=(rows[-1] + 1.1, -0.1), xlabel="place in the page (tokens)")
    axes.set_ylabel("starts at token")
    axes.set_yticks([row + 0.5 for row in rows], [len(tokens) - (len(pages) - p) * task.page for p in shown])
    letter = task.name(key)
    axes.set_title(
        f"“{letter}?” on the last page means the {letter} of {task.back} pages ago, "
        f"not those of the {task.back - 1} pages in between"
    )
    marks = [Patch(facecolor=colour, edgecolor="lightgray", label=name) for name, colour in KINDS.items()]
    marks += [
        Patch(facecolor="none", edgecolor=PARTS["now"], linewidth=2.5, label=f"{letter}, asked for and meant"),
        Patch(facecolor="none", edgecolor=COLOURS["lazy"], linewidth=1, label=f"{letter} on other pages"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=7, columnspacing=1.2, handlelength=1.5)
    return figure


def _frame(axes: Axes, place: int, row: int, colour: str, width: float) -> None:
    axes.add_patch(Rectangle((place, row), 2, 1, fill=False, edgecolor=colour, linewidth=width, zorder=3))


@styled_figure
def recall_reach(task: Task, energy: Mapping[str, Float[np.ndarray, " L"]]) -> Figure:
    """Where the filters of a model put their energy: the squared taps of a layer, over the lag.

    energy: for each layer the sum over its channels of the squared taps; drawn as a share, summed over a quarter of a
    page. A band shows the lags at which answers stand. Raises ValueError for no layer, or filters that end before them.
    """
    if not energy or any(len(values) < task.lags.stop for values in energy.values()):
        raise ValueError(f"energy must hold at least {task.lags.stop} lags for each of one or more layers")
    figure = Figure(figsize=(9, 1.6 + 1.7 * len(energy)))
    grid = figure.subplots(len(energy), sharex=True, squeeze=False)[:, 0]
    step = max(1, task.page // 4)
    for axes, (name, values) in zip(grid, energy.items(), strict=True):
        share = np.asarray(values, dtype=float) / np.sum(values)
        parts = [100 * share[i : i + step].sum() for i in range(0, len(share), step)]
        axes.axvspan(task.lags.start, task.lags.stop, color=PARTS["now"], alpha=0.4, linewidth=0, label="the answers")
        axes.stairs(parts, step * np.arange(len(parts) + 1), fill=True, color=PARTS["filter"])
        axes.set(ylabel="energy (%)", xlim=(0, len(share)))
        axes.annotate(name, (0.01, 0.95), xycoords="axes fraction", va="top")
    grid[0].set_title(
        f"Where the filters look: the answers stand {task.lags.start} to {task.lags.stop - 1} tokens back"
    )
    grid[0].legend(loc="upper right")
    grid[-1].set_xlabel("lag (tokens)")
    return figure


@styled_figure
def recall_accuracy(
    task: Task,
    exact: Mapping[str, float],
    approximate: Mapping[str, Mapping[int, float]],
    title: str,
) -> Figure:
    """The share of right answers: exact engines as bars, then one plot for each way to approximate the filters.

    exact: engine to accuracy. approximate: the label of an axis ("taps kept") to accuracy over that size, drawn on an
    axis of powers of two. The dotted line is a guess. Raises ValueError for no engine, an unknown one, or no sizes.
    """
    if not exact or not all(approximate.values()):
        raise ValueError("exact must hold at least one engine, and each of approximate at least one size")
    if unknown := exact.keys() - COLOURS.keys():
        raise ValueError(f"exact must name engines, {', '.join(COLOURS)}, got {', '.join(sorted(unknown))}")
    figure = Figure(figsize=(9.5, 3.8))
    grid = figure.subplots(1, 1 + len(approximate), sharey=True, squeeze=False)[0]
    bars = grid[0].bar(list(exact), [100 * a for a in exact.values()], color=[COLOURS[name] for name in exact])
    grid[0].bar_label(bars, fmt="%.1f")
    grid[0].tick_params(axis="x", rotation=20)
    grid[0].set(xlabel="exact engines", ylabel="right answers (%)", ylim=(0, 109))
    for axes, (label, found) in zip(grid[1:], approximate.items(), strict=True):
        sizes = sorted(found)
        axes.plot(sizes, [100 * found[size] for size in sizes], "o-", color=PARTS["filter"], markersize=4)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set(xlabel=f"{label} (approximate)")
    for axes in grid:
        axes.axhline(100 * task.chance, color="black", linestyle=":", linewidth=1.2)
    grid[0].annotate("a guess", (0.02, 100 * task.chance + 1.5), xycoords=("axes fraction", "data"), va="bottom",
                     bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1})  # fmt: skip
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure
