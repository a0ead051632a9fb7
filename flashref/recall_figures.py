"""Plots of the recall task: a sequence of it, where the filters of a trained model reach, and who answers rightly."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from flashref.figure_style import COLOURS, PARTS, styled_figure
from flashref.recall import Task

KINDS = {  # what a token of the task is, and its colour
    "question": PARTS["formula"],
    "its answer": PARTS["now"],
    "key": PARTS["gray_tile"],
    "its new value": PARTS["block"],
    "blank": "#FFFFFF",
}


@styled_figure
def recall_sequence(task: Task, tokens: Int[np.ndarray, " L"], key: int = 0) -> Figure:
    """One sequence of the task, a page to a row, its last page the one that asks about the first row.

    tokens: back + 1 pages or more, of which the last back + 1 are drawn; of each page the part that is not always
    blank. Each place where the value of ``key`` is written, asked for or answered is framed and spelt out. Raises
    ValueError for tokens that are not whole pages or too few, or a key that the task does not have.
    """
    if len(tokens) % task.page or len(tokens) < task.page * (task.back + 1):
        raise ValueError(f"tokens must be at least {task.back + 1} pages of {task.page}, got {len(tokens)} tokens")
    if not 0 <= key < task.keys:
        raise ValueError(f"key must lie in 0 .. {task.keys - 1}, got {key}")
    first, width = len(tokens) // task.page - task.back - 1, 4 * task.keys
    pages = np.asarray(tokens).reshape(-1, task.page)[first:, :width]
    place = np.arange(width)
    kind = np.where(place < 2 * task.keys, place % 2, 2 + place % 2) + np.zeros((len(pages), 1), dtype=int)
    kind[pages == task.blank] = 4
    figure = Figure(figsize=(9, 1.4 + 0.16 * len(pages)))
    axes = figure.subplots()
    axes.imshow(kind, cmap=ListedColormap(list(KINDS.values())), vmin=0, vmax=4, aspect="auto", alpha=0.55)
    small = {"ha": "center", "va": "center", "fontsize": 7}
    for row, page in enumerate(pages):
        (at,) = np.nonzero(page[: width // 2] == task.keys + key)
        if row == len(pages) - 1 and len(at):
            _frame(axes, row, at[0], PARTS["now"])
            _spell(axes, task, page, row, at[0], small)
        (at,) = np.nonzero(page[width // 2 :] == key)
        at = width // 2 + at[0]
        _frame(axes, row, at, PARTS["now"] if row == 0 else PARTS["wrong"])
        _spell(axes, task, page, row, at, small)
    axes.grid(False)
    axes.set(xlabel="place in the page (tokens)", ylabel="page")
    every = max(1, task.back // 8)
    axes.set_yticks(range(0, len(pages), every), range(first, first + len(pages), every))
    letter = task.name(key)
    axes.set_title(
        f"The last page asks for the {letter} of {task.distance} tokens ago: "
        f"{task.back - 1} pages since then say something else"
    )
    marks = [Patch(facecolor=(*to_rgb(colour), 0.55), edgecolor="gray", label=name) for name, colour in KINDS.items()]
    marks += [
        Patch(facecolor="none", edgecolor=PARTS["now"], linewidth=2, label=f"{letter}, asked for and meant"),
        Patch(facecolor="none", edgecolor=PARTS["wrong"], linewidth=2, label=f"{letter} on other pages"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=4)
    return figure


def _frame(axes, row: int, at: int, colour: str) -> None:
    axes.add_patch(Rectangle((at - 0.5, row - 0.5), 2, 1, fill=False, edgecolor=colour, linewidth=1.8, zorder=3))


def _spell(axes, task: Task, page: Int[np.ndarray, " S"], row: int, at: int, style: dict) -> None:
    for place in (at, at + 1):
        colour = "white" if page[place] >= task.keys and page[place] < 2 * task.keys else "black"
        axes.text(place, row, task.name(int(page[place])), color=colour, **style)


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
        axes.axvspan(task.lags.start, task.lags.stop, color=PARTS["now"], alpha=0.4, linewidth=0)
        axes.stairs(parts, step * np.arange(len(parts) + 1), fill=True, color=PARTS["filter"])
        axes.set(ylabel="energy (%)", xlim=(0, len(share)))
        axes.annotate(name, (0.01, 0.95), xycoords="axes fraction", va="top")
    grid[0].set_title(
        f"Where the filters look: the answers stand {task.lags.start} to {task.lags.stop - 1} tokens back"
    )
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
        axes.set(xlabel=f"{label} (approximate)")
    for axes in grid:
        axes.axhline(100 * task.chance, color="black", linestyle=":", linewidth=1.2)
    grid[0].annotate("a guess", (0.02, 100 * task.chance + 1.5), xycoords=("axes fraction", "data"), va="bottom",
                     bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1})  # fmt: skip
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure
