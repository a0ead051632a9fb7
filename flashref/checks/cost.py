"""Checks of what an online convolution costs: multiply-adds of each step, and transforms; counted, never timed."""

from math import log2

import numpy as np
import torch

from flashref.checks.counts import count
from flashref.checks.feedback import attempt, fail, name_of, number
from flashref.checks.online import Online
from flashref.checks.work import Work, counted
from flashref.figures.checks import work_of_steps, work_so_far


def check_work(cls: type[Online], kind: str) -> None:
    """cls, right as check_online wants it, must do the work of its kind: "lazy", "eager" or "relaxed".

    Lazy does t+1 multiply-adds a channel at step t, eager L-t. Relaxed needs L log^2 L in all: at most twice what FFT
    tiles of every size cost, the filter's spectra included. Counted in torch's own kernels; never timed.
    """
    if kind not in ("lazy", "eager", "relaxed"):
        raise ValueError(f'kind must be "lazy", "eager" or "relaxed", got {kind!r}')
    if kind == "relaxed":
        _check_relaxed(cls)
        return
    L, name = 256, name_of(cls)
    got = work_per_step(cls, L)
    need = np.arange(1.0, L + 1) if kind == "lazy" else np.arange(float(L), 0, -1)
    picture = work_of_steps(got, need, name, kind)
    if got.sum() < 0.9 * need.sum() - L:
        fail(
            f"{name} does {number(got.sum())} multiply-adds in all, {kind} {number(need.sum())}: something else.",
            picture,
        )
    if (late := np.flatnonzero(got > 1.15 * need + 8)).size:
        t = int(late[0])
        fail(
            f"{name}: step {t} of L = {L} does {number(got[t])} multiply-adds a channel, where {kind} needs "
            f"{number(need[t])}. In all {number(got.sum())} against {number(need.sum())}.",
            picture,
        )
    print(f"Right: {number(got.sum())} multiply-adds a channel at L = {L}, as {kind} needs, step by step.")


def _check_relaxed(cls: type[Online], L: int = 2048) -> None:
    name = name_of(cls)
    short, got = work_per_step(cls, L // 4).sum(), work_per_step(cls, L)
    need, total, eager = relaxed_work(L), got.sum(), L * (L + 1) / 2
    said = (
        f"At L = {L} {name} does {number(total)} multiply-adds a channel; eager does {number(eager)}, tiles by FFT "
        f"{number(round(need.sum()))}."
    )
    if total > 2 * need.sum():
        growth = f" From L = {L // 4} on it grew {total / short:.1f} times; L^2 grows 16 times, L log^2 L about 6."
        fail(f"{said}{growth} Where is a long sum that an FFT could do?", work_so_far(got, need, name))
    print(f"Right: {said} That is {eager / total:.1f} times fewer than eager.")


def check_base(cls: type[Online], base: int) -> None:
    """cls, right as check_online wants it, must run no tile smaller than its base block: L/base - 1 tiles by FFT.

    Counted: at most three transforms a channel for each, none of fewer than 2*base points, and at most half as much
    work again as columns inside blocks and those tiles cost.
    """
    L, name = 2048, name_of(cls)
    work = _counted_run(cls, L)[1]
    made, tiles, enough = sum(work.transforms.values()), L // base - 1, count("hybrid", L, base)
    if small := [f"{number(times)} of {n} points" for n, times in sorted(work.transforms.items()) if n < 2 * base]:
        fail(
            f"{name} makes small transforms at L = {L}: {', '.join(small)} a channel. With a base of {base} the "
            f"smallest tile has U = {base}, and transforms of {2 * base} points."
        )
    if made > 3 * tiles:
        fail(
            f"{name} makes {number(made)} transforms a channel at L = {L}. With a base of {base} there are {tiles} "
            f"tiles: {2 * tiles} transforms, and one for each spectrum that is kept."
        )
    if work.multiply_adds > 1.5 * enough:
        fail(
            f"{name} does {number(round(work.multiply_adds))} multiply-adds a channel at L = {L}; with a base of "
            f"{base} {number(enough)} are enough. Does a column end with its block?"
        )
    print(f"Right: {number(made)} transforms a channel for {tiles} tiles at L = {L}.")


def work_per_step(cls: type[Online], L: int) -> np.ndarray:
    """Multiply-adds a channel of each push at length L, (L,); what the constructor does is added to the first."""
    return np.diff(_counted_run(cls, L)[0])


def relaxed_work(L: int) -> np.ndarray:
    """Multiply-adds a channel of each step, (L,): a red cell each, and the tile of U by FFT; spectra when first met."""
    need = np.ones(L)
    for n in range(1, L):
        U = n & -n
        transforms = 3 if n == U else 2
        need[n - 1] += transforms * 1.25 * 2 * U * log2(2 * U) + 4 * (U + 1)
    return need


def _counted_run(cls: type[Online], L: int) -> tuple[list[float], Work]:
    """The multiply-adds a channel before the first push and after each, and all work, a channel."""
    D = 2
    x, rho = torch.randn(L, D, dtype=torch.float64), torch.randn(D, L, dtype=torch.float64)

    def job() -> tuple[list[float], Work]:
        with counted() as work:
            done, online = [0.0], cls(rho)
            for x_t in x.unbind():
                online.push(x_t)
                done.append(work.multiply_adds / D)
        return done, work.per(D)

    done, work = attempt(cls, job)
    if work.left:
        fail(f"{name_of(cls)} {work.leaves}")
    return done, work
