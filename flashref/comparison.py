"""What exactness costs and what giving it up loses: the trained model on held-out text, with every kind of engine.

Bits per byte are those of the model with the filters that an engine computes with, by FFT over whole windows: the same
numbers as through the engine, and a thousand times faster. Times are of the mixers alone and of the whole model, the
engines in turns. ``python -m flashref compare`` writes a file; the notebook 09 reads it and measures some of it again.
"""

import argparse
import json
import math
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from tabulate import tabulate
from torch import Tensor

from flashref.alternatives import Dilated, Distilled, Truncated
from flashref.bench_runs import NoMixer
from flashref.checkpoints import PRETRAINED, load
from flashref.convolution import causal_conv
from flashref.corpus import as_tensor, python_files, read_all
from flashref.distillation import distil
from flashref.engines import make_mixer
from flashref.files import check_target, fits, read_records
from flashref.hyena import Hyena
from flashref.machine import environment
from flashref.mixer import Mixer
from flashref.turns import Makers, memory, mixer_runs, model_runs, time_in_turns

EXACT = ("lazy", "eager", "tiled_cpu", "bounded", "epoched")
NAIVE = ("lazy", "eager")  # not run for long
STATES = (1, 2, 4, 8, 16, 32, 64)
WINDOWS = (4, 16, 64, 256, 1024)
SOME = ("distilled 4", "distilled 16", "truncated 64", "truncated 256", "dilated 64")  # run in the model, and for long
REPEATS = 3


@dataclass(frozen=True)
class Compared:
    """One engine at one length L, B = 1. What was not measured is None.

    engine: its name; size: state size of "distilled", window of "truncated" and "dilated". relative_error: of all its
    filters together, in l2. lost: bits per byte above the exact model's (below, where negative), and its standard
    error over the windows of text. microseconds: per position, all mixers of the model, nothing else.
    tokens_per_second: of the whole model. bytes_shared, bytes_per_sequence: held beside the filters, for all sequences
    together and for each.
    """

    engine: str
    exact: bool
    size: int | None = None
    L: int = 0
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
def compare(
    count: int = 32,
    lengths: tuple[int, ...] = (1024, 4096),
    longest: int = 16384,
    again: list[Compared] | None = None,
) -> list[Compared]:
    """Everything that the notebook's figures need. ``longest`` is for the times alone, of all but the naive engines:
    filters with zeros behind them.

    count: windows of held-out text for each length. again: records of an earlier call with the same lengths, of which
    all is kept but the times of the mixers.
    """
    model = load(PRETRAINED)
    filters = model.filters().detach()
    approximate = approximate_makers(filters)
    makers = {L: exact_makers() | approximate for L in lengths}
    makers[longest] = {
        name: make for name, make in makers[lengths[-1]].items() if name in (*EXACT, *SOME) and name not in NAIVE
    }
    if again is None:
        again = []
        for L in lengths:
            again += _losses(model, makers[L], held_out_windows(count, L))
        again += [Compared(*_kind(make(filters[..., :0], 1)), L=longest) for make in makers[longest].values()]
    padded = F.pad(filters, (0, longest - filters.shape[-1]))
    runs = {(n, L): run for L in makers for n, run in mixer_runs(makers[L], padded[..., :L]).items()}
    seconds = time_in_turns(runs, {key: key[1] for key in runs}, REPEATS)
    found = []
    for r in again:
        if (r.label, r.L) in runs:
            mixer = runs[r.label, r.L].mixer
            shared, each = memory(makers[r.L][r.label], mixer)
            us = 1e6 * seconds[r.label, r.L] / r.L
            r = replace(r, microseconds=us, bytes_shared=shared, bytes_per_sequence=each)
        found.append(r)
    return found


def _losses(model: Hyena, makers: Makers, windows: Int[Tensor, "count L+1"]) -> list[Compared]:
    """What the model loses with each engine on these windows, and how fast some of them make it."""
    L = windows.shape[1] - 1
    filters = model.filters(L)
    in_model = {"none": NoMixer} | {name: makers[name] for name in (*EXACT, *SOME) if name in makers}
    whole = time_in_turns(model_runs(in_model, model, windows[:1, :L]), dict.fromkeys(in_model, L))
    exact, found = window_bits(model, filters, windows), []
    found.append(Compared("none", False, L=L, tokens_per_second=L / whole["none"]))
    for name, make in makers.items():
        mixer = make(filters, 1)
        bits = exact if mixer.exact else window_bits(model, mixer.filters, windows)
        lost, deviation = lost_bits(bits, exact)
        error = (mixer.filters - filters).norm().item() / filters.norm().item()
        speed = L / whole[name] if name in whole else None
        fields = {"relative_error": error, "bits_per_byte": bits.mean().item(), "tokens_per_second": speed}
        found.append(Compared(*_kind(mixer), L=L, **fields, lost=lost, standard_error=deviation))
    return found


def _kind(mixer: Mixer) -> tuple[str, bool, int | None]:
    """Name, whether it is exact, and its size."""
    size = mixer.modes.state_size if isinstance(mixer, Distilled) else getattr(mixer, "window", None)
    return mixer.name, mixer.exact, size


def read(file: Path) -> tuple[dict, list[Compared]]:
    """What ``compare --json`` wrote: the machine, with what text was used, and the records."""
    kept, records = read_records(Path(file), Compared)
    return kept["environment"], records


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
    parser.add_argument("--again", type=Path, metavar="FILE", help="keep a file's records, time the mixers again")
    parser.add_argument("--windows", type=int, default=32, help="pieces of held-out text for each length")
    parser.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> None:
    if arguments.windows < 2:
        raise ValueError(f"--windows must be >= 2, got {arguments.windows}")
    if arguments.windows > 10_000:
        raise ValueError(f"--windows must be <= 10000, got {arguments.windows}: there is no more text")
    if arguments.json:
        check_target("--json", arguments.json)
    machine = environment()
    windows, kept = arguments.windows, None
    if arguments.again:
        content, kept = read_records(arguments.again, Compared)
        windows = content.get("windows")
        if not fits(windows, int):
            raise ValueError(f"{arguments.again} does not say how many windows of text were used")
    records = compare(arguments.windows, again=kept)
    if arguments.json:
        kept = {"environment": machine, "windows": windows, "records": [asdict(r) for r in records]}
        lines = json.dumps(kept, indent=1).replace("\n   ", " ").replace("\n  }", " }")
        arguments.json.write_text(lines + "\n")
    print(as_table(records), file=sys.stdout)
