"""The main job in a terminal: one prompt, every engine, the same text, and how fast."""

import codecs
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from statistics import median

import torch
from tabulate import tabulate
from torch import Tensor
from tqdm.auto import tqdm

from flashref.bench_runs import NoMixer
from flashref.checkpoints import PRETRAINED, load
from flashref.engines import ENGINES, make_mixer
from flashref.generation import decode, stream
from flashref.machine import environment
from flashref.text import decode as to_text
from flashref.text import encode
from flashref.tiling import check_count

TURN = 32  # tokens that an engine, then the bound, writes before it is the other's turn
PROMPT = b'''"""Read a table from a file and print its columns."""

import csv
import sys


def read_table(path):
'''


def demo(prompt: bytes = PROMPT, n: int = 3072, temperature: float = 0.8, seed: int = 4) -> None:
    """Generate n tokens after the prompt with every engine; print the text of the first and the tiled one as it comes.

    Then a table: tokens, seconds, tokens per second, that against the same model with its mixers removed (the bound,
    run in turns with each engine), and whether the tokens are those of lazy. Only the time inside the generator counts,
    not the printing. Raises what generate raises for a bad prompt, n, temperature or seed.
    """
    check_count("n", n, 1)
    model = load(PRETRAINED)
    tokens = encode(prompt, model.config.vocab_size).unsqueeze(0)
    stream(model, tokens, n, temperature=temperature, seed=seed)  # refuses bad arguments before anything is printed
    size = sum(p.numel() for p in model.parameters())
    config, machine = model.config, environment()
    print(
        f"A Hyena of {size / 1e6:.1f} million parameters, {config.n_layer} layers of {config.d_model} channels, ",
        end="",
    )
    print(f"filters of {config.l_max} taps, trained on the Python standard library.")
    print(f"{machine['device']}, {machine['threads']} threads, torch {machine['versions']['torch']}, float32.")
    if (machine["load_average"] or 0) > machine["cores"] / 2:
        print(f"The machine is busy (load {machine['load_average']}): the times below will be too long, and not alike.")

    filters = model.filters(tokens.shape[1] + n - 1).detach()
    found = {}
    for engine in ENGINES:
        show = engine in ("lazy", "tiled_cpu")
        if show:
            print(f"\n--- {engine} writes " + "-" * 60 + "\n" + prompt.decode("utf-8", "replace"), end="")
        timed = Timed(lambda e=engine: decode(model, make_mixer(e, filters), tokens, n, temperature, None, seed))
        bound = Timed(lambda: decode(model, NoMixer(filters), tokens, n, temperature, None, seed))
        found[engine] = _side_by_side(timed, bound, n, show), timed.seconds, bound.seconds
        if show:
            print(f"\n--- {engine}: {timed.seconds:.1f} s " + "-" * 60)
    print("\n" + _table(found))


class Timed:
    """A generation that is run a few tokens at a time, and the seconds spent inside it, its beginning included."""

    def __init__(self, begin: Callable[[], Iterator[Tensor]]) -> None:
        start = time.perf_counter()
        self.tokens = begin()
        self.seconds = time.perf_counter() - start

    def take(self, n: int) -> list[Tensor]:
        start = time.perf_counter()
        tokens = list(islice(self.tokens, n))
        self.seconds += time.perf_counter() - start
        return tokens


def _side_by_side(engine: Timed, bound: Timed, n: int, show: bool) -> Tensor:
    """The engine's n tokens, run in turns with the bound: what slows the machine for a while slows both."""
    pieces, printable = [], codecs.getincrementaldecoder("utf-8")("replace")
    with tqdm(total=n, unit="token", leave=False, disable=True if show else None) as bar:
        while tokens := engine.take(TURN):
            bound.take(TURN)
            pieces += tokens
            if show:
                sys.stdout.write(printable.decode(to_text(torch.cat(tokens), 256)))
                sys.stdout.flush()
            bar.update(len(tokens))
    return torch.stack(pieces, dim=1) if pieces else torch.empty(1, 0, dtype=torch.long)


def _table(found: dict[str, tuple[Tensor, float, float]]) -> str:
    truth = found["lazy"][0]
    n, rows = truth.shape[1], []
    for engine, (tokens, seconds, bound) in found.items():
        same = "yes"
        if not torch.equal(tokens, truth):
            same = f"no, from token {int((tokens != truth).nonzero()[0, 1])}"
        rows.append((engine, n, f"{seconds:.2f}", f"{n / seconds:.0f}", f"{100 * bound / seconds:.0f} %", same))
    bound = median(bound for _, _, bound in found.values())
    rows.append(("(bound)", n, f"{bound:.2f}", f"{n / bound:.0f}", "100 %", "no mixers"))
    header = ("engine", "tokens", "seconds", "tokens/s", "of the bound", "same tokens as lazy")
    return tabulate(rows, header, colalign=("left", *["right"] * 4, "left"), disable_numparse=True)
