"""What comes out of a benchmark: a JSON file, tables in Markdown, and four plots, all from the same records."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from flashref.bench import BOUND, NAIVE, Record
from flashref.files import read_records, shown

KINDS = ("mixer", "end_to_end", "blocks_only", "tiles", "offline", "prefill", "forward")
STEP = ("median", "p99", "longest")  # of the times of a position
# What stands between the two is made from the results file that the first one names.
MEASURED, END = re.compile(r"<!-- measured: (\S+) -->"), "<!-- end of measured -->"


def as_json(machine: dict[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    """The content of a results file; machine: as environment() of machine.py says, before anything is measured."""
    return {"environment": machine, "records": [asdict(record) for record in records]}


def from_json(file: Path) -> tuple[dict[str, Any], list[Record]]:
    """The environment and the records of a results file. Raises ValueError for what is none."""
    content, records = read_records(file, Record)
    if not records:
        raise ValueError(f"{file} is no results file: it holds no records")
    for number, r in enumerate(records):
        sizes = min(r.M, r.D, r.B, r.L, r.order - 1) >= 1 and r.M % (r.order - 1) == 0
        times = min(r.seconds, *r.runs, r.seconds) > 0 and len(r.runs) > 0
        if not (sizes and times and r.kind in KINDS and set(r.step) in (set(), set(STEP))):
            raise ValueError(f"{file} is no results file: record {number} is none of a measurement: {shown(repr(r))}")
    return content["environment"], records


def as_table(records: Sequence[Record]) -> str:
    """All records as a Markdown table; the last column is the better of lazy and eager over this engine."""
    rows = [
        (
            *_sizes(r),
            r.kind,
            r.engine,
            f"{r.seconds:.3f}" + (" (sampled)" if r.extrapolated else ""),
            f"{1e6 * r.seconds / r.L:.1f}",
            f"{min(r.runs):.3f} .. {max(r.runs):.3f}" if len(r.runs) > 1 else "one run",
            " / ".join(f"{r.step[name]:.0f}" for name in STEP) if r.step else "",
            _ratio(best_naive(records, r), r),
        )
        for r in sorted(records, key=lambda r: (_sizes(r), KINDS.index(r.kind)))
    ]
    header = (
        *("M", "D", "B", "N", "L", "kind", "engine", "seconds", "us per position", "spread"),
        *("us: median / p99 / longest", "best naive / this"),
    )
    align = (*["right"] * 5, "left", "left", *["right"] * 5)
    return tabulate(rows, header, tablefmt="github", colalign=align, disable_numparse=True)


def summary(environment: dict[str, Any], records: Sequence[Record]) -> str:
    """The table of the README: per setting the ratios that matter, below a line that names the machine."""
    versions = environment["versions"]
    lines = [
        f"{environment['device']}, {environment['cores']} cores, {environment['threads']} threads, torch "
        f"{versions['torch']}, float32, {environment['date']}, commit {environment['commit']}.",
        "",
    ]
    rows = []
    for sizes in sorted({_sizes(r) for r in records if r.kind == "mixer" and r.engine in NAIVE}):
        here = [r for r in records if _sizes(r) == sizes]
        row = ["{}, {}, {}, {}".format(*sizes[:4]), f"{sizes[4]:,}"]
        for kind in ("mixer", "end_to_end"):
            tiled = find(here, kind, tiled_of(here))
            naive = best_naive(here, tiled)
            row.append(f"{naive.seconds / tiled.seconds:.1f}" + ("*" if naive.extrapolated else "") if naive else "")
        tiled, bound = find(here, "end_to_end", tiled_of(here)), find(here, "blocks_only", BOUND)
        row.append(f"{tiled.L / tiled.seconds:,.0f}" if tiled else "")
        row.append(f"{100 * bound.seconds / tiled.seconds:.0f} %" if tiled and bound else "")
        tiles, offline = find(here, "tiles", tiled_of(here)), find(here, "offline", "fft")
        rows.append([*row, f"{tiles.seconds / offline.seconds:.1f}" if tiles and offline else ""])
    header = (
        *("M, D, B, N", "L", "mixer: best naive / tiled", "end to end: best naive / tiled"),
        *("tiled: positions per second", "of the bound", "tiles / one offline FFT convolution"),
    )
    lines.append(tabulate(rows, header, tablefmt="github", colalign=("left", *["right"] * 6), disable_numparse=True))
    return "\n".join(lines)


def with_summaries(readme: Path) -> str:
    """The README's text with the summary of a results file behind every mark that names one, beside the README.

    Raises ValueError where there is no mark, a mark has no end, or what it names is no results file.
    """
    before, *parts = MEASURED.split(readme.read_text(encoding="utf-8"))
    if not parts:
        raise ValueError(f"{readme} must hold a line like <!-- measured: results/FILE.json --> before each table")
    text = before
    for name, rest in zip(parts[::2], parts[1::2], strict=True):
        _, end, after = rest.partition(END)
        if not end:
            raise ValueError(f"{readme} must hold the line {END} behind the table of {name}")
        text += f"<!-- measured: {name} -->\n\n{summary(*from_json(readme.parent / name))}\n\n{END}{after}"
    return text


def write_plots(folder: Path, environment: dict[str, Any], records: Sequence[Record]) -> list[Path]:
    """Time per token over position, cumulative time, speed-up over L, and the breakdown, as PNG files."""
    from flashref.figures import bench as bench_figures  # with it comes matplotlib

    where = f"{environment['device']}, {environment['threads']} threads, {environment['date']}"
    files = []
    for name in ("time_per_token", "cumulative_time", "speed_up", "breakdown"):
        files.append(folder / f"{name}.png")
        getattr(bench_figures, name)(records, where).savefig(files[-1], dpi=120)
    return files


# Finding records. ------------------------------------------------------------------------------------------------


def tiled_of(records: Sequence[Record]) -> str:
    """The tiled engine that was measured: tiled_gpu on a GPU, tiled_cpu elsewhere."""
    return "tiled_gpu" if any(r.engine == "tiled_gpu" for r in records) else "tiled_cpu"


def find(records: Sequence[Record], kind: str, engine: str, extrapolated: bool = False) -> Record | None:
    """The one record of this kind and engine, or None."""
    found = [r for r in records if (r.kind, r.engine, r.extrapolated) == (kind, engine, extrapolated)]
    return found[0] if found else None


def best_naive(records: Sequence[Record], like: Record | None) -> Record | None:
    """The faster of lazy and eager in like's kind and sizes; of one that ran in full, that record counts."""
    if like is None:
        return None
    here = [r for r in records if r.kind == like.kind and _sizes(r) == _sizes(like)]
    found = [find(here, like.kind, engine) or find(here, like.kind, engine, extrapolated=True) for engine in NAIVE]
    return min((r for r in found if r is not None), key=lambda r: r.seconds, default=None)


