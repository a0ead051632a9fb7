"""The general framework: which mixers can run online by tiles, and the algorithm that runs them.

A mixer has P1, contribution based, if z_t = read(agg_{j<=t} cont(j, t)) with agg associative; it has P2, query
independent, if cont(j, t) depends on no input after j. With both, every tile of the relaxed schedule can be aggregated
as soon as its inputs are known, whatever an aggregate is. From: Oncescu et al. 2025, the part "and Beyond".
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Generic, TypeVar

import numpy as np
from torch import Tensor

from flashref.tiling import check_count, schedule

X, A, Z = TypeVar("X"), TypeVar("A"), TypeVar("Z")  # an input, an aggregate, an output: of any type


class PropertyError(ValueError):
    """A mixer lacks what the tiling needs: ``property`` is "P1", "P2" or "tile" (of a tile that is not its cont)."""

    def __init__(self, property: str, message: str) -> None:
        super().__init__(message)
        self.property = property


class Known(Sequence[X]):
    """Inputs, of which those up to position ``last`` may be read; whoever reads a later one is refused."""

    def __init__(self, inputs: Sequence[X], last: int) -> None:
        self._inputs, self._last = inputs, last

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, i: int | slice) -> X | Sequence[X]:
        if isinstance(i, slice):
            read = range(len(self))[i]
            latest = max(read, default=-1)
            if i.stop is not None and i.stop > len(self):  # a list would cut it: here somebody wants what is not there
                latest = max(latest, i.stop - 1)
        else:
            latest = i if i >= 0 else len(self) + i
        if latest > self._last:
            raise PropertyError("P2", f"P2 (query independent) is lacking: input {latest} is read after {self._last}")
        return self._inputs[i]

    def __iter__(self) -> Iterator[X]:
        return (self[i] for i in range(len(self)))


class ContributionMixer(ABC, Generic[X, A, Z]):
    """A mixer as cont, agg and read: ``z_t = read(cont(0, t) agg cont(1, t) agg ... agg cont(t, t))``.

    Aggregates may be of any type: numbers, tensors, tuples of them, strings. agg must be associative; it need not
    commute, and needs no neutral element. No method may change its arguments.
    """

    @abstractmethod
    def cont(self, x: Sequence[X], j: int, t: int) -> A:
        """What input j contributes to output t, j <= t. P2: it reads x[0] .. x[j] and no later input."""

    @abstractmethod
    def agg(self, earlier: A, later: A) -> A:
        """Two aggregates in one, the earlier inputs' on the left. P1: associative."""

    def read(self, x: Sequence[X], t: int, total: A) -> Z:
        """z_t from the aggregate of all j <= t. It runs at step t, so it may read x[t], too."""
        return total

    def tile(self, x: Sequence[X], inputs: range, outputs: range) -> Sequence[A]:
        """The paper's routine A: for each output the aggregate over the inputs, which end right before the outputs.

        A tile of the schedule has at most as many outputs as inputs; that of a prompt has all that are left. This one
        makes T(U) = U^2 calls of cont for U inputs and U outputs. Override it if you know a faster way.
        """
        # Known: cont is shown what P2 lets it read, and nothing else.
        return [reduce(self.agg, (self.cont(Known(x, j), j, t) for j in inputs)) for t in outputs]


