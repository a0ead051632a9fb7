"""Jobs and what they need: the numbers ask for every edge, and for no other; chains against a plain recursion."""

import functools
import itertools
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from truth import assert_close

from flashref.dependencies import Job, critical_path, jobs_of, needs_of, replay
from flashref.tiling import Tile, schedule
from flashref.timeline import Costs

KINDS = ["lazy", "eager", "relaxed", "bounded"]


@st.composite
def plans(draw, most=9):
    kind = draw(st.sampled_from(KINDS))
    base = draw(st.integers(1, 4)) if kind in ("relaxed", "bounded") else 1
    M, L = draw(st.integers(1, 3)), draw(st.integers(1, most))
    return M, L, schedule(L, kind, base), draw(st.booleans())


def block(m, z):
    return torch.tanh(z) * (1 + 0.1 * m) - 0.2


def toy(M, L):
    draw = torch.Generator().manual_seed(100 * M + L)
    return torch.randn(M, 2, L, dtype=torch.float64, generator=draw), torch.ones(2, dtype=torch.float64)


def naive(filters, first):
    """Every z of every mixer, each a sum written out over all inputs, position by position."""
    M, D, L = filters.shape
    x, z = torch.zeros(M, D, L + 1, dtype=torch.float64), torch.zeros(M, D, L, dtype=torch.float64)
    x[0, :, 0] = first
    for t in range(L):
        for m in range(M):
            for d in range(D):
                z[m, d, t] = sum(float(x[m, d, j]) * float(filters[m, d, t - j]) for j in range(t + 1))
            if m + 1 < M:
                x[m + 1, :, t] = block(m, z[m, :, t])
            else:
                x[0, :, t + 1] = block(m, z[m, :, t])
    return z


def shuffled(needs, seed):
    """Some order of the jobs in which each comes after what it needs, drawn at random."""
    draw, order, left = random.Random(seed), [], set(range(len(needs)))
    while left:
        i = draw.choice(sorted(i for i in left if left.isdisjoint(needs[i])))
        order.append(i)
        left.remove(i)
    return order


@given(plans(), st.integers(0, 999))
def test_any_order_that_gives_each_job_what_it_needs_gives_the_naive_sums(plan, seed):
    M, L, tiles, batched = plan
    jobs = jobs_of(M, L, tiles, batched)
    order = [jobs[i] for i in shuffled(needs_of(jobs), seed)]
    filters, first = toy(M, L)
    assert_close(replay(order, filters, first, block), naive(filters, first), 1e-12)


@given(plans(most=7), st.data())
def test_no_need_can_be_left_out_a_job_before_one_that_it_needs_is_caught(plan, data):
    M, L, tiles, batched = plan
    jobs = jobs_of(M, L, tiles, batched)
    needs = needs_of(jobs)
    edges = [(j, i) for i, needed in enumerate(needs) for j in needed]
    if not edges:
        return
    before, job = data.draw(st.sampled_from(edges))
    order = list(range(len(jobs)))
    order.remove(before)
    order.insert(order.index(job) + 1, before)
    # What stands between the two may need the first as well; then that job is the one that is caught.
    with pytest.raises(ValueError, match=r"does not exist yet|earlier inputs in it"):
        replay([jobs[i] for i in order], *toy(M, L), block)


@given(plans())
def test_a_job_needs_just_those_that_make_a_number_which_it_reads(plan):
    """Also where another need implies it: said once more, by the numbers that each job makes and reads."""
    M, L, tiles, batched = plan
    jobs = jobs_of(M, L, tiles, batched)

    def places(job):
        return [(m, t) for m in job.mixers for t in (job.tile.inputs if job.tile else [job.step])]

    def makes(job):
        if job.tile:
            return {("z", m, t) for m in job.mixers for t in job.tile.outputs}
        ((m, t),) = places(job)
        return {("x", m + 1, t)} if m + 1 < M else {("x", 0, t + 1)}

    def reads(job):
        return {("x", *place) for place in places(job)} | (set() if job.tile else {("z", *places(job)[0])})

    for job, needed in zip(jobs, needs_of(jobs), strict=True):
        assert sorted(needed) == [j for j, other in enumerate(jobs) if makes(other) & reads(job)]


def test_replay_says_which_job_is_too_early_too_late_or_missing():
    M, L = 2, 4
    jobs = jobs_of(M, L, schedule(L), batched=True)
    data = toy(M, L)
    (tile,) = [job for job in jobs if job.tile and job.step == 2]
    rest = [job for job in jobs if job is not tile]
    first_cell = rest.index(Job(range(0, 1), 1))
    early = [*rest[: first_cell - 1], tile, *rest[first_cell - 1 :]]  # before the tile of step 1 and cell (0, 1)
    with pytest.raises(ValueError, match="0 to 1, inputs 0 to 1 for outputs 2 to 3 reads input 1 of mixer 1"):
        replay(early, *data, block)
    with pytest.raises(ValueError, match=r"cell \(0, 2\) gives out an output with 0 of 2 earlier inputs"):
        replay(rest, *data, block)
    with pytest.raises(ValueError, match=r"cell \(1, 3\) is missing"):
        replay(jobs[:-1], *data, block)
    with pytest.raises(ValueError, match=r"adds to output 2 of mixer 0, which was given out before"):
        replay([*jobs, tile], *data, block)


