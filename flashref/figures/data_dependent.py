"""Plots of the product of two online series: which pairs (j, k) meet when, and the cost beside a fixed filter."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from flashref.figures.style import COLOURS, PARTS, styled_figure
from flashref.product_tiling import ProductTile, product_cost, product_schedule, square_schedule
from flashref.tiling import check_count, check_integers, cost, schedule


@styled_figure
def product_tiling(tiles: Sequence[ProductTile], L: int, step: int | None = None) -> Figure:
    """The tiles of a product of L positions: one cell for each pair (j, k), x_j to the right and rho_k downwards.

    Output z_t is the anti-diagonal j + k = t. Each piece of a tile shows the step at which it runs; where the first
    values of both series meet, it is hatched. With ``step``, that many values being known, tiles that are done, running
    now and owed are told apart, and the output that is due next is framed. Raises TypeError for an L or a step
    that is no integer, ValueError for L outside 0 .. 64, a step outside 0 .. L, or a tile that reaches beyond L.
    """
    check_integers(L=L, step=0 if step is None else step)
    if step is not None and not 0 <= step <= L:
        raise ValueError(f"step, the number of values known, must lie in 0 .. L = {L}, got {step}")
    figure = Figure(figsize=(6.4, 6.4))
    axes = figure.subplots()
    _draw_product(axes, tiles, L, step)
    if step is None:
        axes.set_title(f"{len(tiles)} tiles cover the pairs of {L} positions; numbers are steps")
    else:
        axes.set_title(f"{step} of {L} values known of both series")
    return figure


@styled_figure
def two_product_tilings(L: int = 16) -> Figure:
    """The pairs of a product cut two ways: into squares, and into tiles of fixed filters. Raises as product_tiling."""
    figure = Figure(figsize=(11.5, 5.9))
    both = {
        "squares, after van der Hoeven 1997": square_schedule(L),
        "tiles of fixed filters": product_schedule(L),
    }
    for axes, (title, tiles) in zip(figure.subplots(1, 2), both.items(), strict=True):
        _draw_product(axes, tiles, L)
        points = product_cost(tiles).fft_points
        axes.set_title(f"{title}: {points:,} FFT points")
    return figure


@styled_figure
def product_points(lengths: Sequence[int], base: int = 1) -> Figure:
    """Counted FFT points over L, for a fixed filter and for one that depends on the data, and their ratio.

    Squares are counted with blocks of one position, as they are defined. Raises ValueError for no lengths, a length
    that has no FFT tile, or base < 1; TypeError for what is no integer.
    """
    check_count("base", base, 1)
    if not len(lengths):
        raise ValueError("lengths must hold at least one length")
    fixed = np.array([cost(schedule(L, base=base)).fft_points for L in lengths])
    if not fixed.all():
        short = lengths[int(fixed.argmin())]
        raise ValueError(f"each length must be long enough for a tile by FFT, got {short} with base {base}")
    lines = {
        "fixed filter": (fixed, COLOURS["tiled_cpu"], "o", "-"),
        "filter from the data": (_points(product_schedule, lengths, base), PARTS["filter"], "^", "-"),
    }
    if base == 1:
        lines["the same, by squares"] = (_points(square_schedule, lengths), PARTS["gray_tile"], "s", "--")
    figure = Figure(figsize=(10, 4.2))
    left, right = figure.subplots(1, 2)
    for name, (points, colour, marker, line) in lines.items():
        style = {"color": colour, "marker": marker, "linestyle": line, "markersize": 5, "label": name}
        left.plot(lengths, points, **style)
        right.plot(lengths, points / fixed, **style)
    limits = (1.5, 3) if base == 1 else (1.5,)
    for limit in limits:
        right.axhline(limit, color=PARTS["formula"], linestyle=":", linewidth=1)
        right.text(lengths[0], limit, f"{limit}: the limit for long L", va="bottom")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set(xlabel="length L (positions)")
    left.legend()
    left.set(yscale="log", ylabel="FFT points per channel")
    left.set_title("Both grow as L log L points, hence L log² L work")
    right.set(ylim=(0, 1.15 * limits[-1]), ylabel="points / points of the fixed filter")
    most = (lines["filter from the data"][0] / fixed).max()
    right.set_title(f"A filter from the data costs {most:.2f} times the points at most")
    return figure


@styled_figure
def filters_from_data(sizes: Sequence[Sequence[float]], marks: Sequence[Sequence[int]]) -> Figure:
    """The filters that sequences made for themselves: one panel each, how large rho is at each lag, and the marks.

    sizes: for each sequence the size of its filter at lag 0, 1, .. (over the channels); marks: for each the positions
    where its mark stands. Raises ValueError for none or more than six, or lists of different lengths.
    """
    if not 1 <= len(sizes) <= 6 or len(marks) != len(sizes):
        raise ValueError(f"sizes and marks must hold 1 .. 6 sequences both, got {len(sizes)} and {len(marks)}")
    figure = Figure(figsize=(9, 1.1 + 1.25 * len(sizes)))
    panels = figure.subplots(len(sizes), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, size, places in zip(panels, sizes, marks, strict=True):
        lags = np.arange(len(size))
        marked = np.isin(lags, places)
        colours = np.where(marked, PARTS["filter"], PARTS["gray_tile"])
        axes.bar(lags, size, 0.8, color=colours)
        axes.plot(lags[marked], np.asarray(size)[marked], "v", color=PARTS["filter"], label="the mark's positions")
        axes.set(ylabel="size of $\\rho$")
    panels[-1].set(xlabel="lag i (positions)")
    panels[0].set_title("Each sequence makes its own filter, large where its mark stands")
    panels[0].legend(loc="lower right", bbox_to_anchor=(1, 0.98))
    return figure


def _points(make, lengths: Sequence[int], *base: int) -> np.ndarray:
    return np.array([product_cost(make(L, *base)).fft_points for L in lengths])


def _draw_product(axes: Axes, tiles: Sequence[ProductTile], L: int, step: int | None = None) -> None:
    if not 0 <= L <= 64:
        raise ValueError(f"L must lie in 0 .. 64 to be drawn, got {L}")
    side = max(L, 1)
    axes.set(xlim=(0, side), ylim=(side, 0), aspect="equal", xlabel="$x_j$", ylabel="$\\rho_k$")
    axes.xaxis.set_label_position("top")
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    positions = np.arange(0, L, max(1, L // 8))
    axes.set_xticks(positions + 0.5, positions)
    axes.set_yticks(positions + 0.5, positions)
    points = 72 * axes.figure.get_figwidth() * axes.get_subplotspec().get_position(axes.figure).width / side
    owner = np.full((side + 1, side + 1), -1)  # which piece of which tile holds cell (j, k)
    for i, tile in enumerate(tiles):
        state = "gray_tile" if step is None or tile.step < step else "now" if tile.step == step else "owed"
        cells = np.array(list(tile.pairs())).reshape(-1, 2)
        if len(cells) and cells.sum(1).max() >= L:
            raise ValueError(f"tiles must lie within L = {L} positions, got {tile}")
        hatch = "////" if tile.meets_itself else None
        for j, k in cells:
            style = {"facecolor": PARTS[state], "edgecolor": "white", "hatch": hatch, "linewidth": 0}
            axes.add_patch(Rectangle((j, k), 1, 1, **style))
        below = cells[:, 0] < cells[:, 1]
        for piece, part in enumerate([cells] if tile.meets_itself else [cells[~below], cells[below]]):
            owner[part[:, 0], part[:, 1]] = 2 * i + piece
            if len(part):
                _number(axes, part, tile.step, points, state)
    for t in range(L):
        done = step is None or t < step
        for j, k in {(t, 0), (0, t)}:
            style = {"facecolor": PARTS["red_cell"] if done else "white", "edgecolor": PARTS["red_cell"]}
            axes.add_patch(Rectangle((j + 0.06, k + 0.06), 0.88, 0.88, linewidth=min(1.5, points / 8) / 2, **style))
    edges = LineCollection(_edges(owner), colors="white", linewidths=min(2, points / 7), capstyle="round")
    axes.add_collection(edges)
    if step is not None:
        now = np.isin(owner // 2, [i for i, tile in enumerate(tiles) if tile.step == step])
        axes.add_collection(LineCollection(_edges(now), colors="black", linewidths=2, capstyle="round", zorder=3))
    if step is not None and step < L:  # the output that is due next
        for t in (step, step + 1):
            stairs = [(i + right, t - i) for i in range(t + 1) for right in (0, 1) if i + right <= t]
            axes.plot(*zip(*stairs, strict=True), color="black", linestyle="--", linewidth=1, zorder=5)
    note = [
        "numbers: values known",
        "when the tile runs",
        "hatched: the first values",
        "of both series meet",
        "$z_t$: anti-diagonal j + k = t",
    ]
    axes.text(0.97, 0.08, "\n".join(note), transform=axes.transAxes, ha="right", va="bottom")


def _number(axes: Axes, cells: np.ndarray, step: int, points: float, state: str) -> None:
    """The step, at the centre of this piece, with an edge that keeps it readable on hatching."""
    centre = cells.mean(0)
    size = min(14, 0.5 * points * len(cells) ** 0.3)
    if size >= 5:
        ink = "#666666" if state == "owed" else "white"
        edge = [withStroke(linewidth=size / 3, foreground=PARTS[state])]
        axes.text(
            *(centre + 0.5), step, ha="center", va="center", fontsize=size, color=ink, path_effects=edge, zorder=4
        )


def _edges(owner: np.ndarray) -> list[list[tuple[int, int]]]:
    """Every edge between two cells of different owners."""
    down = [[(j, k + 1), (j + 1, k + 1)] for j, k in np.argwhere(owner[:, :-1] != owner[:, 1:])]
    right = [[(j + 1, k), (j + 1, k + 1)] for j, k in np.argwhere(owner[:-1] != owner[1:])]
    return down + right
