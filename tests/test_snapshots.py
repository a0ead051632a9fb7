"""A generation can be copied, put away and taken up again: the rest comes out the same to the last bit."""

from functools import partial

import pytest
import torch
from depth import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engines import ENGINES, TILED, draw
from truth import assert_close, causal_sum

import flashref
from flashref import make_mixer
from flashref.alternatives import Dilated, Distilled, Truncated

APPROXIMATE = {
    "truncated": partial(Truncated, window=9),
    "dilated": partial(Dilated, window=4),
    "distilled": partial(Distilled, state_size=3),
}


def made(engine, filters, batch_size=1, base=4):
    if engine in APPROXIMATE:
        return APPROXIMATE[engine](filters, batch_size)
    mixer = make_mixer(engine, filters, batch_size, **({"base": base} if engine in TILED else {}))
    if engine == "bounded":
        mixer.piece_points = 8  # many small pieces, so that jobs are on their way at most positions
    if engine in TILED:
        mixer._tau.direct_up_to = 0
    return mixer


def steps(mixer, x, start, stop):
    """The outputs at [start, stop), (M, B, D, stop-start)."""
    z = torch.zeros(*x.shape[:3], stop - start, dtype=x.dtype)
    for t in range(start, stop):
        for m in range(len(x)):
            z[m, ..., t - start] = mixer.step(m, x[m, ..., t])
        mixer.advance()
    return z


@pytest.mark.parametrize("engine", [*ENGINES, *APPROXIMATE])
@settings(max_examples=examples(60))
@given(L=st.integers(1, 90), prompt=st.none() | st.integers(0, 60), at=st.integers(0, 90), base=st.integers(1, 9))
def test_a_restored_generation_goes_on_to_the_last_bit(engine, L, prompt, at, base):
    x, filters = draw(2, 2, 2, L)
    first = made(engine, filters, 2, base)
    start = 0
    if prompt is not None:
        start = min(prompt, L)
        for m in range(2):
            first.prefill(m, x[m, ..., :start])
    at = max(start, min(at, L))
    steps(first, x, start, at)
    kept = first.snapshot()
    twin = first.fork()
    other = made(engine, filters, 2, base)
    if L > 1:
        steps(other, x, 0, 1)  # whatever it did before is forgotten
    other.restore(kept)
    assert other.position == twin.position == first.position
    want = steps(first, x, at, L)
    assert torch.equal(steps(other, x, at, L), want)
    assert torch.equal(steps(twin, x, at, L), want)
    if engine not in APPROXIMATE:
        truth = torch.stack([causal_sum(x_m, rho) for x_m, rho in zip(x, filters, strict=True)])
        assert_close(want, truth[..., at:], 1e-10)


@pytest.mark.parametrize("L, prompt", [(21, 3), (21, 0), (16, 5)])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_generation_can_be_put_away_at_every_position(engine, L, prompt):
    """The middle is one of them, where a prompt's contribution to the second half goes into its slots and is let go."""
    x, filters = draw(2, 1, 3, L)
    first, whole = made(engine, filters, base=2), made(engine, filters, base=2)
    for m in range(2):
        first.prefill(m, x[m, ..., :prompt])
        whole.prefill(m, x[m, ..., :prompt])
    want = steps(whole, x, prompt, L)
    exact = torch.stack([causal_sum(x_m, rho) for x_m, rho in zip(x, filters, strict=True)])
    assert_close(want, exact[..., prompt:], 1e-10)
    for t in range(prompt, L):
        other = made(engine, filters, base=2)
        other.restore(first.snapshot())
        assert getattr(other, "_late", None) is None or t - prompt < other._half
        assert torch.equal(steps(other, x, t, L), want[..., t - prompt :])
        steps(first, x, t, t + 1)


TILES = {"slots", "x_block", "z_block"}
BUFFERS = {
    "lazy": {"x"},
    "eager": {"z"},
    "tiled_cpu": TILES | {"late"},
    "tiled_gpu": TILES | {"late"},
    "bounded": TILES | {"even_4", "even_8", "even_16", "left"},
    "epoched": TILES,
}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_names_in_a_snapshot_are_those_in_files_that_were_put_away(engine):
    """Another name here makes every file of yesterday one of another engine: then resumable.FORMAT must change."""
    mixer = made(engine, torch.randn(1, 2, 40))
    mixer.prefill(0, torch.randn(1, 2, 7))
    assert mixer.snapshot().keys() == {"position"} | BUFFERS[engine]
    if engine in TILED:
        mixer.reset()
        mixer.prefill(0, torch.randn(1, 2, 36))  # one block is left: there is no second half, and no far tile
        assert mixer.snapshot().keys() == {"position"} | (TILES | {"left"} if engine == "bounded" else TILES)


