"""What is measured and how: mixers alone, whole models, the bounds of both, prompts, and one offline convolution.

All engines run in one process on the same inputs and in turns of 1024 positions, so that a slow minute of the machine
slows all alike. What they answer is compared while they are timed, with the offline truth (mixers) or with each other
(models); a run whose engines disagree raises. Where lazy or eager would take too long, windows of positions are timed
between the others' turns, each behind a prompt made by FFT, and the record says so; where both are possible, both are
recorded. A GPU's memory does not hold all engines at once: there the windows come last, for one engine after another.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from flashref.bench_runs import (
    BlockRun,
    MixerBlockRun,
    MixerRun,
    ModelRun,
    NoMixer,
    Run,
    counted_per_position,
    synchronise,
    time_forward,
    time_offline,
    time_prefill,
    time_tiles,
)
from flashref.config import HyenaConfig
from flashref.convolution import causal_conv
from flashref.engines import make_mixer
from flashref.graphs import BLOCK_ENGINES
from flashref.hyena import Hyena
from flashref.mixer import Mixer
from flashref.tiled_cpu import TiledCPU

# Positions that one engine runs before it is the next one's turn: short against a slow minute of the machine, and long
# against the time in which an engine finds its data in the cache again.
TURN = 1024
WINDOWS = 8  # of a sampled run, spread evenly
BINS = 64  # of the curve that a record keeps
TOLERANCE = 1e-3  # float32, relative to the largest output
NAIVE, BOUND = ("lazy", "eager"), "none"


class EnginesDisagree(Exception):
    """An engine answered something else than the truth while it was timed: its times are worth nothing."""


@dataclass(frozen=True)
class Setting:
    """M layers of an order-N Hyena, (N-1)*M mixers, with D channels, B sequences and L positions, and how to run it.

    repeats: of each measurement, the median counts. naive_in_full: up to this L lazy and eager run every position, and
    are sampled too from 1024 on, to check the sampling; with 0 they are left out. models: whole models too.
    """

    L: int
    M: int = 4
    D: int = 256
    B: int = 1
    order: int = 2
    repeats: int = 3
    naive_in_full: int = 8192
    models: bool = True

    @property
    def mixers(self) -> int:
        return self.M * (self.order - 1)


GROWTH = tuple(Setting(2**k, D=64, repeats=3, naive_in_full=0, models=False) for k in range(10, 19))
WIDE = (  # more sequences, a higher order, more layers and channels
    Setting(8192, B=8, repeats=1, naive_in_full=2048),
    Setting(8192, B=32, repeats=1, naive_in_full=2048),
    Setting(8192, order=3, repeats=1, naive_in_full=2048),
    Setting(16384, M=12, D=768, repeats=1, naive_in_full=2048, models=False),  # a token takes some 20 ms there
)
PRESETS = {
    "cpu": {
        "quick": (Setting(1024, repeats=1), Setting(4096, repeats=1, naive_in_full=2048)),
        "standard": (Setting(2048), Setting(8192), Setting(32768, repeats=1)),
        "paper": (
            Setting(8192),
            *GROWTH,
            Setting(32768, repeats=1, naive_in_full=32768),
            Setting(131072, repeats=1),
        ),
        "wide": WIDE,
    },
    "cuda": {
        "quick": (Setting(4096, repeats=1, naive_in_full=2048),),
        "standard": (Setting(8192), Setting(32768, repeats=1)),
        "paper": (
            *(Setting(131072, M=18, D=768, B=B, repeats=1, naive_in_full=2048) for B in (1, 4, 8)),
            *GROWTH,
        ),
        "wide": tuple(Setting(131072, M=18, D=768, B=B, repeats=1, naive_in_full=2048) for B in (4, 8)),
    },
}


@dataclass
class Record:
    """One measurement. seconds: for all L positions, the median of ``runs``. M mixers, D channels, B sequences.

    kind: "mixer", "end_to_end", "blocks_only" (the model without its mixers), "tiles" (all gray tiles, no steps),
    "offline" (one FFT convolution of the same data), "prefill" (a prompt of L/2 into filters of L), "forward" (the
    model on that prompt, its filters at hand, nothing kept). step: of the time per position in microseconds the median,
    the 99th percentile and the longest, of the last run; empty on a GPU, where one call launches a block of them.
    curve: per part of the positions where it ends, the mean and the longest, in microseconds. per_position: real
    multiply-adds, FFT points and bytes moved per channel, counted from the schedule, not measured. base: the block's
    size, 0 where there is none.
    """

    kind: str
    engine: str
    device: str
    dtype: str
    M: int
    D: int
    B: int
    L: int
    order: int
    seconds: float
    extrapolated: bool
    runs: list[float] = field(default_factory=list)
    step: dict[str, float] = field(default_factory=dict)
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    per_position: dict[str, float] = field(default_factory=dict)
    base: int = 0


class Window(NamedTuple):
    """Positions that stand for all around them: seconds for one of them, the last one, and what came out of it."""

    seconds: float
    last: int
    out: Tensor


def measure(
    settings: Sequence[Setting], engines: Sequence[str], device: str = "cpu", progress: bool = True
) -> Iterator[list[Record]]:
    """Every kind of measurement, in float32, for every engine: yields the records of one setting after another.

    A mixer is made once, runs its tiles once for the spectra, which no timed run then pays for, and is reset between
    its repeats. Raises EnginesDisagree.
    """
    with tqdm(total=len(settings), unit="setting", disable=None if progress else True) as bar, torch.random.fork_rng():
        for setting in settings:
            bar.set_postfix_str(f"L={setting.L} M={setting.M} D={setting.D} B={setting.B}")
            torch.manual_seed(setting.L)
            here = [engine for engine in engines if engine not in NAIVE or setting.naive_in_full]
            records = _measure_mixers(setting, here, device, bar)
            if setting.models:
                records += _measure_models(setting, here, device, bar)
            bar.update()
            yield records


def _measure_mixers(setting: Setting, engines: Sequence[str], device: str, bar: tqdm) -> list[Record]:
    M, D, B, L = setting.mixers, setting.D, setting.B, setting.L
    filters = torch.randn(M, D, L, device=device) * torch.linspace(0, -6, L, device=device).exp() / L**0.5
    rows = torch.randn(64, M, B, D, device=device)
    tiles = []

    def make(engine: str) -> Run:
        mixer = make_mixer(engine, filters, B)
        if isinstance(mixer, TiledCPU):
            tiles.append(_timed("tiles", engine, setting, device, partial(time_tiles, mixer)))
        return (MixerBlockRun if isinstance(mixer, BLOCK_ENGINES) else MixerRun)(mixer, rows)

    makers = {engine: partial(make, engine) for engine in engines}
    records = _in_turns("mixer", setting, makers, device, bar, _mixers(filters, rows)) + tiles
    records.append(_timed("offline", "fft", setting, device, lambda: time_offline(filters, B)))
    return records


def _measure_models(setting: Setting, engines: Sequence[str], device: str, bar: tqdm) -> list[Record]:
    M, D, B, L = setting.M, setting.D, setting.B, setting.L
    config = HyenaConfig(d_model=D, n_layer=M, d_inner=4 * D, vocab_size=256, l_max=L, order=setting.order)
    model = Hyena(config).eval().to(device)
    tokens = torch.randint(256, (B, L), device=device)
    with torch.no_grad():
        filters = model.filters(L)
    in_blocks = torch.device(device).type == "cuda" or "tiled_gpu" in engines
    prompt = tokens[:, : max(1, L // 2)]
    prompts = []

    def make(engine: str) -> Run:
        mixer = make_mixer(engine, filters, B)
        if isinstance(mixer, TiledCPU):
            time_tiles(mixer)
            prompts.append(_timed("prefill", engine, setting, device, partial(time_prefill, model, mixer, prompt)))
        if isinstance(mixer, BLOCK_ENGINES):
            return BlockRun(model, mixer, tokens)
        return ModelRun(model, mixer, tokens, choose=in_blocks)

    def make_bound() -> Run:
        if in_blocks:
            return BlockRun(model, make_mixer("tiled_gpu", filters, B), tokens, mixers=False)
        return ModelRun(model, NoMixer(filters, B), tokens)

    makers = {engine: partial(make, engine) for engine in engines} | {BOUND: make_bound}
    records = _in_turns("end_to_end", setting, makers, device, bar, {})
    for record in records:
        if record.engine == BOUND:
            record.kind = "blocks_only"
    seconds = partial(time_forward, model, filters, prompt)
    return [*records, *prompts, _timed("forward", "fft", setting, device, seconds)]


def _timed(kind: str, engine: str, setting: Setting, device: str, run: Callable[[], float]) -> Record:
    """A measurement that is one call: run once to warm up, then at least three times."""
    with torch.inference_mode():
        run()
        return _record(kind, engine, setting, device, [run() for _ in range(max(3, setting.repeats))])


def _record(kind: str, engine: str, setting: Setting, device: str, runs: list[float], **more: Any) -> Record:
    where = (str(torch.device(device)), "float32", setting.mixers, setting.D, setting.B, setting.L, setting.order)
    more.setdefault("extrapolated", False)
    return Record(kind, engine, *where, seconds=statistics.median(runs), runs=runs, **more)


# Runs in turns. --------------------------------------------------------------------------------------------------


@torch.inference_mode()
def _in_turns(
    kind: str,
    setting: Setting,
    makers: Mapping[str, Callable[[], Run]],
    device: str,
    bar: tqdm,
    truth: dict[int, Tensor],
) -> list[Record]:
    """Every engine at every position, or, lazy and eager beyond what they run in full, in windows."""
    L, ends, cuda = setting.L, _ends(setting.L), torch.device(device).type == "cuda"
    full = [engine for engine in makers if engine not in NAIVE or setting.naive_in_full >= L]
    # What ran in full is sampled too, where windows are short against L: so the sampling can be judged.
    sampled = [engine for engine in makers if engine in NAIVE and (engine not in full or L >= 1024)]
    runs = {engine: makers[engine]() for engine in full}
    apart = {} if cuda else {engine: makers[engine]() for engine in sampled}
    _warm_up(runs, L)
    totals: dict[tuple[str, bool], list[float]] = {}
    records = []

    def compare(engine: str, outputs: dict[int, Tensor]) -> None:
        nonlocal truth
        truth = truth or (outputs if engine != BOUND else {})
        if engine != BOUND:
            _check_agreement(kind, engine, L, outputs, truth)

    def record(engine: str, mixer: Mixer, extrapolated: bool, **more: Any) -> Record:
        more |= {"per_position": counted_per_position(mixer, L), "base": getattr(mixer, "base", 0)}
        return _record(kind, engine, setting, device, totals[engine, extrapolated], extrapolated=extrapolated, **more)

    for _ in range(setting.repeats):
        times, outputs, of_windows = _one_round(runs, apart, L, ends, bar)
        for engine in full:
            totals.setdefault((engine, False), []).append(times[engine].sum().item())
            compare(engine, outputs[engine])
        for engine, windows in of_windows.items():
            totals.setdefault((engine, True), []).append(L * statistics.mean(w.seconds for w in windows))
            compare(engine, {w.last: w.out for w in windows})
    for engine in full:
        more = {"curve": _curve(times[engine])} | ({} if cuda else {"step": _steps(times[engine])})
        records.append(record(engine, runs[engine].mixer, False, **more))
    for engine, run in apart.items():
        records.append(record(engine, run.mixer, True))
    if cuda:
        runs.clear()  # what they held is needed
        for engine in sampled:
            run = makers[engine]()
            windows = [_window(run, end) for end in ends[:-1]]
            totals[engine, True] = [L * statistics.mean(w.seconds for w in windows)]
            compare(engine, {w.last: w.out for w in windows})
            records.append(record(engine, run.mixer, True))
            del run
    return records


def _warm_up(runs: dict[str, Run], L: int) -> None:
    """Kernels are compiled and memory is touched before anything is timed."""
    for run in runs.values():
        run.start(0)
        for t in range(min(L, run.warm_up)):
            run.step(t)


def _one_round(
    runs: dict[str, Run], sampled: dict[str, Run], L: int, ends: list[int], bar: tqdm
) -> tuple[dict[str, Float[Tensor, " L"]], dict[str, dict[int, Tensor]], dict[str, list[Window]]]:
    """All L positions by the runs in turns, and between the turns the windows of the sampled ones.

    Returns seconds for each position, what came out at the ends, and the windows.
    """
    times = {engine: torch.zeros(L, dtype=torch.float64) for engine in runs}
    outputs: dict[str, dict[int, Tensor]] = {engine: {} for engine in runs}
    windows: dict[str, list[Window]] = {engine: [] for engine in sampled}
    for run in runs.values():
        run.start(0)
    for first in range(0, L, TURN):
        stop = min(first + TURN, L)
        for engine, run in runs.items():
            synchronise()
            spent = []
            for t in range(first, stop):
                begin = time.perf_counter()
                z_t = run.step(t)
                spent.append(time.perf_counter() - begin)
                if t + 1 in ends:
                    outputs[engine][t] = _kept(z_t)
            begin = time.perf_counter()
            synchronise()  # on a GPU the steps only launched: what is left is spread over them
            rest = (time.perf_counter() - begin) / (stop - first)
            times[engine][first:stop] = torch.tensor(spent, dtype=torch.float64) + rest
        for engine, run in sampled.items():
            windows[engine] += [_window(run, end) for end in ends[:-1] if first < end <= stop]
        bar.set_description(f"{first} of {L}")
    return times, outputs, windows


def _window(run: Run, end: int) -> Window:
    """The positions before ``end``, behind a prompt made by FFT."""
    start = max(0, end - run.window - run.warm_up)
    first = start + run.warm_up if start + run.warm_up < end else start  # on a GPU a block has no typical part
    run.start(start)
    for t in range(start, first):
        run.step(t)
    synchronise()
    begin = time.perf_counter()
    for t in range(first, end):
        z_t = run.step(t)
    synchronise()
    return Window((time.perf_counter() - begin) / (end - first), end - 1, _kept(z_t))


def _kept(z_t: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(z_t))


def _steps(times: Float[Tensor, " L"]) -> dict[str, float]:
    at = torch.quantile(times[1:] if len(times) > 1 else times, torch.tensor([0.5, 0.99], dtype=times.dtype))
    return {
        "median": round(1e6 * at[0].item(), 1),
        "p99": round(1e6 * at[1].item(), 1),
        "longest": round(1e6 * times[1:].max().item(), 1) if len(times) > 1 else round(1e6 * times.max().item(), 1),
    }


def _curve(times: Float[Tensor, " L"]) -> list[tuple[int, float, float]]:
    parts = times.split(max(1, -(-len(times) // BINS)))
    ends = torch.tensor([len(part) for part in parts]).cumsum(0).tolist()
    return [
        (end, round(1e6 * part.mean().item(), 2), round(1e6 * part.max().item(), 1))
        for end, part in zip(ends, parts, strict=True)
    ]


def _mixers(filters: Float[Tensor, "M D L"], rows: Float[Tensor, "R M B D"]) -> dict[int, Tensor]:
    """The truth for the mixers' outputs, in float64, at the ends."""
    L, ends = filters.shape[-1], _ends(filters.shape[-1])
    found = []
    for m, rho in enumerate(filters):
        x = rows[:, m].permute(1, 2, 0).double()
        z = causal_conv(x.repeat(1, 1, -(-L // x.shape[-1]))[..., :L], rho.double())
        found.append(z[..., [end - 1 for end in ends]])
    return {end - 1: z for end, z in zip(ends, torch.stack(found).unbind(-1), strict=True)}


def _ends(L: int) -> list[int]:
    """Where the windows end, and the whole run; what comes out just before is compared."""
    return sorted({(2 * w + 1) * L // (2 * WINDOWS) for w in range(WINDOWS)} - {0} | {L})


def _check_agreement(kind: str, engine: str, L: int, outputs: dict[int, Tensor], expected: dict[int, Tensor]) -> None:
    for t in outputs.keys() & expected.keys():
        error = (outputs[t].double() - expected[t].double()).abs().max().item()
        scale = expected[t].abs().max().item()
        if not error <= TOLERANCE * scale:
            raise EnginesDisagree(
                f"{kind} of {engine} at L = {L} is wrong at position {t} by {error:.3g} of {scale:.3g}"
            )
