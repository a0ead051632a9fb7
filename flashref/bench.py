"""What is measured and how: mixers alone, whole models, the model without its mixers, and one offline convolution.

All engines run in one process on the same inputs, interleaved, and what they answer is compared with the offline truth
(mixers) or with each other (models) while they are timed; a run whose engines disagree raises. Where lazy or eager
would take too long, windows of positions are timed, each behind a prompt made by FFT, and the record says so.
"""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import Float, Int
from tabulate import tabulate
from torch import Tensor
from tqdm.auto import tqdm

from flashref.config import HyenaConfig
from flashref.convolution import causal_conv, fast_length
from flashref.engines import make_mixer
from flashref.generation import Decoder
from flashref.hyena import Hyena
from flashref.mixer import Mixer

WINDOWS, WINDOW = 16, 24  # sampled runs: this many windows, spread evenly, of this many positions
TOLERANCE = 1e-3  # float32, relative to the largest output


class EnginesDisagree(Exception):
    """An engine answered something else than the truth while it was timed: its times are worth nothing."""


@dataclass
class Record:
    """One measurement. seconds: for all L positions, the median of ``runs``. M mixers, D channels, B sequences."""

    kind: str
    engine: str
    device: str
    dtype: str
    M: int
    D: int
    B: int
    L: int
    seconds: float
    extrapolated: bool
    runs: list[float] = field(default_factory=list)


