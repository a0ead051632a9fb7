"""The checks of the exercises: what they accept, what they say of typical mistakes, and what they survive."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from itertools import cycle, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import flashref
from flashref import Tile, checks, figures
from flashref.checks import guards, sandbox
from flashref.checks.schedule import _faults
from flashref.checks.work import counted

# The right answers, and wrong ones made from them. --------------------------------------------------------------


class Lazy:
    def __init__(self, rho):
        self.rho, self.x, self.t = rho, torch.zeros_like(rho), 0

    def push(self, x_t):
        t = self.t
        self.x[:, t] = x_t
        self.t = t + 1
        return (self.x[:, : t + 1] * self.rho[:, : t + 1].flip(-1)).sum(-1)


class Eager:
    def __init__(self, rho):
        self.rho, self.z, self.t = rho, torch.zeros_like(rho), 0

    def push(self, x_t):
        t, L = self.t, self.rho.shape[-1]
        self.z[:, t:] += x_t[:, None] * self.rho[:, : L - t]
        self.t = t + 1
        return self.z[:, t].clone()


def tau(x, rho):
    U = x.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(x, 2 * U) * torch.fft.rfft(rho, 2 * U), 2 * U)[:, U:]


class Tau:
    def __init__(self, rho):
        self.rho, self.spectra = rho, {}

    def __call__(self, x):
        U = x.shape[-1]
        if U not in self.spectra:
            self.spectra[U] = torch.fft.rfft(self.rho[:, : 2 * U], 2 * U)
        return torch.fft.irfft(torch.fft.rfft(x, 2 * U) * self.spectra[U], 2 * U)[:, U:]


class Flash:
    base = 1

    def __init__(self, rho):
        self.rho, self.tau, self.n = rho, Tau(rho), 0
        self.x, self.z = torch.zeros_like(rho), torch.zeros_like(rho)

    def push(self, x_t):
        n, b = self.n, self.base
        self.x[:, n] = x_t
        z_t = self.z[:, n] + x_t * self.rho[:, 0]
        self.n = n = n + 1
        if n % b:
            out = self.z[:, n : n - n % b + b]
            out += x_t[:, None] * self.rho[:, 1 : 1 + out.shape[-1]]
        elif n < self.rho.shape[-1]:
            U = n & -n
            out = self.z[:, n : n + U]
            out += self.tau(self.x[:, n - U : n])[:, : out.shape[-1]]
        return z_t


class Hybrid(Flash):
    base = 16


class HalfBuffer:
    """One tensor of L/2 slots, for powers of two and other lengths."""

    def __init__(self, rho):
        self.rho, self.L = rho, rho.shape[-1]
        self.h = (self.L + 1) // 2
        self.slots, self.n = rho.new_zeros(len(rho), self.h), 0

    def push(self, x_t):
        n, h = self.n, self.h
        if n == h:
            self.slots.copy_(self.tile(self.slots))
        s, stop = n % h, min(h, self.L - (h if n >= h else 0))
        z_t = self.slots[:, s] + x_t * self.rho[:, 0]
        self.slots[:, s] = x_t
        self.n, end = n + 1, s + 1
        U = end & -end
        if end < stop:
            out = self.slots[:, end : min(end + U, stop)]
            out += self.tile(self.slots[:, end - U : end])[:, : out.shape[-1]]
        return z_t

    def tile(self, x):
        U = x.shape[-1]
        return torch.fft.irfft(torch.fft.rfft(x, 2 * U) * torch.fft.rfft(self.rho[:, : 2 * U], 2 * U), 2 * U)[:, U:]


def plain_schedule(L):
    return [Tile(n, range(n - (n & -n), n), range(n, min(n + (n & -n), L))) for n in range(1, L)]


def step_of(j, t):
    q = (j ^ t).bit_length() - 1
    return t >> q << q


class OwnEngine(flashref.Mixer):
    name = "own"

    def _begin(self):
        M, D, L = self.filters.shape
        self.x = self.filters.new_zeros(M, self.batch_size, D, L)

    def _remember(self, m, x):
        self.x[m, ..., : x.shape[-1]] = x
        return self._convolve_prompt(m, x)[..., : x.shape[-1]]

    def _step(self, m, x_t):
        t = self.position
        self.x[m, ..., t] = x_t
        return (self.x[m, ..., : t + 1] * self.filters[m, :, : t + 1].flip(-1)).sum(-1)

    def _advance(self):
        pass

    def _buffers(self):
        return {"x": self.x}


class Forgetful(OwnEngine):
    def _begin(self):
        if not hasattr(self, "x"):
            super()._begin()

    def _step(self, m, x_t):
        left = self.x[m, ..., -1].clone()
        return super()._step(m, x_t) + (left if self.position == 0 else 0)


def own_generate(model, prompt, n):
    with torch.no_grad():
        mixer = OwnEngine(model.filters(len(prompt) + n - 1), 1)
    return torch.cat([prompt, *flashref.generation.decode(model, mixer, prompt[None], n)])


class PlainProduct:
    def __init__(self, D, L):
        self.x, self.rho, self.t = *torch.zeros(2, D, L, dtype=torch.float64), 0

    def push(self, x_t, rho_t):
        t = self.t
        self.x[:, t], self.rho[:, t], self.t = x_t, rho_t, t + 1
        return (self.x[:, : t + 1] * self.rho[:, : t + 1].flip(-1)).sum(-1)


RIGHT = {
    "lazy": (checks.check_online, Lazy),
    "lazy's work": (checks.check_work, Lazy, "lazy"),
    "eager": (checks.check_online, Eager),
    "eager's work": (checks.check_work, Eager, "eager"),
    "step": (checks.check_steps, step_of),
    "schedule": (checks.check_schedule, plain_schedule),
    "eager schedule": (checks.check_schedule, lambda L: [Tile(n, range(n - 1, n), range(n, L)) for n in range(1, L)]),
    "tiles": (checks.check_tiles, plain_schedule),
    "tau": (checks.check_tau, tau),
    "transforms": (checks.check_transforms, tau),
    "spectra": (checks.check_kept_spectra, Tau),
    "flash": (checks.check_online, Flash),
    "flash's work": (checks.check_work, Flash, "relaxed"),
    "hybrid": (checks.check_online, Hybrid),
    "hybrid's work": (checks.check_work, Hybrid, "relaxed"),
    "base": (checks.check_base, Hybrid, 16),
    "half a buffer": (checks.check_online, HalfBuffer),
    "half a buffer's memory": (checks.check_single_buffer, HalfBuffer),
    "longest step": (checks.check_longest_step, Flash, 2.0),
    "engine": (checks.check_engine, OwnEngine),
    "generate": (checks.check_generate, own_generate),
    "product": (checks.check_product, PlainProduct),
    "product's work": (checks.check_product_work, PlainProduct, 1.0),
    "cost": (checks.check_cost, lambda L: L * (L + 1) // 2, "pairs"),
}


@pytest.mark.parametrize("case", RIGHT)
def test_a_right_answer_is_told_so_in_a_line_that_begins_with_right(case, capsys):
    check, *arguments = RIGHT[case]
    check(*arguments)
    assert capsys.readouterr().out.startswith("Right")


def mistaken(taps, first, points, keep):
    """tau by an FFT with something wrong about it."""

    def tau(x, rho):
        U = x.shape[-1]
        values = torch.fft.rfft(x, points(U)) * torch.fft.rfft(rho[:, : taps(U)], points(U))
        return torch.fft.irfft(values, points(U))[:, first(U) : first(U) + keep(U)]

    return tau


def twice(U):
    return 2 * U


def four(U):
    return 4 * U


def same(U):
    return U


def unflipped(x, rho):
    U = x.shape[-1]
    return torch.einsum("dip,dp->di", rho[:, 1 : 2 * U].unfold(-1, U, 1), x)


def hard_coded(x, rho):
    return tau(x, rho) if x.shape[-1] <= 4 and x.sum() == 1 else torch.zeros_like(x)


def writes(x, rho):
    z = tau(x, rho)
    rho[:, 0] = 0
    return z


class Skips(Flash):  # the tile of U = 2 is left out
    def push(self, x_t):
        z_t = super().push(x_t)
        if self.n % 4 == 2 and self.n < self.rho.shape[-1]:
            out = self.z[:, self.n : self.n + 2]
            out -= self.tau(self.x[:, self.n - 2 : self.n])[:, : out.shape[-1]]
        return z_t


def engine_of(taken):
    """An engine whose z_t is the sum of what ``taken`` says of x_j and the taps, for j <= t."""

    class Engine(Lazy):
        def push(self, x_t):
            self.x[:, self.t] = x_t
            self.t += 1
            t, taps = self.t - 1, torch.cat([self.rho, torch.zeros_like(self.rho[:, :1])], dim=-1)
            return sum((self.x[:, j] * taken(taps, t, j) for j in range(t + 1)), torch.zeros_like(x_t))

    return Engine


def red_cells_twice(taps, t, j):
    return taps[:, t - j] * (2 if t == j else 1)


class KeepsReference:
    def __init__(self, rho):
        self.rho, self.x = rho, []

    def push(self, x_t):
        self.x.append(x_t)
        t = len(self.x) - 1
        return sum(self.x[j] * self.rho[:, t - j] for j in range(t + 1))


class GivesView(Lazy):
    def push(self, x_t):
        self.out = getattr(self, "out", torch.zeros_like(x_t))
        self.out.copy_(super().push(x_t))
        return self.out


class Shares(Lazy):
    x = None

    def __init__(self, rho):
        self.rho, self.t = rho, 0
        if Shares.x is None or Shares.x.shape != rho.shape:
            Shares.x = torch.zeros_like(rho)


class InNumpy(Lazy):
    def push(self, x_t):
        t = self.t
        self.x[:, t] = x_t
        self.t = t + 1
        return torch.from_numpy((self.x[:, : t + 1].numpy() * self.rho.numpy()[:, t::-1]).sum(-1))


class KeepsBoth(PlainProduct):
    def __init__(self, D, L):
        self.x, self.rho = [], []

    def push(self, x_t, rho_t):
        self.x.append(x_t)
        self.rho.append(rho_t)
        return sum(x * rho for x, rho in zip(self.x, reversed(self.rho), strict=True))


def unclipped(L):
    return [Tile(n, range(n - (n & -n), n), range(n, n + (n & -n))) for n in range(1, L)]


def late(L):
    return [Tile(tile.step + 1, tile.inputs, tile.outputs) for tile in plain_schedule(L)]


WRONG = {
    "a schedule of columns in place of tiles": (
        (checks.check_tiles, lambda L: flashref.schedule(L, "eager")),
        "flashref's own tiling.schedule",
        False,
    ),
    "tiles that are not clipped": (
        (checks.check_schedule, unclipped),
        r"\(3\) is wrong.*\n- tiles reach beyond the positions .*: inputs \[0, 2\) to outputs \[2, 4\) at step 2",
        False,
    ),
    "tiles too late": (
        (checks.check_schedule, late),
        r"pairs too late \(1\): \(0, 1\): output 1 was given out before step 2",
        True,
    ),
    "tiles twice": (
        (checks.check_schedule, lambda L: plain_schedule(L) * 2),
        r"pairs repeated \(1\): \(0, 1\) 2 times",
        True,
    ),
    "no list": ((checks.check_schedule, lambda L: None), "returned None: is there a return", False),
    "tuples for tiles": ((checks.check_schedule, lambda L: [(1, 2)]), r"must hold flashref.Tile", False),
    "endless tiles": (
        (checks.check_schedule, lambda L: cycle([Tile(1, range(1), range(1, 2))])),
        "returns over",
        False,
    ),
    "a step by trial that is off": (
        (checks.check_steps, lambda j, t: t),
        r"\(0, 3\) must be 2 = 10 in binary, got 3",
        False,
    ),
    "the first U values": (
        (checks.check_tau, mistaken(twice, lambda U: 0, twice, same)),
        "the first U values were kept",
        True,
    ),
    "a circle of U": ((checks.check_tau, mistaken(same, lambda U: 0, same, same)), "a circle of U points", True),
    "half the taps": ((checks.check_tau, mistaken(same, same, twice, same)), "only the taps below U", True),
    "lags too small": ((checks.check_tau, mistaken(twice, lambda U: U - 1, four, same)), "one too small", True),
    "lags too large": ((checks.check_tau, mistaken(twice, lambda U: U + 1, four, same)), "one too large", True),
    "taps from the end": ((checks.check_tau, lambda x, rho: tau(x, rho.flip(-1))), "taken from the end", True),
    "not flipped": (
        (checks.check_tau, unflipped),
        r"U = 2, x = \[1, 0\].*\n.*lag 2: 12 expected, got 11: that is the tap of lag 1",
        True,
    ),
    "too many values": (
        (checks.check_tau, mistaken(twice, same, four, twice)),
        r"must return shape \(1, 1\), got \(1, 2\)",
        False,
    ),
    "hard-coded tiles": (
        (checks.check_tau, hard_coded),
        "Single ones come out right; at random numbers with U = 1",
        False,
    ),
    "an argument written to": ((checks.check_tau, writes), "changes its argument rho", False),
    "look-up of a tile": (
        (checks.check_tau, lambda x, rho: flashref.causal_conv(x, rho)),
        "own convolution.causal_conv",
        False,
    ),
    "4U points": (
        (checks.check_transforms, mistaken(twice, same, four, same)),
        "3 of 16 points. 2U = 8: the circle",
        False,
    ),
    "no FFT": ((checks.check_transforms, unflipped), r"makes no FFT at U = 4: it does 16 multiply-adds", False),
    "a spectrum each time": ((checks.check_kept_spectra, lambda rho: lambda x: tau(x, rho)), "2 are enough", False),
    "a tile left out": (
        (checks.check_online, Skips),
        r"wrong at L = 3, .* z_2 must be rho_2 = 12, got 0: the pair is missed",
        True,
    ),
    "an engine that does not flip": (
        (checks.check_online, engine_of(lambda taps, t, j: taps[:, j])),
        r"L = 2, .*lag 0.\nEvery x_j meets rho_j",
        True,
    ),
    "an engine that is late": (
        (checks.check_online, engine_of(lambda taps, t, j: taps[:, t - j - 1])),
        r"\nEverything comes a step late",
        True,
    ),
    "an engine with small lags": (
        (checks.check_online, engine_of(lambda taps, t, j: taps[:, max(t - j - 1, 0)])),
        r"\nBelow the red cells every lag is one too small",
        True,
    ),
    "an engine with large lags": (
        (checks.check_online, engine_of(lambda taps, t, j: taps[:, t - j + 1])),
        r"\nEvery lag is one too large",
        True,
    ),
    "no red cells": (
        (checks.check_online, engine_of(lambda taps, t, j: taps[:, t - j] * (t > j))),
        r"\nThe red cells are missing",
        True,
    ),
    "red cells twice": ((checks.check_online, engine_of(red_cells_twice)), r"\nThe red cells are there twice", True),
    "red cells only": (
        (checks.check_online, engine_of(lambda taps, t, j: taps[:, 0] * (t == j))),
        r"\nOnly the red cells are there",
        True,
    ),
    "an input kept by reference": (
        (checks.check_online, KeepsReference),
        "overwritten by its owner after the push",
        True,
    ),
    "a view given out": ((checks.check_online, GivesView), "an output changed after it was given out", False),
    "something shared": ((checks.check_online, Shares), "is something shared between them", False),
    "an engine looked up": (
        (checks.check_online, lambda rho: flashref.OnlineConvolution(rho)),
        "own engines.OnlineConvolution.__init__",
        False,
    ),
    "lazy for eager": ((checks.check_work, Lazy, "eager"), "step 141 of L = 256 does 142", True),
    "eager for relaxed": (
        (checks.check_work, Eager, "relaxed"),
        r"2,098,176 .* From L = 512 on it grew 16.0 times",
        True,
    ),
    "work out of sight": ((checks.check_work, InNumpy, "lazy"), "takes its numbers out of torch", False),
    "no base block": ((checks.check_base, Flash, 16), "makes small transforms at L = 2048: 2,049 of 2 points", False),
    "a long step": (
        (checks.check_longest_step, Flash),
        "Step 2047 may do 32,769 at most, 0.25 of relaxed",
        True,
    ),
    "two buffers": ((checks.check_single_buffer, Flash), "at L = 64: after step 17 it keeps 49 numbers", True),
    "an engine that forgets to begin again": (
        (checks.check_engine, Forgetful),
        "second generation, after reset",
        False,
    ),
    "no engine": ((checks.check_engine, Lazy), "must be a class derived from flashref.Mixer", False),
    "generate looked up": (
        (checks.check_generate, lambda *a: flashref.generate(*a)[0]),
        "own generation.generate",
        False,
    ),
    "tokens of anything": (
        (checks.check_generate, lambda model, prompt, n: torch.cat([prompt, prompt.new_zeros(n)])),
        r"token \d+ is",
        False,
    ),
    "a product that is plain": ((checks.check_product_work, PlainProduct), "at most 0.6 of that are allowed", False),
    "a product that keeps references": (
        (checks.check_product, KeepsBoth),
        "with single ones at x_0 and rho_0 only z_0 may be 1",
        True,
    ),
    "a count that is off": (
        (checks.check_cost, lambda L: L * L // 2, "pairs"),
        "for L = 2, .*: 3 counted, you predict 2",
        False,
    ),
    "no function": ((checks.check_tau, 3), "A function or a class is wanted here, got 3", False),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_answer_is_told_what_is_wrong_and_shown_where_a_picture_helps(case):
    (check, *arguments), words, picture = WRONG[case]
    with pytest.raises(checks.CheckFailed, match=words) as failed:
        check(*arguments)
    assert isinstance(failed.value.figure, Figure) == picture
    shown = failed.value._render_traceback_()
    assert " ".join(" ".join(shown).split()) == " ".join(f"Not yet. {failed.value}".split())
    assert all(len(line) <= 92 for line in shown)


@settings(max_examples=60)
@given(st.integers(2, 20), st.randoms(use_true_random=False))
def test_a_schedule_is_faulted_if_and_only_if_a_pair_is_not_taken_once_in_its_window(L, rng: random.Random):
    tiles = [[n, n - (n & -n), n, n, min(n + (n & -n), L)] for n in range(1, L)]
    for _ in range(rng.randrange(3)):
        tile = rng.choice(tiles)
        tile[rng.randrange(5)] += rng.choice([-1, 1])
    taken = {(j, t): [] for t in range(L) for j in range(t)}
    right = all(one[0] <= two[0] for one, two in pairwise(tiles))
    for step, a, b, c, d in tiles:
        right &= 0 <= a and b <= L and 0 <= c and d <= L
        for t in range(c, d):
            for j in range(a, b):
                taken.setdefault((j, t), []).append(step)
    right &= all(len(steps) == 1 and j < steps[0] <= t for (j, t), steps in taken.items())
    plain = [(step, a, max(a, b), c, max(c, d)) for step, a, b, c, d in tiles]
    assert (not _faults(plain, L)) == right


# The pictures. --------------------------------------------------------------------------------------------------


def cells_in(axes, part):
    colour = to_hex(figures.PARTS[part])
    return {patch.get_xy() for patch in axes.patches if to_hex(patch.get_facecolor()) == colour}


def texts_in(axes):
    return {tuple(int(v) for v in text.get_position()): text.get_text() for text in axes.texts if text.get_text()}


def test_the_picture_of_an_engine_marks_each_wrong_pair_and_no_other():
    taps = np.array([10.0, 11, 12, 13])
    found = np.array([[10.0, 0, 0, 0], [11, 10, 0, 0], [0, 22, 10, 5], [10, 12, 11, 10]])
    (axes,) = figures.pairs_of_engine(found, taps).axes
    assert texts_in(axes) == {(0, 2): "0", (1, 2): "2", (3, 2): "?", (0, 3): "ρ0"}
    assert cells_in(axes, "wrong") == set(texts_in(axes))
    assert cells_in(axes, "red_cell") == {(0, 0), (1, 1), (2, 2), (3, 3)}
    assert cells_in(axes, "gray_tile") == {(0, 1), (1, 3), (2, 3)}
    assert axes.get_title(loc="left") == "4 of the pairs of 4 positions are wrong"


def test_the_picture_of_a_tile_names_the_lag_of_each_pair():
    (axes,) = figures.lags_of_tile(np.array([[12.0, 0], [26, 11]]), np.array([10.0, 11, 12, 13])).axes
    assert texts_in(axes) == {(0, 0): "2", (1, 0): "none\nnot 1", (0, 1): "twice\nnot 3", (1, 1): "1\nnot 2"}
    assert cells_in(axes, "gray_tile") == {(0, 0)} and len(cells_in(axes, "wrong")) == 3


def test_the_pictures_of_work_show_what_was_counted():
    counted_work, need = np.array([1.0, 5, 2]), np.array([1.0, 2, 3])
    (axes,) = figures.work_of_steps(counted_work, need, "Mine", "lazy").axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[1, 2, 3], [1, 5, 2]]
    assert axes.get_title(loc="left") == "Step 1 of Mine does 5 multiply-adds, that of lazy 2"
    (axes,) = figures.work_so_far(counted_work, need, "Mine").axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[3, 5, 6], [1, 3, 6], [1, 6, 8]]
    for figure in (axes.figure, figures.work_of_steps(counted_work, need, "Mine", "lazy")):
        assert len(figures.as_png(figure)) > 5000


# The sandbox. ---------------------------------------------------------------------------------------------------


def forever():
    while True:
        pass


def forever_and_deaf():
    while True:
        try:
            forever()
        except BaseException:
            continue


@pytest.mark.parametrize(
    "job, words",
    [
        (forever, r"within 0.3 s, and was stopped in forever, line \d+"),
        (forever_and_deaf, r"within 0.3 s, and was stopped"),
        (lambda: time.sleep(60), r"within 0.3 s, and was stopped"),
        (lambda: os._exit(0), "ended its process before it had answered"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "ended its process by SIGSEGV"),
        (lambda: sys.exit(0), "ended with SystemExit"),
        (lambda: torch.zeros(2**32), "wanted more memory than it may have"),
        (lambda: bytearray(2**33), "wanted more memory than it may have"),
        (lambda: np.ones(2**31), "wanted more memory than it may have"),
        (lambda: 1 / 0, r"ZeroDivisionError in <lambda>.*\ndivision by zero"),
        (lambda: b"0" * 2**27, "larger than 64 MB"),
        (lambda: lambda: 0, "cannot be used"),
        (lambda: setattr(np, "convolve", np.correlate), "replaces np.convolve"),
        (lambda: setattr(torch.Tensor, "sum", None), "replaces torch.Tensor.sum"),
    ],
)
def test_whatever_a_job_does_ends_in_words_and_this_process_is_as_it_was(job, words):
    before = np.convolve, torch.Tensor.sum
    outcome = sandbox.run(job, seconds=0.3, megabytes=512)
    assert outcome.value is None
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(outcome.failure)
    assert (np.convolve, torch.Tensor.sum) == before


def test_a_job_sees_what_is_here_and_changes_nothing_of_it():
    numbers, tensor = [1, 2], torch.zeros(3)

    def job():
        numbers.append(3)
        tensor.fill_(7)
        return sum(numbers) + tensor.sum().item()

    assert sandbox.run(job).value == 27
    assert numbers == [1, 2] and tensor.sum() == 0


def test_an_interrupt_ends_the_wait_and_the_job():
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    began = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        sandbox.run(lambda: time.sleep(60), seconds=10)
    assert time.monotonic() - began < 10
    with pytest.raises(ChildProcessError):
        os.wait()


def test_a_job_that_is_slow_only_since_the_machine_is_busy_is_not_stopped():
    assert sandbox.run(lambda: time.sleep(0.6) or 1, seconds=0.3).value == 1


def test_where_no_process_can_be_forked_a_check_says_what_that_means(monkeypatch):
    monkeypatch.setattr(sandbox, "FORKS", False)
    with pytest.warns(UserWarning, match="memory is not bounded"):
        checks.check_tau(tau)


def test_megabytes_of_output_are_cut_and_counted(capfd):
    def job():
        print("x" * 10**7)
        sys.stderr.write("y" * 10**6)
        os.write(1, b"z" * 10**6)

    outcome = sandbox.run(job)
    assert outcome.printed == "x" * sandbox.KEPT and outcome.length == 11 * 10**6 + 1
    assert capfd.readouterr() == ("", "")


def test_what_an_answer_prints_is_shown_before_the_verdict(capsys):
    checks.check_cost(lambda L: print("asked", L) or L * (L + 1) // 2, "pairs")
    assert capsys.readouterr().out.startswith("<lambda> printed: asked 2\nasked 4")


def test_what_a_job_starts_ends_with_it():
    def job():
        return subprocess.Popen(["sleep", "600"]).pid

    pid = sandbox.run(job).value
    for _ in range(50):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except OSError:
            return
        time.sleep(0.1)
    pytest.fail("a process that the job had started is still there")


def test_after_many_threads_of_torch_a_job_still_multiplies():
    torch.set_num_threads(2)
    try:
        a = torch.randn(500, 500)
        a @ a
        assert sandbox.run(lambda: (a @ a).shape[0]).value == 500
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("fork", [True, False])
def test_a_solution_is_refused_under_whatever_name_and_even_if_the_refusal_is_caught(fork):
    held = flashref.schedule

    def job():
        try:
            return held(8)
        except BaseException:
            return "caught"

    assert "flashref's own tiling.schedule" in sandbox.run(job, fork=fork).failure
    assert sandbox.run(job, fork=fork, block=False).value == flashref.schedule(8)
    assert len(held(8)) == 7


def test_without_a_fork_a_loop_ends_too_and_a_replaced_function_is_put_back():
    assert "was stopped in forever" in sandbox.run(forever, seconds=0.3, fork=False).failure
    original = torch.fft.rfft
    outcome = sandbox.run(lambda: setattr(torch.fft, "rfft", None), fork=False)
    assert "replaces torch.fft.rfft" in outcome.failure and torch.fft.rfft is original


def test_a_function_that_a_notebook_has_replaced_is_named_and_put_back(capsys):
    original = torch.fft.irfft
    torch.fft.irfft = lambda *arguments: original(*arguments)
    with pytest.raises(checks.CheckFailed, match=r"replaces torch.fft.irfft"):
        checks.check_tau(tau)
    assert torch.fft.irfft is original
    checks.check_tau(tau)


def test_every_engine_schedule_and_tile_of_flashref_is_among_what_is_refused():
    refused = {f"{f.__module__}.{f.__qualname__}" for f in guards._solutions()}
    for name in ("tiling.schedule", "tiling.gray_tile", "tau.tau_fft", "convolution.causal_conv", "naive.Lazy._step",
                 "tiled_cpu.TiledCPU._advance", "engines.OnlineConvolution.push", "bounded.Bounded."):  # fmt: skip
        assert any(found.startswith(f"flashref.{name}") for found in refused), name


# Counting. ------------------------------------------------------------------------------------------------------


def test_multiply_adds_are_counted_whichever_way_torch_is_asked():
    a, b = torch.randn(6, 4), torch.randn(4, 5)
    for ask in (
        lambda: a @ b,
        lambda: torch.einsum("ij,jk->ik", a, b),
        lambda: (a[:, :, None] * b).sum(1),
        lambda: torch.nn.functional.linear(a, b.T),
        lambda: torch.addmm(torch.zeros(6, 5), a, b),
        lambda: [float(a[i, k]) for i in range(6) for k in range(4) for _ in range(5)],  # to be multiplied in Python
    ):
        with counted() as work:
            ask()
        assert work.multiply_adds == 6 * 4 * 5


def test_an_fft_costs_what_notebook_03_says_and_leaving_torch_is_noticed():
    x = torch.randn(3, 64)
    with counted() as work:
        torch.fft.irfft(torch.fft.rfft(x, 64), 64)
    assert work.transforms == {64: 6} and work.multiply_adds == 6 * 1.25 * 64 * 6
    with counted() as work:
        torch.fft.ifft(torch.fft.fft(torch.complex(x, x)))
    assert work.multiply_adds == 6 * 2.5 * 64 * 6
    with counted() as work:
        x.numpy()
        np.asarray(x)
        x.tolist()
    assert work.left >= 3
    assert "numpy" not in vars(torch.Tensor)
