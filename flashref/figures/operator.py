"""The diagram of a Hyena layer and of the operator in it."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from flashref.figures.style import PARTS, styled_figure
from flashref.tiling import schedule

INK = "#333333"


@styled_figure
def operator_diagram(d_model: int = 256, d_inner: int = 512) -> Figure:
    """A layer and, below it, its operator of order 2, as boxes; under each box its multiply-adds per token.

    d_model, d_inner: D and the width of the MLP, from which the numbers follow. Raises ValueError where one is below 1.
    """
    for name, value in (("d_model", d_model), ("d_inner", d_inner)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    D = d_model
    figure = Figure(figsize=(11, 5.6))
    axes = figure.subplots()
    axes.set(xlim=(0, 110), ylim=(0, 56), aspect="equal")
    axes.axis("off")
    axes.set_title("Only one box of a layer costs more with every further token: the mixer")

    _arrows(axes, 47, [(3, 12), (20, 32), (46, 56), (60, 67), (75, 82), (93, 98), (102, 107)])
    for x, width, text in ((12, 8, "norm"), (67, 8, "norm")):
        _box(axes, x, 47, width, text)
    _box(axes, 32, 47, 14, "operator", colour="white")  # it holds the mixer
    _box(axes, 82, 47, 11, "MLP", f"{2 * D * d_inner:,}")
    for start, plus in ((6, 58), (63, 100)):
        axes.plot([start, start, plus], [47, 53, 53], color=INK, linewidth=1.2)
        axes.annotate("", (plus, 49), (plus, 53), arrowprops={"arrowstyle": "-|>", "color": INK, "shrinkA": 0})
        _circle(axes, plus, 47, "+")
    axes.text(1.5, 47, "$h_t$", ha="center", va="center", fontsize=13)
    axes.text(109, 47, "$h_t$", ha="center", va="center", fontsize=13)
    axes.fill([32, 46, 107, 3], [43.6, 43.6, 33.5, 33.5], color="#F4F4F4", zorder=0)
    axes.fill([3, 107, 107, 3], [33.5, 33.5, 4.5, 4.5], color="#F4F4F4", zorder=0)

    _arrows(axes, 15, [(8, 11), (21, 24), (34, 46), (50, 56), (74, 81), (85, 92), (102, 105)])
    axes.text(6, 15, "$u_t$", ha="center", va="center", fontsize=13)
    axes.text(106.5, 15, "$y_t$", ha="center", va="center", fontsize=13)
    _box(axes, 11, 15, 10, "in_proj\n$D$ to $3D$", f"{3 * D * D:,}")
    _box(axes, 24, 15, 10, "short filter\n3 taps", f"{9 * D:,}")
    _box(axes, 92, 15, 10, "out_proj\n$D$ to $D$", f"{D * D:,}")
    _mixer(axes, 56, 15, 18, D)
    for x, height, gate, tail in ((48, 23, "$g_1$", "$x_t$"), (83, 29, "$g_0$", "$z_t$")):
        axes.plot([36 if x == 48 else 38, x, x], [height, height, height - 1], color=INK, linewidth=1.2)
        axes.annotate("", (x, 17), (x, height - 0.5), arrowprops={"arrowstyle": "-|>", "color": INK, "shrinkA": 0})
        axes.text(40, height + 0.6, gate, fontsize=13)
        axes.text({48: 53, 83: 77.5}[x], 15.7, tail, ha="center", fontsize=13)
        _circle(axes, x, 15, "×")
        axes.text(x, 11.2, f"{D:,}", ha="center", va="top", fontsize=9, color="#555555")
    axes.plot([36, 36], [15, 23], color=INK, linewidth=1.2)
    axes.plot([38, 38], [15, 29], color=INK, linewidth=1.2)
    axes.text(43, 15.7, "$v$", ha="center", fontsize=13)
    _box(axes, 12, 1.5, 3, "", height=2.4)
    axes.text(16.5, 1.5, "block, with its multiply-adds per token", va="center")
    _box(axes, 59, 1.5, 3, "", colour=PARTS["owed"], height=2.4)
    axes.text(63.5, 1.5, "mixer: the only cost that grows with the position", va="center")
    return figure


def _box(
    axes: Axes, x: float, y: float, width: float, text: str, cost: str = "", colour: str = "", height: float = 7
) -> None:
    style = {"boxstyle": "round,pad=0,rounding_size=0.8", "edgecolor": INK, "linewidth": 1.2}
    place = (x, y - height / 2)
    axes.add_patch(FancyBboxPatch(place, width, height, facecolor=colour or PARTS["block"], zorder=3, **style))
    axes.text(x + width / 2, y, text, ha="center", va="center", zorder=4, linespacing=1.35)
    axes.text(x + width / 2, y - height / 2 - 0.5, cost, ha="center", va="top", fontsize=9, color="#555555")


def _mixer(axes: Axes, x: float, y: float, width: float, D: int) -> None:
    """The mixer's box: the formula beside a small triangle with its red cells and gray tiles."""
    _box(axes, x, y, width, "", f"gathered (lazy): {D:,} at t = 0,\n{D:,} more per token", PARTS["owed"], height=13)
    axes.text(x + 11.8, y + 3.7, "mixer", ha="center", weight="bold", zorder=4)
    axes.text(x + 11.8, y - 1.4, r"$\sum_{j\leq t}\,x_j\,\rho_{t-j}$", ha="center", va="center", fontsize=12, zorder=4)
    cell, left, top = 0.62, x + 1.2, y + 2.5
    for tile in schedule(8):
        corner = (left + cell * tile.inputs.start, top - cell * tile.outputs.stop)
        size = (cell * len(tile.inputs), cell * len(tile.outputs))
        axes.add_patch(
            Rectangle(corner, *size, facecolor=PARTS["gray_tile"], edgecolor="white", linewidth=0.6, zorder=4)
        )
    for t in range(8):
        corner = (left + cell * t, top - cell * (t + 1))
        axes.add_patch(Rectangle(corner, cell, cell, facecolor=PARTS["red_cell"], linewidth=0, zorder=4))


def _circle(axes: Axes, x: float, y: float, sign: str) -> None:
    axes.plot(x, y, "o", markersize=19, markerfacecolor="white", markeredgecolor=INK, markeredgewidth=1.2, zorder=3)
    axes.text(x, y - 0.1, sign, ha="center", va="center", fontsize=15, zorder=4)


def _arrows(axes: Axes, y: float, spans: Sequence[tuple[float, float]]) -> None:
    for start, end in spans:
        style = {"arrowstyle": "-|>", "color": INK, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (end, y), (start, y), arrowprops=style)
