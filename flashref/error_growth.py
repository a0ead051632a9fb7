"""How the error of every engine grows with the length, measured against sums without any rounding, and held against
the bound of error_bound.py.

``python -m flashref errors --json FILE`` measures all of it and writes a file.
"""

import argparse
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from tabulate import tabulate
from torch import Tensor
from tqdm.auto import tqdm

from flashref.engines import ENGINES, make_mixer
from flashref.error_bound import error_bound
from flashref.files import check_target, read_records
from flashref.machine import environment
from flashref.mixer import Mixer

LENGTHS = (2**8, 2**10, 2**12, 2**14, 2**16, 2**18)
DTYPES = ("float32", "float64", "bfloat16")  # of the inputs; for bfloat16 filters and arithmetic are float32
CASES = ("decaying", "flat", "growing", "positive", "outlier")
CHANNELS = 2
COMPARED = 64  # positions, at most
LONG = 2**16  # beyond it "eager" is run in float32 only, and it and bfloat16 without a prompt only
MEASURES = ("relative", "of_terms", "of_bound", "of_bound_late")


@dataclass(frozen=True)
class Measured:
    """One engine, dtype and case at one length; all errors are over the ``compared`` positions behind the prompt.

    relative: ||z - exact||_2 / ||exact||_2. of_terms: the largest |z_t - exact| / sum_j |x_j| |rho_{t-j}|: a direct sum
    keeps it small, an FFT need not. of_bound: the largest |z_t - exact| / bound; above 1 the bound would be wrong.
    of_bound_late: the same over the second half of the positions, where sums are long.
    """

    engine: str
    dtype: str
    case: str
    L: int
    prompt: int
    compared: int
    relative: float
    of_terms: float
    of_bound: float
    of_bound_late: float


