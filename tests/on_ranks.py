"""What each process of test_parallel.py does: torchrun starts it with the folder that holds the cases."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile

from flashref import ENGINES, Generation, Hyena, TiledCPU, load, make_mixer, parallel, resumable
from flashref.engines import Engine

MINUTES = 600.0  # a machine that is busy with something else must not fail a test


def small(engine: str) -> Engine:
    """The engine with blocks of 4 positions, if it has blocks: so that a short text goes through many tiles."""
    return partial(make_mixer, engine, base=4) if issubclass(ENGINES[engine], TiledCPU) else engine


def collectives(call: Callable[[], object]) -> dict[str, int]:
    """How often gloo ran each of its operations during a call, as the profiler saw them."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()
    return dict(Counter({event.key: event.count for event in seen.key_averages() if event.key.startswith("gloo:")}))


def text(model: Hyena, case: dict) -> dict:
    """The tokens of a case, the logits that each was taken from, and the collectives of the prompt and of a token."""
    prompt, sampling = torch.tensor(case["prompt"]), case["sampling"]
    run = Generation(model, prompt, case["n"], engine=small(case["engine"]), **sampling)
    logits, real = [], resumable.sample
    resumable.sample = lambda row, *rest: (logits.append(row.clone()), real(row, *rest))[1]
    counts = [collectives(lambda: next(run)) for _ in range(2)]
    for _ in run:
        pass
    resumable.sample = real
    return {"tokens": run.tokens, "logits": torch.stack(logits, dim=1), "prompt": counts[0], "token": counts[1]}


def mixers_alone(model: Hyena, x: Tensor, engine: str) -> dict:
    """This rank's channels of x (M, B, D, L) through the rank's own mixers, half as a prompt, and the collectives."""
    with torch.no_grad():
        filters = model.filters(x.shape[-1])
    M, D = filters.shape[:2]
    x = x[:, :, D * dist.get_rank() :][:, :, :D]
    mixer, z, P = make_mixer(small(engine), filters, x.shape[1]), torch.empty_like(x), x.shape[-1] // 2

    def all_positions() -> None:
        for m in range(M):
            z[m, ..., :P] = mixer.prefill(m, x[m, ..., :P])
        for t in range(P, x.shape[-1]):
            for m in range(M):
                z[m, ..., t] = mixer.step(m, x[m, ..., t])
            mixer.advance()

    return {"counts": collectives(all_positions), "z": z}


def memory(model: Hyena) -> dict[str, int]:
    """The bytes that each parameter of a layer occupies on this rank, whatever it looks at of them."""
    held = {}
    for name, p in model.backbone.layers[0].named_parameters():
        local = p.to_local() if isinstance(p, DTensor) else p
        held[name] = local.untyped_storage().nbytes()
    return held


def main(folder: Path) -> None:
    found = {"texts": []}
    with parallel.ranks(timeout=MINUTES) as mesh:
        for case in json.loads((folder / "cases.json").read_text()):
            model = parallel.split(load(folder / case["model"]), mesh)
            found["texts"].append(text(model, case))
            parallel.check_same(found["texts"][-1]["tokens"])
        model = parallel.split(load(folder / "mixers"), mesh)
        x = torch.load(folder / "x.pt")
        found["mixers"] = {engine: mixers_alone(model, x, engine) for engine in ENGINES}
        found["memory"] = memory(model)
        other = torch.full((1, 3), mesh.get_rank() % 3)  # ranks 0 and 3 have the same
        found["control"] = collectives(lambda: found.update(refusal=refusal(lambda: parallel.check_same(other))))
        torch.save(found, folder / f"rank_{mesh.get_rank()}_of_{mesh.size()}.pt")


def refusal(call: Callable[[], object]) -> str:
    try:
        call()
    except RuntimeError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