@given(plans())
def test_there_is_a_cell_for_each_mixer_and_position_and_a_tile_once_for_all_or_once_for_each(plan):
    M, L, tiles, batched = plan
    jobs = jobs_of(M, L, tiles, batched)
    cells = [(job.mixers[0], job.step) for job in jobs if job.tile is None]
    assert sorted(cells) == [(m, t) for m in range(M) for t in range(L)]
    ran = [(job.tile.step, job.tile.outputs.start, m) for job in jobs if job.tile for m in job.mixers]
    assert sorted(ran) == sorted((tile.step, tile.outputs.start, m) for tile in tiles for m in range(M))
    assert len(jobs) == M * L + len(tiles) * (1 if batched else M)


def longest(M, L, tiles, batched, costs):
    """The length of the longest chain by the definition of the two kinds of jobs, without a list of either."""
    every = range(M)

    @functools.cache
    def cell(m, t):
        ends = [cell(m - 1, t) if m else cell(M - 1, t - 1) if t else 0]
        ends += [tile(every if batched else range(m, m + 1), k) for k, one in enumerate(tiles) if t in one.outputs]
        return costs.cell + max(ends)

    @functools.cache
    def tile(mixers, k):
        job = Job(mixers, tiles[k].step, tiles[k])
        inputs = [(m, j) for m in mixers for j in tiles[k].inputs]
        return costs.of(job) + max(cell(m - 1, j) if m else cell(M - 1, j - 1) if j else 0 for m, j in inputs)

    return max(cell(m, t) for m in range(M) for t in range(L))


@given(plans(most=20), st.integers(0, 9), st.integers(0, 30))
def test_the_critical_path_is_a_chain_of_needs_as_long_as_the_recursion_says(plan, cell, call):
    M, L, tiles, batched = plan
    jobs, costs = jobs_of(M, L, tiles, batched), Costs(cell, call)
    needs, times = needs_of(jobs), [costs.of(job) for job in jobs]
    chain = critical_path(needs, times)
    assert all(before in needs[i] for before, i in itertools.pairwise(chain))
    assert sum(times[i] for i in chain) == longest(M, L, tiles, batched, costs)


@given(st.lists(st.tuples(st.integers(0, 9), st.sets(st.integers(0, 8))), max_size=9))
def test_no_chain_in_any_graph_is_longer_than_the_critical_path(drawn):
    times, needs = [time for time, _ in drawn], [sorted(j for j in s if j < i) for i, (_, s) in enumerate(drawn)]

    def chains(i):
        return [[*chain, i] for j in needs[i] for chain in chains(j)] + [[i]]

    every = [chain for i in range(len(needs)) for chain in chains(i)]
    found = critical_path(needs, times)
    assert sum(times[i] for i in found) == max((sum(times[i] for i in chain) for chain in every), default=0)
    assert found in every or found == every == []


def test_the_chain_is_the_cells_while_a_tile_takes_no_longer_than_they_do_and_with_one_for_all_the_formula_holds():
    for M, k in itertools.product((1, 2, 3, 4), range(5)):
        L, costs = 2**k, Costs(4, 4)
        U = [n & -n for n in range(1, L)]

        def chain(batched, M=M, L=L, costs=costs):
            jobs = jobs_of(M, L, schedule(L), batched)
            times = [costs.of(job) for job in jobs]
            return sum(times[i] for i in critical_path(needs_of(jobs), times))

        if M > 1:
            assert chain(True) == 4 * (M - 1) * L + sum(max(4, 4 + M * u * u.bit_length()) for u in U) + 4
        if all(4 + u * u.bit_length() <= 4 * M for u in U):
            assert chain(False) == 4 * M * L


@pytest.mark.parametrize(
    "tile",
    [
        Tile(1, range(2), range(2, 3)),
        Tile(3, range(2), range(2, 3)),
        Tile(2, range(2), range(2, 5)),
        Tile(2, range(2), range(2, 2)),
    ],
)
def test_a_tile_that_runs_before_its_inputs_or_after_its_outputs_or_beyond_L_is_refused(tile):
    with pytest.raises(ValueError, match="tiles must run between their last input and their first output, below 4"):
        jobs_of(1, 4, [tile], True)


@pytest.mark.parametrize(("M", "L", "error", "named"), [(0, 4, ValueError, "M must be >= 1"), (1, 0, ValueError, "L"),
                                                        (2.0, 4, TypeError, "M must be an integer"),
                                                        (1, "4", TypeError, "L must be an integer")])  # fmt: skip
def test_sizes_that_are_none_are_refused_by_name(M, L, error, named):
    with pytest.raises(error, match=named):
        jobs_of(M, L, [], True)


def test_needs_that_point_forwards_are_refused():
    with pytest.raises(ValueError, match="needs must point to earlier jobs, got \\[1\\] for job 0"):
        critical_path([[1], []], [1, 1])
