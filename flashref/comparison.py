"""What exactness costs and what giving it up loses: the trained model on held-out text, with every kind of engine.

Bits per byte are those of the model with the filters that an engine computes with, by FFT over whole windows: the same
numbers as through the engine, and a thousand times faster. Times are of the mixers alone and of the whole model, the
engines in turns. ``python -m flashref compare`` writes a file; the notebook 09 reads it and measures some of it again.
"""

import argparse
import gc
import json
import math
import sys
import sysconfig
import types
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from tabulate import tabulate
from torch import Tensor
from tqdm.auto import tqdm

from flashref.alternatives import Dilated, Distilled, Truncated
from flashref.bench_runs import MixerRun, ModelRun, NoMixer, Run
from flashref.checkpoints import PRETRAINED, load
from flashref.convolution import causal_conv
from flashref.corpus import as_tensor, python_files, read_all
from flashref.distillation import distil
from flashref.engines import make_mixer
from flashref.hyena import Hyena
from flashref.machine import environment
from flashref.mixer import Mixer

EXACT = ("lazy", "eager", "tiled_cpu", "bounded", "epoched")
STATES = (1, 2, 4, 8, 16, 32, 64)
WINDOWS = (4, 16, 64, 256, 1024)
TURN = 128  # positions that one engine runs before it is the next one's turn
CODE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType)

Makers = Mapping[str, Callable[[Tensor, int], Mixer]]


@dataclass(frozen=True)
class Compared:
    """One engine at one length L, B = 1. What was not measured is None.

    engine: its name; size: state size of "distilled", window of "truncated" and "dilated". relative_error: of all its
    filters together, in l2. lost: bits per byte above the exact model's (below, where negative), and its standard
    error over the windows of text. microseconds: per position, all mixers of the model, nothing else. tokens_per_second:
    of the whole model. bytes_shared, bytes_per_sequence: held beside the filters, for all sequences and for each.
    """

    engine: str
    exact: bool
    L: int
    size: int | None = None
    relative_error: float = 0.0
    bits_per_byte: float | None = None
    lost: float | None = None
    standard_error: float | None = None
    microseconds: float | None = None
    tokens_per_second: float | None = None
    bytes_shared: int | None = None
    bytes_per_sequence: int | None = None

    @property
    def label(self) -> str:
        return self.engine if self.size is None else f"{self.engine} {self.size}"


# Bits per byte. --------------------------------------------------------------------------------------------------


def held_out_windows(count: int, length: int = 4096) -> Int[Tensor, "count length+1"]:
    """Pieces of the standard library's held-out modules, evenly spaced, each a byte longer than ``length``."""
    root = Path(sysconfig.get_path("stdlib"))
    data = as_tensor(read_all(root, python_files(root)[1]))
    starts = torch.linspace(0, len(data) - length - 1, count).long()
    return torch.stack([data[s : s + length + 1] for s in starts.tolist()]).long()


@torch.inference_mode()
def logits_with(model: Hyena, filters: Float[Tensor, "M D L"], tokens: Int[Tensor, "B L"]) -> Float[Tensor, "B L V"]:
    """The model's logits with other filters in its mixers; with its own they are those of its forward."""
    h = model.backbone.embeddings.word_embeddings(tokens)
    each = iter(filters)  # mixers follow each other as the engines number them
    for layer in model.backbone.layers:
        h = h + layer.mixer(layer.norm1(h), lambda _, v: causal_conv(v, next(each)))
        h = h + layer.mlp(layer.norm2(h))
    return model.lm_head(model.backbone.ln_f(h))


def window_bits(
    model: Hyena, filters: Float[Tensor, "M D L"], windows: Int[Tensor, "count L+1"], batch: int = 4
) -> Float[Tensor, " count"]:
    """Bits per byte of the second half of each window, every byte of which has at least half a window before it."""
    half, found = windows.shape[1] // 2, []
    for part in windows.split(batch):
        logits = logits_with(model, filters, part[:, :-1])[:, half:].float()
        losses = F.cross_entropy(logits.flatten(0, 1), part[:, 1 + half :].flatten(), reduction="none")
        found.append(losses.view(len(part), -1).mean(1) / math.log(2))
    return torch.cat(found)


def lost_bits(bits: Float[Tensor, " count"], exact: Float[Tensor, " count"]) -> tuple[float, float]:
    """Bits per byte above the exact ones on the same windows: the mean, and its standard error over the windows."""
    difference = bits - exact
    return difference.mean().item(), (difference.std() / len(difference) ** 0.5).item()


# Time and memory. ------------------------------------------------------------------------------------------------


@torch.inference_mode()
def time_in_turns(runs: Mapping[str, Run], L: int, repeats: int = 1) -> dict[str, float]:
    """Seconds of L positions of each: all run in turns of 128 positions; the median over the repeats."""
    totals: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        seconds = dict.fromkeys(runs, 0.0)
        for run in runs.values():
            run.start(0)
        for begin in range(0, L, TURN):
            for name, run in runs.items():
                start = perf_counter()
                for t in range(begin, min(begin + TURN, L)):
                    run.step(t)
                seconds[name] += perf_counter() - start
        for name, total in seconds.items():
            totals[name].append(total)
    return {name: median(found) for name, found in totals.items()}


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
    each = _held(two) - _held(one)
    return _held(mixer) - each, each


