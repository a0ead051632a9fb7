"""Plots of what is around the convolution: filters, training, prompts, and how close the engines are."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from flashref.figures.style import COLOURS, PARTS, styled_figure
from flashref.figures.tilings import draw_triangle
from flashref.tiling import Tile, schedule


@styled_figure
def time_per_token(seconds: dict[str, Sequence[float]]) -> Figure:
    """How long each token of a generation took, in milliseconds over its position, one line per engine.

    seconds: for each engine the time of every token, in order. Dots are single tokens, lines medians over 64 of them.
    Raises ValueError for a name that is no engine, or an engine without tokens.
    """
    for engine, times in seconds.items():
        if engine not in COLOURS or not len(times):
            raise ValueError(f"seconds must hold times for each of some of {', '.join(COLOURS)}, got {engine!r}")
    figure = Figure(figsize=(8, 3.6))
    axes = figure.subplots()
    for engine, times in seconds.items():
        times = 1e3 * np.asarray(times)
        colour = COLOURS[engine]
        axes.plot(times, ".", markersize=1.5, alpha=0.35, color=colour, rasterized=True)
        blocks = times[: len(times) // 64 * 64].reshape(-1, 64)
        axes.plot(32 + 64 * np.arange(len(blocks)), np.median(blocks, axis=1), color=colour, linewidth=2, label=engine)
    axes.set(xlabel="position (tokens)", ylabel="time of the token (ms)", yscale="log")
    axes.set_title("The naive engine pays more for every further token, the tiled one does not")
    axes.legend()
    return figure


@styled_figure
def filter_steps(
    told: Float[np.ndarray, "L emb"],
    networks: Mapping[str, Float[np.ndarray, " L"]],
    window: Float[np.ndarray, " L"],
    lags: int,
) -> Figure:
    """How one channel's filter is made, over its first ``lags`` lags: what the network is told, what it answers, the
    decay window, and the product.

    told: one row per lag, time first, then cosines and negative sines. networks: the answers of one model, or of two to
    compare; the window is scaled to the first. Raises ValueError for lengths that differ, no network or more than two,
    or lags outside 2 .. L.
    """
    L = len(told)
    if not 1 <= len(networks) <= 2:
        raise ValueError(f"networks must hold the answers of one or two models, got {len(networks)}")
    for name, values in {**networks, "window": window}.items():
        if len(values) != L:
            raise ValueError(f"told, networks and window must have one length, got {L} and {len(values)} ({name})")
    _check_range("lags", lags, 2, L)
    bands = (told.shape[1] - 1) // 2
    figure = Figure(figsize=(11, 5.2))
    axes = figure.subplots(2, 2, sharex=True)
    axes[0, 0].plot(told[:lags, 0], color="black", linewidth=2, label="time")
    for b in sorted({1, bands // 2, bands - 1} & set(range(bands))):
        axes[0, 0].plot(told[:lags, 1 + b], linewidth=1, color=PARTS["filter"], alpha=0.4 + 0.5 * b / bands)
    axes[0, 0].plot([], color=PARTS["filter"], label=f"some of the {bands} cosines")
    axes[0, 0].set_title("1. What the network is told about a lag")
    axes[0, 0].set_ylim(-1.15, 2)
    axes[0, 0].legend(loc="upper right", ncols=2)
    looks = ({"color": PARTS["filter"], "linewidth": 0.7}, {"color": PARTS["untrained"], "linewidth": 1, "zorder": 3})
    for (name, network), look in zip(networks.items(), looks, strict=False):
        axes[0, 1].plot(network[:lags], label=name, **look)
        axes[1, 1].plot((network * window)[:lags], label=name, **look)
    axes[0, 1].set_title("2. What the network answers, for this channel")
    low, high = axes[0, 1].get_ylim()
    axes[0, 1].set_ylim(low, high + 0.25 * (high - low))  # room for the legend
    axes[0, 1].legend(loc="upper right", ncols=2)
    axes[1, 0].plot(window[:lags], "--", color="black")
    axes[1, 0].set_title("3. The decay window of this channel")
    envelope = np.abs(next(iter(networks.values()))[:lags]).max() * window[:lags]
    axes[1, 1].plot(envelope, "--", color="black", linewidth=1, label="± the window, scaled")
    axes[1, 1].plot(-envelope, "--", color="black", linewidth=1)
    axes[1, 1].set_title("4. The filter: answer times window")
    axes[1, 1].legend(loc="lower right")
    for below in axes[1]:
        below.set_xlabel("lag (tokens)")
    for part, label in zip(axes.flat, ("value", "answer", "factor", "tap"), strict=True):
        part.set_ylabel(label)
    return figure


@styled_figure
def filters(
    networks: Mapping[str, Float[np.ndarray, "D L"]],
    window: Float[np.ndarray, "D L"],
    channels: Sequence[int],
    title: str = "",
) -> Figure:
    """Filters of some channels, one row of plots for each model in ``networks``, all with the same decay windows.

    networks: what the filter networks answer, before the window. Each plot ends where the window is down to 0.5 %.
    Raises ValueError for no network, or one whose shape is not the window's; for no channels, more than 6, or one
    outside 0 .. D-1.
    """
    D = len(window)
    if not networks or any(network.shape != window.shape for network in networks.values()):
        shapes = [network.shape for network in networks.values()]
        raise ValueError(f"networks must hold arrays of the window's shape {window.shape}, got {shapes}")
    if not 1 <= len(channels) <= 6:
        raise ValueError(f"channels must name 1 to 6 channels, got {len(channels)}")
    for channel in channels:
        _check_range("channels", channel, 0, D - 1)
    figure = Figure(figsize=(11, 2.3 * len(networks) + 0.6))
    grid = figure.subplots(len(networks), len(channels), sharex="col", squeeze=False)
    for row, (name, network) in zip(grid, networks.items(), strict=True):
        for axes, channel in zip(row, channels, strict=True):
            w = window[channel]
            lags = _seen(w)
            envelope = np.abs(network[channel, :lags]).max() * w[:lags]
            axes.plot((network[channel] * w)[:lags], linewidth=0.8, color=PARTS["filter"], label="filter")
            axes.plot(envelope, "--", color="black", linewidth=0.9, label="decay window, scaled")
            axes.plot(-envelope, "--", color="black", linewidth=0.9)
            axes.set_title(f"{name}, channel {channel}", fontsize=10)
        row[0].set_ylabel("tap")
    for axes in grid[-1]:
        axes.set_xlabel("lag (tokens)")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _seen(window: Float[np.ndarray, " L"]) -> int:
    """How many lags to draw: those where the window is above 0.5 % of its start, and at least 8."""
    return min(len(window), max(8, int((window > 0.005 * window[0]).sum())))


@styled_figure
def one_filter(
    network: Float[np.ndarray, " L"],
    window: Float[np.ndarray, " L"],
    name: str,
    log_lag: bool = False,
    log_magnitude: bool = False,
) -> Figure:
    """One filter, the network's answer times the decay window, over the lag; the window, scaled, is drawn over it.

    A dotted line stands where 99 % of the energy has come. log_lag: a logarithmic axis of all lags from lag 1;
    otherwise the axis ends where the window is down to 0.5 %. log_magnitude: absolute taps on a logarithmic axis.
    Raises ValueError for no taps, or lengths that differ.
    """
    L = len(network)
    if L != len(window) or not L:
        raise ValueError(f"network and window must have one length >= 1, got {L} and {len(window)}")
    taps, seen, held = network * window, _seen(window), energy_lags(network * window)
    envelope, top = np.abs(network[:seen]).max() * window, max(np.abs(taps).max(), 1e-30)
    figure = Figure(figsize=(8, 3.6))
    axes = figure.subplots()
    if log_magnitude:  # a tap of zero has no logarithm: it is drawn below the edge
        curve, envelope = np.maximum(np.abs(taps), 1e-6 * top), np.maximum(envelope, 1e-6 * top)
        axes.set(yscale="log", ylim=(1e-5 * top, 3 * top), ylabel="absolute value of the tap")
    else:
        curve = taps
        axes.plot(-envelope, "--", color="black", linewidth=1.2)
        axes.set_ylabel("tap")
    axes.plot(curve, linewidth=0.8, color=PARTS["filter"], label="filter")
    axes.plot(envelope, "--", color="black", linewidth=1.2, label="decay window, scaled")
    axes.axvline(held, color=PARTS["red_cell"], linestyle=":", linewidth=2, label="99 % of the energy")
    if log_lag:
        axes.set(xscale="log", xlim=(1, max(2, L)))
    else:
        axes.set_xlim(-0.02 * seen, 1.02 * max(seen, held))
    axes.set(xlabel="lag (tokens)", title=name)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def energy_lags(taps: Float[np.ndarray, " L"], share: float = 0.99) -> int:
    """How many of the first lags hold ``share`` of the sum of the squared taps."""
    energy = np.cumsum(np.square(taps, dtype=np.float64))
    return int(np.searchsorted(energy, share * energy[-1])) + 1


@styled_figure
def loss_curve(
    steps: Sequence[float],
    bits: Sequence[float],
    levels: Mapping[str, float],
    title: str,
    mark: tuple[float, str] | None = None,
) -> Figure:
    """The bits per byte of a training run over its steps, with horizontal lines to compare it with.

    levels: from what a line means to its bits per byte. mark: a step, and what changed there. Raises ValueError for
    lengths that differ, or no steps.
    """
    if len(steps) != len(bits) or not len(steps):
        raise ValueError(f"steps and bits must have one length >= 1, got {len(steps)} and {len(bits)}")
    figure = Figure(figsize=(8, 3.8))
    axes = figure.subplots()
    axes.plot(steps, bits, color=PARTS["filter"], linewidth=1.4)
    for text, level in levels.items():
        axes.axhline(level, color="black", linestyle="--", linewidth=1)
        axes.annotate(f"{level:.2f} {text}", (1, level), (5, 0), xycoords=("axes fraction", "data"),
                      textcoords="offset points", va="center")  # fmt: skip
    if mark is not None:
        axes.axvline(mark[0], color="black", linestyle=":", linewidth=1)
        axes.annotate(mark[1], (mark[0], 0.82), (5, 0), xycoords=("data", "axes fraction"),
                      textcoords="offset points", va="top")  # fmt: skip
    least, most = 0.9 * min(*bits, *levels.values()), 1.25 * max(*bits, *levels.values())
    ticks = [tick for tick in (0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16) if least <= tick <= most]
    axes.set(xlabel="step", ylabel="bits per byte (logarithmic)", title=title, yscale="log", ylim=(least, most))
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    return figure


@styled_figure
def compression(bits: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Bits per byte as bars: one group for each text, one bar for each way to write it; shorter is better.

    bits: for each text, for each way its bits per byte. Raises ValueError if there is none.
    """
    if not bits or not all(bits.values()):
        raise ValueError(f"bits must hold at least one number for each text, got {bits!r}")
    rows = [(text, way, value) for text, ways in bits.items() for way, value in ways.items()]
    figure = Figure(figsize=(8, 0.32 * len(rows) + 0.5 * len(bits) + 0.9))
    axes = figure.subplots()
    y, places, before = 0.0, [], None
    for text, way, value in rows:
        if text != before:
            y += 1.2
            axes.annotate(text, (0, y - 0.55), (4, 0), textcoords="offset points", va="bottom", weight="bold")
        model = way == "model"
        axes.barh(y, value, 0.8, color=PARTS["filter"] if model else PARTS["gray_tile"], hatch="" if model else "//",
                  edgecolor="white", linewidth=0)  # fmt: skip
        axes.text(value, y, f" {value:.2f}", va="center")
        places.append(y)
        y, before = y + 1, text
    axes.set_yticks(places, [way for _, way, _ in rows])
    axes.set(xlabel="bits per byte", title=title, ylim=(y - 0.4, -0.1), xlim=(0, 1.1 * max(row[2] for row in rows)))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    return figure


