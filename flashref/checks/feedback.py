"""How a check speaks: one sentence where all is right; otherwise what is wrong and where, and a picture."""

import random
import sys
import textwrap
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from flashref.checks import sandbox
from flashref.figures.style import as_png

BARE = (
    "on this system checks run your code in the notebook's own process: a loop is stopped, but memory is not bounded, "
    "and a crash takes the kernel with it. Save before you check."
)


class CheckFailed(AssertionError):
    """An answer is not right. A notebook shows the message and no traceback; ``figure`` is the picture, if any.

    It is an error, so that nbgrader, pytest and a plain script all see it.
    """

    def __init__(self, message: str, figure: Figure | None = None) -> None:
        super().__init__(message)
        self.figure = figure

    def _render_traceback_(self) -> list[str]:  # IPython asks for it
        lines = f"Not yet. {self}".splitlines()  # wrapped, since JupyterLab breaks long lines within words
        return [part for line in lines for part in textwrap.wrap(line, 92, subsequent_indent="  ") or [""]]


def fail(message: str, figure: Figure | None = None) -> None:
    """Show the picture, where pictures can be shown, and raise CheckFailed."""
    if figure is not None and "IPython" in sys.modules:
        from IPython import display, get_ipython

        if get_ipython() is not None:
            words = figure.axes[0].get_title(loc="left")
            display.display({"image/png": as_png(figure, 90), "text/plain": f"Picture: {words}"}, raw=True)
    raise CheckFailed(message, figure)


def name_of(answer: Any) -> str:
    """What the reader calls a function or class."""
    return getattr(answer, "__name__", type(answer).__name__)


def attempt(answer: Any, job: Callable[[], Any], seconds: float = sandbox.SECONDS, block: bool = True) -> Any:
    """What the job makes of the reader's answer, run in the sandbox; raises CheckFailed if it did not end well.

    answer: the function or class, for its name. What it printed is shown first, up to a limit.
    """
    name = name_of(answer)
    if not callable(answer):
        fail(f"A function or a class is wanted here, got {answer!r:.60}.")
    if not sandbox.FORKS:
        warnings.warn(BARE, stacklevel=2)  # shown once, as warnings are
    outcome = sandbox.run(job, seconds, block=block)
    if outcome.length:
        more = f" ... and so on, {outcome.length:,} characters in all" if outcome.length > len(outcome.printed) else ""
        print(f"{name} printed: {outcome.printed.rstrip()}{more}")
    if outcome.failure:
        fail(f"{name}: {outcome.failure}")
    return outcome.value


def fresh(seed: int | None) -> int:
    """The seed, or one that nobody knows."""
    return random.SystemRandom().randrange(10**6) if seed is None else seed


def rows(value: Any, shape: tuple[int, ...], call: str) -> np.ndarray:
    """A tensor of this shape as an array, for the way out of the sandbox; refuses everything else in words."""
    if value is None:
        raise sandbox.Complaint(f"{call} returned None: is there a return?")
    if not isinstance(value, Tensor):
        raise sandbox.Complaint(f"{call} must return a torch.Tensor, got {type(value).__name__}.")
    if tuple(value.shape) != shape:
        raise sandbox.Complaint(f"{call} must return shape {shape}, got {tuple(value.shape)}.")
    if value.is_complex():
        raise sandbox.Complaint(f"{call} must return real numbers, got {value.dtype}.")
    return value.detach().double().numpy().copy()


def unchanged(before: Tensor, after: Tensor, name: str, call: str) -> None:
    """Refuse an answer that wrote into what it was given."""
    if not torch.equal(before, after):
        raise sandbox.Complaint(f"{call} changes its argument {name}, which belongs to the caller: work on a copy.")


def some(items: list, most: int = 3) -> str:
    """The first few of a list, in words."""
    return ", ".join(map(str, items[:most])) + (f" and {len(items) - most} more" if len(items) > most else "")


def number(value: float) -> str:
    """A count with thousands apart; another number with six digits."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"
