"""The schedules: every pair once, in time, in order; what they cost; and that the engine does what they say."""

from dataclasses import astuple
from itertools import pairwise
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import flashref.tiled_cpu
from flashref import Tile, TiledCPU, cost, schedule
from flashref.tiling import radix_cost

KINDS = [
    ("lazy", 1),
    ("eager", 1),
    *((kind, base) for kind in ("relaxed", "bounded") for base in (1, 2, 3, 5, 8, 64, 200)),
]


@pytest.mark.parametrize("kind, base", KINDS)
def test_every_pair_lies_in_exactly_one_tile_that_runs_in_time(kind, base):
    for L in [*range(70), 96, 127, 128, 129, 150, 300]:
        tiles = schedule(L, kind=kind, base=base)
        seen = torch.zeros(L, L, dtype=torch.int64)
        for tile in tiles:
            assert len(tile.inputs) and len(tile.outputs) and tile.inputs.start >= 0 and tile.outputs.stop <= L
            assert tile.inputs.stop <= tile.step <= tile.outputs.start
            seen[tile.inputs.start : tile.inputs.stop, tile.outputs.start : tile.outputs.stop] += 1
        assert torch.equal(seen, torch.ones(L, L, dtype=torch.int64).triu(1))
        assert [tile.step for tile in tiles] == sorted(tile.step for tile in tiles)


@pytest.mark.parametrize("k", range(9))
def test_relaxed_is_the_papers_rule_for_a_power_of_two(k):
    expected = []
    for n in range(1, 2**k):
        U = max(2**q for q in range(k) if n % 2**q == 0)
        expected.append(Tile(n, range(n - U, n), range(n, n + U)))
    assert schedule(2**k) == expected


@pytest.mark.parametrize("base", [3, 4, 64])
@pytest.mark.parametrize("k", range(5))
def test_relaxed_with_a_base_is_the_papers_rule_over_blocks_for_base_times_a_power_of_two(base, k):
    above = [tile for tile in schedule(base * 2**k, base=base) if tile.step % base == 0]
    blocks = schedule(2**k)
    assert above == [
        Tile(
            base * tile.step,
            range(base * tile.inputs.start, base * tile.inputs.stop),
            range(base * tile.outputs.start, base * tile.outputs.stop),
        )
        for tile in blocks
    ]


def test_lazy_gathers_rows_and_eager_pushes_columns():
    assert schedule(3, kind="lazy") == [Tile(1, range(1), range(1, 2)), Tile(2, range(2), range(2, 3))]
    assert schedule(3, kind="eager") == [Tile(1, range(1), range(1, 3)), Tile(2, range(1, 2), range(2, 3))]


@given(L=st.integers(0, 150), base=st.integers(1, 40), P=st.integers(0, 40))
def test_the_engine_runs_the_tiles_of_its_schedule_at_their_steps(L, base, P):
    """The tiles that TiledCPU gives to Tau, after a prompt of P: their step, their sizes, and whose slots they read."""
    mixer = TiledCPU(torch.randn(1, 1, L + P), base=base)
    due = [tile for tile in schedule(L, base=base) if tile.step % base == 0]
    calls = []

    class Recorder:
        def keeping(self, sizes):
            assert list(sizes) == sorted({len(tile.inputs) for tile in due})
            return self

        def add(self, x, z):
            calls.append((mixer.position - P, x.shape[-1], z.shape[-1]))
            # The two lie side by side in the one buffer: the outputs start where the inputs stop.
            assert z.storage_offset() == x.storage_offset() + x.shape[-1]

        def replace(self, x, z):
            calls.append((mixer.position - P, x.shape[-1], z.shape[-1]))
            assert z.storage_offset() == x.storage_offset() == 0

    mixer._tau = Recorder()
    if P:
        mixer.prefill(0, torch.randn(1, 1, P))
    for _ in range(L):
        mixer.step(0, torch.randn(1, 1))
        mixer.advance()
    assert calls == [(tile.step, len(tile.inputs), len(tile.outputs)) for tile in due]


