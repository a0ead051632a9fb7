"""Plots of polynomials: their products, their values at roots of unity, and divide and conquer over time."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from flashref.figures.style import PARTS, styled_figure
from flashref.figures.tilings import draw_triangle
from flashref.tiling import check_integers, schedule


@styled_figure
def product_grid(x: Sequence[int], rho: Sequence[int], t: int) -> Figure:
    """All products x_j * rho_k of two polynomials, twice: by (j, k), and slid, each product in the row of its output.

    x, rho: equally many coefficients, at most 8. The products of coefficient t, an anti-diagonal on the left and a row
    on the right, are marked. Rows from len(x) on are faint: a causal convolution has no use for them. Raises TypeError
    for a t that is no integer, ValueError for lengths that differ or cannot be drawn, or t outside 0 .. 2 len(x) - 2.
    """
    check_integers(t=t)
    L = len(x)
    if not 1 <= L <= 8 or len(rho) != L:
        raise ValueError(f"x and rho must hold equally many coefficients, 1 .. 8, got {L} and {len(rho)}")
    if not 0 <= t <= 2 * L - 2:
        raise ValueError(f"t must lie in 0 .. {2 * L - 2}, the coefficients of the product, got {t}")
    figure = Figure(figsize=(9, 5))
    grid, sheared = figure.subplots(1, 2)
    for axes in (grid, sheared):
        axes.set(xlim=(0, L), ylim=(2 * L - 1, 0), aspect="equal")
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.xaxis.set_label_position("top")
        axes.set_xlabel("coefficient $x_j$")
        axes.set_xticks(np.arange(L) + 0.5, [f"$x_{{{j}}}={x[j]}$" for j in range(L)] if L <= 4 else list(x))
    grid.set_yticks(np.arange(L) + 0.5, [f"$\\rho_{{{k}}}={rho[k]}$" for k in range(L)])
    grid.set_ylabel("coefficient $\\rho_k$", y=0.5 + L / (4 * L - 2) / 1.6)
    sheared.set_yticks(np.arange(2 * L - 1) + 0.5, [f"$z_{{{i}}}$" for i in range(2 * L - 1)])
    sheared.set_ylabel("coefficient $z_t$, t = j + k")
    size = 13 - 0.7 * L
    for j in range(L):
        for k in range(L):
            part = "now" if j + k == t else "gray_tile" if j + k < L else "owed"
            for axes, row in ((grid, k), (sheared, j + k)):
                axes.add_patch(Rectangle((j, row), 1, 1, facecolor=PARTS[part], edgecolor="white", linewidth=1.5))
                ink = "#555555" if part == "owed" else "white"
                axes.text(j + 0.5, row + 0.5, x[j] * rho[k], ha="center", va="center", color=ink, fontsize=size)
    for i in range(2 * L - 1):
        total = sum(x[j] * rho[i - j] for j in range(L) if 0 <= i - j < L)
        weight = "bold" if i == t else "normal"
        sheared.text(L + 0.15, i + 0.5, f"= {total}", va="center", fontsize=max(9, size), fontweight=weight)
    sheared.plot([0, 1.3 * L], [L, L], color="black", linestyle="--", linewidth=1, clip_on=False)
    grid.set_title(f"An anti-diagonal adds up to one\ncoefficient of the product: here $z_{{{t}}}$", pad=12)
    sheared.set_title(f"Column j slid down by j: now it is a row,\nand the first {L} rows are a triangle", pad=12)
    return figure


@styled_figure
def roots_of_unity(x: Sequence[float], S: int = 8) -> Figure:
    """Evaluation at the S-th roots of unity: the points on the circle, and where the polynomial takes them.

    x: 1 to 16 real coefficients, lowest first. Point k is exp(-2 pi i k / S), as in NumPy's FFT. Even and odd k have
    their own marks: the squares of all points are the even ones, each met twice. Raises TypeError for an S that is no
    integer, ValueError for another number of coefficients, or S outside 1 .. 32.
    """
    check_integers(S=S)
    if not 1 <= len(x) <= 16:
        raise ValueError(f"x must hold 1 .. 16 coefficients, got {len(x)}")
    if not 1 <= S <= 32:
        raise ValueError(f"S must lie in 1 .. 32 to be drawn, got {S}")
    figure = Figure(figsize=(9.5, 4.6))
    circle = np.exp(-2j * np.pi * np.arange(721) / 720)
    points = np.exp(-2j * np.pi * np.arange(S) / S)
    images = [np.polynomial.polynomial.polyval(z, list(x)) for z in (circle, points)]
    titles = (f"{S} points: evenly spaced on the unit circle", "Their images: samples of one closed curve")
    for i, axes in enumerate(figure.subplots(1, 2)):
        curve, dots = images if i else (circle, points)
        axes.plot(curve.real, curve.imag, color=PARTS["gray_tile"], linewidth=1.2, zorder=1)
        for start, marker, face, name in ((0, "s", "black", "even k"), (1, "o", "white", "odd k")):
            these = dots[start::2]
            style = {"color": "black", "markerfacecolor": face, "markersize": 8, "label": name, "zorder": 2}
            axes.plot(these.real, these.imag, marker, **style)
        centre = (curve.real.min() + curve.real.max()) / 2
        for k, dot in enumerate(dots):
            same = [i for i in range(S) if abs(dots[i] - dot) < 1e-9]
            away = (dot - centre) / max(abs(dot - centre), 1e-9)
            place = (15 * away.real, 15 * away.imag)
            if same[0] == k:
                text = ", ".join(map(str, same))
                axes.annotate(text, (dot.real, dot.imag), place, textcoords="offset points", ha="center", va="center")
        axes.axhline(0, color=PARTS["owed"], zorder=0)
        axes.axvline(0, color=PARTS["owed"], zorder=0)
        axes.margins(0.13)
        axes.set(aspect="equal", xlabel="real part", ylabel="imaginary part", title=titles[i])
        axes.grid(False)
    figure.axes[0].legend(loc="center", title="number of the point", frameon=True, edgecolor="white", framealpha=1)
    return figure


@styled_figure
def recursion_unrolled(L: int = 8) -> Figure:
    """Divide and conquer over time, and the tiles it makes: one bar for each call with more than one position.

    A bar spans the positions of its call. When its left half is solved, at its middle n, the left half contributes to
    the right half: n is the number on the tile, too. The row below writes n in binary; U is its last 1 with the zeros
    behind it. Raises TypeError for an L that is no integer, ValueError for one that is no power of two from 2 to 16.
    """
    check_integers(L=L)
    if L not in (2, 4, 8, 16):
        raise ValueError(f"L must be a power of two, 2 .. 16, to be drawn, got {L}")
    figure = Figure(figsize=(10.5, 4.3))
    calls, triangle = figure.subplots(1, 2, width_ratios=(1.75, 1))
    levels = L.bit_length() - 1
    size = {2: 12, 4: 12, 8: 11, 16: 8}[L]
    for n in range(1, L):
        U = n & -n
        y = levels - U.bit_length()
        for start, part, hatch in ((n - U, "gray_tile", ""), (n, "owed", "////")):
            style = {"facecolor": PARTS[part], "edgecolor": "white", "hatch": hatch, "linewidth": 1.5}
            calls.add_patch(Rectangle((start, y + 0.2), U, 0.6, **style))
        calls.plot([n, n], [y + 0.5, levels + 0.9], color="black", linestyle=":", linewidth=1, zorder=2)
        circle = {"boxstyle": "circle", "facecolor": "white", "edgecolor": "black"}
        calls.text(n, y + 0.5, n, ha="center", va="center", fontsize=size, bbox=circle, zorder=3)
        bits = f"{n:0{levels}b}"
        head, tail = bits[: levels - U.bit_length()], bits[levels - U.bit_length() :]
        text = f"{head}$\\mathbf{{{tail}}}$\nU = {U}" if L <= 8 else f"{U}"
        calls.text(n, levels + 1.0, text, ha="center", va="top", fontsize=size)
    for t in range(L):
        calls.add_patch(Rectangle((t + 0.08, levels + 0.2), 0.84, 0.5, facecolor=PARTS["red_cell"]))
    calls.set(xlim=(0, L), ylim=(levels + 1.9, 0), xlabel="time, as inputs known n: left to right")
    calls.set_xticks(range(0, L + 1, max(1, L // 16)))
    names = [f"{L >> level} positions" for level in range(levels)] + ["red cells"]
    calls.set_yticks(np.arange(levels + 1) + 0.5, names)
    calls.grid(False)
    calls.spines["left"].set_visible(False)
    calls.tick_params(axis="y", length=0)
    calls.set_title(
        f"The recursion in time: at n = 1 .. {L - 1} a left half (gray)\ncontributes to its right half (hatched)"
    )
    draw_triangle(triangle, schedule(L), L)
    triangle.set_title("The same contributions as tiles:\nthe numbers are n")
    return figure
