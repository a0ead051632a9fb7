"""A model whose channels are split over processes, one per GPU: torch.distributed's own parts around our mixers.

A long convolution, a short one and a gate each stay within one channel of one sequence. So a rank that holds D/R of the
channels, with an engine for them, needs nothing from the others until a linear map mixes the channels: each layer adds
up what the ranks have twice, after out_proj and after fc2. torch.distributed.tensor.parallel does those four maps.

    torchrun --standalone --nproc-per-node 2 -m flashref parallel "def main():" -n 200
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from statistics import median

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from tabulate import tabulate
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.benchmark import Timer

from flashref.checkpoints import load
from flashref.hyena import Hyena
from flashref.machine import environment
from flashref.resumable import Generation
from flashref.text import decode, encode

TIMEOUT = 60.0  # seconds that a rank waits for one that hangs; one that dies is noticed at once, its connections close
STARTED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells each process


@contextmanager
def ranks(device: str = "cpu", timeout: float = TIMEOUT) -> Iterator[DeviceMesh]:
    """The processes that torchrun started, connected by gloo, or by NCCL for "cuda": a mesh of one dimension.

    timeout: seconds after which a rank that waits for another gives up. Raises ValueError where torchrun started
    nothing; inside, RuntimeError when another rank has died or does not answer.
    """
    if any(name not in os.environ for name in STARTED):
        raise ValueError(
            "this runs in processes that torchrun starts: "
            "torchrun --standalone --nproc-per-node 2 -m flashref parallel PROMPT"
        )
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timedelta(seconds=timeout))
    try:
        yield init_device_mesh(device, (dist.get_world_size(),))
        dist.barrier()  # a rank that left at once could end Python under gloo's thread, which then aborts the process
    finally:
        dist.destroy_process_group()


@torch.no_grad()
def split(model: Hyena, mesh: DeviceMesh) -> Hyena:
    """Leave this rank its part of a model, in place: D/R channels of every operator, d_inner/R of every MLP.

    What is left works as the whole does, with Generation and with every engine, as long as all ranks do the same at the
    same time: model.filters() are those of the rank's channels, and so is the mixer that is made of them. Embedding,
    norms and head stay whole on every rank, so that all ranks have the same logits. Give every rank the same seed: with
    none each would draw other tokens. On a GPU use Generation, since the graphs of stream and generate hold whole
    models only. Generation.save and Generation.resume refuse a model that is split: each rank has only its part of the
    state. Keep the tokens instead.

    Raises ValueError for a D or d_inner that the R ranks do not divide; then nothing has changed. No communication.
    """
    R, config = mesh.size(), model.config
    for name in ("d_model", "d_inner"):
        if getattr(config, name) % R:
            raise ValueError(f"{name} must be divisible by the ranks, got {name} = {getattr(config, name)}, {R} ranks")
    D = config.d_model // R

    def by_rank(t: Float[Tensor, "C ..."]) -> Float[Tensor, "C ..."]:
        """Rows that come stream by stream, rank by rank instead: a rank needs the same channels of every stream."""
        return t.unflatten(0, (-1, R, D)).transpose(0, 1).flatten(0, 2)

    def mine(t: Float[Tensor, "C ..."]) -> Float[Tensor, "C/R ..."]:
        return distribute_tensor(by_rank(t), mesh, [Shard(0)], src_data_rank=None).to_local()

    for layer in model.backbone.layers:
        operator, network = layer.mixer, layer.mixer.filter_fn
        for t in (operator.in_proj.weight, operator.in_proj.bias):
            t.data = by_rank(t.data)
        for t in (operator.short_filter.weight, operator.short_filter.bias):
            t.data = mine(t.data)
        for t in (network.bias, network.implicit_filter[-1].weight):
            t.data = mine(t.data)
        network.modulation.deltas = mine(network.modulation.deltas.flatten())[None, None]
        operator.d_model = D
        plan = {"mixer.in_proj": ColwiseParallel(), "mixer.out_proj": RowwiseParallel()}
        plan |= {"mlp.fc1": ColwiseParallel(), "mlp.fc2": RowwiseParallel()}
        parallelize_module(layer, mesh, plan, src_data_rank=None)
    return model


def check_same(tokens: Int[Tensor, "B n"]) -> None:
    """Raise RuntimeError unless every rank has these tokens. One all-gather."""
    gathered = [torch.empty_like(tokens) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, tokens)
    others = [rank for rank, theirs in enumerate(gathered) if not torch.equal(theirs, gathered[0])]
    if others:
        raise RuntimeError(
            f"ranks {others} made other tokens than rank 0: do all ranks have the same seed and weights?"
        )


def measure(mesh: DeviceMesh) -> list[tuple[str, list[float], int | None]]:
    """What the ranks' connection and memory do here: (what, seconds of each round, bytes).

    An all-reduce of few bytes shows the latency, one of many the bandwidth (bytes of the tensor per second). It is also
    timed as RowwiseParallel has it done. A product of one row with a matrix that no cache holds shows how fast weights
    are read, by all ranks at once.
    """

    def rounds(call: Callable[[], Tensor | None], n: int) -> list[float]:
        return [Timer("call()", globals={"call": call}).timeit(1).mean for _ in range(n)]

    rows = []
    for size in (2**power for power in range(10, 27, 2)):
        numbers = torch.zeros(size // 4, device=mesh.device_type)
        times = rounds(partial(dist.all_reduce, numbers), 500 if size <= 2**20 else 30)
        rows.append((f"all-reduce of {size:,} bytes", times, size))
    part = DTensor.from_local(torch.zeros(256, device=mesh.device_type), mesh, [Partial()])
    times = rounds(lambda: part.redistribute(placements=[Replicate()]).to_local() + 0, 500)
    rows.append(("all-reduce of 1,024 bytes, as out_proj has it done", times, 1024))
    x, w = torch.ones(1, 2**12, device=mesh.device_type), torch.ones(2**14, 2**12, device=mesh.device_type)
    return [*rows, (f"read {4 * w.numel():,} bytes of weights", rounds(lambda: x @ w.T, 30), 4 * w.numel())]


def seconds_of_tokens(model: Hyena, n: int = 256) -> list[float]:
    """Of n greedy tokens after a prompt of one; the prompt's own is left out."""
    device = model.lm_head.weight.device
    tokens = Generation(model, torch.zeros(1, dtype=torch.long, device=device), n + 1)
    next(tokens)
    times = []
    for _ in range(n):
        began = time.perf_counter()
        next(tokens).tolist()  # waits for the device
        times.append(time.perf_counter() - began)
    return times