class NoMixer(Mixer):
    """Mixers removed: z = x. It bounds what any engine can reach."""

    name = "none"

    def _begin(self) -> None: ...

    def _remember(self, m: int, x: Float[Tensor, "B D P"]) -> Float[Tensor, "B D P"]:
        return x

    def _step(self, m: int, x_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        return x_t

    def _advance(self) -> None: ...


class MixerRun:
    """M mixers alone, fed from a ring of random rows."""

    def __init__(self, engine: str, filters: Float[Tensor, "M D L"], rows: Float[Tensor, "R M B D"]) -> None:
        self.mixer, self.rows = make_mixer(engine, filters, rows.shape[2]), [list(row) for row in rows]
        self.prompt = rows.permute(1, 2, 3, 0)

    def start(self, P: int) -> None:
        self.mixer.reset()
        for m, ring in enumerate(self.prompt):
            self.mixer.prefill(m, ring.repeat(1, 1, -(-P // ring.shape[-1]))[..., :P])

    def step(self, t: int) -> Tensor:
        for m, x_t in enumerate(self.rows[t % len(self.rows)]):
            z_t = self.mixer.step(m, x_t)
        self.mixer.advance()
        return z_t


class ModelRun:
    """A whole model, fed with given tokens; the likeliest next token is computed too, as when it generates."""

    def __init__(self, model: Hyena, mixer: Mixer, tokens: Int[Tensor, "B L"]) -> None:
        self.model, self.mixer, self.tokens = model, mixer, tokens
        self.columns = list(tokens.unbind(1))

    def start(self, P: int) -> None:
        self.mixer.reset()
        self.decoder = Decoder(self.model, self.mixer)
        if P:
            self.decoder.prefill(self.tokens[:, :P])

    def step(self, t: int) -> Tensor:
        logits = self.decoder.step(self.columns[t])
        logits.argmax(-1)
        return logits


@torch.inference_mode()
def time_run(run: MixerRun | ModelRun, L: int, sampled: bool) -> tuple[float, dict[int, Tensor]]:
    """Seconds for L positions and what came out at the last position of each window; sampled: only windows are run."""
    ends = [(2 * w + 1) * L // (2 * WINDOWS) for w in range(WINDOWS)]
    outputs = {}
    if not sampled:
        run.start(0)
        _synchronise()
        begin = time.perf_counter()
        for t in range(L):
            z_t = run.step(t)
            if t + 1 in ends:
                outputs[t] = z_t.clone()
        _synchronise()
        return time.perf_counter() - begin, outputs
    seconds = 0.0
    for end in ends:
        first = max(0, end - WINDOW)
        run.start(first)
        run.step(first)  # the first step behind a prompt finds nothing in the cache
        _synchronise()
        begin = time.perf_counter()
        for t in range(first + 1, end):
            z_t = run.step(t)
        _synchronise()
        seconds += (time.perf_counter() - begin) / (end - first - 1)
        outputs[end - 1] = z_t.clone()
    return seconds / WINDOWS * L, outputs


@torch.inference_mode()
def time_offline(filters: Float[Tensor, "M D L"], batch_size: int, chunk_points: int | None = 2**19) -> float:
    """Seconds for one causal convolution of the same data known in full: spectra cached, chunked as the tiles are."""
    M, D, L = filters.shape
    n = fast_length(2 * L)
    rho, x = filters.reshape(M * D, L), torch.randn(batch_size, M * D, L, device=filters.device, dtype=filters.dtype)
    size = M * D if filters.is_cuda or chunk_points is None else max(1, chunk_points // (batch_size * n))
    chunks = [slice(c, c + size) for c in range(0, M * D, size)]
    spectra = [torch.fft.rfft(rho[c], n) for c in chunks]
    z = torch.empty_like(x)
    _synchronise()
    begin = time.perf_counter()
    for c, s in zip(chunks, spectra, strict=True):
        z[:, c] = torch.fft.irfft(torch.fft.rfft(x[:, c], n).mul_(s), n)[..., :L]
    _synchronise()
    return time.perf_counter() - begin


def measure(
    lengths: Sequence[int],
    engines: Sequence[str],
    M: int = 4,
    D: int = 256,
    B: int = 1,
    repeats: int = 3,
    device: str = "cpu",
    full_up_to: int = 8192,
    progress: bool = True,
) -> list[Record]:
    """Every kind of measurement in float32 for every length and engine, ``repeats`` times, the engines interleaved.

    Lazy and eager are run in full up to L = full_up_to and sampled beyond. A mixer is made once and reset between its
    repeats, so that the first run alone pays for the spectra. Raises EnginesDisagree.
    """
    bar = tqdm(total=len(lengths) * repeats * (2 * len(engines) + 2), unit="run", disable=None if progress else True)
    records = []
    with bar, torch.random.fork_rng():
        for L in lengths:
            torch.manual_seed(L)
            model = Hyena(HyenaConfig(d_model=D, n_layer=M, d_inner=4 * D, vocab_size=256, l_max=L)).eval().to(device)
            filters = torch.randn(M, D, L, device=device) * torch.linspace(0, -6, L, device=device).exp() / L**0.5
            rows = torch.randn(64, M, B, D, device=device)
            tokens = torch.randint(256, (B, L), device=device)
            truth = _last_mixer(filters, rows)
            with torch.no_grad():
                own = model.filters(L)
            tasks: dict[tuple[str, str], Callable] = {}
            for engine in engines:
                sampled = engine in ("lazy", "eager") and full_up_to < L
                mixer_run = MixerRun(engine, filters, rows)
                model_run = ModelRun(model, make_mixer(engine, own, B), tokens)
                tasks["mixer", engine] = lambda run=mixer_run, L=L, s=sampled: (*time_run(run, L, s), s)
                tasks["end_to_end", engine] = lambda run=model_run, L=L, s=sampled: (*time_run(run, L, s), s)
            bound = ModelRun(model, NoMixer(own, B), tokens)
            tasks["blocks_only", "none"] = lambda run=bound, L=L: (*time_run(run, L, False), False)
            tasks["offline", "fft"] = lambda f=filters: (time_offline(f, B), {}, False)
            found: dict[tuple[str, str], list] = {task: [] for task in tasks}
            for _ in range(repeats):
                for task, run in tasks.items():
                    bar.set_postfix_str(f"L={L} {task[0]} {task[1]}")
                    found[task].append(run())
                    bar.update()
            logits = found["end_to_end", engines[0]][0][1]
            for (kind, engine), runs in found.items():
                expected = {"mixer": truth, "end_to_end": logits}.get(kind, {})
                for _, outputs, _ in runs:
                    _check_agreement(kind, engine, L, outputs, expected)
                seconds = [run[0] for run in runs]
                where = (str(torch.device(device)), "float32", M, D, B, L)
                records.append(Record(kind, engine, *where, statistics.median(seconds), runs[0][2], seconds))
    return records


def _last_mixer(filters: Float[Tensor, "M D L"], rows: Float[Tensor, "R M B D"]) -> dict[int, Tensor]:
    """The truth for MixerRun's outputs: the last mixer's, in float64."""
    L = filters.shape[-1]
    x = rows[:, -1].permute(1, 2, 0).double()
    z = causal_conv(x.repeat(1, 1, -(-L // x.shape[-1]))[..., :L], filters[-1].double())
    return {t: z[..., t] for t in range(L)}


def _check_agreement(kind: str, engine: str, L: int, outputs: dict[int, Tensor], expected: dict[int, Tensor]) -> None:
    for t in outputs.keys() & expected.keys():
        error = (outputs[t].double() - expected[t].double()).abs().max().item()
        scale = expected[t].abs().max().item()
        if not error <= TOLERANCE * scale:
            raise EnginesDisagree(
                f"{kind} of {engine} at L = {L} is wrong at position {t} by {error:.3g} of {scale:.3g}"
            )


def environment(device: str = "cpu") -> dict:
    """What a reader needs to judge the figures: machine, cores, versions, commit, date, load."""
    return {
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": version("numpy"),
            "flashref": version("flashref"),
        },
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def as_json(records: Sequence[Record], device: str = "cpu") -> dict:
    """The content of a results file."""
    return {"environment": environment(device), "records": [asdict(record) for record in records]}


def as_table(records: Sequence[Record]) -> str:
    """The records as a Markdown table; the last column is the better of lazy and eager over this engine."""
    naive: dict[tuple[str, int], float] = {}
    for r in records:
        if r.engine in ("lazy", "eager"):
            naive[r.kind, r.L] = min(r.seconds, naive.get((r.kind, r.L), r.seconds))
    rows = [
        (
            r.L,
            r.kind,
            r.engine,
            f"{r.seconds:.3f}" + (" (sampled)" if r.extrapolated else ""),
            f"{1e6 * r.seconds / r.L:.1f}",
            f"{min(r.runs):.3f} .. {max(r.runs):.3f}",
            f"{naive[r.kind, r.L] / r.seconds:.1f}" if (r.kind, r.L) in naive else "",
        )
        for r in sorted(records, key=lambda r: (r.L, ("mixer", "end_to_end", "blocks_only", "offline").index(r.kind)))
    ]
    header = ("L", "kind", "engine", "seconds", "us per position", "spread", "best naive / this")
    align = ("right", "left", "left", "right", "right", "right", "right")
    return tabulate(rows, header, tablefmt="github", colalign=align, disable_numparse=True)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit that is measured, marked if files differ from it; None outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return None
    return found.stdout.strip() or None


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
