"""Plots that the notebooks draw: one function per figure, each returns the figure. One set of colours everywhere."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by the colour blind, and of different lightness in grey.
COLOURS = {"lazy": "#D55E00", "eager": "#E69F00", "tiled_cpu": "#0072B2", "tiled_gpu": "#56B4E9"}


def time_per_token(seconds: dict[str, Sequence[float]]) -> Figure:
    """How long each token of a generation took, in milliseconds over its position, one line per engine.

    seconds: for each engine the time of every token, in order. Dots are single tokens, lines medians over 64 of them.
    Raises ValueError for a name that is no engine, or an engine without tokens.
    """
    for engine, times in seconds.items():
        if engine not in COLOURS or not len(times):
            raise ValueError(f"seconds must hold times for each of some of {', '.join(COLOURS)}, got {engine!r}")
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    for engine, times in seconds.items():
        times = 1e3 * np.asarray(times)
        colour = COLOURS[engine]
        axes.plot(times, ".", markersize=1.5, alpha=0.35, color=colour, rasterized=True)
        blocks = times[: len(times) // 64 * 64].reshape(-1, 64)
        axes.plot(32 + 64 * np.arange(len(blocks)), np.median(blocks, axis=1), color=colour, linewidth=2, label=engine)
    axes.set(xlabel="position (tokens)", ylabel="time of the token (ms)", yscale="log")
    axes.set_title("The naive engine pays more for every further token, the tiled one does not", loc="left")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