@styled_figure
def prompt_tiling(P: int, L: int) -> Figure:
    """The triangle of L positions whose first P are a prompt: one convolution for it, then the tiling, counted from P.

    Raises ValueError for P outside 0 .. L, or L outside 1 .. 64.
    """
    _check_range("L", L, 1, 64)
    _check_range("P", P, 0, L)
    moved = [
        Tile(P + t.step, *(range(r.start + P, r.stop + P) for r in (t.inputs, t.outputs))) for t in schedule(L - P)
    ]
    figure = Figure(figsize=(8.4, 5))
    axes = figure.subplots()
    draw_triangle(axes, moved, L)
    axes.set_anchor("W")
    style = {"facecolor": PARTS["offline"], "edgecolor": "white", "zorder": 5}
    stairs = [(0, 0)] + [(j, t) for k in range(P) for j, t in ((k + 1, k), (k + 1, k + 1))] + [(0, P)]
    if P:
        axes.add_patch(Polygon(stairs, **style))
        axes.add_patch(Rectangle((0, P), P, L - P, hatch="//", **style))
    axes.set_title(f"A prompt of {P}, then {L - P} steps; numbers are inputs known")
    marks = {
        "prompt to its own outputs": Rectangle((0, 0), 1, 1, facecolor=PARTS["offline"]),
        "prompt to the future": Rectangle((0, 0), 1, 1, facecolor=PARTS["offline"], edgecolor="white", hatch="//"),
        "gray tiles, counted from the prompt's end": Rectangle((0, 0), 1, 1, facecolor=PARTS["gray_tile"]),
        "red cells": Rectangle((0, 0), 1, 1, facecolor=PARTS["red_cell"]),
    }
    axes.legend(marks.values(), marks.keys(), loc="upper left", bbox_to_anchor=(0.62, 1))
    return figure


