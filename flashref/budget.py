"""What is free, whether a generation fits into it, and what to change if it does not.

make_mixer, generate, stream, Generation and a mixer's prefill ask here before they allocate anything.
"""

import re
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
from torch import Tensor
from torch.nn import Linear

from flashref.hyena import SHORT_TAPS, Hyena
from flashref.memory import BY_NAME, Memory, bytes_held, memory_needed, phases, readable
from flashref.memory_formulas import FORMULAS
from flashref.mixer import Mixer
from flashref.step_linear import numbers_made
from flashref.tiled_cpu import BASE

if TYPE_CHECKING:
    from flashref.engines import Engine

SAMPLE = 64  # bytes per logit while a token is drawn: the sort, and the weights in float64

Plan = Callable[..., Memory]  # what another engine, length, batch_size or dtype would need


def available(device: str | torch.device = "cpu") -> int:
    """Bytes that this process can still allocate on a device.

    On the CPU: what the system can give without swapping, less where a control group (version 2, as in containers) or
    the process's own limit of address space (``ulimit -v``) leaves less. On CUDA: what the driver and PyTorch's own
    cache have left.
    """
    device = torch.device(device)
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    free = [psutil.virtual_memory().available, *_left_in_control_groups()]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        free.append(limit - psutil.Process().memory_info().vms)
    return max(0, min(free))