class Online(Generic[X, A, Z]):
    """A mixer that has P1 and P2, one input at a time: ``push(x_t)`` answers with z_t, exactly, up to ``length`` times.

    base: size of the blocks in which every step calls cont up to the block's end; the tiles above go to mixer.tile.

    All pushes together cost ``sum_q L/2^(q+1) T(2^q)`` in tiles for L = 2^k and base 1 (with T(U) = U^2 as much as the
    plain sum, L(L-1)/2; with T(U) = c U log U the total is O(L log^2 L)), plus L red cells, plus L/2 log2(L) calls of
    agg that join them. The tiles of one output arrive in the order of their inputs (a tile's inputs end
    at the step at which it runs), so agg need not commute. Memory: L inputs and at most L aggregates.
    """

    def __init__(self, mixer: ContributionMixer[X, A, Z], length: int, base: int = 1) -> None:
        if not isinstance(mixer, ContributionMixer):
            raise TypeError(f"mixer must be a ContributionMixer, got {type(mixer).__name__}")
        check_count("length", length, 0)
        check_count("base", base, 1)
        self.mixer, self.length, self.base = mixer, length, base
        self.reset()

    def reset(self) -> None:
        """Forget every input."""
        self._begin([], {})

    def _begin(self, x: list[X], sums: dict[int, A]) -> None:
        self._x, self._sums, self._start = x, sums, len(x)
        self._tiles = schedule(self.length - len(x), base=self.base)  # one tile for each step

    @property
    def position(self) -> int:
        """How many inputs are known."""
        return len(self._x)

    def prefill(self, prompt: Sequence[X]) -> list[Z]:
        """The outputs on a prompt of P inputs, before any push; one tile carries it to all later outputs.

        Costs what P pushes cost and a tile of P inputs and L-P outputs. Raises ValueError after a push or a prefill,
        or for P > length.
        """
        P, L = len(prompt), self.length
        if self.position:
            raise ValueError(f"a prompt comes before any input, and {self.position} are known: reset() starts again")
        if P > L:
            raise ValueError(f"the prompt must have at most length = {L} inputs, got {P}")
        inner = Online(self.mixer, P, self.base)
        z = [inner.push(x_t) for x_t in prompt]
        later = self._tile(inner._x, range(P), range(P, L), fast=True) if 0 < P < L else []
        self._begin(inner._x, dict(zip(range(P, L), later, strict=False)))
        return z

    def push(self, x_t: X) -> Z:
        """z_t for the next input. A refused call changes nothing.

        Raises ValueError when ``length`` inputs are known, and PropertyError where cont asks for an input after j.
        """
        t, mixer = self.position, self.mixer
        if t == self.length:
            raise ValueError(f"length is {t} and as many inputs are known: reset(), or make an Online that is longer")
        self._x.append(_copy(x_t))
        try:
            known = Known(self._x, t)
            z_t = _copy(mixer.read(known, t, self._joined(t, mixer.cont(known, t, t))))  # the red cell
            ahead = self._run_tile(t + 1)
        except BaseException:
            self._x.pop()
            raise
        self._sums.pop(t, None)
        self._sums.update(ahead)
        return z_t

    def _run_tile(self, n: int) -> dict[int, A]:
        """The sums that change when n inputs are known."""
        if n == self.length:
            return {}
        first = self._start
        tile = self._tiles[n - first - 1]
        inputs, outputs = (range(r.start + first, r.stop + first) for r in (tile.inputs, tile.outputs))
        new = self._tile(self._x, inputs, outputs, fast=(n - first) % self.base == 0)
        return {t: self._joined(t, a) for t, a in zip(outputs, new, strict=True)}

    def _joined(self, t: int, later: A) -> A:
        return self.mixer.agg(self._sums[t], later) if t in self._sums else later

    def _tile(self, x: list[X], inputs: range, outputs: range, fast: bool) -> Sequence[A]:
        if not fast:
            return ContributionMixer.tile(self.mixer, x, inputs, outputs)
        new = self.mixer.tile(Known(x, inputs[-1]), inputs, outputs)
        if len(new) != len(outputs):
            name = type(self.mixer).__name__
            raise ValueError(f"{name}.tile must return {len(outputs)} aggregates, one for each output, got {len(new)}")
        return new


def offline(mixer: ContributionMixer[X, A, Z], x: Sequence[X]) -> list[Z]:
    """The definition, with all inputs known: L(L+1)/2 calls of cont. It asks for P1 only."""
    rows = (reduce(mixer.agg, (mixer.cont(x, j, t) for j in range(t + 1))) for t in range(len(x)))
    return [mixer.read(x, t, total) for t, total in enumerate(rows)]


def _copy(value: object) -> object:
    """What is kept must not change when the caller reuses a buffer."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    return type(value)(map(_copy, value)) if type(value) in (tuple, list) else value