def growth(records: Sequence[Record], engine: str = "tiled_cpu") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """L, the mixer's microseconds per position, and the fit a + b * log2(L)^2 to them by least squares.

    Of the settings that were measured for mixers alone. Raises ValueError if there are fewer than four.
    """
    alone = {_sizes(r)[:4] for r in records if r.kind == "mixer"} - {
        _sizes(r)[:4] for r in records if r.kind == "end_to_end"
    }
    found = sorted(
        (r.L, 1e6 * r.seconds / r.L)
        for r in records
        if r.kind == "mixer" and r.engine == engine and _sizes(r)[:4] in alone
    )
    if len(found) < 4:
        raise ValueError(f"a fit needs four lengths or more of {engine}'s mixers alone, got {len(found)}")
    L, us = np.array(found).T
    powers = np.stack([np.ones_like(L), np.log2(L) ** 2], axis=1)
    (a, b), *_ = np.linalg.lstsq(powers, us, rcond=None)
    return L, us, np.array([a, b])


def _sizes(r: Record) -> tuple[int, int, int, int, int]:
    return r.M // (r.order - 1), r.D, r.B, r.order, r.L


def _ratio(naive: Record | None, r: Record) -> str:
    return f"{naive.seconds / r.seconds:.1f}" if naive and r.kind in ("mixer", "end_to_end") else ""
