"""Train the small Hyena of the recall task: near first, then twice as far, and twice again.

The network that makes the filters is told the lag as a fraction of l_max. So a model that recalls at some distance
recalls at twice that distance when all its lengths are doubled at once: its filters stretch. What remains to be learned
is to be as sharp as before, since the pages have not grown. Each phase of the training is one such doubling.
"""

import argparse
import math
import os
import platform
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor
from tqdm.auto import tqdm

from flashref.checkpoints import check_fit, load, save
from flashref.config import HyenaConfig
from flashref.hyena import Hyena
from flashref.machine import processor
from flashref.recall import Task, accuracy, sequences
from flashref.tiling import check_count
from flashref.training import (
    STATE,
    add_settings,
    level_filters,
    make_optimisers,
    rate,
    read_state,
    take_up,
    write,
    write_report,
)

CURVE_EVERY = 25  # steps
MEASURED = 256  # sequences
FRESH = 10**9  # seeds from here on are for measuring, those below for training


@dataclass(frozen=True)
class Settings:
    """A training run; the defaults are those of the model that comes with flashref.

    The phases ask ``first_back`` pages back, then twice as far, up to ``back``; l_max is always two times the distance.
    steps: of each phase; batch: tokens of a step. In every phase the learning rates rise over ``warmup`` steps, stay,
    and fall to zero over the last ``decay`` of its steps.
    """

    keys: int = 4
    values: int = 8
    page: int = 32
    back: int = 64
    first_back: int = 2
    steps: int = 500
    batch: int = 4096
    warmup: int = 20
    decay: float = 0.4
    lr_matrix: float = 0.02
    lr_filter: float = 0.002
    lr_rest: float = 0.003
    weight_decay: float = 0.0
    seed: int = 0
    d_model: int = 64
    n_layer: int = 2
    d_inner: int = 128
    emb_dim: int = 17
    filter_order: int = 64
    w: float = 3.0

    def __post_init__(self) -> None:
        for name in ("first_back", "steps", "batch", "warmup"):
            check_count(name, getattr(self, name), 1)
        check_count("seed", self.seed, 0)
        doublings = math.log2(self.back / self.first_back)
        if doublings < 0 or doublings % 1:
            raise ValueError(f"back must be first_back times a power of two, got {self.back} and {self.first_back}")
        if self.batch < 2 * self.page * self.back:
            raise ValueError(f"batch must hold a sequence of {2 * self.page * self.back} tokens, got {self.batch}")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must lie in 0 .. 1, got {self.decay!r}")
        if self.seed * self.total >= FRESH:
            raise ValueError(f"seed must be below {FRESH // self.total}: beyond are the sequences to measure with")
        self.config(self.phases()[-1])

    def phases(self) -> list[Task]:
        """The task of each phase."""
        backs = (self.first_back << k for k in range(1 + int(math.log2(self.back / self.first_back))))
        return [Task(self.keys, self.values, self.page, back) for back in backs]

    @property
    def total(self) -> int:
        return self.steps * len(self.phases())

    def config(self, task: Task) -> HyenaConfig:
        """The model's sizes. Windows that hardly decay: what matters is far away."""
        names = ("d_model", "n_layer", "d_inner", "emb_dim", "filter_order", "w")
        return HyenaConfig(
            vocab_size=task.vocab_size,
            l_max=2 * task.distance,
            shift=0.0,
            fast_decay=100.0,
            slow_decay=100.0,
            **{name: getattr(self, name) for name in names},
        )


def answer_loss(model: Hyena, tokens: Int[Tensor, "B L"], questions: Bool[Tensor, "B L"]) -> tuple[Tensor, float]:
    """The mean cross-entropy of the answers, in nats, and the share of questions that are answered rightly."""
    logits = model(tokens[:, :-1])[questions[:, :-1]]
    answers = tokens[:, 1:][questions[:, :-1]]
    return F.cross_entropy(logits, answers), (logits.argmax(-1) == answers).float().mean().item()


@torch.no_grad()
def stretched(model: Hyena | None, settings: Settings, task: Task) -> Hyena:
    """A model for a phase: a new one, or the last phase's with all lags longer by the ratio of the two l_max."""
    torch.manual_seed(settings.seed)
    longer = Hyena(settings.config(task))
    if model is None:
        level_filters(longer)
    else:
        positions = {key: value for key, value in longer.state_dict().items() if "pos_emb" in key}
        longer.load_state_dict(model.state_dict() | positions)
    return longer


