"""What a check switches off or puts back: flashref's own solutions, and functions that somebody has replaced."""

import builtins
import contextlib
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

# Modules whose functions are solutions; what is not listed (figures, the model, this file) may be called.
SOLUTIONS = (
    "bounded",
    "convolution",
    "data_dependent",
    "engines",
    "kernels",
    "naive",
    "naive_gpu",
    "product_tiling",
    "tau",
    "tiled_cpu",
    "tiled_gpu",
    "tiling",
)
SHELLS = {"input", "open", "breakpoint"}  # builtins that IPython, pytest and debuggers replace
FREE = {"check_engine", "fast_length", "check_count", "check_integers"}  # helpers there that give nothing away


class SolutionUsed(BaseException):
    """A solution of flashref was called where one's own is asked for. No ``except Exception`` hides it."""


# The originals of what everybody relies on. ---------------------------------------------------------------------


def _functions() -> dict[str, tuple[Any, str, Any]]:
    spaces = {
        "builtins": builtins,
        "np": np,
        "np.fft": np.fft,
        "np.linalg": np.linalg,
        "torch": torch,
        "torch.fft": torch.fft,
        "torch.Tensor": torch.Tensor,
        "torch.nn.functional": torch.nn.functional,
    }
    spaces |= {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "flashref"}
    found = {}
    for space, owner in spaces.items():
        for name in dir(owner):
            value = getattr(owner, name)
            if not callable(value) or name.startswith("_") or value is not getattr(owner, name):  # bound anew each time
                continue
            if owner is builtins and (not isinstance(value, types.BuiltinFunctionType | type) or name in SHELLS):
                continue
            found[f"{space}.{name}"] = (owner, name, value)
    return found


def restore() -> list[str]:
    """Put back every function that was replaced since this module was imported; returns their names."""
    changed = []
    for place, (owner, name, value) in ORIGINALS.items():
        now = getattr(owner, name, None)
        if now is not value and getattr(now, "__wrapped__", None) is not value:  # torch wraps some of its own, late
            changed.append(place)
            setattr(owner, name, value)
    return changed


# Solutions switched off. ----------------------------------------------------------------------------------------


USED: list[str] = []


def refuse(frame: types.FrameType) -> None:
    """A solution's frame: remember what of flashref was called by somebody else to get there, and stop whoever did."""
    while _ours(frame.f_back):
        frame = frame.f_back
    name = f"{frame.f_globals['__name__'].partition('.')[2]}.{frame.f_code.co_qualname}"
    USED.append(name)
    raise SolutionUsed(name)


def _ours(frame: types.FrameType | None) -> bool:
    name = frame.f_globals.get("__name__", "") if frame else ""
    return name.startswith("flashref.") and not name.startswith("flashref.checks")


# What takes the place of a solution's code runs among the globals of its module: it finds everything by itself.


def _refusing(*args, **kwargs):
    import sys

    sys.modules["flashref.checks.guards"].refuse(sys._getframe())


def _refusing_generator(*args, **kwargs):
    import sys

    yield sys.modules["flashref.checks.guards"].refuse(sys._getframe())


def _solutions() -> Iterator[types.FunctionType]:
    for module in map(sys.modules.get, (f"flashref.{name}" for name in SOLUTIONS)):
        for value in list(vars(module).values()) if module else []:
            members = vars(value).values() if isinstance(value, type) and value.__name__ not in ("Tile", "Cost") else ()
            for function in (value, *members):
                function = getattr(function, "__wrapped__", function)
                own = isinstance(function, types.FunctionType) and function.__module__ == module.__name__
                if own and not function.__closure__ and function.__name__ not in FREE:
                    yield function


@contextlib.contextmanager
def solutions_off() -> Iterator[None]:
    """The functions of SOLUTIONS refuse to run, under whatever name somebody holds them."""
    kept = [(f, f.__code__, f.__defaults__, f.__kwdefaults__) for f in _solutions()]
    USED.clear()
    try:
        for function, code, _, _ in kept:
            function.__defaults__ = function.__kwdefaults__ = None
            mine = _refusing_generator if inspect.isgeneratorfunction(function) else _refusing
            function.__code__ = mine.__code__.replace(co_name=function.__name__, co_qualname=code.co_qualname)
        yield
    finally:
        for function, code, defaults, keywords in kept:
            function.__code__, function.__defaults__, function.__kwdefaults__ = code, defaults, keywords


ORIGINALS = _functions()
