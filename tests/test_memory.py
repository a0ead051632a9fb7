"""How many numbers TiledCPU holds, counted over everything that can be reached from it."""

import gc
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flashref import ENGINES, TiledCPU, make_mixer
from flashref.tiled_cpu import _padded

CODE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType)


def reachable(root: object) -> dict[int, Tensor]:
    """Every tensor that an object holds, however deep, one for each block of memory."""
    seen, found, left = set(), {}, [root]
    while left:
        thing = left.pop()
        if id(thing) in seen or isinstance(thing, CODE):
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            found[thing.untyped_storage().data_ptr()] = thing
        left.extend(gc.get_referents(thing))
    return found


def numbers_held(mixer: TiledCPU, made_of_filters: set[int]) -> int:
    """Numbers in memory for activations: not what was there before the first input, and not the complex spectra."""
    item = mixer.filters.element_size()
    return sum(
        tensor.untyped_storage().nbytes() // item
        for place, tensor in reachable(mixer).items()
        if place not in made_of_filters and not tensor.is_complex()
    )


def check_run(M: int, B: int, D: int, L: int, base: int, prompt: int | None, bound: float, dtype=torch.float64) -> int:
    """Run to the end and count after every call; returns the most that was held."""
    filters = torch.randn(M, D, L, dtype=dtype)
    mixer = TiledCPU(filters, B, base)
    made_of_filters = set(reachable(mixer))
    peak = 0
    for m in range(M if prompt is not None else 0):
        mixer.prefill(m, torch.randn(B, D, prompt, dtype=dtype))
        peak = max(peak, numbers_held(mixer, made_of_filters))
    for _ in range(prompt or 0, L):
        for m in range(M):
            mixer.step(m, torch.randn(B, D, dtype=dtype))
        peak = max(peak, numbers_held(mixer, made_of_filters))
        mixer.advance()
        peak = max(peak, numbers_held(mixer, made_of_filters))
    assert peak <= M * B * D * bound
    return peak


small = st.integers(1, 2)
lengths, bases = st.integers(0, 130), st.one_of(st.integers(1, 9), st.integers(10, 80))


@settings(max_examples=120)
@given(M=small, B=small, D=small, L=lengths, base=bases, dtype=st.sampled_from([torch.float32, torch.float64]))
def test_without_a_prompt_half_the_positions_and_three_blocks_are_held(M, B, D, L, base, dtype):
    check_run(M, B, D, L, base, None, L / 2 + 3 * base, dtype)


@settings(max_examples=120)
@given(M=small, B=small, D=small, L=lengths, base=bases, part=st.floats(0, 1))
def test_with_a_prompt_the_remaining_positions_and_three_blocks_are_held(M, B, D, L, base, part):
    prompt = round(part * L)
    check_run(M, B, D, L, base, prompt, L - prompt + 3 * base)


@pytest.mark.parametrize("L", [96, 100, 128, 129])
def test_an_empty_prompt_holds_no_more_than_none(L):
    check_run(2, 1, 2, L, 4, 0, L / 2 + 12)


def test_the_count_sees_the_buffers():
    """Half of 128 positions and two blocks of 4 for 3 * 2 * 5 channels, counted by hand."""
    assert check_run(3, 2, 5, 128, 4, None, 128 / 2 + 12) == 3 * 2 * 5 * (64 + 2 * 4)


def test_rows_of_a_round_length_lie_16_numbers_further_apart():
    for length, apart in ((0, 0), (1, 1), (255, 255), (256, 272), (257, 257), (512, 528)):
        rows = _padded(torch.zeros(()), (3, 2), length)
        assert rows.shape == (3, 2, length) and (not length or rows.stride() == (2 * apart, apart, 1))


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_made_in_inference_mode_holds_ordinary_tensors(engine):
    """Others could not be updated outside it, or be used where gradients are taken."""
    with torch.inference_mode():
        mixer = make_mixer(engine, torch.randn(2, 3, 40))
    held = reachable(mixer).values()
    assert held and not any(tensor.is_inference() for tensor in held)


def test_a_second_generation_holds_no_more_than_the_first():
    mixer = TiledCPU(torch.randn(2, 3, 128), base=4)
    made_of_filters = set(reachable(mixer))
    for prompt in (10, 0, 100):
        for m in range(2):
            mixer.prefill(m, torch.randn(1, 3, prompt))
        for _ in range(20):
            for m in range(2):
                mixer.step(m, torch.randn(1, 3))
            mixer.advance()
        assert numbers_held(mixer, made_of_filters) <= 2 * 3 * (128 - prompt + 12)
        mixer.reset()


@pytest.mark.parametrize("engine", ["lazy", "eager", "tiled_cpu", "tiled_gpu"])
def test_what_a_caller_keeps_holds_its_own_numbers_only(engine):
    """An output is no view of something longer: the outputs of a prompt keep P positions alive, not L."""
    mixer = make_mixer(engine, torch.randn(1, 3, 128), batch_size=2)
    z = mixer.prefill(0, torch.randn(2, 3, 10))
    assert z.untyped_storage().nbytes() == 2 * 3 * 10 * 4
    assert mixer.step(0, torch.randn(2, 3)).untyped_storage().nbytes() == 2 * 3 * 4