def draw(case: str, L: int, dtype: torch.dtype) -> tuple[Float[Tensor, "1 D L"], Float[Tensor, "D L"]]:
    """Inputs, and filters in the arithmetic's dtype, for two channels; the same on every call.

    decaying: normal numbers, the filters' fading to 3e-4. flat, growing: filters that do not fade, or grow to 10^6.
    positive: all numbers in [1, 2], so that sums grow and nothing cancels. outlier: filters that fade to 10^-10 in less
    than a third of the length, and an input a million times as large as the others, at L/16.
    """
    g = torch.Generator().manual_seed(L)
    x, rho = torch.randn(2, CHANNELS, L, generator=g, dtype=torch.float64)
    time = torch.arange(L, dtype=torch.float64) / max(L, 1)
    if case == "positive":
        x, rho = 1 + torch.rand(2, CHANNELS, L, generator=g, dtype=torch.float64)
    elif case == "outlier":
        rho *= torch.exp(-80 * time)
        x[:, L // 16] *= 1e6
    else:
        rho *= torch.exp({"decaying": -8, "flat": 0, "growing": 13.8}[case] * time)
    return x[None].to(dtype), rho.to(torch.promote_types(dtype, torch.float32))


def exact_sum(a: np.ndarray, b: np.ndarray) -> float:
    """The sum of a*b, float64, rounded once at its end: each number is split so that all products are exact.

    Exact as long as no part of a product is below 1e-300 or above 1e300 in modulus.
    """
    parts = [(v - _low(v), _low(v)) for v in (a, b)]  # 26 bits each
    return math.fsum(np.concatenate([p * q for p in parts[0] for q in parts[1]]))


def _low(v: np.ndarray) -> np.ndarray:
    """What the upper half of the digits leaves out (Veltkamp's splitting)."""
    scaled = (2.0**27 + 1) * v
    return v - (scaled - (scaled - v))


def exact_outputs(x: Float[Tensor, "1 D L"], rho: Float[Tensor, "D L"], at: Sequence[int]) -> Float[Tensor, "1 D S"]:
    """The sums at some positions."""
    xs, taps = x[0].double().numpy(), rho.double().numpy()
    sums = [[exact_sum(x_d[: t + 1], r[t::-1]) for t in at] for x_d, r in zip(xs, taps, strict=True)]
    return torch.tensor([sums], dtype=torch.float64)


def outputs(mixer: Mixer, x: Float[Tensor, "1 D L"], prompt: int, at: Sequence[int]) -> Float[Tensor, "1 D S"]:
    """What the mixer gives out at some positions, all at or behind the prompt; every position is stepped through.

    Only "lazy" is asked at those positions alone: its step reads nothing but the inputs, so they are put where it has
    them, and the same call gives the same bits.
    """
    found, rows = [], x.permute(2, 0, 1).contiguous()
    if mixer.name == "lazy":
        inputs = rows.to(mixer.filters.dtype)[None]
        for t in at:
            mixer.restore({"position": torch.tensor([t, 0, 1]), "x": inputs})
            found.append(mixer.step(0, rows[t]))
        return torch.stack(found, dim=-1)
    if prompt:
        mixer.prefill(0, x[..., :prompt])
    wanted = set(at)
    for t in range(prompt, x.shape[-1]):
        z_t = mixer.step(0, rows[t])
        if t in wanted:
            found.append(z_t)
        mixer.advance()
    return torch.stack(found, dim=-1)


def compared_positions(L: int, prompt: int) -> list[int]:
    """Half of them spread evenly behind the prompt, half ever closer to it; the last one is among them."""
    rest, half = L - prompt, COMPARED // 2
    even = torch.linspace(0, rest - 1, half).long().tolist()
    close = [round(rest ** (i / half)) - 1 for i in range(half)]
    return sorted({prompt + i for i in even + close})


@torch.inference_mode()
def measure(
    lengths: Sequence[int] = LENGTHS, dtypes: Sequence[str] = DTYPES, cases: Sequence[str] = CASES
) -> Iterator[Measured]:
    """Every engine on every case, without a prompt and with one of half the length (but see LONG)."""
    for L, dtype, case in itertools.product(lengths, dtypes, cases):
        x, rho = draw(case, L, getattr(torch, dtype))
        for prompt in (0, L // 2) if L <= LONG or dtype != "bfloat16" else (0,):
            at = compared_positions(L, prompt)
            exact, sizes = exact_outputs(x, rho, at), exact_outputs(x.abs(), rho.abs(), at)
            for engine in ENGINES:
                if L > LONG and engine == "eager" and (prompt or dtype != "float32"):
                    continue
                mixer = make_mixer(engine, rho[None])
                error = (outputs(mixer, x, prompt, at).double() - exact).abs()
                of_bound = error / error_bound(mixer, 0, x, at, prompt)
                late = of_bound[..., [t >= L // 2 for t in at]]
                yield Measured(
                    *(engine, dtype, case, L, prompt, len(at)),
                    relative=(error.norm() / exact.norm()).item(),
                    of_terms=(error / sizes).max().item(),
                    of_bound=of_bound.max().item(),
                    of_bound_late=late.max().item(),
                )


def read(file: Path) -> tuple[dict, list[Measured]]:
    """What ``errors --json`` wrote: the machine, and the records. Raises ValueError for a file that is none."""
    content, records = read_records(Path(file), Measured)
    return content["environment"], records


def as_table(records: Sequence[Measured]) -> str:
    """A line for each dtype, case, prompt and engine: the relative error at each length, and the largest of the other
    measures over all lengths."""
    by_kind: dict[tuple, dict[int, Measured]] = {}
    for r in records:
        by_kind.setdefault((r.dtype, r.case, "L/2" if r.prompt else "none", r.engine), {})[r.L] = r
    lengths = sorted({r.L for r in records})
    rows = []
    for kind, of_length in by_kind.items():
        worst = [max(getattr(r, name) for r in of_length.values()) for name in MEASURES[1:]]
        rows.append([*kind, *(of_length[L].relative if L in of_length else None for L in lengths), *worst])
    head = ["dtype", "case", "prompt", "engine", *(f"L = {L}" for L in lengths), *MEASURES[1:]]
    return tabulate(rows, head, floatfmt=".1e")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m flashref errors``."""
    parser.add_argument("--json", type=Path, help="write the records to this file")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="L, how many positions")
    parser.set_defaults(run=_errors)


def _errors(arguments: argparse.Namespace) -> None:
    if min(arguments.lengths) < 2:
        raise ValueError(f"--lengths must be >= 2, got {min(arguments.lengths)}")
    if arguments.json:
        check_target("--json", arguments.json)  # before minutes of measuring
    machine = environment()
    records = list(tqdm(measure(arguments.lengths), unit="run", disable=None))
    if arguments.json:
        lines = ",\n".join("  " + json.dumps(asdict(record)) for record in records)
        arguments.json.write_text(f'{{"environment": {json.dumps(machine)},\n "records": [\n{lines}\n]}}\n')
    print(as_table(records))
