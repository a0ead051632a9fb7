"""What depends on what when M layers generate together: the jobs as plain data, what each needs, and a run to check it.

Two kinds of jobs. A cell (m, t) is what mixer m does the moment x_t reaches it: its red cell, and the block that makes
the next mixer's input of z_t; after the last mixer that is the sampling of position t+1. A tile adds inputs to later
outputs, for one mixer or for all M in one call. timeline.py says when each can run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flashref.tau import tau
from flashref.tiling import Tile, check_count


@dataclass(frozen=True)
class Job:
    """A cell at position ``step`` of one mixer (tile None), or a tile of some mixers when ``step`` inputs are known."""

    mixers: range
    step: int
    tile: Tile | None = None

    @property
    def due(self) -> int:
        """The position whose cells wait for it, or whose cell it is."""
        return self.step if self.tile is None else self.tile.outputs.start

    def __str__(self) -> str:
        if self.tile is None:
            return f"cell ({self.mixers[0]}, {self.step})"
        places = _span("input", self.tile.inputs), _span("output", self.tile.outputs)
        return f"tile of {_span('mixer', self.mixers)}, {' for '.join(places)}"


def _span(what: str, places: range) -> str:
    return f"{what} {places[0]}" if len(places) == 1 else f"{what}s {places[0]} to {places[-1]}"


def jobs_of(M: int, L: int, tiles: Sequence[Tile], batched: bool) -> list[Job]:
    """Every job of M mixers and L positions, each after what it needs: per position its tiles, then its cells.

    batched: a tile is one job for all mixers, or M jobs. Raises ValueError for M or L below 1, or a tile that reads
    what is not known at its step, writes what was given out before, or reaches beyond L; TypeError for no integer.
    """
    check_count("M", M, 1)
    check_count("L", L, 1)
    by_step: dict[int, list[Tile]] = {}
    for tile in tiles:
        if not tile.inputs.stop <= tile.step <= tile.outputs.start < tile.outputs.stop <= L:
            raise ValueError(f"tiles must run between their last input and their first output, below {L}, got {tile}")
        by_step.setdefault(tile.step, []).append(tile)
    whose = [range(M)] if batched else [range(m, m + 1) for m in range(M)]
    jobs = []
    for t in range(L):
        jobs += [Job(mixers, t, tile) for tile in by_step.get(t, []) for mixers in whose]
        jobs += [Job(range(m, m + 1), t) for m in range(M)]
    return jobs


def needs_of(jobs: Sequence[Job]) -> list[list[int]]:
    """For each job the indices of those it needs: the edges of the dependency graph, nothing left out.

    x_t of mixer m is made by cell (m-1, t); that of mixer 0 by cell (M-1, t-1), through sampling. A cell needs the one
    that makes its x_t, and each tile that adds to its z_t. A tile needs the cells that make its inputs, not the cells
    of its own mixers at these positions.
    """
    cells = {(job.mixers[0], job.step): i for i, job in enumerate(jobs) if job.tile is None}
    M = 1 + max((m for m, _ in cells), default=0)
    maker = {(m, t): cells.get((m - 1, t) if m else (M - 1, t - 1)) for m, t in cells}  # None: there from the start
    adding: dict[tuple[int, int], list[int]] = {place: [] for place in cells}
    for i, job in enumerate(jobs):
        for m, t in ((m, t) for m in job.mixers for t in (job.tile.outputs if job.tile else ())):
            adding[m, t].append(i)
    needs = []
    for job in jobs:
        inputs = job.tile.inputs if job.tile else [job.step]
        made_by = [maker[m, j] for j in inputs for m in job.mixers]
        tiles = [] if job.tile else adding[job.mixers[0], job.step]
        needs.append([*(i for i in made_by if i is not None), *tiles])
    return needs


def critical_path(needs: Sequence[Sequence[int]], times: Sequence[int]) -> list[int]:
    """The longest chain of jobs, each needing the one before it, as indices; needs point backwards in the list.

    Costs one look at every need. Raises ValueError where a need does not come before the job that has it.
    """
    ends: list[int] = []
    last: list[int | None] = []
    for i, (needed, time) in enumerate(zip(needs, times, strict=True)):
        if any(j >= i for j in needed):
            raise ValueError(f"needs must point to earlier jobs, got {list(needed)} for job {i}")
        last.append(max(needed, key=lambda j: ends[j], default=None))
        ends.append(time + (0 if last[i] is None else ends[last[i]]))
    chain, i = [], max(range(len(ends)), key=ends.__getitem__, default=None)
    while i is not None:
        chain.append(i)
        i = last[i]
    return chain[::-1]


def replay(
    jobs: Sequence[Job],
    filters: Float[Tensor, "M D L"],
    first: Float[Tensor, " D"],
    block: Callable[[int, Float[Tensor, " D"]], Float[Tensor, " D"]],
) -> Float[Tensor, "M D L"]:
    """Run jobs in the order given, with numbers, and return every z_t of every mixer.

    first: the input of mixer 0 at position 0. block(m, z_t): the next mixer's input at the same position, and for the
    last mixer that of mixer 0 at the next. Raises ValueError for a job that reads an input which is not there yet, a
    cell whose z_t lacks a contribution, a contribution that comes too late, and a job that is missing.
    """
    M, _, L = filters.shape
    x, z = torch.full_like(filters, torch.nan), torch.zeros_like(filters)
    known = {(0, 0)}  # which x_t exist, as (mixer, position)
    added = dict.fromkeys(((m, t) for m in range(M) for t in range(L)), 0)  # contributions to z_t; None: given out
    x[0, :, 0] = first
    for job in jobs:
        t = job.step
        for m in job.mixers:
            unknown = [j for j in (job.tile.inputs if job.tile else [t]) if (m, j) not in known]
            if unknown:
                raise ValueError(f"{job} reads input {unknown[0]} of mixer {m}, which does not exist yet")
            for i in job.tile.outputs if job.tile else [t]:
                if added[m, i] is None:
                    raise ValueError(f"{job} adds to output {i} of mixer {m}, which was given out before")
            if job.tile is not None:
                outputs = job.tile.outputs
                z[m, :, outputs.start : outputs.stop] += tau(x[m], job.tile.inputs, filters[m], outputs)
                added.update({(m, i): added[m, i] + len(job.tile.inputs) for i in outputs})
                continue
            if added[m, t] != t:
                raise ValueError(f"{job} gives out an output with {added[m, t]} of {t} earlier inputs in it")
            z[m, :, t] += x[m, :, t] * filters[m, :, 0]
            added[m, t] = None
            after = (m + 1, t) if m + 1 < M else (0, t + 1)
            if after[1] < L:
                x[after[0], :, after[1]] = block(m, z[m, :, t])
                known.add(after)
    missing = [place for place, count in added.items() if count is not None]
    if missing:
        raise ValueError(f"cell {missing[0]} is missing")
    return z
