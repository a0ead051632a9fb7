"""The check of a tile as a Triton kernel: its values, the numbers that it touches, and in how many launches.

Triton exists on Linux. Its interpreter runs a kernel in NumPy, without a GPU, and is what these checks use.
"""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from flashref.checks.feedback import attempt, fail, fresh, name_of, number
from flashref.checks.online import Online, check_online
from flashref.checks.sandbox import Complaint
from flashref.checks.work import counted
from flashref.figures.checks import lags_of_tile

Launch = Callable[[Tensor, Tensor, int, int, int], None]
SUM = 100.0  # the partial sum that stands in the slots of the outputs
MARGIN = 2  # rows of poison above and below


def interpreted_triton() -> tuple[ModuleType | SimpleNamespace, ModuleType | SimpleNamespace]:
    """triton and triton.language, so that kernels decorated from now on run in the interpreter.

    Where Triton is not installed: stand-ins with which a kernel can be written down but not run. It says so.
    """
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when a function is decorated
    try:
        import triton
        import triton.language as tl
    except ImportError:
        print(
            "Triton is not installed here (it exists on Linux; there: pip install triton). You can write the kernels, "
            "but these checks cannot run them. They run where they are graded, or on a Linux machine of yours."
        )
        return SimpleNamespace(jit=lambda f: f, cdiv=lambda a, b: -(-a // b)), SimpleNamespace(constexpr=int)
    return triton, tl


@dataclass
class Case:
    """A tile: slots (C, S) and rho (C, K); U inputs in front of slot n go to q outputs from n on."""

    slots: Tensor
    rho: Tensor
    n: int
    U: int
    q: int
    got: np.ndarray | None = None

    @property
    def words(self) -> str:
        return f"C = {len(self.slots)}, U = {self.U}, q = {self.q}, n = {self.n}, S = {self.slots.shape[1]}"

    @property
    def want(self) -> np.ndarray:
        """What the slots of the outputs must hold, (C, q)."""
        x, rho = (a.double().numpy() for a in (self.slots[:, self.n - self.U : self.n], self.rho))
        add = [[x[c] @ rho[c, self.U + i : i : -1] for i in range(self.q)] for c in range(len(x))]
        return self.slots[:, self.n : self.n + self.q].double().numpy() + np.array(add)


def check_kernel(f: Launch, column: bool = False, seed: int | None = None) -> None:
    """f(slots (C, S), rho (C, K), n, U, q) must add the tile [n-U, n) -> [n, n+q) to slots, in place, by one launch.

    ``slots[c, n+i] += sum_{j < U} slots[c, n-U+j] * rho[c, U+i-j]``. Everything that belongs to no pair of the tile is
    NaN, so that a number taken from elsewhere shows. First single ones in small tiles, then random numbers in float64
    and float32, U and q of any size. column: f(slots, rho, n, q) is called instead, and U is 1.
    """
    rng = np.random.default_rng(fresh(seed))
    _demand_triton(f)
    if column:
        f = _as_tile(f)
    for U, q in [(1, 1), (1, 2), (1, 4), (1, 5)] if column else [(1, 1), (2, 2), (2, 1), (4, 4), (4, 3), (8, 8)]:
        cases = [_unit(U, q, j) for j in range(U)]
        _judge(f, cases, units=True)
    sizes = [(3, 1, 6), (4, 1, 16)] if column else [(2, 2, 2), (3, 4, 4), (2, 5, 3), (5, 16, 16), (2, 32, 19)]
    for C, U, q in sizes:
        _judge(f, [_random(rng, C, U, q, torch.float64), _random(rng, C, U, q, torch.float32)])
    _judge_launches(f, _random(rng, 3, 1 if column else 8, 8, torch.float64))
    print("Right: every pair of the tile, nothing beyond it, all channels in one launch.")


def check_kernel_engine(cls: type[Online]) -> None:
    """cls must be right as check_online wants it, and run every tile as one launch of a kernel; torch does the rest."""
    _demand_triton(cls)
    check_online(cls, longest=40)
    L = 16

    def job() -> tuple[int, float]:
        online = cls(torch.ones(1, L))
        return _launches_and_work(lambda: [online.push(torch.ones(1)) for _ in range(L)])

    launches, by_torch = attempt(cls, job)
    if launches != L - 1 or by_torch > L:
        fail(
            f"{name_of(cls)} launches {launches} kernels at L = {L}, and torch makes {number(by_torch)} multiply-adds "
            f"a channel. There are {L - 1} tiles, each a launch, and {L} red cells for torch."
        )
    print(f"Right: {launches} launches for the {L - 1} tiles of L = {L}.")


def _as_tile(column: Callable[[Tensor, Tensor, int, int], None]) -> Launch:
    @functools.wraps(column)
    def tile(slots: Tensor, rho: Tensor, n: int, U: int, q: int) -> None:
        column(slots, rho, n, q)

    return tile


def _demand_triton(f: Launch) -> None:
    try:
        import triton  # noqa: F401
    except ImportError:
        fail(f"{name_of(f)} was not run: Triton is not installed here. It is graded where Triton is.")
    if not callable(f):
        fail(f"A function is wanted here, got {f!r:.60}.")


def _tile(C: int, U: int, q: int, dtype: torch.dtype) -> Case:
    """All of it poison, except for partial sums in the slots of the outputs."""
    n, S, K = U + 2, U + q + 5, U + q + 3
    slots, rho = (torch.full((C + 2 * MARGIN, size), torch.nan, dtype=dtype)[MARGIN:-MARGIN] for size in (S, K))
    slots[:, n : n + q] = SUM
    return Case(slots, rho, n, U, q)


def _unit(U: int, q: int, j: int) -> Case:
    case = _tile(1, U, q, torch.float64)
    case.slots[:, case.n - U : case.n] = torch.eye(U)[j]
    case.rho[:, 1 : U + q] = 10.0 + torch.arange(1, U + q)
    return case


def _random(rng: np.random.Generator, C: int, U: int, q: int, dtype: torch.dtype) -> Case:
    case = _tile(C, U, q, dtype)
    case.slots[:, case.n - U : case.n + q] = torch.from_numpy(rng.standard_normal((C, U + q)))
    case.rho[:, 1 : U + q] = torch.from_numpy(rng.standard_normal((C, U + q - 1)))
    return case


def _run(f: Launch, case: Case) -> np.ndarray:
    """The slots of the outputs after f, once nothing else is seen to have changed."""
    memory = [_copy_with_margins(a) for a in (case.slots, case.rho)]
    slots, rho = (m[MARGIN:-MARGIN] for m in memory)
    try:
        f(slots, rho, case.n, case.U, case.q)
    except Exception as error:
        error.add_note(f"with {case.words}")
        raise
    own = slice(case.n, case.n + case.q)
    got = slots[:, own].double().numpy().copy()
    slots[:, own] = case.slots[:, own]
    for name, after, before in (("slots", memory[0], case.slots), ("rho", memory[1], case.rho)):
        before = _copy_with_margins(before)
        changed = ~((after == before) | (after.isnan() & before.isnan()))
        if changed.any():
            c, at = (changed.nonzero()[0] - torch.tensor([MARGIN, 0])).tolist()
            where = f"{name}[{c}, {at}]" if 0 <= c < len(case.slots) else f"memory outside of {name}"
            raise Complaint(
                f"With {case.words} it writes to {where}. Only slots[:, {case.n}:{case.n + case.q}] may change: is the "
                "store masked, and does it begin at slot n of its own channel?"
            )
    return got


def _copy_with_margins(a: Tensor) -> Tensor:
    memory = torch.full((len(a) + 2 * MARGIN, a.shape[1]), torch.nan, dtype=a.dtype)
    memory[MARGIN:-MARGIN] = a
    return memory


def _judge(f: Launch, cases: list[Case], units: bool = False) -> None:
    for case, got in zip(cases, attempt(f, lambda: [_run(f, one) for one in cases]), strict=True):
        case.got = got
    for case in cases:
        digits = 1e-9 if case.slots.dtype == torch.float64 else 1e-4
        wrong = ~(np.abs(case.got - case.want) <= digits * max(1, np.abs(case.want).max()))
        if not wrong.any():
            continue
        c, i = map(int, np.argwhere(wrong)[0])
        figure = None
        if units and case.U == case.q > 1:
            figure = lags_of_tile(np.stack([one.got[0] - SUM for one in cases], -1), 10.0 + np.arange(2 * case.U))
        told = _tell_unit(case, i) if units else _tell(case, c, i)
        fail(f"{name_of(f)} is wrong with {case.words}, {told}", figure)


def _tell_unit(case: Case, i: int) -> str:
    j, got, want = int(case.slots[0, case.n - case.U : case.n].argmax()), case.got[0, i], case.want[0, i]
    lag = case.U + i - j
    said = (
        f"the smallest of the tiles tried that fails: a single 1 at input {j} (slot {case.n - case.U + j}), rho_k = "
        f"10 + k, and {SUM:g} in every slot of the outputs. Slot n + {i} must become {SUM:g} + {10 + lag} = "
        f"{number(want)}, got {number(round(got, 6))}: "
    )
    taps = {10.0 + k: k for k in range(1, case.U + case.q)}
    if np.isnan(got):
        return said + "it took a number that belongs to no pair of the tile. Which slots and which taps are loaded?"
    if got == SUM:
        return said + "nothing was added there."
    if got in taps or got == 0:
        return said + "the partial sum that was there is lost. Load it, add, and store."
    if got - SUM in taps:
        return said + f"that is the tap of lag {taps[got - SUM]}, and the lag of this pair is {lag}."
    return said + "that is no tap."


def _tell(case: Case, c: int, i: int) -> str:
    got, want = case.got[c, i], case.want[c, i]
    said = f"random numbers: slots[{c}, n + {i}] must become {want:.9g}, got {got:.9g}"
    if np.isnan(got):
        return said + ". It took a number that belongs to no pair of the tile: is a load without its mask?"
    if c and abs(got - want) > 1e-3:
        return said + f". Channel 0 is right: where in memory do slots and taps of channel {c} begin?"
    if abs(got - want) < 1e-4:
        return said + ". That has the digits of float32: sum in the dtype of the slots, slots.dtype.element_ty."
    return said + "."


def _judge_launches(f: Launch, case: Case) -> None:
    slots = _copy_with_margins(case.slots)[MARGIN:-MARGIN]
    launches, by_torch = attempt(f, lambda: _launches_and_work(lambda: f(slots, case.rho, case.n, case.U, case.q)))
    if by_torch:
        fail(f"{name_of(f)} has torch make {number(by_torch)} multiply-adds: all of them belong into the kernel.")
    if launches != 1:
        fail(
            f"{name_of(f)} launches {launches} kernels for {len(slots)} channels. One will do, with a program for each."
        )


def _launches_and_work(run: Callable[[], object]) -> tuple[int, float]:
    """How many kernels are launched in the interpreter while this runs, and the multiply-adds that torch makes."""
    from triton.runtime import interpreter

    launches, launch = [], interpreter.GridExecutor.__call__

    def counting(*args, **kwargs):
        launches.append(1)
        return launch(*args, **kwargs)

    interpreter.GridExecutor.__call__ = counting
    try:
        with counted() as work:
            run()
    finally:
        interpreter.GridExecutor.__call__ = launch
    return len(launches), work.multiply_adds
