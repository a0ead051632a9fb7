"""The look of every figure: one set of colours and fonts, and a figure as a file."""

import functools
import io
from collections.abc import Callable

from matplotlib import style
from matplotlib.figure import Figure

# Okabe and Ito's palette, and the last from Tol's: told apart by the colour blind, and of different lightness in grey.
COLOURS = {
    "lazy": "#D55E00",
    "eager": "#E69F00",
    "tiled_cpu": "#0072B2",
    "tiled_gpu": "#56B4E9",
    "bounded": "#882255",
    "epoched": "#999933",
}
APPROXIMATE = {  # never drawn among the engines without a word that they are not exact
    "distilled": "#117733",
    "truncated": "#5D3A1A",
    "dilated": "#44AA99",
}
PARTS = {
    "red_cell": "#C8102E",  # the pair (t, t)
    "gray_tile": "#8C8C8C",  # work that is done
    "now": "#009E73",  # the tile that runs at this step
    "owed": "#E4E4E4",  # what is still to be done
    "wrong": "#F0E442",  # a pair that a schedule misses, repeats, or takes at the wrong moment
    "offline": "#CC79A7",  # one convolution of everything, as in training
    "formula": "#000000",  # what is derived, beside what is counted or measured
    "block": "#CFE3F2",  # everything in a layer that is not a mixer
    "filter": "#4B3F72",  # the model itself: its filters, its bits per byte
    "untrained": "#B07D2B",  # the same before training
}
STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def styled_figure(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw with the style of this course, whatever the reader's own settings are, and leave those alone."""

    @functools.wraps(draw)
    def drawn(*args, **kwargs) -> Figure:
        with style.context(["default", STYLE]):
            return draw(*args, **kwargs)

    return drawn


def as_png(figure: Figure, dpi: int = 100) -> bytes:
    """A figure as the bytes of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()
