"""Plots of the general framework: what P2 is good for."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from flashref.figures.style import PARTS, styled_figure
from flashref.framework import ContributionMixer, Known, PropertyError
from flashref.tiling import check_count, gray_tile


@styled_figure
def contributions_known(mixers: Mapping[str, tuple[ContributionMixer, Sequence]], L: int, n: int) -> Figure:
    """Which contributions cont(j, t) can be computed when n of L inputs are known, found by asking the mixer's cont.

    mixers: by the name that stands above its panel, a mixer and at least L inputs for it. The tile that the relaxed
    schedule runs at step n is framed: green where its contributions can be computed, yellow and hatched where they
    cannot. Raises ValueError for no mixers, L outside 2 .. 32, n outside 1 .. L-1, or too few inputs; TypeError for an
    L or n that is no integer.
    """
    check_count("L", L, 2)
    check_count("n", n, 1)
    if L > 32 or n >= L:
        raise ValueError(f"L must lie in 2 .. 32 and n in 1 .. L-1 to be drawn, got L = {L} and n = {n}")
    short = [name for name, (_, x) in mixers.items() if len(x) < L]
    if not mixers or short:
        raise ValueError(f"mixers must hold at least one mixer, each with L = {L} inputs, got too few for {short}")
    figure = Figure(figsize=(5.2 * len(mixers), 5.6))
    panels = figure.subplots(1, len(mixers), squeeze=False)[0]
    for axes, (name, (mixer, x)) in zip(panels, mixers.items(), strict=True):
        ready = _draw(axes, mixer, x, L, n)
        tile = gray_tile(n, L, 1)
        pairs = len(tile.inputs) * len(tile.outputs)
        axes.set_title(f"{name}: {ready} of the {pairs} contributions\nof tile {n} can be computed", pad=14)
    return figure


def _draw(axes: Axes, mixer: ContributionMixer, x: Sequence, L: int, n: int) -> int:
    """One panel; returns how many contributions of the tile can be computed."""
    axes.set(xlim=(0, L), ylim=(L, -0.9), aspect="equal", xlabel="input j", ylabel="output t")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    positions = range(0, L, max(1, L // 8))
    axes.set_xticks([i + 0.5 for i in positions], positions)
    axes.set_yticks([i + 0.5 for i in positions], positions)
    tile, ready = gray_tile(n, L, 1), 0
    for t in range(L):
        for j in range(t + 1):
            known, in_tile = _is_known(mixer, x[:n], j, t), j in tile.inputs and t in tile.outputs
            ready += known and in_tile
            part = ("now" if known else "wrong") if in_tile else "gray_tile" if known else "owed"
            hatch = "////" if part == "wrong" else None
            axes.add_patch(Rectangle((j, t), 1, 1, facecolor=PARTS[part], edgecolor="white", hatch=hatch, linewidth=1))
    p, q = len(tile.inputs), len(tile.outputs)
    axes.add_patch(Rectangle((tile.inputs.start, n), p, q, fill=False, edgecolor="black", linewidth=2, zorder=3))
    for j in range(L):
        style = {"facecolor": "black" if j < n else "white", "edgecolor": "black"}
        axes.add_patch(Rectangle((j + 0.1, -0.75), 0.8, 0.3, linewidth=1, **style))
    axes.text(L, 0.1, f"black bar: {n} inputs are known", ha="right", va="top")
    axes.text(L, 0.75, "dark cell: cont(j, t) can be computed", ha="right", va="top")
    return ready


def _is_known(mixer: ContributionMixer, x: Sequence, j: int, t: int) -> bool:
    try:
        mixer.cont(Known(x, len(x) - 1), j, t)
    except (PropertyError, IndexError):
        return False
    return True
