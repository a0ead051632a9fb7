"""Train a byte-level Hyena on the Python that everyone has: the standard library's own source.

Nothing is downloaded. Whole modules are held out, and the model's bits per byte on them stand beside what xz, bzip2 and
zlib need for the same bytes. A run can be stopped at any step and continues exactly where it was.
"""

import argparse
import json
import math
import os
import platform
import re
import signal
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, UInt8
from tabulate import tabulate
from torch import Tensor, nn
from tqdm.auto import tqdm

from flashref.checkpoints import check_fit, load, save
from flashref.config import HyenaConfig
from flashref.corpus import (
    as_tensor,
    batch_of_step,
    compressed_bits_per_byte,
    described,
    digest,
    python_files,
    read_all,
)
from flashref.files import fits, shown
from flashref.hyena import Hyena
from flashref.pickled import read_pickled

STATE = "state.pt"  # what a run needs to go on, beside the files of the model
CURVE_EVERY = 20  # steps


@dataclass(frozen=True)
class Settings:
    """A training run; the defaults are those of the model that comes with flashref.

    steps, batch: steps of ``batch`` sequences each. context: their length in bytes, and l_max in the last ``decay`` of
    the steps (then with as many bytes per step). The learning rates rise over ``warmup`` steps, stay, and fall to zero
    over the last ``decay`` of the steps. micro_batch: bytes that are computed at once, which changes only the speed.
    """

    steps: int = 2900
    batch: int = 8
    context: int = 1024
    micro_batch: int = 4096
    warmup: int = 40
    decay: float = 0.4
    lr_matrix: float = 0.02
    lr_filter: float = 0.002
    lr_rest: float = 0.003
    weight_decay: float = 0.05
    seed: int = 0
    d_model: int = 256
    n_layer: int = 4
    d_inner: int = 512
    l_max: int = 4096
    emb_dim: int = 17
    fast_decay: float = 0.004
    slow_decay: float = 1.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "context", "micro_batch", "warmup", "seed"):
            value, least = getattr(self, name), 0 if name == "seed" else 1
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
        if self.l_max % self.context or self.batch * self.context % self.l_max:
            raise ValueError(
                f"context must divide l_max, and l_max the bytes of a step, batch * context: got context = "
                f"{self.context}, l_max = {self.l_max}, batch = {self.batch}"
            )
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must lie in 0 .. 1, got {self.decay!r}")
        for name in ("lr_matrix", "lr_filter", "lr_rest", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number >= 0, got {getattr(self, name)!r}")
        self.config()

    def config(self) -> HyenaConfig:
        """The model's sizes. No floor under the windows, and windows of every scale: most of what matters is near."""
        return HyenaConfig(
            vocab_size=256,
            shift=0.0,
            decay_spacing="log",
            **{name: getattr(self, name) for name in ("d_model", "n_layer", "d_inner", "l_max", "emb_dim")},
            **{name: getattr(self, name) for name in ("fast_decay", "slow_decay")},
        )


@torch.no_grad()
def level_filters(model: Hyena) -> None:
    """Divide each new filter by the root of its window's length in taps, so that all channels start equally loud.

    Otherwise the noise of the channels with long windows drowns the rest. Measured after the first megabyte, with the
    default settings but 120 steps and five layers: 2.66 bits per byte of training text without it, 2.20 with it.
    """
    for layer in model.backbone.layers:
        network = layer.mixer.filter_fn
        rates = network.modulation.deltas[0, 0].abs() / model.config.l_max  # per lag
        network.implicit_filter[-1].weight *= rates.clamp(min=1 / model.config.l_max).sqrt()[:, None]


def make_optimisers(model: Hyena, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the rest: the filters' networks, embedding, biases and norms."""
    groups: dict[str, list[nn.Parameter]] = {"matrix": [], "filter": [], "rest": []}
    for name, parameter in model.named_parameters():
        inside = name.startswith("backbone.layers") and parameter.dim() == 2
        kind = "filter" if "filter_fn" in name else "matrix" if inside else "rest"
        groups[kind].append(parameter)
    adam = [
        {"params": groups["filter"], "lr": settings.lr_filter},
        {"params": groups["rest"], "lr": settings.lr_rest},
    ]
    found = [
        torch.optim.Muon(groups["matrix"], lr=settings.lr_matrix, weight_decay=settings.weight_decay),
        torch.optim.AdamW(adam, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    for optimiser in found:
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return found


def rate(step: int, settings: Settings) -> float:
    """The learning rate of a step as a fraction of the highest: up, constant, down to zero."""
    left = (settings.steps - step) / settings.steps
    return min(1.0, (step + 1) / settings.warmup, left / settings.decay if settings.decay else 1.0)


def train_step(model: Hyena, tokens: Int[Tensor, "B L1"], micro_batch: int) -> float:
    """Leaves the gradients of the mean loss in the model; returns it in bits per byte."""
    device = tokens.device.type
    rows = max(1, micro_batch // tokens.shape[1])
    total = 0.0
    for part in tokens.split(rows):
        with torch.autocast(device, torch.bfloat16):
            logits = model(part[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten(), reduction="sum")
        loss = loss / (tokens.shape[0] * (tokens.shape[1] - 1))
        loss.backward()
        total += loss.item()
    return total / math.log(2)


@torch.inference_mode()
def bits_per_byte(model: Hyena, text: bytes) -> float:
    """What the model needs for a text, read in windows of l_max bytes of which each overlaps the last by half.

    All bytes of the first window count, of the others the second half: so each byte is predicted from at least l_max/2
    bytes before it, or from all there are. The very first byte costs 8 bits.
    """
    if not text:
        raise ValueError("text must hold at least one byte")
    device, l_max = model.lm_head.weight.device, model.config.l_max
    data, half = as_tensor(text).to(device), l_max // 2
    bits = 8.0
    for start in tqdm(range(0, max(1, len(data) - 1 - half), half), "evaluating", disable=len(data) < 10**5):
        window = data[start : start + l_max + 1].long()
        if len(window) > 1:
            losses = F.cross_entropy(model(window[None, :-1])[0].float(), window[1:], reduction="none")
            bits += losses[half if start else 0 :].sum().item() / math.log(2)
    return bits / len(data)


def train(
    out: str | os.PathLike, resume: bool = False, stdlib: Path | None = None, save_minutes: float = 3, **changes
) -> dict:
    """Train a model and write config.json, weights.safetensors (float16) and training.json into the folder ``out``.

    ``changes`` are fields of Settings. The state of the run is kept in ``out`` too, every save_minutes and when Ctrl-C
    stops it; ``resume`` continues from there, with the settings of the run, of which only steps and micro_batch may be
    changed. stdlib is the folder to learn from. A CUDA device is used if there is one. Returns what training.json says.

    Raises ValueError for settings that do not fit, a folder that holds a run already, or one that holds none to resume.
    """
    out = Path(out)
    root = Path(sysconfig.get_path("stdlib")) if stdlib is None else Path(stdlib)
    files = dict(zip(("training", "held_out"), python_files(root), strict=True))
    text = read_all(root, files["training"])
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: give a folder for the model and the run")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    state = read_state(out, device) if resume else None
    if state is None and (out / STATE).exists():
        raise ValueError(f"{out} holds a run already: resume it with --resume, or give another folder with --out")
    if state is not None and (fixed := changes.keys() - {"steps", "micro_batch"}):
        raise ValueError(
            f"a resumed run keeps its {', '.join(sorted(fixed))}: only steps and micro_batch may be changed"
        )
    settings = Settings(**{**(state["settings"] if state else {}), **changes})
    if state is None:
        state = {"step": 0, "seconds": 0.0, "curve": [], "sha256": digest(text)}
    if state["sha256"] != digest(text):
        raise ValueError(f"the run in {out} was begun on other files than those in {root}")

    if resume:
        check_fit(Hyena, settings.config(), state["model"], out / STATE)
    torch.manual_seed(settings.seed)
    model = Hyena(settings.config()).to(device)
    level_filters(model)
    optimisers = make_optimisers(model, settings)
    if resume:
        take_up(model, optimisers, state)
    out.mkdir(parents=True, exist_ok=True)
    run(model, optimisers, settings, state, as_tensor(text).to(device), out / STATE, save_minutes)

    save(model, out, torch.float16)
    held_out = read_all(root, files["held_out"])
    report = {
        "settings": asdict(settings),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes_trained_on": settings.steps * settings.batch * settings.context,
        "seconds": round(state["seconds"]),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "machine": {"processor": platform.machine(), "device": device, "threads": torch.get_num_threads()},
        "protocol": " ".join(bits_per_byte.__doc__.split()),
        "held_out_bytes": len(held_out),
        "held_out_bits_per_byte": {
            "model": bits_per_byte(load(out).to(device), held_out),  # as it is in the file, rounded
            **compressed_bits_per_byte(held_out),
        },
        "curve": {"columns": ["step", "training bits per byte since the last row"], "rows": state["curve"]},
        "files": {kind: [described(root, path) for path in paths] for kind, paths in files.items()},
    }
    write_report(out, report)
    return report


def run(
    model: Hyena,
    optimisers: list[torch.optim.Optimizer],
    settings: Settings,
    state: dict,
    data: UInt8[Tensor, " size"],
    file: Path,
    save_minutes: float,
) -> None:
    """Do the steps that are left, keeping ``state`` up to date and on disk."""

    def keep() -> None:
        state["settings"], state["model"] = asdict(settings), model.state_dict()
        state["optimisers"] = [optimiser.state_dict() for optimiser in optimisers]
        write(file, lambda path: torch.save(state, path))

    stopped = []  # Ctrl-C in the middle of a step would leave a model that is half updated
    previous = signal.signal(signal.SIGINT, lambda *_: stopped.append(True))
    bar = tqdm(total=settings.steps, initial=state["step"], unit="step", smoothing=0.02)
    last_save, losses = time.monotonic(), []
    try:
        while state["step"] < settings.steps and not stopped:
            began, step = time.monotonic(), state["step"]
            length = settings.context if step < (1 - settings.decay) * settings.steps else settings.l_max
            rows = settings.batch * settings.context // length
            tokens = batch_of_step(data, step, rows, length, settings.seed)
            losses.append(train_step(model, tokens, settings.micro_batch))
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = group["peak"] * rate(step, settings)
                optimiser.step()
                optimiser.zero_grad()
            state["step"] += 1
            state["seconds"] += time.monotonic() - began
            bar.update()
            speed = rows * length * (bar.format_dict["rate"] or 0)
            bar.set_postfix_str(f"{losses[-1]:.3f} bits per byte, {speed:.0f} bytes/s")
            if state["step"] % CURVE_EVERY == 0:
                state["curve"].append([state["step"], round(sum(losses) / len(losses), 4)])
                losses.clear()
            if time.monotonic() - last_save > 60 * save_minutes:
                keep()
                last_save = time.monotonic()
        keep()
    finally:
        signal.signal(signal.SIGINT, previous)
        bar.close()
    if stopped:
        print(f"stopped after step {state['step']}; --resume continues from there", file=sys.stderr)
        raise KeyboardInterrupt


def write_report(out: Path, report: dict) -> None:
    """Write training.json, one line per row of a list, so that the file can be read and compared."""
    rows = re.compile(r"\[\s+([^\[\]{}]*?)\s+\]")
    pretty = rows.sub(lambda found: f"[{' '.join(found[1].split())}]", json.dumps(report, indent=1))
    write(out / "training.json", lambda path: path.write_text(pretty + "\n"))


def read_state(out: Path, device: str, kind: type = Settings) -> dict:
    """The state of the run in a folder, whose settings are of this kind. Nothing that is loaded can run code."""
    if not (out / STATE).is_file():
        raise ValueError(f"{out} holds no run to resume: there is no {STATE}")
    try:
        state = read_pickled(out / STATE, device=device)
        kind(**state["settings"])
        hints = {"step": int, "seconds": float, "curve": list[Any]}
        if not all(fits(state[name], hint) for name, hint in hints.items()):
            raise ValueError("it does not say how far the run is")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{out / STATE} is damaged, or not the state of a run: {shown(error)}") from error
    return state


def take_up(model: Hyena, optimisers: Sequence[torch.optim.Optimizer], state: dict) -> None:
    """Put the weights and optimisers of a state where they belong. Raises ValueError if they are not its settings'."""
    try:
        model.load_state_dict(state["model"])
        for optimiser, kept in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{STATE} is damaged: it does not fit its own settings: {shown(error)}") from error


def write(file: Path, writer: Callable[[Path], object]) -> None:
    """Write a file beside its place, then rename it: a failure leaves the old one."""
    scratch = file.with_name(file.name + ".new")
    writer(scratch)
    os.replace(scratch, file)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m flashref train``."""
    add_settings(parser, Settings, Path("runs/python_stdlib"))
    parser.set_defaults(run=_train)


def add_settings(parser: argparse.ArgumentParser, kind: type, out: Path) -> None:
    """What every training run is asked: where it is kept, whether it goes on, and the settings of this kind."""
    parser.add_argument("--out", type=Path, default=out, help="folder for the model and the run")
    parser.add_argument("--resume", action="store_true", help="continue the run in that folder")
    for field in fields(kind):
        option, of = "--" + field.name.replace("_", "-"), type(field.default)
        parser.add_argument(option, type=of, metavar=of.__name__.upper(), help=f"(default: {field.default})")


def _train(arguments: argparse.Namespace) -> None:
    given = {field.name: getattr(arguments, field.name) for field in fields(Settings)}
    changes = {name: value for name, value in given.items() if value is not None}
    report = train(arguments.out, arguments.resume, **changes)
    bits = report["held_out_bits_per_byte"]
    print(tabulate(bits.items(), ["on held-out modules", "bits per byte"], floatfmt=".3f"))
    print(f"written to {arguments.out}")
