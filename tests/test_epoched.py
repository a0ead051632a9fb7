"""The epoched engine: how often it transforms what, and what it holds. That it is exact is in test_engines."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_memory import numbers_held, reachable

from flashref import make_mixer
from flashref.epoched import Epoched


def go(mixer: Epoched, prompt: int | None) -> int:
    """From the prompt to the end; returns the most numbers that were held."""
    M, D, L = mixer.filters.shape
    made_of_filters, B, held = set(reachable(mixer)), mixer.batch_size, 0
    for m in range(M if prompt is not None else 0):
        mixer.prefill(m, torch.randn(B, D, prompt, dtype=torch.float64))
    for _ in range(prompt or 0, L):
        for m in range(M):
            mixer.step(m, torch.randn(B, D, dtype=torch.float64))
        mixer.advance()
        held = max(held, numbers_held(mixer, made_of_filters))
    return held


@given(L=st.integers(1, 120), base=st.integers(1, 40), part=st.none() | st.floats(0, 1), B=st.integers(1, 2))
def test_it_holds_the_positions_since_the_prompt_and_two_epochs_and_no_spectra(L, base, part, B):
    prompt = None if part is None else round(part * L)
    mixer = Epoched(torch.randn(2, 3, L, dtype=torch.float64), B, base)
    rest = math.ceil((L - (prompt or 0)) / base) * base
    # The slots after a prompt are filled by its outputs, and 16 more where their number is round.
    assert go(mixer, prompt) <= 2 * B * 3 * (rest + (16 if rest % 256 == 0 else 0) + 2 * base)
    assert not any(tensor.is_complex() for tensor in reachable(mixer).values())


@pytest.mark.parametrize("L, base, prompt", [(100, 10, None), (101, 10, None), (100, 7, 44), (9, 10, None)])
def test_every_epoch_but_the_first_begins_with_one_transform_of_everything_so_far(L, base, prompt, monkeypatch):
    mixer = Epoched(torch.randn(1, 2, L, dtype=torch.float64), base=base)
    lengths, transform = [], torch.fft.irfft

    def noted(spectrum, n):
        lengths.append(n)
        return transform(spectrum, n)

    if prompt:
        mixer.prefill(0, torch.randn(1, 2, prompt, dtype=torch.float64))
    monkeypatch.setattr(torch.fft, "irfft", noted)
    for _ in range(prompt or 0, L):
        mixer.step(0, torch.randn(1, 2, dtype=torch.float64))
        mixer.advance()
    rest = L - (prompt or 0)
    reached = [min(n + base, rest) for n in range(base, rest, base)]
    assert len(lengths) == len(reached)
    assert all(n <= length <= 1.15 * n + 2 for n, length in zip(reached, lengths, strict=True))


def test_as_many_channels_go_into_one_transform_as_it_was_told_and_at_least_one(monkeypatch):
    rho, rows, transform = torch.randn(1, 6, 40), [], torch.fft.irfft

    def noted(spectrum, n):
        rows.append(len(spectrum[0]))
        return transform(spectrum, n)

    monkeypatch.setattr(torch.fft, "irfft", noted)
    for chunk_points, channels in ((1, [1] * 6), (2 * 20 * 4, [4, 2]), (10**6, [6])):
        rows.clear()
        mixer = Epoched(rho, 2, base=10, direct_up_to=5, chunk_points=chunk_points)
        assert (mixer.direct_up_to, mixer.chunk_points) == (5, chunk_points)
        for _ in range(10):
            mixer.step(0, torch.randn(2, 6))
            mixer.advance()
        assert rows == channels


@pytest.mark.parametrize("L, K", [(4096, 222), (1024, 101), (2, 1), (1, 1), (0, 1)])
def test_an_epoch_is_the_root_of_l_log_l_long_unless_told(L, K):
    assert make_mixer("epoched", torch.ones(1, 1, L)).base == K
    assert make_mixer("epoched", torch.ones(1, 1, L), base=5).base == 5