def test_the_engine_asks_gray_tile_what_to_do():
    asked = []
    real = flashref.tiled_cpu.gray_tile
    with patch.object(flashref.tiled_cpu, "gray_tile", lambda *args: asked.append(real(*args)) or asked[-1]):
        mixer = TiledCPU(torch.randn(1, 1, 100), base=8)
        for _ in range(100):
            mixer.step(0, torch.randn(1, 1))
            mixer.advance()
    assert asked == [tile for tile in schedule(100, base=8) if tile.step % 8 == 0]


@pytest.mark.parametrize("k", range(1, 10))
def test_cost_of_the_relaxed_schedule_is_the_closed_formula(k):
    L, large = 2**k, range(1, k)  # L/(2U) tiles of size U = 2^q; those of size 1 are direct
    got = cost(schedule(L))
    assert got.calls == L - 1
    assert got.fft_points == 2 * L * (k - 1)  # each tile: two transforms of 2U points
    assert got.multiply_adds == L // 2 + sum(L // 2 ** (q + 1) * 4 * (2**q + 1) for q in large)
    assert got.numbers_moved == L // 2 * 4 + sum(L // 2 ** (q + 1) * (5 * 2**q + 2) for q in large)


@pytest.mark.parametrize("L", [0, 1, 2, 17, 100])
@pytest.mark.parametrize("kind, base", KINDS)
def test_direct_tiles_of_any_schedule_cost_one_multiply_add_a_pair(kind, base, L):
    got = cost(schedule(L, kind=kind, base=base), fft_from=10**6)
    assert got.multiply_adds == L * (L - 1) // 2
    assert got.fft_points == 0
    assert got.calls == len(schedule(L, kind=kind, base=base)) and (kind == "bounded" or got.calls == max(L - 1, 0))


def test_cost_of_lazy_and_eager_counted_by_hand():
    # L = 4. Lazy, t = 1, 2, 3: t inputs, t taps, one output read and written. Eager, L-t = 3, 2, 1: one input,
    # L-t taps, L-t outputs read and written.
    assert cost(schedule(4, kind="lazy")).numbers_moved == (1 + 1 + 2) + (2 + 2 + 2) + (3 + 3 + 2)
    assert cost(schedule(4, kind="eager")).numbers_moved == (1 + 3 + 6) + (1 + 2 + 4) + (1 + 1 + 2)


def test_costs_are_whole_numbers():
    for counted in (cost(schedule(100, base=8)), radix_cost(256, 4, 8), radix_cost(256)):
        assert all(type(number) is int for number in astuple(counted))


def test_cost_picks_by_the_shorter_side():
    tile = Tile(6, range(6), range(6, 9))
    direct, fft = cost([tile], fft_from=4), cost([tile], fft_from=3)
    assert (direct.multiply_adds, direct.fft_points) == (18, 0)
    assert (fft.multiply_adds, fft.fft_points) == (4 * 7, 2 * 12)


@pytest.mark.parametrize(
    "args, error, words",
    [
        ({"L": -1}, ValueError, "L must be >= 0"),
        ({"L": 4.0}, TypeError, "L must be an integer"),
        ({"L": True}, TypeError, "L must be an integer"),
        ({"L": 4, "base": 0}, ValueError, "base must be >= 1"),
        ({"L": 4, "base": "2"}, TypeError, "base must be an integer"),
        ({"L": 4, "kind": "fractal"}, ValueError, 'kind must be "lazy", "eager", "relaxed" or "bounded"'),
        ({"L": 4, "kind": "lazy", "base": 2}, ValueError, "base belongs to"),
        ({"L": 4, "kind": "eager", "base": 2}, ValueError, "base belongs to"),
    ],
)
def test_bad_input_of_schedule_is_refused_by_name(args, error, words):
    with pytest.raises(error, match=words):
        schedule(**args)


def test_bad_input_of_cost_is_refused_by_name():
    with pytest.raises(ValueError, match="fft_from must be >= 2"):
        cost([], fft_from=1)


