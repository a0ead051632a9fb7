"""Several engines in turns: how long each takes when all suffer the same interruptions, and how much each holds."""

from collections.abc import Callable, Hashable, Mapping
from statistics import median
from time import perf_counter

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flashref.bench_runs import MixerRun, ModelRun, Run
from flashref.hyena import Hyena
from flashref.memory import bytes_held
from flashref.mixer import Mixer

TURN = 128  # positions that one engine runs before it is the next one's turn

Makers = Mapping[str, Callable[[Tensor, int], Mixer]]


@torch.inference_mode()
def time_in_turns(runs: Mapping[Hashable, Run], L: Mapping[Hashable, int], repeats: int = 1) -> dict[Hashable, float]:
    """Seconds of the L positions of each run: all in turns of 128 positions, of each turn the median over the repeats.

    A shorter run's turns are spread evenly over those of the longest, so that a busy minute slows all alike.
    """
    begins = {name: range(0, L[name], TURN) for name in runs}
    seconds: dict[Hashable, list[list[float]]] = {name: [[] for _ in begins[name]] for name in runs}
    rounds = max(map(len, begins.values()))
    for _ in range(repeats):
        for run in runs.values():
            run.start(0)
        for i in range(rounds):
            for name, run in runs.items():
                turns = len(begins[name])
                turn = i * turns // rounds
                if turn == (i + 1) * turns // rounds:
                    continue  # not in this round
                start = perf_counter()
                for t in range(begins[name][turn], min(begins[name][turn] + TURN, L[name])):
                    run.step(t)
                seconds[name][turn].append(perf_counter() - start)
    return {name: sum(map(median, turns)) for name, turns in seconds.items()}


def mixer_runs(makers: Makers, filters: Float[Tensor, "M D L"]) -> dict[str, MixerRun]:
    """The mixers alone, of every engine, one sequence."""
    rows = torch.randn(512, len(filters), 1, filters.shape[1], generator=torch.Generator().manual_seed(0))
    return {name: MixerRun(make(filters, 1), rows) for name, make in makers.items()}


def model_runs(makers: Makers, model: Hyena, tokens: Int[Tensor, "1 L"]) -> dict[str, ModelRun]:
    """The whole model, one sequence, which reads the tokens and chooses the likeliest next one at every position."""
    filters = model.filters(tokens.shape[1]).detach()
    return {name: ModelRun(model, make(filters, 1), tokens, choose=True) for name, make in makers.items()}


def memory(make: Callable[[Tensor, int], Mixer], mixer: Mixer) -> tuple[int, int]:
    """Bytes beside the filters of a mixer that has run: for all sequences, and for each. Work space not included."""
    filters = mixer.filters
    one, two = (_first_step(make(filters, B)) for B in (1, 2))
    each = bytes_held(two) - bytes_held(one)
    return bytes_held(mixer) - each, each


def _first_step(mixer: Mixer) -> Mixer:
    for m in range(len(mixer.filters)):
        mixer.step(m, mixer.filters.new_zeros(mixer.batch_size, mixer.filters.shape[1]))
    return mixer