def _left_in_control_groups(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """What each control group (version 2) above this process leaves of its limit; files that nobody reads are free."""
    try:
        own = next(line[4:] for line in groups.read_text().splitlines() if line.startswith("0::/"))
    except (OSError, StopIteration):
        return []
    found, place = [], root / own
    for group in (place, *place.parents):
        if not group.is_relative_to(root):
            break
        # Above "high" a group is not killed, but slowed down until it gives back what it cannot.
        limits = [text for text in (_text(group / "memory.max"), _text(group / "memory.high")) if text.isdecimal()]
        used = _text(group / "memory.current")
        if limits and used.isdecimal():  # a group without the memory controller has none of these
            cached = re.search(r"^inactive_file (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
            found.append(min(map(int, limits)) - int(used) + (int(cached[1]) if cached else 0))
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def generation_memory(
    model: Hyena, prompt_length: int, n: int, engine: str = "auto", batch_size: int = 1, **settings: int
) -> Memory:
    """The bytes of generate(model, prompt, n, engine) for B prompts of P tokens: the mixers and the model around them.

    settings: base, direct_up_to or chunk_points of a tiled engine. The weights are in it, which are there already.
    Costs and raises as memory_needed does.
    """
    weight, config, B = model.lm_head.weight, model.config, batch_size
    D, mixers, item, L = config.d_model, config.order - 1, weight.element_size(), max(0, prompt_length + n - 1)
    P, M = min(prompt_length, L), config.n_layer * mixers  # n = 0: no position runs
    told = [settings.get(name) for name in ("base", "direct_up_to", "chunk_points")]
    held, prompt, conv, run = phases(engine, M, D, L, B, P, weight.dtype, *told, weight.device)
    # Of a model that is split over processes (parallel.py) this process holds its part only.
    mine = (t.to_local() if hasattr(t, "to_local") else t for t in model.state_dict().values())
    state = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in mine}
    kept, passing = _decoder(model, held.engine, B, settings.get("base") or BASE)
    decoder = kept + 8 * B * (prompt_length + n)
    # Before there is an engine: every layer's filters and all of them in a row, then the engine's copy beside these; or
    # the last layer's network at work.
    filters, lags = item * M * D * L, item * L
    network = lags * max(3 * config.filter_order, config.filter_order + mixers * D, 3 * mixers * D)
    making = max(2 * filters, filters - filters // config.n_layer + network, filters + held.filters + held.taps)
    # The prompt in a layer: the short filter's sums, the streams beside a long convolution, or the MLP.
    rows, streams = item * B * P, (config.order + 1) * D
    long = rows * (streams + 3 * D) + conv + (0 if item > 2 else 8 * B * P * D)
    layer = 2 * rows * (D + 2) + max(5 * rows * streams, long, rows * (2 * config.d_inner + D))
    token = item * B * (12 * D + streams + 2 * config.d_inner) + passing + SAMPLE * B * config.rows
    peak = max(making, decoder + max(prompt + layer, run, held.held + token))
    held = replace(held, blocks=held.blocks + decoder).with_peak(peak)
    return replace(held, weights=sum(state.values()))


def _decoder(model: Hyena, engine: str, B: int, base: int) -> tuple[int, int]:
    """Bytes that a decoder keeps between two tokens, and the most that one of its linear maps makes beside its answer.

    It keeps the short filters' blocks and taps, and what the maps keep (step_linear.py).
    """
    from flashref.decoder import BLOCK  # which asks this file what fits

    config, weight = model.config, model.lm_head.weight
    streams = (config.order + 1) * config.d_model
    in_blocks = weight.is_cuda and engine in ("tiled_gpu", "lazy", "eager")  # graphs.BlockDecoder, with its noise
    slots = ((base if in_blocks else BLOCK) + SHORT_TAPS - 1) * B * streams
    of_block = 8 * (base + 1) * B * (1 + config.vocab_size) if in_blocks else 0
    maps = (module for name, module in model.named_modules() if isinstance(module, Linear) and "filter_fn" not in name)
    copied, passing = zip(*(numbers_made(map, B) for map in maps), strict=True)
    kept = weight.element_size() * (config.n_layer * (slots + SHORT_TAPS * streams) + sum(copied)) + of_block
    return kept, weight.element_size() * max(passing)


# Refusals. -----------------------------------------------------------------------------------------------------------


def engine_name(engine: "Engine") -> str | None:
    """An engine's name, of one that finite.checked made too; None for any other callable, of which nothing is known."""
    return getattr(engine, "engine_name", None) if callable(engine) else engine


def check_mixer(kind: type[Mixer], filters: Tensor, batch_size: int, base: int | None) -> None:
    """Refuse to make an engine that does not fit, even without a prompt. Raises MemoryError."""
    (M, D, L), device = filters.shape, filters.device

    def plan(engine: str = kind.name, length: int = L, batch_size: int = batch_size, dtype=filters.dtype) -> Memory:
        own = base if engine == kind.name else None
        return memory_needed(engine, M, D, length, batch_size, 0, dtype, own, device=device)

    fits = _Fits(plan, 0, available(device))
    if fits():
        return
    ways = [*_engines(fits, kind.name, device)]
    ways += _most(fits, "length", "filters of at most {} lags", L)
    ways += _most(fits, "batch_size", "batch_size of at most {}", batch_size)
    if filters.dtype == torch.float64 and fits(dtype=torch.float32):
        ways.append("filters in float32")
    raise fits.refusal(f"M = {M}, D = {D}, L = {L}, B = {batch_size}", ways)


def check_prompt(mixer: Mixer, prompt_length: int, dtype: torch.dtype) -> None:
    """Refuse a prompt in this dtype after which a generation does not fit. Raises MemoryError.

    An engine without a formula passes.
    """
    kind = _formula_of(type(mixer))
    if kind is None:
        return
    filters, names = mixer.filters, ("base", "direct_up_to", "chunk_points")
    own = {name: getattr(mixer, name) for name in names if hasattr(mixer, name)}

    def plan(length: int = prompt_length) -> Memory:
        shape = (*filters.shape, mixer.batch_size, length)
        return memory_needed(kind.name, *shape, dtype, **own, device=filters.device)

    free = available(filters.device)
    if _Fits(plan, filters.nbytes, free)():
        return  # even beside all that a generation before it left, which takes a while to count
    fits = _Fits(plan, filters.nbytes + bytes_held(mixer), free)
    if not fits():
        ways = _most(fits, "length", "a prompt of at most {} positions", prompt_length)
        raise fits.refusal(f"a prompt of {prompt_length} positions", ways)


def _formula_of(kind: type[Mixer]) -> type[Mixer] | None:
    """The engine whose formula holds for a class: itself, or what a checked class or one of naive_gpu.py is made of.

    None where the caller has changed anything.
    """
    for known in kind.__mro__:
        if known in FORMULAS or not known.__module__.startswith("flashref."):
            return known if known in FORMULAS else None
    return None


def check_generation(
    model: Hyena, prompt_length: int, n: int, engine: "Engine", batch_size: int, **settings: int
) -> None:
    """Refuse a generation that does not fit beside the model. An engine without a name passes. Raises MemoryError.

    settings: those of an engine that is already chosen, of a generation that is resumed: then nothing can be changed.
    """
    name = engine_name(engine)
    if name is None:
        return

    def plan(engine: str = name, length: int = n, batch_size: int = batch_size) -> Memory:
        return generation_memory(model, prompt_length, length, engine, batch_size, **settings)

    device = model.lm_head.weight.device
    fits = _Fits(plan, plan().weights, available(device))
    if fits():
        return
    ways = []
    if not settings:
        ways += _engines(fits, plan().engine, device)
        ways += _most(fits, "length", "n of at most {}", n)
        ways += _most(fits, "batch_size", "at most {} sequences", batch_size)
    raise fits.refusal(f"a prompt of {prompt_length} tokens, n = {n}, B = {batch_size}", ways)


class _Fits:
    """Whether a plan, or one with a change, fits into what is free beside what is already there."""

    def __init__(self, plan: Plan, already: int, free: int) -> None:
        self._plan, self._already, self._free = plan, already, free

    def __call__(self, **change: object) -> bool:
        return self._plan(**change).total - self._already <= self._free

    def refusal(self, what: str, ways: list[str]) -> MemoryError:
        need = self._plan()
        largest = max(need.parts, key=need.parts.get)
        asked, free = readable(need.total - self._already), readable(self._free)
        return MemoryError(
            f"engine {need.engine!r} with {what} needs {asked} more and {free} are free; the largest part is "
            f"{readable(need.parts[largest])} of {largest}. "
            + (f"What fits: {'; '.join(ways)}" if ways else "Free some memory, or take a smaller model")
            + ". See python -m flashref memory"
        )


def _engines(fits: _Fits, engine: str, device: torch.device) -> list[str]:
    """The other engines for this device that fit."""
    others = [name for name in BY_NAME if name not in (engine, "tiled_gpu" if device.type == "cpu" else "tiled_cpu")]
    found = [f'"{name}"' for name in others if fits(engine=name)]
    return [f"engine {' or '.join(found)}"] if found else []


def _most(fits: _Fits, name: str, way: str, given: int) -> list[str]:
    """The largest value below the given one that fits, found by halving: it is tried before it is named."""
    low, high = 0, given
    while high - low > 1:
        between = (low + high) // 2
        low, high = (between, high) if fits(**{name: between}) else (low, between)
    return [way.format(low)] if low else []