@styled_figure
def logit_gaps(gap: Float[np.ndarray, " n"], differences: Mapping[str, Float[np.ndarray, " n"]]) -> Figure:
    """For every position the gap between its two best logits, against how far the logits of engines and truth differ.

    gap: by the truth. differences: for one or two dtypes the largest difference of a logit among the engines and the
    truth. Both axes are logarithmic. From the dashed line upwards the likeliest token could change: there twice the
    difference reaches the gap. Positions where nothing differs are drawn at the lower edge. Raises ValueError for
    lengths that differ or a gap below 0.
    """
    if not len(gap) or any(len(values) != len(gap) for values in differences.values()):
        raise ValueError(f"gap and each of differences must have one length >= 1, got {len(gap)} gaps")
    if np.min(gap) < 0:
        raise ValueError(f"gap must not be negative, got {np.min(gap)}")
    figure = Figure(figsize=(8, 4.2))
    axes = figure.subplots()
    nonzero = [values[values > 0].min() for values in differences.values() if (values > 0).any()]
    floor = min(nonzero, default=1e-16) / 2
    x = np.maximum(gap, floor)
    looks = zip(("o", "^"), (PARTS["filter"], PARTS["now"]), strict=True)
    for (name, values), (marker, colour) in zip(differences.items(), looks, strict=False):
        axes.plot(x, np.maximum(values, floor), marker, markersize=3, alpha=0.5, color=colour, label=name)
    line = np.array([x.min() / 30, 3 * x.max()])
    axes.plot(line, line / 2, "--", color="black")
    axes.fill_between(line, line / 2, 10 * line[1], color=PARTS["wrong"], alpha=0.35, linewidth=0)
    axes.text(0.02, 0.96, "here the likeliest token could change", transform=axes.transAxes, va="top")
    axes.set(xscale="log", yscale="log", xlim=line, ylim=(floor / 2, 10 * line[1]))
    axes.set(xlabel="gap between the two best logits", ylabel="largest difference of a logit\namong engines and truth")
    axes.set_title("Engines and truth differ by far less than the two best tokens do")
    axes.legend(loc=(0.02, 0.3), markerscale=2)
    return figure


def _check_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} must lie in {least} .. {most}, got {value}")
