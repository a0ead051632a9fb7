"""What is fastest on this machine: two numbers that the tiled engine on a CPU leaves open, measured and remembered.

``python -m flashref calibrate`` measures them in some ten seconds and keeps them in a file of the user's cache; from
then on make_mixer uses them, and without it the numbers below, which were best where they were measured first. They
change which sums are rounded where, never which sums are computed.
"""

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from platformdirs import user_cache_path
from tqdm.auto import tqdm

from flashref.files import read_json
from flashref.machine import processor

VARIABLE = "FLASHREF_CALIBRATION"  # names another file; set to nothing, no file is read


@dataclass(frozen=True)
class Choices:
    """base: the block size b. chunk_points: FFT points per call, so that what a call touches stays in the cache.

    The size up to which a tile is done without an FFT is not among them: tiles begin at the base, which is larger.
    """

    base: int = 64
    chunk_points: int = 2**19


CANDIDATES = {
    "base": (32, 64, 128),
    "chunk_points": (2**17, 2**18, 2**19, 2**20),
}
MOST = {"base": 2**16, "chunk_points": 2**40}  # that is believed: a block's buffers are made whatever its size


def machine() -> str:
    """What the choices depend on: processor, threads and version of PyTorch."""
    return f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def choices_file() -> Path | None:
    """Where the choices are kept; None if the environment variable FLASHREF_CALIBRATION is set to nothing."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return Path(named) if named else None
    return user_cache_path("flashref") / "calibration.json"


def choices() -> Choices:
    """What was measured on this machine, or the defaults. Raises ValueError for a file that cannot be understood."""
    file = choices_file()
    if file is None or not file.exists():
        return Choices()
    return _read(file, file.stat().st_mtime_ns).get(machine(), Choices())


def settings(engine: str, base: int | None, on_cpu: bool) -> dict[str, int]:
    """What make_mixer hands a tiled engine beside filters and batch size: base, if told, and what was measured here."""
    chosen = asdict(choices()) if on_cpu and engine != "tiled_gpu" else {}
    if engine == "epoched":
        chosen.pop("base", None)  # measured for blocks, not for epochs
    return chosen | ({} if base is None else {"base": base})


@lru_cache(maxsize=1)
def _read(file: Path, changed: int) -> dict[str, Choices]:
    try:
        found = {name: Choices(**kept) for name, kept in read_json(file).items()}
        for name, most in MOST.items():
            numbers = [getattr(kept, name) for kept in found.values()]
            if not all(isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= most for n in numbers):
                raise TypeError(f"{name} must be an integer from 1 to {most:,}")
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{file} cannot be understood ({error}): delete it, or measure again with python -m flashref calibrate"
        ) from error
    return found


def calibrate(
    L: int = 8192, M: int = 4, D: int = 256, repeats: int = 3
) -> tuple[Choices, list[tuple[str, int, float]]]:
    """The fastest choices, and of every candidate its name, its value and the seconds of its L positions.

    One choice after another, the others at their best so far; candidates run in turns, and the least of ``repeats``
    counts, since a busy machine only ever makes a run longer.
    """
    best, measured = Choices(), []
    total = repeats * sum(map(len, CANDIDATES.values()))
    with torch.random.fork_rng(), tqdm(total=total, unit="run", disable=None) as bar:
        torch.manual_seed(0)
        filters = torch.randn(M, D, L) * torch.linspace(0, -6, L).exp() / L**0.5
        for name, values in CANDIDATES.items():
            settings = [replace(best, **{name: value}) for value in values]
            seconds = _fastest_runs(filters, settings, repeats, bar)
            measured += [(name, value, s) for value, s in zip(values, seconds, strict=True)]
            best = settings[seconds.index(min(seconds))]
    return best, measured


def _fastest_runs(filters: torch.Tensor, settings: Iterable[Choices], repeats: int, bar: tqdm) -> list[float]:
    from flashref.tiled_cpu import TiledCPU  # make_mixer, which is built on it, asks this file

    mixers = [TiledCPU(filters, 1, **asdict(setting)) for setting in settings]
    rows = torch.randn(len(filters), 1, filters.shape[1])
    runs: list[list[float]] = [[] for _ in mixers]
    for repeat in range(repeats):
        for mixer, times in zip(mixers, runs, strict=True):
            if not repeat:
                _run(mixer, rows)  # makes the spectra
            times.append(_run(mixer, rows))
            bar.update()
    return [min(times) for times in runs]


@torch.inference_mode()
def _run(mixer, rows: torch.Tensor) -> float:
    mixer.reset()
    begin = time.perf_counter()
    for _ in range(mixer.filters.shape[-1]):
        for m, x_t in enumerate(rows):
            mixer.step(m, x_t)
        mixer.advance()
    return time.perf_counter() - begin


def remember(found: Choices) -> Path:
    """Keep the choices for this machine, beside those of others; returns the file.

    Raises ValueError if the environment variable FLASHREF_CALIBRATION is set to nothing.
    """
    file = choices_file()
    if file is None:
        raise ValueError(f"{VARIABLE} is set to nothing, so there is no file to keep choices in: unset it")
    kept = {name: asdict(c) for name, c in _read(file, file.stat().st_mtime_ns).items()} if file.exists() else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_suffix(".new")
    scratch.write_text(json.dumps(kept | {machine(): asdict(found)}, indent=1) + "\n")
    scratch.replace(file)
    return file
