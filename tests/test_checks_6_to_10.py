"""The checks of exercises 6 to 10: what they count and say, beside what is seen when wrong answers are graded."""

import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from flashref import checks, figures
from flashref.checks.kernel import check_kernel, interpreted_triton
from flashref.checks.rule import _faults
from flashref.figures.style import PARTS


class Relaxed:
    """Tiles by FFT, all spectra made by the constructor."""

    def __init__(self, rho):
        sizes = [2**q for q in range((rho.shape[-1] - 1).bit_length())]
        self.spectra = {U: torch.fft.rfft(rho[:, : 2 * U], 2 * U) for U in sizes}
        self.rho, self.n = rho, 0
        self.x, self.z = torch.zeros_like(rho), torch.zeros_like(rho)

    def push(self, x_t):
        n = self.n
        self.x[:, n] = x_t
        z_t = self.z[:, n] + x_t * self.rho[:, 0]
        self.n = n = n + 1
        if n < self.rho.shape[-1]:
            U = n & -n
            x = torch.fft.rfft(self.x[:, n - U : n], 2 * U)
            out = self.z[:, n : n + U]
            out += torch.fft.irfft(x * self.spectra[U], 2 * U)[:, U : U + out.shape[-1]]
        return z_t


def rule(n, L):
    U = n & -n
    if U == n:
        return range(1, n), range(1, n), range(n, min(2 * n, L))
    return range(n - U, n), range(1, 2 * U), range(n, min(n + U, L))


@pytest.mark.parametrize("L", [1, 2, 64, 100, 256])
def test_what_relaxed_needs_at_each_step_is_what_is_counted_and_its_spectra_are_made_before(L):
    before, steps = checks.work_of_steps_and_before(Relaxed, L)
    assert np.allclose(steps, checks.relaxed_steps(L))
    if L & (L - 1) == 0:
        assert before == checks.count("spectra", L) and steps.sum() == checks.count("relaxed", L)


def test_the_longest_step_may_be_what_is_allowed_and_no_more(capsys):
    checks.check_longest_step(Relaxed, times=1, L=256)
    assert "(1.000 of relaxed's 5,637)" in capsys.readouterr().out
    with pytest.raises(checks.CheckFailed, match=r"Step 127 may do 5,580 at most, 0.99 of relaxed's longest"):
        checks.check_longest_step(Relaxed, times=0.99, L=256)
    with pytest.raises(checks.CheckFailed, match=r"0.9 times relaxed is allowed in all"):
        checks.check_longest_step(Relaxed, times=1, work=0.9, L=256)


def test_a_buffer_may_have_as_many_slots_as_its_share_of_the_length_and_sixteen_more():
    class Keeps(Relaxed):
        def push(self, x_t):
            z_t, n, L = super().push(x_t), self.n, self.rho.shape[-1]
            self.z[:, : n + 1] = 0  # what was given out is not kept, and no more than L numbers are
            self.more = x_t * torch.ones(spare) if n == L else None
            return z_t

    spare = 15
    checks.check_single_buffer(Keeps, share=1)
    spare = 17
    with pytest.raises(checks.CheckFailed, match=r"at L = 64: after step 63 it keeps 81 numbers") as failed:
        checks.check_single_buffer(Keeps, share=1)
    assert failed.value.figure.axes[0].get_title(loc="left").startswith("Keeps keeps up to 81 numbers")