def _first_step(mixer: Mixer) -> Mixer:
    for m in range(len(mixer.filters)):
        mixer.step(m, mixer.filters.new_zeros(mixer.batch_size, mixer.filters.shape[1]))
    return mixer


def _held(mixer: Mixer) -> int:
    """Bytes of every tensor that a mixer holds, however deep, but for its filters."""
    seen, found, left = {id(mixer.filters)}, {}, [mixer]
    filters = mixer.filters.untyped_storage().data_ptr()
    while left:
        thing = left.pop()
        if id(thing) in seen or isinstance(thing, CODE):
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            found[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
        left.extend(gc.get_referents(thing))
    return sum(size for place, size in found.items() if place != filters)


# All of it. ------------------------------------------------------------------------------------------------------


def exact_makers() -> dict[str, Callable[[Tensor, int], Mixer]]:
    """The exact engines for a CPU."""
    return {name: partial(make_mixer, name) for name in EXACT}


def approximate_makers(filters: Float[Tensor, "M D L"]) -> dict[str, Callable[[Tensor, int], Mixer]]:
    """The approximate engines, of every size; "distilled 4" and so on. Filters are distilled here, once."""
    found = {f"distilled {N}": partial(Distilled, modes=distil(filters, N)) for N in STATES}
    found |= {f"truncated {W}": partial(Truncated, window=W) for W in WINDOWS}
    return found | {f"dilated {W}": partial(Dilated, window=W) for W in WINDOWS if W <= 256}


@torch.inference_mode()
def compare(count: int = 64, lengths: tuple[int, ...] = (1024, 4096), longest: int = 16384) -> list[Compared]:
    """Everything that the notebook's figures need. ``longest`` is for the times alone: filters with zeros behind them.

    count: windows of held-out text for each length.
    """
    model = load(PRETRAINED)
    filters = model.filters().detach()
    approximate, found = approximate_makers(filters), []
    for L in lengths:
        windows, makers = held_out_windows(count, L), exact_makers() | approximate
        exact = window_bits(model, filters[..., :L], windows)
        runs = mixer_runs(makers, filters[..., :L])
        seconds = time_in_turns(runs, L, repeats=3)
        whole = time_in_turns(model_runs({"none": NoMixer} | makers, model, windows[:1, :L]), L)
        for name in tqdm(makers, f"L = {L}"):
            mixer = runs[name].mixer
            bits = exact if mixer.exact else window_bits(model, mixer.filters, windows)
            lost, deviation = lost_bits(bits, exact)
            own, given = mixer.filters, filters[..., :L]
            found.append(
                Compared(
                    *(mixer.name, mixer.exact, L, getattr(mixer, "window", None) or _states(mixer)),
                    *((own - given).norm().item() / given.norm().item(), bits.mean().item(), lost, deviation),
                    *(1e6 * seconds[name] / L, L / whole[name], *memory(makers[name], mixer)),
                )
            )
        found.append(Compared("none", False, L, tokens_per_second=L / whole["none"]))
    padded = F.pad(filters, (0, longest - filters.shape[-1]))
    makers = {name: make for name, make in exact_makers().items() if name != "lazy"} | {
        name: approximate[name] for name in ("distilled 4", "truncated 256", "dilated 64")
    }
    runs = mixer_runs(makers, padded)
    for name, seconds_of_all in time_in_turns(runs, longest).items():
        mixer = runs[name].mixer
        held = memory(makers[name], mixer)
        size = getattr(mixer, "window", None) or _states(mixer)
        found.append(
            Compared(
                *(mixer.name, mixer.exact, longest, size),
                microseconds=1e6 * seconds_of_all / longest,
                bytes_shared=held[0],
                bytes_per_sequence=held[1],
            )
        )
    return found


def _states(mixer: Mixer) -> int | None:
    return mixer.modes.state_size if isinstance(mixer, Distilled) else None


def read(file: Path) -> tuple[dict, list[Compared]]:
    """What ``compare --json`` wrote: the machine, with what text was used, and the records."""
    kept = json.loads(Path(file).read_text())
    return kept["environment"], [Compared(**record) for record in kept["records"]]


def as_table(records: list[Compared]) -> str:
    """The records as text."""
    rows = [[getattr(r, name) for name in ("label", "L", *COLUMNS)] for r in records]
    return tabulate(rows, ("engine", "L", *COLUMNS.values()), floatfmt=".4g")


COLUMNS = {
    "relative_error": "filter error",
    "bits_per_byte": "bits/byte",
    "lost": "lost",
    "standard_error": "± s.e.",
    "microseconds": "us/position",
    "tokens_per_second": "tokens/s",
    "bytes_shared": "bytes shared",
    "bytes_per_sequence": "bytes/sequence",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m flashref compare``."""
    parser.add_argument("--json", type=Path, help="write the records to this file")
    parser.add_argument("--windows", type=int, default=64, help="pieces of held-out text for each length")
    parser.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> None:
    if arguments.windows < 2:
        raise ValueError(f"--windows must be >= 2, got {arguments.windows}")
    if arguments.json and not arguments.json.parent.is_dir():
        raise ValueError(f"--json: there is no folder {arguments.json.parent}")
    machine = environment()
    records = compare(arguments.windows)
    if arguments.json:
        kept = {"environment": machine, "windows": arguments.windows, "records": [asdict(r) for r in records]}
        lines = json.dumps(kept, indent=1).replace("\n   ", " ").replace("\n  }", " }")
        arguments.json.write_text(lines + "\n")
    print(as_table(records), file=sys.stdout)