def train(out: str | os.PathLike, resume: bool = False, save_minutes: float = 2, **changes) -> dict:
    """Train a model and write config.json, weights.safetensors and training.json into the folder ``out``.

    ``changes`` are fields of Settings. The state of the run is kept in ``out`` too, every save_minutes, and ``resume``
    continues from there with the settings of the run. Runs on the CPU. Returns what training.json says.

    Raises ValueError for settings that do not fit, a folder that holds a run already, or one that holds none to resume.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: give a folder for the model and the run")
    if resume and changes:
        raise ValueError(f"a resumed run keeps its settings, got {', '.join(sorted(changes))}")
    if not resume and (out / STATE).exists():
        raise ValueError(f"{out} holds a run already: resume it with --resume, or give another folder with --out")
    if resume:
        state = read_state(out, "cpu", Settings)
    else:
        state = {"settings": asdict(Settings(**changes)), "step": 0, "seconds": 0.0, "curve": []}
    settings = Settings(**state["settings"])
    out.mkdir(parents=True, exist_ok=True)
    model, task = run(settings, state, out / STATE, save_minutes), settings.phases()[-1]
    save(model, out, torch.float16)
    report = {
        "task": asdict(task),
        "settings": asdict(settings),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(state["seconds"]),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": {"processor": processor(), "device": "cpu", "threads": torch.get_num_threads()},
        "protocol": " ".join(accuracy.__doc__.split(" engine:")[0].split()),
        "chance": task.chance,
        "answers": MEASURED * task.keys,
        "accuracy": accuracy(load(out), task, "tiled_cpu", MEASURED, FRESH),  # as it is in the file, rounded
        "curve": {"columns": ["step", "distance in tokens", "nats per answer", "accuracy"], "rows": state["curve"]},
    }
    write_report(out, report)
    return report


def run(settings: Settings, state: dict, file: Path, save_minutes: float) -> Hyena:
    """Do the steps that are left, keeping ``state`` up to date and on disk; returns the model."""
    phases, recent, saved = settings.phases(), [], time.monotonic()
    model, optimisers = None, []
    if "model" in state:
        if not 0 < state["step"] <= settings.total:
            raise ValueError(f"{file} is damaged: step {state['step']} is none of its {settings.total} steps")
        task = phases[(state["step"] - 1) // settings.steps]
        check_fit(Hyena, settings.config(task), state["model"], file)
        model = stretched(None, settings, task)
        optimisers = make_optimisers(model, settings) if state["step"] % settings.steps else []
        take_up(model, optimisers, state if optimisers else state | {"optimisers": []})

    def keep() -> None:
        state["model"], state["optimisers"] = model.state_dict(), [o.state_dict() for o in optimisers]
        write(file, lambda path: torch.save(state, path))

    with tqdm(total=settings.total, initial=state["step"], unit="step", smoothing=0.02) as bar:
        while state["step"] < settings.total:
            began, (phase, step) = time.monotonic(), divmod(state["step"], settings.steps)
            task = phases[phase]
            if step == 0:
                model = stretched(model, settings, task)
                optimisers = make_optimisers(model, settings)
            batch = settings.batch // (2 * task.distance)
            seed = settings.seed * settings.total + state["step"]  # so that a resumed run sees what it would have seen
            loss, right = answer_loss(model, *sequences(task, batch, 2 * task.back, seed))
            loss.backward()
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = group["peak"] * rate(step, settings)
                optimiser.step()
                optimiser.zero_grad()
            state["step"] += 1
            state["seconds"] += time.monotonic() - began
            recent.append((loss.item(), right))
            bar.update()
            bar.set_postfix_str(f"{task.distance} tokens back: {recent[-1][0]:.3f} nats, {right:.1%} right")
            if state["step"] % CURVE_EVERY == 0:
                means = (round(sum(column) / len(column), 4) for column in zip(*recent, strict=True))
                state["curve"].append([state["step"], task.distance, *means])
                recent.clear()
            if time.monotonic() - saved > 60 * save_minutes or (step + 1 == settings.steps):
                keep()
                saved = time.monotonic()
    return model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m flashref recall``."""
    add_settings(parser, Settings, Path("runs/recall"))
    parser.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> None:
    given = {field.name: getattr(arguments, field.name) for field in fields(Settings)}
    report = train(arguments.out, arguments.resume, **{k: value for k, value in given.items() if value is not None})
    print(f"{report['accuracy']:.1%} of {report['answers']} answers are right, a guess is in {report['chance']:.1%}")
    print(f"written to {arguments.out}")
