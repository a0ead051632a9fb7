"""The most that PyTorch's CPU allocator had given out at once, as its own profiler saw it."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate

from torch.profiler import ProfilerActivity, profile


class Allocations:
    """Bytes beyond those that there were when the block began, at most."""

    peak = 0


@contextmanager
def allocations() -> Iterator[Allocations]:
    """Counts every allocation of tensors inside the block, those in the middle of an operation too."""
    found = Allocations()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        yield found
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert events, "the profiler saw no allocation"
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    found.peak = max(accumulate(sizes))
