"""The bounded schedule and its engine: every large tile has time, and no step is long."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flashref import TiledCPU, make_mixer, schedule
from flashref.bounded import Bounded, Job, Level


@given(L=st.integers(0, 300), base=st.integers(1, 40))
def test_a_tile_of_the_bounded_schedule_has_as_many_steps_to_be_done_in_as_it_has_inputs(L, base):
    tiles = [tile for tile in schedule(L, "bounded", base) if tile.step % base == 0]
    for tile in tiles:
        adjacent = tile.inputs.stop == tile.outputs.start
        assert len(tile.inputs) == base if adjacent else tile.outputs.start - tile.step >= len(tile.inputs)


def fft_points_of_steps(mixer: TiledCPU, L: int) -> list[int]:
    """The FFT points of every position's step and advance: of the inputs forward, and as many go back."""
    points, real = [0] * L, torch.fft.rfft

    def counting(x, n, **how):
        if x.dim() == 3:  # two: the filters
            points[min(mixer.position, L - 1)] += x.numel() // x.shape[-1] * n
        return real(x, n, **how)

    D = mixer.filters.shape[1]
    with patch.object(torch.fft, "rfft", counting):
        for _ in range(L):
            mixer.step(0, torch.randn(1, D))
            mixer.advance()
    return points


@pytest.mark.parametrize("k", [8, 10, 12])
def test_no_step_is_long_and_all_together_cost_twice_the_relaxed_tiling(k):
    b, L, D = 16, 2**k, 64
    relaxed, bounded = TiledCPU(torch.randn(1, D, L), base=b), Bounded(torch.randn(1, D, L), base=b)
    relaxed.chunk_points, bounded.piece_points = None, 2 * b * 8  # a piece: 8 channels of the smallest tile
    relaxed._tau.direct_up_to = bounded._tau.direct_up_to = 0
    of_relaxed, of_bounded = fft_points_of_steps(relaxed, L), fft_points_of_steps(bounded, L)
    assert sum(of_bounded) <= 2 * sum(of_relaxed)
    levels = k - 4
    # The longest step of the relaxed tiling transforms half of all positions. The bounded one runs the tile to the
    # next block, or for every level its even share of 2 U points in U steps, rounded up to whole pieces.
    assert max(of_relaxed) == D * L
    assert max(of_bounded) <= max(D * 2 * b, 2 * D * levels + max(2 * b * 8, L // 2))


@pytest.mark.parametrize("L, base", [(64, 4), (65, 4), (63, 4), (100, 3), (4, 4), (9, 4), (8, 4)])
def test_spectra_are_made_for_the_tiles_that_occur_and_no_others(L, base):
    mixer = make_mixer("bounded", torch.randn(1, 2, L), base=base)
    mixer.step(0, torch.randn(1, 2))
    apart = [tile for tile in schedule(L, "bounded", base) if tile.inputs.stop < tile.outputs.start]
    assert list(mixer._levels) == sorted({len(tile.inputs) for tile in apart})


@pytest.mark.parametrize("piece_points, channels", [(1, [1] * 7), (2 * 8 * 3 * 2, [2, 2, 2, 1]), (10**6, [7])])
def test_a_piece_is_as_many_channels_as_its_points_allow(piece_points, channels):
    level = Level(torch.randn(7, 64), 8, 3, piece_points)
    assert [len(two_on) for _, two_on, _ in level.pieces] == channels


def test_every_job_is_done_when_its_first_output_is_due():
    mixer = make_mixer("bounded", torch.randn(1, 4, 200), base=2)
    mixer.piece_points = 1
    for n in range(1, 201):
        mixer.step(0, torch.randn(1, 4))
        mixer.advance()
        assert all(job.due > n + 1 and job.left > 0 for job in mixer._jobs if mixer.base > 1 and n % mixer.base)
        assert all(job.due > n for job in mixer._jobs)
    assert not mixer._jobs


def test_a_snapshot_says_how_many_points_of_a_tile_are_left_and_that_must_be_a_number_of_its_pieces():
    """Pieces of 4 of the 5 channels: 64 points and then 16 of a tile of 8, and 64, 64, 32 of one of 16."""
    mixer = Bounded(torch.ones(1, 5, 64), base=8)
    mixer.piece_points = 64
    for _ in range(8):
        mixer.step(0, torch.ones(1, 5))
        mixer.advance()
    snapshot = mixer.snapshot()
    assert snapshot["left"].tolist() == [80, 0]
    for left in (80, 16):
        mixer.restore(snapshot | {"left": torch.tensor([left, 0])})
        assert mixer._jobs == [Job(16, 8, left)]
    for U, wrong in (
        (8, 144),
        (8, -48),
        (8, 79),
        (16, 160),
    ):  # too many, too few, no piece, too soon
        left = torch.tensor([wrong if U == 8 else 80, wrong if U == 16 else 0])
        with pytest.raises(ValueError, match=f"'left'. says {wrong} points at position 8: no number of pieces of {U}"):
            mixer.restore(snapshot | {"left": left})