@settings(max_examples=80)
@given(st.integers(2, 18), st.integers(0, 3), st.data())
def test_a_rule_is_faulted_if_and_only_if_a_pair_is_not_taken_once_in_its_window(L, changes, data):
    steps = [list(rule(n, L)) for n in range(1, L)]
    for _ in range(changes):
        step, part, end = data.draw(st.tuples(st.integers(0, L - 2), st.integers(0, 2), st.booleans()))
        old, by = steps[step][part], data.draw(st.sampled_from([-1, 1]))
        steps[step][part] = range(max(0, old.start + by * end), old.stop + by * (not end))
    taken = {}
    for n, (inputs, lags, outputs) in enumerate(steps, 1):
        for j in inputs:
            for k in lags:
                for pair in [(j, k)] if inputs == lags else [(j, k), (k, j)]:
                    if sum(pair) in outputs:
                        taken.setdefault(pair, []).append(n)
    window = {(j, k): range(max(j, k) + 1, j + k + 1) for j in range(1, L) for k in range(1, L - j)}
    right = set(taken) == set(window) and all(len(n) == 1 and n[0] in window[pair] for pair, n in taken.items())
    lines, marks = _faults([tuple(step) for step in steps], L)
    assert bool(lines) == bool(marks) == (not right)


def test_a_rule_that_is_right_and_thin_is_told_so():
    def lazy(n, L):
        return range(1, n), range(1, n), range(n, n + 1)

    with pytest.raises(checks.CheckFailed, match=r"too thin.* step 4, U = 4, 3 values meet 3 lags for 1 outputs"):
        checks.check_product_rule(lazy)
    checks.check_product_rule(rule)


def test_the_figures_of_failures_show_the_numbers_that_they_are_given():
    (axes,) = figures.pairs_of_product({(2, 3): "0", (7, 7): "?"}, 8).axes
    colours = [to_hex(patch.get_facecolor()) for patch in axes.patches]
    assert colours.count(PARTS["wrong"].lower()) == 2 and colours.count(PARTS["red_cell"].lower()) == 15
    assert axes.get_title(loc="left") == "Wrong pairs among those of 8 positions: 2"
    (axes,) = figures.numbers_kept(np.array([3, 9, 20]), 8, "Mine").axes
    assert axes.get_title(loc="left") == "Mine keeps up to 20 numbers for 3 positions; 8 are allowed"
    steps = np.array([3.0, 70.0, 2.0])
    (axes,) = figures.longest_steps(steps, steps + 1, 50, "Mine").axes
    assert [list(line.get_ydata()) for line in axes.lines][:2] == [[4, 71, 3], [3, 70, 2]]
    assert axes.get_title(loc="left") == "Step 1 of Mine does 70 multiply-adds; 50 are allowed"
    assert all(len(figures.as_png(axes.figure)) > 3000 for axes in [axes])


def test_without_triton_kernels_can_be_written_and_the_check_says_why_they_are_not_run(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    triton, tl = interpreted_triton()
    assert "Triton is not installed here" in capsys.readouterr().out

    @triton.jit
    def kernel(slots, WIDTH: tl.constexpr):
        return tl.arange(0, WIDTH)

    with pytest.raises(checks.CheckFailed, match="kernel was not run: Triton is not installed here"):
        check_kernel(kernel)


def test_a_kernel_that_reads_nothing_foreign_may_still_be_wrong_by_a_lag():
    pytest.importorskip("triton")

    def by_torch(slots, rho, n, U, q):  # the same by torch, one lag too large where there is one
        for i in range(q):
            for j in range(U):
                slots[:, n + i] += slots[:, n - U + j] * rho[:, min(U + i - j + 1, U + q - 1)]

    with pytest.raises(checks.CheckFailed) as failed:
        check_kernel(by_torch)
    said = r"U = 2, q = 2.*got 113: that is the tap of lag 3, and the lag of this pair is 2"
    assert re.search(said, str(failed.value))
    assert failed.value.figure is not None


def test_torch_may_not_do_the_work_of_a_kernel():
    pytest.importorskip("triton")

    def by_torch(slots, rho, n, U, q):
        for i in range(q):
            for j in range(U):
                slots[:, n + i] += slots[:, n - U + j] * rho[:, U + i - j]

    with pytest.raises(checks.CheckFailed, match=r"by_torch has torch make 192 multiply-adds"):
        check_kernel(by_torch)
