"""One tile, each way of computing it, against the sum over its pairs."""

import ctypes
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from truth import assert_close, tile_sum

import flashref.tau
from flashref import Tau
from flashref.tau import spectrum, tau, tau_direct, tau_fft

tiles = st.integers(1, 45).flatmap(lambda p: st.tuples(st.just(p), st.integers(1, p)))  # q <= p, odd sizes too


def case(p: int, q: int, B: int = 2, C: int = 3, more: int = 0):
    g = torch.Generator().manual_seed(100 * p + q)
    x = torch.randn(B, C, p, dtype=torch.float64, generator=g)
    rho = torch.randn(C, p + q + more, dtype=torch.float64, generator=g)
    return x, rho, tile_sum(x, range(p), rho, range(p, p + q))


@given(
    l=st.integers(0, 10),
    p=st.integers(0, 12),
    gap=st.integers(0, 6),
    q=st.integers(0, 12),
    K=st.integers(0, 40),
)
def test_the_definition_is_the_sum_over_pairs_for_any_ranges(l, p, gap, q, K):  # noqa: E741
    torch.manual_seed(l + p + q)
    x = torch.randn(2, 3, l + p, dtype=torch.float64)
    rho = torch.randn(3, K, dtype=torch.float64)
    inputs, outputs = range(l, l + p), range(l + p + gap, l + p + gap + q)
    assert_close(tau(x, inputs, rho, outputs), tile_sum(x, inputs, rho, outputs), 1e-12)


def test_the_definition_refuses_an_input_that_does_not_come_before_every_output():
    with pytest.raises(ValueError, match="every input must come before every output"):
        tau(torch.ones(1, 4), range(3), torch.ones(1, 4), range(2, 4))


@given(tiles, st.integers(0, 9))
def test_direct_and_fft_are_the_sum(tile, more):
    p, q = tile
    x, rho, truth = case(p, q, more=more)
    assert_close(tau_direct(x, rho, q), truth, 1e-12)
    assert_close(tau_fft(x, spectrum(rho, p), q), truth, 1e-12)


@given(st.integers(1, 20), st.integers(1, 60))
def test_direct_is_the_sum_for_more_outputs_than_inputs_too(p, q):
    x, rho, truth = case(p, q)
    assert_close(tau_direct(x, rho, q), truth, 1e-12)


@pytest.mark.parametrize("chunk_points", [None, 1, 150, 2**19])
@pytest.mark.parametrize("direct_up_to", [0, 4, 100])
@given(tile=tiles)
def test_the_hybrid_adds_the_sum_whatever_it_picks_and_however_it_is_chunked(direct_up_to, chunk_points, tile):
    p, q = tile
    x, rho, truth = case(p, q)
    hybrid = Tau(rho, direct_up_to, chunk_points)
    z = torch.ones(2, 3, q, dtype=torch.float64)
    for times in (1, 2):  # the second time with the same spectra
        hybrid.add(x, z)
        assert_close(z, 1 + times * truth, 1e-12)


@pytest.mark.parametrize("call", ["add", "replace"])
@pytest.mark.parametrize("C", [1, 3, 9])
@pytest.mark.parametrize(
    "p, q, way", [(4, 4, "direct"), (9, 4, "direct"), (4, 9, "direct"), (5, 5, "fft"), (9, 5, "fft")]
)
def test_the_hybrid_picks_by_the_shorter_side(call, C, p, q, way, monkeypatch):
    x, rho, _ = case(p, q, C=C)
    ways = []
    monkeypatch.setattr(flashref.tau, "tau_direct", lambda x, rho, q: ways.append("direct") or tau_direct(x, rho, q))
    monkeypatch.setattr(flashref.tau, "tau_fft", lambda x, s, q: ways.append("fft") or tau_fft(x, s, q))
    getattr(Tau(rho, 4, None), call)(x, torch.zeros(2, C, q, dtype=torch.float64))
    assert ways == [way]


@pytest.mark.parametrize("chunk_points", [None, 1, 150])
@given(tile=tiles)
def test_replace_overwrites_even_where_it_reads(chunk_points, tile):
    p, q = tile
    x, rho, truth = case(p, q)
    hybrid = Tau(rho, 0, chunk_points)
    hybrid.replace(x, x[..., :q])
    assert_close(x[..., :q], truth, 1e-12)


@pytest.mark.parametrize(
    "points, channels", [(None, [6]), (1, [1] * 6), (2 * 16 * 4, [4, 2]), (2 * 16 * 4 - 1, [3, 3])]
)
def test_as_many_channels_go_into_one_call_as_its_points_allow_and_at_least_one(points, channels):
    hybrid = Tau(torch.randn(6, 40), 0, points)
    hybrid.add(torch.randn(2, 6, 8), torch.zeros(2, 6, 8))
    assert [len(spectra) for _, spectra in hybrid._chunks[8]] == channels


def test_add_works_on_two_parts_of_one_buffer_and_touches_nothing_else():
    torch.manual_seed(3)
    buffer, rho = torch.randn(1, 2, 40, dtype=torch.float64), torch.randn(2, 40, dtype=torch.float64)
    before = buffer.clone()
    hybrid = Tau(rho, 4, 50)
    hybrid.add(buffer[..., 5:20], buffer[..., 20:35])
    before[..., 20:35] += tile_sum(before, range(5, 20), rho, range(20, 35))
    assert_close(buffer, before, 1e-12)
    assert torch.equal(buffer[..., :20], before[..., :20]) and torch.equal(buffer[..., 35:], before[..., 35:])


def test_the_spectra_of_all_sizes_together_take_about_eight_bytes_a_tap():
    C, L = 3, 4096
    hybrid = Tau(torch.randn(C, L), direct_up_to=0, chunk_points=None)
    for U in [2**q for q in range(12)]:
        hybrid.add(torch.randn(1, C, U), torch.zeros(1, C, U))
    assert 7 <= bytes_held(hybrid) / (C * L) <= 8.2


def test_sizes_that_are_not_kept_are_forgotten():
    hybrid = Tau(torch.randn(3, 300), direct_up_to=4, chunk_points=None)
    for U in (2, 8, 64):  # 2 is done directly
        hybrid.add(torch.randn(1, 3, U), torch.zeros(1, 3, U))
    of_eight = hybrid._chunks[8]
    assert list(hybrid._chunks) == [8, 64]
    hybrid = hybrid.keeping([8, 100])
    assert list(hybrid._chunks) == [8] and hybrid._chunks[8] is of_eight


def bytes_held(hybrid: Tau) -> int:
    return sum(s.numel() * s.element_size() for chunks in hybrid._chunks.values() for _, s in chunks)


MAPPED = """
import ctypes, torch
import flashref

class Statistics(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks".split()]
    _fields_ += [(name, ctypes.c_size_t) for name in "fsmblks uordblks fordblks keepcost".split()]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Statistics
before = mallinfo2().hblkhd
temporary = torch.empty(31 * 2**20, dtype=torch.uint8)
print(mallinfo2().hblkhd - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="what is freed is kept as glibc does it")
def test_temporaries_of_up_to_31_mib_come_from_memory_that_is_kept():
    """None is mapped for its own life alone, as one of more than 128 KiB would be if tau.py did nothing."""
    unset = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    ran = subprocess.run([sys.executable, "-c", MAPPED], check=True, capture_output=True, text=True, env=unset)
    assert int(ran.stdout) == 0
