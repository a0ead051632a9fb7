"""Timelines: jobs on streams start as soon as they may and no sooner, and what is counted is what was laid."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_dependencies import block, naive, toy
from truth import assert_close

from flashref.dependencies import Job, replay
from flashref.tiling import Tile, schedule
from flashref.timeline import MODES, Costs, timeline

laid = st.builds(
    lambda M, L, mode, base, cell, call: timeline(M, L, mode, base, Costs(cell, call)),
    st.integers(1, 4), st.integers(1, 20), st.sampled_from(list(MODES)), st.integers(1, 4),
    st.integers(1, 9), st.integers(0, 20),
)  # fmt: skip


@given(laid)
def test_no_job_starts_before_what_it_needs_has_ended_and_no_stream_does_two_things_at_once(lay):
    ends = lay.ends
    for i, needed in enumerate(lay.needs):
        assert all(ends[j] <= lay.starts[i] for j in needed)
    for stream in set(lay.streams):
        mine = sorted((lay.starts[i], ends[i]) for i in range(len(lay.jobs)) if lay.streams[i] == stream)
        assert all(end <= start for (_, end), (start, _) in pairwise(mine))


@given(laid)
def test_a_job_waits_for_nothing_but_the_last_of_its_needs_or_its_stream(lay):
    ends = lay.ends
    for i, needed in enumerate(lay.needs):
        there = max((ends[j] for j in needed), default=0)
        busy = [ends[j] for j in range(len(lay.jobs))
                if lay.streams[j] == lay.streams[i] and j != i and lay.starts[j] < max(lay.starts[i], there + 1)
                and ends[j] <= lay.starts[i]]  # fmt: skip
        assert lay.starts[i] == max(there, max(busy, default=0))
        if lay.waited[i] is None:
            assert lay.starts[i] == 0
        else:
            assert ends[lay.waited[i]] == lay.starts[i]
            assert (lay.waited[i] in needed) == (there == lay.starts[i])


@given(laid)
def test_no_stream_idles_while_one_of_its_jobs_could_run_and_of_those_the_one_due_first_goes_first(lay):
    ends = lay.ends
    there = [max((ends[j] for j in needed), default=0) for needed in lay.needs]
    for stream in set(lay.streams):
        mine = sorted((i for i, s in enumerate(lay.streams) if s == stream), key=lambda i: lay.starts[i])
        for place, i in enumerate(mine):
            free = ends[mine[place - 1]] if place else 0
            for later in mine[place:]:
                assert max(there[later], free) >= lay.starts[i]
                if max(there[later], free) == lay.starts[i]:
                    assert lay.jobs[i].due <= lay.jobs[later].due


@given(laid)
def test_the_whole_is_never_shorter_than_the_chain_and_with_one_stream_as_long_as_all_jobs(lay):
    assert lay.critical_length <= lay.length == max(lay.ends)
    busy = [sum(t for t, s in zip(lay.times, lay.streams, strict=True) if s == stream) for stream in (0, 1)]
    assert lay.idle == [lay.length - time for time in busy[: len(lay.idle)]]
    if max(lay.streams) == 0:
        assert lay.length == sum(lay.times) and lay.idle == [0]


@given(st.integers(1, 3), st.integers(1, 12), st.sampled_from(list(MODES)), st.integers(1, 4))
def test_run_in_the_order_of_their_starts_the_jobs_give_the_naive_sums(M, L, mode, base):
    lay = timeline(M, L, mode, base)
    filters, first = toy(M, L)
    assert_close(replay(lay.order(), filters, first, block), naive(filters, first), 1e-12)


@given(laid)
def test_a_position_is_complete_when_the_cell_of_its_last_mixer_ends(lay):
    M = 1 + max(m for job in lay.jobs for m in job.mixers)
    ends = {(job.mixers[0], job.step): end for job, end in zip(lay.jobs, lay.ends, strict=True) if job.tile is None}
    L = len(ends) // M
    assert lay.tokens == [ends[M - 1, t] for t in range(L)]
    assert lay.longest_step == max(now - before for before, now in zip([0, *lay.tokens], lay.tokens, strict=False))


@pytest.mark.parametrize("M, L, base", [(1, 8, 1), (3, 8, 1), (3, 16, 4), (4, 13, 2)])
def test_batching_divides_the_calls_by_M_and_takes_as_much_less_time_as_the_calls_cost(M, L, base):
    tiles = len(schedule(L, base=base))
    one, many = (timeline(M, L, mode, base, Costs(4, 7)) for mode in ("batched", "sequential"))
    assert (one.calls, many.calls) == (tiles, M * tiles)
    assert many.length - one.length == 7 * (M - 1) * tiles


def test_a_relaxed_tile_for_all_mixers_can_only_hide_behind_one_cell_and_a_bounded_one_behind_many():
    """The first output of a relaxed tile is due at once, and only the last mixer's cell need not have run before."""
    relaxed, bounded = timeline(3, 8, "batched"), timeline(3, 8, "bounded")
    assert relaxed.length - relaxed.critical_length == 7 * 4
    assert bounded.length < sum(bounded.times) and bounded.length < relaxed.length
    assert all((job.due > job.step) == (stream == 1) for job, stream in zip(bounded.jobs, bounded.streams, strict=True))


@pytest.mark.parametrize(
    ("inputs", "outputs", "mixers", "units"),
    [
        (range(1), range(1, 2), 1, 4 + 1),
        (range(1), range(1, 4), 2, 4 + 2 * 3),
        (range(4), range(4, 5), 1, 4 + 4),
        (range(2), range(2, 4), 3, 4 + 3 * 2 * 2),
        (range(8), range(8, 16), 1, 4 + 8 * 4),
    ],
)
def test_a_tile_costs_a_call_and_for_each_mixer_half_the_butterflies_of_its_transforms(inputs, outputs, mixers, units):
    assert Costs().of(Job(range(mixers), len(inputs), Tile(len(inputs), inputs, outputs))) == units
    assert Costs().of(Job(range(1), 3)) == 4


def test_unknown_modes_and_sizes_are_refused_by_name():
    with pytest.raises(ValueError, match="mode must be one of 'sequential', 'batched', 'early', 'bounded', got 'fast'"):
        timeline(2, 4, "fast")
    with pytest.raises(ValueError, match="M must be >= 1, got 0"):
        timeline(0, 4)
    with pytest.raises(ValueError, match="L must be >= 1, got 0"):
        timeline(2, 0)
    with pytest.raises(TypeError, match="base must be an integer, got float"):
        timeline(2, 4, base=2.0)


def test_replayed_layers_may_have_any_width():
    filters = torch.ones(2, 5, 3, dtype=torch.float64)
    lay = timeline(2, 3)
    z = replay(lay.order(), filters, torch.ones(5, dtype=torch.float64), lambda m, z: z)
    # All ones: mixer 0 gives 1 at first, mixer 1 its running sum, which is the next input.
    assert z[:, 0].tolist() == [[1, 2, 5], [1, 3, 8]]
