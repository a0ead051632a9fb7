"""Plots of the tiling: the triangle of pairs, the step of a pair, faults, the circular trick, the single buffer."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from flashref.figures.style import PARTS, styled_figure
from flashref.tiling import Tile, check_integers, middle, schedule


@styled_figure
def tiling(tiles: Sequence[Tile], L: int, step: int | None = None) -> Figure:
    """The tiling diagram: one cell for each pair (j, t) of L positions, inputs j to the right, outputs t downwards.

    Each tile shows the step at which it runs. With ``step``, that many inputs being known, tiles that are done, running
    now and owed are told apart. Red cells are drawn, though no tile holds them. Raises TypeError for an L or a step
    that is no integer, ValueError for L < 0, more than 256 positions, a step outside 0 .. L, or a tile that reaches
    beyond L.
    """
    check_integers(L=L, step=0 if step is None else step)
    if step is not None and not 0 <= step <= L:
        raise ValueError(f"step, the number of inputs known, must lie in 0 .. L = {L}, got {step}")
    figure = Figure(figsize=(5.6, 5.6))
    axes = figure.subplots()
    draw_triangle(axes, tiles, L, step)
    if step is None:
        axes.set_title(f"{len(tiles)} tiles cover the pairs of {L} positions; numbers are steps")
    else:
        axes.set_title(f"{step} of {L} inputs known")
    return figure


@styled_figure
def three_tilings(L: int = 16, base: int = 1) -> Figure:
    """The triangle drawn three ways: lazy by rows, eager by columns, relaxed by tiles. Raises as tiling does."""
    figure = Figure(figsize=(11, 4.2))
    texts = {
        "lazy": "lazy\noutput t gathers its row when it is due",
        "eager": "eager\ninput j pushes its column when it is known",
        "relaxed": "relaxed\nsquare tiles, each by FFT",
    }
    for axes, (kind, text) in zip(figure.subplots(1, 3), texts.items(), strict=True):
        tiles = schedule(L, kind, base if kind == "relaxed" else 1)
        draw_triangle(axes, tiles, L)
        axes.set_title(text)
    return figure


@styled_figure
def ruler(L: int, j: int, t: int) -> Figure:
    """At which step a pair (j, t), 0 <= j < t < L, is computed: each n as high as the power of two that divides it.

    The pair may run at any n from j+1, when input j is known, to t, when output t is due: lazy takes the last, eager
    the first, relaxed the highest mark. Raises TypeError for what is no integer, ValueError for another pair, or L
    over 64.
    """
    check_integers(L=L, j=j, t=t)
    if not 0 <= j < t < L <= 64:
        raise ValueError(f"j, t and L must satisfy 0 <= j < t < L <= 64, got j = {j}, t = {t}, L = {L}")
    figure = Figure(figsize=(9, 2.6))
    axes = figure.subplots()
    steps = np.arange(1, L)
    powers = np.log2(steps & -steps) + 1
    allowed = (steps > j) & (steps <= t)
    best = 1 + np.argmax(np.where(allowed, powers, 0))
    colours = np.where(steps == best, PARTS["now"], np.where(allowed, PARTS["gray_tile"], PARTS["owed"]))
    axes.bar(steps, powers, width=0.5, color=colours)
    axes.axvspan(j + 0.5, t + 0.5, color=PARTS["owed"], zorder=0)
    choices = {j + 1: ["eager"], t: []}
    choices.setdefault(int(best), []).append("relaxed")
    choices[t].append("lazy")
    for n, names in choices.items():
        axes.annotate(",\n".join(names), (n, powers[n - 1]), (0, 3), textcoords="offset points", ha="center")
    axes.set(xlabel="inputs known n", ylabel="U that divides n", ylim=(0, np.log2(L) + 2))
    axes.set_yticks(range(1, 1 + max(1, (L - 1).bit_length())), [2**q for q in range(max(1, (L - 1).bit_length()))])
    axes.set_xticks(steps if L <= 32 else steps[::4])
    axes.grid(False)
    axes.set_title(f"Input {j} to output {t}: the step may lie anywhere from {j + 1} to {t}")
    return figure


@styled_figure
def coverage(tiles: Sequence[Tile], L: int) -> Figure:
    """What is wrong with a schedule, if anything: each pair (j, t), j < t, must run once, with j < step <= t.

    A cell is gray where that holds. Otherwise it is marked: 0 for a pair that is missed, 2 and more for one that is
    repeated, < for an input that is not known yet at that step, > for an output that was given out before. Tiles may
    reach outside the triangle; such cells are marked too. Raises TypeError for an L that is no integer, ValueError for
    L outside 0 .. 64.
    """
    check_integers(L=L)
    if not 0 <= L <= 64:
        raise ValueError(f"L must lie in 0 .. 64 to be drawn, got {L}")
    found: dict[tuple[int, int], list[int]] = {(j, t): [] for t in range(L) for j in range(t)}
    for tile in tiles:
        for t in tile.outputs:
            for j in tile.inputs:
                found.setdefault((j, t), []).append(tile.step)
    figure = Figure(figsize=(5.6, 5.6))
    axes = figure.subplots()
    draw_triangle(axes, [], L)
    faults = 0
    for (j, t), steps in found.items():
        early, late = any(step <= j for step in steps), any(step > t for step in steps)
        mark = str(len(steps)) if len(steps) != 1 else "<" if early else ">" if late else ""
        faults += mark != ""
        colour = PARTS["wrong" if mark else "gray_tile"]
        axes.add_patch(Rectangle((j, t), 1, 1, facecolor=colour, edgecolor="white", linewidth=0.8))
        axes.text(j + 0.5, t + 0.5, mark, ha="center", va="center", fontsize=min(10, 160 / max(L, 1)), clip_on=True)
    what = f"{faults} pairs are wrong" if faults else "every pair runs once, and in time"
    axes.set_title(f"{len(tiles)} tiles, {L} positions: {what}")
    return figure


@styled_figure
def circular_trick(U: int = 4) -> Figure:
    """Why a circular convolution of length 2U is enough for a tile of U inputs and U outputs.

    The linear convolution of U inputs with lags 0 .. 2U-1 has 3U-1 values. On a circle of 2U the last U-1 fall on the
    first, which belong to the inputs themselves and are thrown away. Raises TypeError for a U that is no integer,
    ValueError for U outside 1 .. 16.
    """
    check_integers(U=U)
    if not 1 <= U <= 16:
        raise ValueError(f"U must lie in 1 .. 16 to be drawn, got {U}")
    figure = Figure(figsize=(9, 3.2))
    axes = figure.subplots()
    axes.set(xlim=(-0.2, 3 * U + 0.2), ylim=(-0.4, 3.6))
    axes.set_axis_off()

    def boxes(y: float, first: int, texts: Sequence[str], part: str, hatch: str = "") -> None:
        for i, text in enumerate(texts, first):
            style = {"facecolor": PARTS[part], "edgecolor": "white", "linewidth": 2, "hatch": hatch}
            axes.add_patch(Rectangle((i, y), 1, 0.7, **style))
            ink = "white" if part in ("now", "gray_tile") else "black"
            axes.text(i + 0.5, y + 0.35, text, ha="center", va="center", color=ink, fontsize=min(10, 60 / U))

    places = [str(i) for i in range(3 * U - 1)]
    boxes(2.5, 0, places[:U], "owed")
    boxes(2.5, U, places[U : 2 * U], "now")
    boxes(2.5, 2 * U, places[2 * U :], "owed", "///")
    axes.text(0, 3.3, f"linear: 3U-1 = {3 * U - 1} values")
    boxes(0.6, 0, [f"{i}+{i + 2 * U}" for i in range(U - 1)], "owed", "///")
    boxes(0.6, U - 1, places[U - 1 : U], "owed")
    boxes(0.6, U, places[U : 2 * U], "now")
    axes.text(2 * U + 0.2, 0.95, f"on a circle of 2U = {2 * U}", va="center")
    axes.text(U / 2, 0.2, "thrown away: places of the inputs", ha="center", va="top")
    axes.text(1.5 * U, 0.2, "kept: the tile's outputs", ha="center", va="top")
    if U > 1:
        arrow = {"arrowstyle": "-|>", "linestyle": "--", "color": "black"}
        axes.annotate("", ((U - 1) / 2, 1.35), (2.5 * U - 0.5, 2.45), arrowprops=arrow)
        axes.text(1.75 * U, 1.95, "wraps around", va="top")
    axes.set_title(f"A circle of 2U is enough: what wraps around misses the {U} outputs that are kept")
    return figure


@styled_figure
def single_buffer(L: int = 16, base: int = 1) -> Figure:
    """What each slot of the half-length buffer holds while the steps run, from top to bottom.

    Slot s serves position s, and from the middle on position h + s. Before its position arrives a slot holds a partial
    sum (light), afterwards an input (dark). Frames show what the tile of the step reads and adds to. Raises TypeError
    for an L that is no integer, ValueError for L outside 1 .. 64, and as schedule does.
    """
    check_integers(L=L)
    if not 1 <= L <= 64:
        raise ValueError(f"L must lie in 1 .. 64 to be drawn, got {L}")
    by_step = {tile.step: tile for tile in schedule(L, base=base)}
    h = middle(L, base)
    figure = Figure(figsize=(6.5, 6.5))
    axes = figure.subplots()
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set(xlim=(0, h), ylim=(L, 0), xlabel="slot", ylabel="inputs known n")
    stride = max(1, L // 16)
    axes.set_xticks(np.arange(0, h, stride) + 0.5, range(0, h, stride))
    axes.set_yticks(np.arange(0, L, stride) + 0.5, range(0, L, stride))
    for n in range(L):
        start = h if n >= h else 0
        for s in range(min(h, L - start)):
            known = start + s < n
            colour = PARTS["gray_tile" if known else "owed"]
            axes.add_patch(Rectangle((s, n), 1, 1, facecolor=colour, edgecolor="white", linewidth=0.8))
            if L <= 24:
                text = f"$x_{{{start + s}}}$" if known else f"$z_{{{start + s}}}$"
                ink = "white" if known else "#555555"
                axes.text(s + 0.5, n + 0.5, text, ha="center", va="center", fontsize=8, color=ink)
        if n in by_step and n != h:
            tile = by_step[n]
            for places, colour in ((tile.inputs, "black"), (tile.outputs, PARTS["now"])):
                corner, size = (places.start - start + 0.05, n + 0.07), (len(places) - 0.1, 0.86)
                axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=2, zorder=3))
    if h < L:
        axes.axhline(h, color=PARTS["now"], linewidth=2.5)
        says = f"middle: one tile turns\n$x_0..x_{{{h - 1}}}$ into partial sums\nof $z_{{{h}}}..z_{{{L - 1}}}$"
        axes.annotate(says, (h, h), (6, 0), textcoords="offset points", va="center", annotation_clip=False)
    axes.set_title(f"{h} slots serve {L} positions: each is a partial sum z, then an input x")
    return figure


def draw_triangle(axes: Axes, tiles: Sequence[Tile], L: int, step: int | None = None) -> None:
    """Draw the tiles of L positions, and the red cells, into axes."""
    if not 0 <= L <= 256:
        raise ValueError(f"L must lie in 0 .. 256 to be drawn, got {L}: its cells would be too small to see")
    axes.set(xlim=(0, max(L, 1)), ylim=(max(L, 1), 0), aspect="equal", xlabel="input j", ylabel="output t")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    stride = max(1, L // 8)
    positions = np.arange(0, L, stride)
    axes.set_xticks(positions + 0.5, positions)
    axes.set_yticks(positions + 0.5, positions)
    points = 72 * axes.figure.get_figwidth() * axes.get_subplotspec().get_position(axes.figure).width / max(L, 1)
    line = min(1.5, points / 8)
    for tile in tiles:
        if not 0 <= tile.inputs.start <= tile.inputs.stop <= L or not 0 <= tile.outputs.start <= tile.outputs.stop <= L:
            raise ValueError(f"tiles must lie within L = {L} positions, got {tile}")
        x, y, p, q = tile.inputs.start, tile.outputs.start, len(tile.inputs), len(tile.outputs)
        state = "gray_tile" if step is None or tile.step < step else "now" if tile.step == step else "owed"
        axes.add_patch(Rectangle((x, y), p, q, facecolor=PARTS[state], edgecolor="white", linewidth=line))
        if state == "now":
            axes.add_patch(Rectangle((x, y), p, q, fill=False, edgecolor="black", linewidth=2, zorder=3))
        size = min(14, 0.62 * points * min(p, q) ** 0.7)
        if size >= 5:
            ink = "#666666" if state == "owed" else "white"
            axes.text(x + p / 2, y + q / 2, tile.step, ha="center", va="center", fontsize=size, color=ink, zorder=4)
    for t in range(L):
        done = step is None or t < step
        style = {"facecolor": PARTS["red_cell"] if done else "white", "edgecolor": PARTS["red_cell"]}
        axes.add_patch(Rectangle((t + 0.06, t + 0.06), 0.88, 0.88, linewidth=line / 2, **style))
    if step is not None and step < L:
        axes.add_patch(Rectangle((0, step), step + 1, 1, fill=False, linestyle="--", linewidth=1.2, zorder=5))