@pytest.mark.parametrize("prompt", [0, 7])
@pytest.mark.parametrize("engine", ENGINES)
def test_forks_go_different_ways_and_do_not_feel_each_other(engine, prompt):
    x, filters = draw(2, 1, 3, 60)
    y = x.clone()
    y[..., 20:] = draw(2, 1, 3, 60, seed=1)[0][..., 20:]
    one = made(engine, filters)
    for m in range(2):
        one.prefill(m, x[m, ..., :prompt])
    steps(one, x, prompt, 20)
    other = one.fork()
    for t in range(20, 60):  # in turns
        got_x, got_y = steps(one, x, t, t + 1), steps(other, y, t, t + 1)
        for m in range(2):
            assert_close(got_x[m, ..., 0], causal_sum(x[m], filters[m])[..., t], 1e-10)
            assert_close(got_y[m, ..., 0], causal_sum(y[m], filters[m])[..., t], 1e-10)
    one.reset()
    assert (one.position, other.position) == (0, 60)


def tensors(thing, seen, found):
    """Every tensor that can be reached from an engine, by its memory."""
    if id(thing) in seen:
        return found
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        found[thing.untyped_storage().data_ptr()] = thing
    elif isinstance(thing, dict):
        for value in thing.values():
            tensors(value, seen, found)
    elif isinstance(thing, list | tuple):
        for value in thing:
            tensors(value, seen, found)
    elif hasattr(thing, "__dict__"):
        tensors(vars(thing), seen, found)
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_fork_shares_does_not_change(engine):
    x, filters = draw(1, 1, 2, 64)
    one = made(engine, filters)
    steps(one, x, 0, 30)
    other = one.fork()
    mine, theirs = tensors(one, set(), {}), tensors(other, set(), {})
    shared = {place: mine[place].clone() for place in mine.keys() & theirs.keys()}
    assert shared  # the filters at least
    steps(other, x, 30, 64)
    other.reset()
    steps(other, x, 0, 64)
    assert all(torch.equal(mine[place], before) for place, before in shared.items())


@pytest.mark.parametrize("engine", ENGINES)
def test_what_does_not_fit_is_refused_and_leaves_the_generation_as_it_was(engine):
    x, filters = draw(2, 1, 3, 40)
    mixer = made(engine, filters)
    steps(mixer, x, 0, 13)
    kept = mixer.snapshot()
    name = next(name for name in kept if name != "position")
    for wrong, error, words in (
        ({**kept, name: kept[name][..., :-1]}, ValueError, "must have shape"),
        ({**kept, name: kept[name].to(torch.complex128)}, TypeError, "must be torch"),
        ({k: v for k, v in kept.items() if k != name}, ValueError, "another engine or other settings"),
        ({**kept, "a": kept[name], "b": kept[name]}, ValueError, "other settings: a, b on one side only$"),
        ({**kept, "position": torch.tensor([41, 0, 1])}, ValueError, "the filters hold 40"),
        ({**kept, "position": torch.tensor([3, 4, 1])}, ValueError, "prompt of 4"),
        ({**kept, "position": torch.tensor([3, 0, 0])}, ValueError, "position 3"),
        ({**kept, "position": torch.tensor([3.0, 0.0, 1.0])}, ValueError, "another form"),
        ({}, ValueError, '^snapshot must be what .* "position" is missing or has another form$'),
        (list(kept.values()), ValueError, '"position" is missing'),
        (None, ValueError, '"position" is missing'),
    ):
        with pytest.raises(error, match=words):
            mixer.restore(wrong)
    assert mixer.position == 13
    assert_close(steps(mixer, x, 13, 40)[1], causal_sum(x[1], filters[1])[..., 13:], 1e-10)


def test_an_engine_that_does_not_name_its_buffers_says_so():
    class Mine(flashref.Lazy):
        _buffers = flashref.Mixer._buffers

    x, filters = draw(1, 1, 1, 5)
    mixer = Mine(filters)
    mixer.snapshot()  # nothing has begun
    steps(mixer, x, 0, 2)
    with pytest.raises(NotImplementedError, match="Mine has no _buffers"):
        mixer.snapshot()


@pytest.mark.parametrize("engine", ENGINES)
def test_there_is_no_snapshot_in_the_middle_of_a_position_or_of_a_prompt(engine):
    x, filters = draw(2, 1, 3, 40)
    mixer = made(engine, filters)
    mixer.prefill(0, x[0, ..., :5])
    with pytest.raises(ValueError, match=r"snapshot is out of order: next is prefill\(1\)"):
        mixer.snapshot()
    mixer.prefill(1, x[1, ..., :5])
    mixer.step(0, x[0, ..., 5])
    with pytest.raises(ValueError, match=r"snapshot is out of order: next is step\(1\)"):
        mixer.fork()
    mixer.step(1, x[1, ..., 5])
    with pytest.raises(ValueError, match=r"next is advance\(\)"):
        mixer.snapshot()
    mixer.advance()
    assert mixer.snapshot()["position"].tolist() == [6, 5, 1]
