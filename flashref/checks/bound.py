"""Checks of how the work of an online convolution is spread: its longest step, counted, beside all of its work."""

import numpy as np
import torch

from flashref.checks.cost import relaxed_work
from flashref.checks.counts import count
from flashref.checks.feedback import attempt, fail, name_of, number
from flashref.checks.online import Online
from flashref.checks.work import counted
from flashref.figures.checks import longest_steps


def check_longest_step(cls: type[Online], times: float = 0.25, work: float = 2.0, L: int = 4096) -> None:
    """No step of cls may do more than ``times`` the longest step of the relaxed schedule, nor all more than ``work``.

    Both in multiply-adds a channel, counted in torch's own kernels. The filter is known before the first step, so what
    the constructor does belongs to no step; it counts in all. Relaxed keeps its spectra: two transforms a tile.
    """
    made, steps = work_of_steps_and_before(cls, L)
    need, name = relaxed_steps(L), name_of(cls)
    allowed = int(times * need.max())
    t, total, relaxed = int(steps.argmax()), made + steps.sum(), count("relaxed", L) + count("spectra", L)
    said = (
        f"At L = {L} the longest step of {name} does {number(round(steps[t]))} multiply-adds a channel "
        f"({steps[t] / need.max():.3f} of relaxed's {number(round(need.max()))}), all together "
        f"{number(round(total))} ({total / relaxed:.2f} of relaxed's {number(round(relaxed))})"
    )
    if steps[t] > allowed:
        fail(
            f"{said}. Step {t} may do {number(allowed)} at most, {times:g} of relaxed's longest. What "
            "of its work was not due yet, or could have been done before?",
            longest_steps(steps, need, allowed, name),
        )
    if total > work * relaxed:
        fail(
            f"{said}. {work:g} times relaxed is allowed in all: short steps alone are not enough, eager has them, too.",
            longest_steps(steps, need, allowed, name),
        )
    print(f"Right: {said}.")


def work_of_steps_and_before(cls: type[Online], L: int) -> tuple[float, np.ndarray]:
    """Multiply-adds a channel that the constructor of cls makes, and those of each of L pushes, (L,); run apart."""
    D = 2
    x, rho = torch.randn(L, D, dtype=torch.float64), torch.randn(D, L, dtype=torch.float64)

    def job() -> tuple[list[float], int]:
        with counted() as work:
            online = cls(rho)
            done = [work.multiply_adds / D]
            for x_t in x.unbind():
                online.push(x_t)
                done.append(work.multiply_adds / D)
        return done, work

    done, work = attempt(cls, job, seconds=90)
    if work.left:
        fail(f"{name_of(cls)} {work.leaves}")
    return done[0], np.diff(done)


def relaxed_steps(L: int) -> np.ndarray:
    """Multiply-adds a channel of each step of the relaxed schedule, (L,), all spectra of the filter being there."""
    need, U = relaxed_work(L), 2 ** np.arange(max(0, (L - 1).bit_length()))
    need[U - 1] -= 2.5 * U * np.log2(2 * U)  # step n - 1 runs the tile of n, and n = U is the first of its size
    return need
