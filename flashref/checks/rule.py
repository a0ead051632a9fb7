"""The check of a rule for the product of two online series: which values meet which when n of both are known?"""

from collections import Counter
from collections.abc import Callable

from flashref.checks.feedback import attempt, fail, name_of, some
from flashref.checks.sandbox import Complaint
from flashref.figures.checks import pairs_of_product

Step = tuple[range, range, range]  # inputs, lags, outputs


def check_product_rule(f: Callable[[int, int], Step]) -> None:
    """f(n, L) must say what meets at step n, 1 <= n < L, n values of both series being known: inputs, lags, outputs.

    Three ranges: x[inputs] meets rho[lags] and rho[inputs] meets x[lags], once only where both are the same range; of
    these pairs (j, k) those count with j + k in outputs. Over all steps each pair with j, k >= 1 and j + k < L must be
    taken once, when both are known and z_{j+k} is not due yet. At a step that is no power of two the rule must be the
    relaxed one, by sizes. The shortest L that fails is reported, and drawn.
    """
    lengths = [*range(1, 18), 32, 45]

    def job() -> dict[int, list[Step]]:
        return {L: [_plain(f(n, L), f"{name_of(f)}({n}, {L})") for n in range(1, L)] for L in lengths}

    found = attempt(f, job)
    wrong = {L: faults for L, steps in found.items() if (faults := _faults(steps, L))[0]}
    if wrong:
        L = min(wrong)
        shown = next((n for n in wrong if n >= 8), L)
        also = f"\nThe picture shows L = {shown}." if shown != L else ""
        fail(
            f"{name_of(f)} is wrong at L = {L}, the shortest of the lengths tried. A pair (j, k) is x_j * rho_k:\n"
            + "\n".join(wrong[L][0])
            + also,
            pairs_of_product(wrong[shown][1], shown),
        )
    for n, step in enumerate(found[45], 1):
        U = n & -n
        if min(map(len, step)) < min(U - (n == U), 45 - n):
            p, k, q = map(len, step)
            fail(
                f"{name_of(f)} takes every pair once and in time, but in pieces too thin for an FFT: at L = 45 and "
                f"step {n}, U = {U}, {p} values meet {k} lags for {q} outputs. Take U outputs at a time."
            )
    print(f"Right: every pair once and in time, for {len(lengths)} lengths up to {lengths[-1]}, in relaxed tiles.")


def _faults(steps: list[Step], L: int) -> tuple[list[str], dict[tuple[int, int], str]]:
    """A line for each kind of fault, and a mark for each pair that is wrong: how often it is taken, or < or >."""
    early, late, taken = {}, {}, Counter()
    for n, step in enumerate(steps, 1):
        for j, k in _pairs(*step):
            taken[j, k] += 1
            if max(j, k) >= n:
                early[j, k] = n
            elif j + k < n:
                late[j, k] = n
    due = {(j, k) for j in range(1, L) for k in range(1, L - j)}
    twice = {pair: times for pair, times in taken.items() if times > 1}
    kinds = {
        "missed": [f"({j}, {k})" for j, k in sorted(due - set(taken))],
        "taken more than once": [f"({j}, {k}) {times} times" for (j, k), times in sorted(twice.items())],
        "before both are known": [f"({j}, {k}) at step {n}" for (j, k), n in early.items()],
        "after their output was given out": [f"({j}, {k}) at step {n}" for (j, k), n in late.items()],
        "that are red cells or lie beyond L": [f"({j}, {k})" for j, k in sorted(set(taken) - due)],
    }
    marks = {pair: str(taken[pair]) for pair in {*(set(taken) ^ due), *twice}}
    marks |= dict.fromkeys(early, "<") | dict.fromkeys(late, ">")
    return [f"- pairs {kind}: {some(pairs)}" for kind, pairs in kinds.items() if pairs], marks


def _plain(answer: object, call: str) -> Step:
    if answer is None:
        raise Complaint(f"{call} returned None: is there a return?")
    if not isinstance(answer, tuple | list) or len(answer) != 3 or any(not isinstance(r, range) for r in answer):
        raise Complaint(f"{call} must return three ranges, (inputs, lags, outputs), got {answer!r:.120}.")
    if any(r.step != 1 or r.start < 0 or r.stop > 10**4 for r in answer):
        raise Complaint(f"{call} must return ranges of values from 0 on, one by one, got {answer!r:.120}.")
    return tuple(answer)


def _pairs(inputs: range, lags: range, outputs: range) -> list[tuple[int, int]]:
    one = [(j, k) for j in inputs for k in lags if j + k in outputs]
    return one if inputs == lags else one + [(k, j) for j, k in one]
