"""Files that somebody else may have written, read so that none fills the memory or never ends: JSON, safetensors.

Whatever is wrong with one raises a ValueError that names it, and no room for it a MemoryError. What torch.save wrote is
read in pickled.py.
"""

import json
import math
import re
from collections import Counter
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import torch
from safetensors import safe_open
from torch import Tensor

MEGABYTES = 8  # of a JSON file: more than any needs

T = TypeVar("T")


def shown(text: object) -> str:
    """Some text of a file's as a message may print it: no control characters, and not a page of it."""
    text = str(text)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 200 else text[:200] + " ..."


def read_json(file: Path) -> Any:
    """What is in a JSON file of at most 8 MB.

    Refuses what json.loads lets pass: a name that an object has twice, NaN and infinities, numbers that become one.
    Raises FileNotFoundError where there is nothing, ValueError for whatever else is wrong.
    """
    check_regular(file, MEGABYTES)
    try:
        return parse_json(file.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {shown(error)}") from error


def parse_json(text: str) -> Any:
    """json.loads without what read_json refuses. Raises ValueError or RecursionError."""
    return json.loads(text, object_pairs_hook=_named_once, parse_float=_finite, parse_constant=_finite)


def check_regular(file: Path, megabytes: int | None = None) -> None:
    """Refuse what is not a file with an end: opening a pipe waits for ever, and a device may go on for ever."""
    if not file.exists():
        raise FileNotFoundError(f"there is no file {file}")
    if not file.is_file():
        raise ValueError(f"{file} is a {'folder' if file.is_dir() else 'pipe or device'}, not a file")
    if megabytes is not None and (size := file.stat().st_size) > megabytes * 10**6:
        raise ValueError(f"{file} is too large to be what it should be: {size:,} bytes, at most {megabytes} MB")


def check_target(name: str, file: Path) -> None:
    """Refuse a place for a file where there is no folder, or something else: renamed onto, a device would be gone."""
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{name}: there is no folder {file.parent}")
    if file.exists() and not file.is_file():
        raise ValueError(f"{name}: {file} is a {'folder' if file.is_dir() else 'pipe or device'}, give a file")


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"an object names {shown(twice)!r} twice")
    return found


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{shown(number)} is no finite number")
    return value


def read_records(file: Path, kind: type[T]) -> tuple[dict[str, Any], list[T]]:
    """What stands in a results file, and its records as objects of a dataclass, every field of the type it declares.

    Raises ValueError for what is no such file, or has no environment as machine.environment() makes it.
    """
    content = read_json(file)
    try:
        if not _is_environment(content["environment"]):
            raise ValueError("its environment does not say which machine, versions and date")
        return content, [_as(kind, record) for record in content["records"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is no results file of this version of flashref: {shown(error)}") from error


def _is_environment(found: Any) -> bool:
    hints = {"device": str, "cores": int | None, "threads": int, "commit": str | None, "date": str}
    hints |= {"versions": dict[str, str]}
    if not fits(found, dict[str, Any]) or not hints.keys() <= found.keys():  # what may be None must be there, too
        return False
    return all(fits(found[name], hint) for name, hint in hints.items()) and "torch" in found["versions"]


def _as(kind: type[T], record: Any) -> T:
    made, hints = kind(**record), get_type_hints(kind)
    for field in fields(kind):
        value = getattr(made, field.name)
        if not fits(value, hints[field.name]):
            raise ValueError(f"{field.name} = {shown(repr(value))} is not of the type {field.type}")
    return made


def fits(value: Any, hint: Any) -> bool:
    """Whether a value from a JSON file is of a type: a number of a sensible size, text that can be printed, or nested.

    A whole number is a float too, true and false are no numbers, and a tuple is a list of that length.
    """
    of, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if hint is str:
        return isinstance(value, str) and value.isprintable()
    if hint in (int, float):
        allowed = int if hint is int else int | float
        return isinstance(value, allowed) and not isinstance(value, bool) and abs(value) < 1e18
    if hint in (bool, NoneType):
        return isinstance(value, hint)
    if of is UnionType:
        return any(fits(value, one) for one in inner)
    if of is dict:
        return isinstance(value, dict) and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
    if of is list:
        return isinstance(value, list) and all(fits(v, inner[0]) for v in value)
    return isinstance(value, list) and len(value) == len(inner) and all(map(fits, value, inner))


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, copied, and its metadata. The library checks sizes against the file's own.

    Copied, since the library's tensors are the file, mapped: whoever changes it would change them, after all checks.
    Raises MemoryError where there is no room, ValueError for a file that is none.
    """
    check_regular(file)
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}
            return tensors, opened.metadata() or {}
    except Exception as error:  # a damaged file fails in as many ways as there are damages
        check_room(file, error)
        raise ValueError(f"{file} is not a safetensors file, or is damaged: {shown(error)}") from error


def check_room(file: Path, error: Exception) -> None:
    """Raise MemoryError if that is why reading a file failed, so that nobody takes a good one for damaged."""
    short = isinstance(error, MemoryError | torch.OutOfMemoryError)
    # On the CPU torch has no class of its own for it, and older versions of safetensors have none for a failed mapping.
    torchs = isinstance(error, RuntimeError) and re.search("tried to allocate|allocate memory", str(error))
    if short or torchs or str(error) == "Cannot allocate memory (os error 12)":
        raise MemoryError(f"memory is short for {file}: {shown(error)}") from error