def run(arguments: argparse.Namespace) -> None:
    """The command: rank 0 prints. A rank that cannot go on says why and exits with 1."""
    if (arguments.prompt is None) != arguments.measure:
        raise ValueError("give a prompt, or --measure")
    with ranks(arguments.device) as mesh:
        try:
            _measured(arguments, mesh) if arguments.measure else _written(arguments, mesh)
        except RuntimeError as error:  # gloo and NCCL have no class of their own for a rank that is gone
            reason = str(error).partition("\n")[0]
            print(
                f"flashref: rank {mesh.get_rank()} of {mesh.size()} cannot go on: {reason}", file=sys.stderr, flush=True
            )
            os._exit(1)  # at once: to take down a connection that is broken may hang


def _measured(arguments: argparse.Namespace, mesh: DeviceMesh) -> None:
    rows, model = measure(mesh), load(arguments.model).to(arguments.device)
    if mesh.get_rank() == 0:
        rows.append(("a token, of the whole model in one process", seconds_of_tokens(model), None))
    dist.barrier()
    times = seconds_of_tokens(split(model, mesh))
    if mesh.get_rank() == 0:
        rows.append(("a token, of the model that is split", times, None))
        shown = [
            (what, f"{1e6 * min(times):,.0f}", f"{1e6 * median(times):,.0f}", size and f"{size / min(times) / 1e9:.2g}")
            for what, times, size in rows
        ]
        about = environment(arguments.device)
        print("{device}, {cores} cores, load {load_average}, {date}".format(**about), end=", ")
        print(f"torch {torch.__version__}, {mesh.size()} processes, each with {torch.get_num_threads()} threads\n")
        names = ("what", "best, microseconds", "median", "GB/s at best")
        print(tabulate(shown, names, tablefmt="github", disable_numparse=True))


def _written(arguments: argparse.Namespace, mesh: DeviceMesh) -> None:
    model = split(load(arguments.model).to(arguments.device), mesh)
    vocab_size, prompt = model.config.vocab_size, os.fsencode(arguments.prompt)
    sampling = {name: getattr(arguments, name) for name in ("temperature", "top_k", "seed")}
    tokens = encode(prompt, vocab_size).to(arguments.device)
    tokens = Generation(model, tokens, arguments.n, engine=arguments.engine, **sampling)

    def show(text: bytes) -> None:
        if mesh.get_rank() == 0:
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()

    show(prompt)
    for token in tokens:
        show(decode(token, vocab_size))
    show(b"\n")
    check_same(tokens.tokens)