@pytest.mark.parametrize("k", range(11))
@pytest.mark.parametrize("base", [1, 2, 8, 64])
def test_radix_2_costs_what_the_relaxed_schedule_costs(k, base):
    tiles, closed = cost(schedule(2**k, base=base)), radix_cost(2**k, base=base)
    assert closed.direct + closed.products == tiles.multiply_adds
    assert closed.fft_points == tiles.fft_points
    lengths = [
        2 * len(tile.inputs) for tile in schedule(2**k, base=base) if min(len(tile.inputs), len(tile.outputs)) > 1
    ]
    assert closed.transforms == sum(2 * 5 * n * (n.bit_length() - 1) // 4 for n in lengths)
    assert closed.total == closed.direct + closed.transforms + closed.products


def radix_convolution(x, rho, radix, base):
    """An online convolution in groups of ``radix`` blocks, which counts as it runs; and the most that a step did."""
    L, z, kept = len(x), rho[0] * x, {}
    count, longest = dict.fromkeys(("direct", "transforms", "products", "fft_points"), 0), 0
    # Block sizes from the smallest on: where L/base is no power of the radix, the lowest groups hold fewer blocks.
    sizes = [L]
    while sizes[0] > base * radix:
        sizes.insert(0, sizes[0] // radix)
    if base < sizes[0]:
        sizes.insert(0, base)
    for n in range(1, L):
        before = sum(count.values()) - count["fft_points"]
        if n % base:
            stop = min(n - n % base + base, L)
            z[n:stop] += x[n - 1] * rho[1 : stop - n + 1]
            count["direct"] += stop - n
        else:
            U, group = next((U, above) for U, above in pairwise(sizes) if n % above)
            blocks = n % group // U
            if U == 1:
                z[n] += x[n - blocks : n] @ rho[blocks:0:-1]
                count["direct"] += blocks
            else:
                spectra = kept[U] = (kept[U] if blocks > 1 else []) + [np.fft.rfft(x[n - U : n], 2 * U)]
                total = np.zeros(U + 1, complex)
                for d, X in enumerate(reversed(spectra), 1):
                    total += X * np.fft.rfft(rho[(d - 1) * U : (d + 1) * U])
                    count["products"] += 4 * X.size
                z[n : n + U] += np.fft.irfft(total)[U:]
                count["fft_points"] += 2 * (2 * U)
                count["transforms"] += 2 * 5 * (2 * U) * int(np.log2(2 * U)) // 4
        longest = max(longest, sum(count.values()) - count["fft_points"] - before)
    return z, count, longest


@pytest.mark.parametrize("radix", [2, 4, 8, 16])
@pytest.mark.parametrize("base", [1, 2, 4, 32])
@pytest.mark.parametrize("k", [0, 1, 5, 8, 9, 10])
def test_radix_cost_is_what_an_exact_online_convolution_counts(k, base, radix):
    rng = np.random.default_rng(0)
    x, rho = rng.standard_normal((2, 2**k))
    z, count, longest = radix_convolution(x, rho, radix, base)
    assert np.allclose(z, np.convolve(x, rho)[: 2**k])
    got = radix_cost(2**k, radix, base)
    assert {part: getattr(got, part) for part in count} == count
    assert got.longest == longest


def test_a_higher_radix_halves_the_transforms_and_shortens_the_longest_step():
    # L = 8^4, three levels by FFT instead of eleven: 4 L (7/8) 3 points against 4 L (1/2) 11.
    assert radix_cost(4096, 8).fft_points == 4 * 4096 * 7 // 8 * 3
    assert radix_cost(4096, 2).fft_points == 2 * 4096 * 11
    assert radix_cost(4096, 2).longest == 5 * 2048 * 12 + 4 * 2049
    assert radix_cost(4096, 8).longest == 5 * 512 * 10 + 7 * 4 * 513


@pytest.mark.parametrize(
    "args, error, words",
    [
        ({"L": 0}, ValueError, "L must be >= 1"),
        ({"L": 12}, ValueError, "L must be a power of two"),
        ({"L": 16.0}, TypeError, "L must be an integer"),
        ({"L": 16, "radix": 1}, ValueError, "radix must be >= 2"),
        ({"L": 16, "radix": 3}, ValueError, "radix must be a power of two"),
        ({"L": 16, "base": 0}, ValueError, "base must be >= 1"),
        ({"L": 16, "base": 6}, ValueError, "base must be a power of two"),
        ({"L": 16, "base": True}, TypeError, "base must be an integer"),
    ],
)
def test_bad_input_of_radix_cost_is_refused_by_name(args, error, words):
    with pytest.raises(error, match=words):
        radix_cost(**args)
