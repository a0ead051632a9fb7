"""When each job can run: cells and tiles of M layers laid on one stream or two, under a simple model of cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from flashref.dependencies import Job, critical_path, jobs_of, needs_of
from flashref.tiling import check_count, schedule

# For each mode: the schedule, whether the tiles of all mixers are one call, and the streams that jobs may run on.
MODES = {
    "sequential": ("relaxed", False, 1),
    "batched": ("relaxed", True, 1),
    "early": ("relaxed", False, 2),
    "bounded": ("bounded", True, 2),
}


@dataclass(frozen=True)
class Costs:
    """How long jobs take, in units: a cell ``cell``; a tile ``call`` however large it is, and its work for each mixer.

    The work of a tile of U inputs by FFT is U*log2(2U): half of the butterflies that notebook 03 counts. A tile with a
    single input or output does its pairs directly: one unit each.
    """

    cell: int = 4
    call: int = 4

    def of(self, job: Job) -> int:
        if job.tile is None:
            return self.cell
        p, q = len(job.tile.inputs), len(job.tile.outputs)
        return self.call + len(job.mixers) * (p * q if min(p, q) == 1 else p * p.bit_length())


@dataclass(frozen=True)
class Timeline:
    """Jobs laid on streams. needs, waited: indices of jobs; ``waited`` is the job whose end let this one start.

    A stream runs one job at a time. All times are in the units of Costs. ``critical`` is the longest chain of needs: no
    number of streams makes the whole shorter than the sum of its times.
    """

    jobs: list[Job]
    needs: list[list[int]]
    times: list[int]
    streams: list[int]
    starts: list[int]
    waited: list[int | None]
    critical: list[int]

    @property
    def ends(self) -> list[int]:
        return [start + time for start, time in zip(self.starts, self.times, strict=True)]

    @property
    def length(self) -> int:
        """When the last job ends."""
        return max(self.ends, default=0)

    @property
    def critical_length(self) -> int:
        return sum(self.times[i] for i in self.critical)

    @property
    def calls(self) -> int:
        """How many calls the tiles make."""
        return sum(job.tile is not None for job in self.jobs)

    @property
    def idle(self) -> list[int]:
        """How long each stream does nothing before the last job ends."""
        busy = [0] * (1 + max(self.streams, default=0))
        for stream, time in zip(self.streams, self.times, strict=True):
            busy[stream] += time
        return [self.length - time for time in busy]

    @property
    def tokens(self) -> list[int]:
        """When each position is complete: its last mixer's cell ends, and the next token can be sampled."""
        last = max(job.mixers[-1] for job in self.jobs)
        cells = zip(self.jobs, self.ends, strict=True)
        return [end for job, end in cells if job.tile is None and job.mixers[0] == last]

    @property
    def longest_step(self) -> int:
        """The longest time from one position's completion to the next."""
        return max(end - before for before, end in pairwise([0, *self.tokens]))

    def order(self) -> list[Job]:
        """The jobs by their start."""
        return [self.jobs[i] for i in sorted(range(len(self.jobs)), key=lambda i: (self.starts[i], i))]


def timeline(M: int, L: int, mode: str = "batched", base: int = 1, costs: Costs | None = None) -> Timeline:
    """Lay the jobs of M mixers and L positions on one stream or two.

    mode: "sequential", a call for each tile of each mixer, one after the other; "batched", one call for the tiles of
    all mixers; "early", as sequential, but tiles run on a second stream as soon as their own mixer's inputs exist;
    "bounded", batched, with the bounded schedule, whose large tiles are due later and run on a second stream meanwhile.
    A stream takes, of the jobs that can start first, the one that is due first. Jobs of two streams never slow each
    other down here, and may add to the same sums at once, for which an engine would keep two. Raises ValueError for an
    unknown mode, and as schedule and jobs_of do.

    Costs O(jobs^2): for drawing, not for long sequences.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
    kind, batched, streams = MODES[mode]
    check_count("L", L, 1)
    jobs = jobs_of(M, L, schedule(L, kind, base), batched)
    needs, times = needs_of(jobs), [(costs or Costs()).of(job) for job in jobs]
    # What the next position waits for stays on the first stream, unless it may start early.
    aside = [job.tile is not None and (mode == "early" or job.due > job.step) for job in jobs]
    streams = [int(streams > 1 and off) for off in aside]
    starts, waited = _lay(jobs, needs, times, streams)
    return Timeline(jobs, needs, times, streams, starts, waited, critical_path(needs, times))


def _lay(
    jobs: Sequence[Job], needs: Sequence[Sequence[int]], times: Sequence[int], streams: Sequence[int]
) -> tuple[list[int], list[int | None]]:
    """Start and awaited job of each: again and again the job that can start first, and of those the one due first."""
    starts: list[int] = [-1] * len(jobs)
    waited: list[int | None] = [None] * len(jobs)
    latest: dict[int, int] = {}  # the job that a stream ran last
    left = set(range(len(jobs)))

    def end(i: int) -> int:
        return starts[i] + times[i]

    while left:
        ready = [i for i in left if left.isdisjoint(needs[i])]
        # After the same end a need counts as what was awaited, not the stream.
        before = {i: [*needs[i], *([latest[streams[i]]] if streams[i] in latest else [])] for i in ready}
        begins = {i: max(map(end, before[i]), default=0) for i in ready}
        i = min(ready, key=lambda i: (begins[i], jobs[i].due, i))
        starts[i], waited[i] = begins[i], max(before[i], key=end, default=None)
        latest[streams[i]] = i
        left.remove(i)
    return starts, waited
