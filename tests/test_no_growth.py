"""Nothing grows in 10^5 steps: tensors and Python's objects are counted, the system is asked for resident memory."""

import ctypes
import gc
import sys

import psutil
import pytest
import torch
from test_memory import reachable

from flashref import ENGINES, Generation, Hyena, HyenaConfig, make_mixer
from flashref.budget import generation_memory
from flashref.memory import memory_needed

STEPS, WARM = 100_000, 10_000
LIBC = ctypes.CDLL(None)
SLACK = 2**21  # of resident memory: 24 bytes for each step
TILED = [engine for engine in ENGINES if engine not in ("lazy", "eager")]


def footprint(thing) -> tuple[int, int, int]:
    """Bytes of its tensors, blocks that Python has allocated anywhere, and resident bytes of the process.

    What earlier tests freed goes back to the system first: growth could hide in it.
    """
    gc.collect()
    held = sum(tensor.untyped_storage().nbytes() for tensor in reachable(thing).values())
    gc.collect()
    if hasattr(LIBC, "malloc_trim"):  # glibc's alone
        LIBC.malloc_trim(0)
    return held, sys.getallocatedblocks(), psutil.Process().memory_info().rss


def run(mixer, steps: int) -> None:
    x_t = torch.ones(1, 2)
    for _ in range(steps):
        mixer.step(0, x_t)
        mixer.advance()


@pytest.mark.parametrize("engine", TILED)
def test_one_generation_of_100000_steps_holds_what_was_computed_and_nothing_more(engine, tried):
    L = 2**17
    need = memory_needed(engine, 1, 2, L)
    mixer = make_mixer(engine, torch.ones(1, 2, L))
    run(mixer, WARM)
    _, objects, resident = footprint(mixer)
    run(mixer, STEPS - WARM)
    held, objects_then, resident_then = footprint(mixer)
    assert held == need.held  # every size of tile has been met
    assert objects_then - objects < 500  # a spectrum for each of three sizes, and a job or two
    assert resident_then - resident < need.total + SLACK
    tried("cases", "steps of a generation of 100,000 without growth", STEPS)


@pytest.mark.parametrize("engine", ENGINES)
def test_generation_after_generation_100000_steps_hold_what_the_first_held(engine, tried):
    mixer = make_mixer(engine, torch.ones(1, 2, 1000))
    for i in range(STEPS // 1000):
        mixer.reset()
        if i % 2:  # with a prompt and without
            mixer.prefill(0, torch.ones(1, 2, 300))
        run(mixer, 1000 - mixer.position)
        if i == WARM // 1000:
            before = footprint(mixer)
    after = footprint(mixer)
    assert after[0] <= before[0] and after[1] - before[1] < 500
    assert after[2] - before[2] < SLACK
    tried("cases", "steps of 100 generations of 1,000 without growth", STEPS)


@pytest.mark.deep
@pytest.mark.parametrize("engine", ["tiled_cpu", "bounded", "epoched"])
def test_a_model_writes_100000_tokens_without_growth(engine, tried):
    """The whole object, from its middle on: all spectra exist then, and room for all tokens from the start."""
    model = Hyena(HyenaConfig(d_model=4, n_layer=1, d_inner=4, vocab_size=12, l_max=STEPS, filter_order=4))
    generation = Generation(model, torch.ones(1, dtype=torch.long), STEPS, engine, temperature=1.0, seed=0)
    for i, _ in enumerate(generation):
        if i == 70_000:
            before = footprint(generation)
    after = footprint(generation)
    assert after[0] <= before[0] and after[1] - before[1] < 500
    work = generation_memory(model, 1, STEPS, engine).work  # a later FFT is longer
    assert after[2] - before[2] < work + SLACK
    tried("cases", "tokens of a model's 100,000 without growth", STEPS)


def test_the_count_sees_what_grows():
    freed = [torch.ones(100_000) for _ in range(1000)]  # as a test before this one may have done
    pinned = freed[::100]
    del freed

    class Leaks:
        def __init__(self) -> None:
            self.kept = []

        def step(self) -> None:
            self.kept.append(torch.ones(100_000))

    leaks = Leaks()
    before = footprint(leaks)
    for _ in range(1000):
        leaks.step()
    after = footprint(leaks)
    assert after[0] - before[0] == 400_000_000 and after[1] - before[1] > 1000
    assert after[2] - before[2] > 390_000_000 and len(pinned) == 10
