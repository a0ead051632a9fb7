"""The command line: python -m flashref and one of the commands that _parser names."""

import argparse
import json
import os
import re
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from tabulate import tabulate

from flashref import calibration, comparison, error_growth, recall_training, training
from flashref.bench import PRESETS, EnginesDisagree, Setting, measure
from flashref.bench_report import as_json, as_table, from_json, with_summaries, write_plots
from flashref.budget import available, generation_memory
from flashref.checkpoints import PRETRAINED, load
from flashref.demo import demo
from flashref.engines import ENGINES
from flashref.files import check_target, shown
from flashref.generation import stream
from flashref.machine import environment
from flashref.memory import memory_needed, readable, table
from flashref.resumable import Generation
from flashref.text import decode, encode
from flashref.tiling import check_count

LONGEST_PROMPT = 2**24  # bytes; the longest of HyenaDNA's filters hold 2^20 positions


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 if engines disagree, 2 for wrong input, 130 when interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except BrokenPipeError:  # the reader of our output has gone, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        said = str(error).partition("\nException raised from")[0]  # behind it torch lists the frames of its own stack
        print(f"flashref: {said}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        asked = re.search(r"ried to allocate ([\d.]+ \w+)|Storage size calculation overflowed", str(error))
        if isinstance(error, RuntimeError) and not asked:  # torch has no class of its own for memory that is short
            raise
        if isinstance(error, MemoryError) and str(error) and not asked:  # refused beforehand, with the numbers
            print(f"flashref: {error}", file=sys.stderr)
            return 2
        more = f": {asked[1]} more were asked for" if asked and asked[1] else ""
        print(f"flashref: memory is short{more}", file=sys.stderr)
        return 2
    except EnginesDisagree as error:
        print(f"flashref: {error}; nothing was written", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nflashref: stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flashref", description="Flash Inference, side by side.")
    commands = parser.add_subparsers(required=True, metavar="command")
    defaults = argparse.ArgumentDefaultsHelpFormatter

    show = commands.add_parser("demo", help="the trained Hyena writes the same text with every engine, timed")
    show.add_argument("--prompt", help="what to continue (a piece of Python)")
    show.add_argument("-n", type=int, help="new tokens per engine")
    show.add_argument("--temperature", type=float, help="0 takes the likeliest token")
    show.add_argument("--seed", type=int, help="another seed, another text")
    show.set_defaults(run=_demo)

    generate = commands.add_parser("generate", help="continue a prompt with a model", formatter_class=defaults)
    generate.add_argument("prompt", nargs="?", help="what to continue; without it, --file or standard input")
    generate.add_argument("--file", type=Path, help="read the prompt from this file")
    _add_sampling(generate, seed=None)
    generate.add_argument("--save", type=Path, metavar="STATE", help="put the generation away here when it stops")
    generate.add_argument("--resume", type=Path, metavar="STATE", help="go on with what --save put away")
    generate.set_defaults(run=_generate)

    split = commands.add_parser(
        "parallel",
        help="generate with a model split over processes: torchrun --nproc-per-node 2 -m flashref parallel",
        formatter_class=defaults,
    )
    split.add_argument("prompt", nargs="?", help="what to continue")
    _add_sampling(split, seed=0)
    split.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="gloo on the CPU, NCCL on GPUs")
    split.add_argument("--measure", action="store_true", help="time all-reduces, memory and tokens, without a prompt")
    split.set_defaults(run=_parallel)

    memory = commands.add_parser(
        "memory", help="what every engine would need, and what is free; allocates nothing", formatter_class=defaults
    )
    memory.add_argument("--length", type=int, default=131072, help="L, positions: those of the prompt and new ones")
    memory.add_argument("--prompt", type=int, default=0, help="P, how many of them are the prompt's")
    memory.add_argument("--mixers", type=int, default=4, help="M, one per layer of a model of order 2")
    memory.add_argument("--channels", type=int, default=256, help="D")
    memory.add_argument("--batch", type=int, default=1, help="B, sequences at once")
    memory.add_argument("--dtype", choices=["float32", "float64", "bfloat16"], default="float32", help="of the filters")
    memory.add_argument("--model", type=Path, help="a folder: count this model too, M, D and dtype are its own")
    memory.add_argument("--device", default="cpu", help="cpu or cuda: where it would run")
    memory.set_defaults(run=_memory)

    bench = commands.add_parser("bench", help="measure the engines on this machine", formatter_class=defaults)
    bench.add_argument("--json", type=Path, help="write the records to this file (while it measures, to FILE.part)")
    bench.add_argument(
        "--preset",
        choices=["quick", "standard", "paper", "wide"],
        default="quick",
        help="how much to measure: under two minutes, some ten, or half an hour; wide takes longer, with more "
        "sequences, a higher order, more layers and channels",
    )
    bench.add_argument("--lengths", type=int, nargs="+", help="L, how many positions, instead of the preset's settings")
    bench.add_argument("--mixers", type=int, default=4, help="with --lengths: M, one per layer of the model")
    bench.add_argument("--channels", type=int, default=256, help="with --lengths: D")
    bench.add_argument("--batch", type=int, default=1, help="with --lengths: B")
    bench.add_argument("--repeats", type=int, default=3, help="with --lengths: runs of each; the median is reported")
    bench.add_argument("--engines", nargs="+", choices=list(ENGINES), help="which engines (those made for the device)")
    bench.add_argument("--device", default="cpu", help="cpu or cuda")
    bench.add_argument("--plots", type=Path, help="a folder for four pictures of the records")
    bench.add_argument("--show", type=Path, metavar="JSON", help="measure nothing: table and plots of a results file")
    bench.add_argument("--readme", type=Path, help="measure nothing: make this README's tables from its results")
    bench.set_defaults(run=_bench)

    compare = commands.add_parser(
        "compare", help="what exactness costs, and what giving it up loses", formatter_class=defaults
    )
    comparison.add_arguments(compare)

    errors = commands.add_parser(
        "errors", help="how the engines' rounding errors grow with the length", formatter_class=defaults
    )
    error_growth.add_arguments(errors)

    calibrate = commands.add_parser("calibrate", help="measure what is fastest here, and let the tiled engine use it")
    calibrate.add_argument("--forget", action="store_true", help="measure nothing, go back to what comes with flashref")
    calibrate.set_defaults(run=_calibrate)

    explorer = commands.add_parser("explorer", help="write the tile explorer as a web page of its own")
    explorer.add_argument("--html", type=Path, required=True, metavar="FILE", help="the page; it needs no network")
    explorer.set_defaults(run=_explorer)

    train = commands.add_parser("train", help="train the Hyena that comes with flashref, or your own")
    training.add_arguments(train)

    recall = commands.add_parser("recall", help="train the small Hyena that recalls from thousands of tokens ago")
    recall_training.add_arguments(recall)
    return parser


def _add_sampling(parser: argparse.ArgumentParser, seed: int | None) -> None:
    parser.add_argument("--model", type=Path, default=PRETRAINED, help="a folder with config.json and weights")
    parser.add_argument("-n", type=int, default=256, help="new tokens")
    parser.add_argument("--engine", default="auto", help=f"auto, {', '.join(ENGINES)}")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token")
    parser.add_argument("--top-k", type=int, help="draw from this many likeliest tokens only")
    parser.add_argument("--seed", type=int, default=seed, help="the same seed and engine give the same text")


def _demo(arguments: argparse.Namespace) -> None:
    given = {name: getattr(arguments, name) for name in ("n", "temperature", "seed", "prompt")}
    given = {name: value for name, value in given.items() if value is not None}
    if "prompt" in given:
        given["prompt"] = os.fsencode(given["prompt"])
    demo(**given)


def _generate(arguments: argparse.Namespace) -> None:
    if arguments.save:
        check_target("--save", arguments.save)  # before anything is made
    model = load(arguments.model)
    vocab_size = model.config.vocab_size
    if arguments.resume:
        if arguments.prompt is not None or arguments.file is not None:
            raise ValueError("--resume goes on with the prompt that the file holds: leave yours out")
        tokens = Generation.resume(arguments.resume, model)
        if (sequences := len(tokens.tokens)) > 1:
            raise ValueError(
                f"--resume: {arguments.resume} holds {sequences} sequences, and this command writes one: go on with "
                "flashref.Generation.resume"
            )
        shown = decode(tokens.tokens[0], vocab_size)
    else:
        shown = _prompt(arguments)
        make = Generation if arguments.save else stream
        sampling = {name: getattr(arguments, name) for name in ("temperature", "top_k", "seed")}
        tokens = make(model, encode(shown, vocab_size), arguments.n, engine=arguments.engine, **sampling)
    sys.stdout.buffer.write(shown)
    try:
        for token in tokens:
            sys.stdout.buffer.write(decode(token, vocab_size))
            sys.stdout.buffer.flush()
        print(flush=True)
    except BaseException:  # Ctrl-C, say; after an error in the middle of a token there is nothing to put away
        if arguments.save and not tokens.broken:
            try:
                tokens.save(arguments.save)
            except (OSError, ValueError, MemoryError) as error:  # what ended the text is still what ended the command
                print(f"flashref: {error}", file=sys.stderr)
        raise
    if arguments.save:
        tokens.save(arguments.save)


def _parallel(arguments: argparse.Namespace) -> None:
    from flashref import parallel  # torch's tensor-parallel parts come with it: the other commands do not wait

    parallel.run(arguments)


def _prompt(arguments: argparse.Namespace) -> bytes:
    if arguments.prompt is not None and arguments.file is not None:
        raise ValueError("give the prompt as an argument or with --file, not both")
    if arguments.prompt is not None:
        return os.fsencode(arguments.prompt)
    with arguments.file.open("rb") if arguments.file else nullcontext(sys.stdin.buffer) as source:
        text = source.read(LONGEST_PROMPT + 1)
    if len(text) > LONGEST_PROMPT:
        raise ValueError(f"the prompt is longer than {LONGEST_PROMPT:,} bytes, which no model here can hold")
    return text


def _memory(arguments: argparse.Namespace) -> None:
    L, P, B, device = arguments.length, arguments.prompt, arguments.batch, arguments.device
    engines = [name for name in ENGINES if name != ("tiled_gpu" if _device_type(device) == "cpu" else "tiled_cpu")]
    if arguments.model:
        model = load(arguments.model).to(device)
        check_count("--prompt", P, 1)
        check_count("--length", L, P)
        found = [generation_memory(model, P, L - P + 1, engine, B) for engine in engines]
        M, D = model.config.n_layer * (model.config.order - 1), model.config.d_model
        dtype = model.lm_head.weight.dtype
    else:
        M, D, dtype = arguments.mixers, arguments.channels, getattr(torch, arguments.dtype)
        found = [memory_needed(engine, M, D, L, B, P, dtype, device=device) for engine in engines]
    print(f"M = {M}, D = {D}, L = {L}, B = {B}, a prompt of {P} positions, {dtype}".replace("torch.", ""))
    free = available(device)
    print(f"\n{table(found, free)}\n\n{readable(free)} are free")


def _bench(arguments: argparse.Namespace) -> None:
    for name in ("lengths", "mixers", "channels", "batch", "repeats"):
        value = getattr(arguments, name)
        if value is not None and min(value if isinstance(value, list) else [value]) < 1:
            raise ValueError(f"--{name} must be >= 1, got {value}")
    if arguments.json:
        check_target("--json", arguments.json)  # before minutes of measuring
    if arguments.plots and not arguments.plots.is_dir():
        raise ValueError(f"--plots: there is no folder {arguments.plots}")
    if arguments.readme:
        arguments.readme.write_text(with_summaries(arguments.readme), encoding="utf-8")
        return
    device = _device_type(arguments.device)
    if arguments.show:
        machine, records = from_json(arguments.show)
    else:
        settings = PRESETS[device][arguments.preset]
        if arguments.lengths:
            sizes = {"M": arguments.mixers, "D": arguments.channels, "B": arguments.batch}
            settings = [Setting(L, **sizes, repeats=arguments.repeats) for L in arguments.lengths]
        made_for = ["lazy", "eager", "tiled_cpu", "bounded"] if device == "cpu" else ["lazy", "eager", "tiled_gpu"]
        records, machine = [], environment(arguments.device)
        if device == "cuda":
            # What waits for a GPU waits for the current one.
            torch.cuda.set_device(torch.device(arguments.device).index or 0)
        part = arguments.json and arguments.json.with_name(arguments.json.name + ".part")
        try:
            for measured in measure(settings, arguments.engines or made_for, arguments.device):
                records += measured
                if part:  # after every setting: what is measured is not lost if the rest is stopped
                    part.write_text(json.dumps(as_json(machine, records)) + "\n")
        except EnginesDisagree:
            if part:
                part.unlink(missing_ok=True)
            raise
        if part:
            part.replace(arguments.json)
    print(as_table(records))
    if arguments.plots:
        write_plots(arguments.plots, machine, records)


def _device_type(name: str) -> str:
    kind, available = name.partition(":")[0], {"cpu": 1, "cuda": torch.cuda.device_count()}
    number = name.removeprefix(kind).removeprefix(":") or "0"
    if not number.isdecimal() or int(number) >= available.get(kind, 0):
        there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(available["cuda"]))])
        raise ValueError(f"--device must be one that is here, {there}, got {shown(name)}")
    return kind


def _calibrate(arguments: argparse.Namespace) -> None:
    if arguments.forget:
        file = calibration.choices_file()
        if file is not None:
            check_target(calibration.VARIABLE, file)
            file.unlink(missing_ok=True)
        print(f"now: {calibration.choices()}")
        return
    found, measured = calibration.calibrate()
    rows = [
        (name, value, f"{1000 * s:.0f}", "chosen" if getattr(found, name) == value else "")
        for name, value, s in measured
    ]
    print(tabulate(rows, ("choice", "value", "milliseconds", ""), tablefmt="github"))
    print(f"{calibration.machine()}: kept in {calibration.remember(found)}")


def _explorer(arguments: argparse.Namespace) -> None:
    from flashref.widgets.explorer import write_explorer  # matplotlib comes with it: the other commands do not wait

    check_target("--html", arguments.html)
    write_explorer(arguments.html)
    print(f"written to {arguments.html}: open it in a browser")


if __name__ == "__main__":
    sys.exit(main())
