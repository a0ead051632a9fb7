"""The main job in a terminal: one prompt, every engine, the same text, and how fast."""

import codecs
import sys
import time
from collections.abc import Callable

import torch
from tabulate import tabulate
from torch import Tensor
from tqdm.auto import tqdm

from flashref.bench import NoMixer, environment
from flashref.checkpoints import PRETRAINED, load
from flashref.engines import ENGINES, make_mixer
from flashref.generation import decode, stream
from flashref.mixer import Mixer
from flashref.text import decode as to_text
from flashref.text import encode

PROMPT = b'''"""Read a table from a file and print its columns."""

import csv
import sys


def read_table(path):
'''


def demo(prompt: bytes = PROMPT, n: int = 3072, temperature: float = 0.8, seed: int = 4) -> None:
    """Generate n tokens after the prompt with every engine; print the text of the first and the tiled one as it comes.

    Then a table: tokens, seconds, tokens per second, that against the same model with its mixers removed, and whether
    the tokens are those of lazy. Only the time inside the generator counts, not the printing. Raises what generate
    raises for a bad prompt, n, temperature or seed.
    """
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
    arguments = (n, temperature, None, seed)
    found = {}
    for engine in ("none", *ENGINES):
        make = (lambda: NoMixer(filters)) if engine == "none" else (lambda e=engine: make_mixer(e, filters))
        if engine in ("lazy", "tiled_cpu"):
            print(f"\n--- {engine} writes " + "-" * 60 + "\n" + prompt.decode("utf-8", "replace"), end="")
            found[engine] = _run(model, make, tokens, arguments, show=True)
            print(f"\n--- {engine}: {found[engine][1]:.1f} s " + "-" * 60)
        else:
            found[engine] = _run(model, make, tokens, arguments, show=False)
    print("\n" + _table(found))


def _run(model, make: Callable[[], Mixer], prompt: Tensor, arguments: tuple, show: bool) -> tuple[Tensor, float]:
    """The new tokens and the seconds inside the generator, the making of the engine's buffers included."""
    pieces, seconds = [], 0.0
    printable = codecs.getincrementaldecoder("utf-8")("replace")
    begin = time.perf_counter()
    tokens = decode(model, make(), prompt, *arguments)
    bar = tqdm(total=arguments[0], unit="token", leave=False, disable=True if show else None)
    with bar:
        for token in tokens:
            seconds += time.perf_counter() - begin
            pieces.append(token)
            if show:
                sys.stdout.write(printable.decode(to_text(token, 256)))
                sys.stdout.flush()
            bar.update()
            begin = time.perf_counter()
    return torch.stack(pieces, dim=1) if pieces else prompt[:, :0], seconds


def _table(found: dict[str, tuple[Tensor, float]]) -> str:
    bound, truth = found["none"][1], found["lazy"][0]
    rows = []
    for engine, (tokens, seconds) in found.items():
        n = tokens.shape[1]
        same = "yes"
        if engine == "none":
            same = "no mixers"
        elif not torch.equal(tokens, truth):
            same = f"no, from token {int((tokens != truth).nonzero()[0, 1])}"
        rows.append((engine, n, f"{seconds:.2f}", f"{n / seconds:.0f}", f"{100 * bound / seconds:.0f} %", same))
    rows.append(rows.pop(0))  # the bound comes last
    rows[-1] = ("(bound)", *rows[-1][1:])
    header = ("engine", "tokens", "seconds", "tokens/s", "of the bound", "same tokens as lazy")
    return tabulate(rows, header, colalign=("left", *["right"] * 4, "left"), disable_numparse=True)
