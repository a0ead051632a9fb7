"""How many bytes a generation needs, and for what: worked out from its sizes, before anything is allocated.

``python -m flashref memory`` prints it for every engine; budget.py compares it with what is free and refuses what does
not fit. What is held is right to the byte, and the work space is never too small: tests/test_memory_formulas.py counts.
Bytes are those that PyTorch asks for. What the C library keeps of freed blocks comes on top: with glibc some 32 MiB at
most, none where MALLOC_MMAP_THRESHOLD_=65536 is set.
"""

import gc
import types
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from tabulate import tabulate
from torch import Tensor

from flashref.calibration import settings
from flashref.convolution import fast_length
from flashref.epoched import Epoched, epoch
from flashref.memory_formulas import FORMULAS, Sizes
from flashref.mixer import Mixer, prompt_channels
from flashref.naive import Lazy
from flashref.tiled_cpu import BASE, TiledCPU
from flashref.tiling import check_count

CODE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType)
VIEW = 640  # bytes of a tensor object that only looks at another's numbers, of which a block has three per position
CALLS = 2**16  # bytes that a step's own small tensors never reach, beside those that grow with B*D or B*V


@dataclass(frozen=True)
class Memory:
    """Bytes of one generation with one engine, by what they are for.

    weights: the model's, 0 for mixers alone. filters: the engine's copy. taps: some or all of them once more, in the
    order in which steps read them. spectra: the filters' transforms, kept for the next generation. sums: inputs and
    partial sums of all positions. blocks: those of one block, and what a decoder keeps between tokens. views: Python's
    objects for the positions of a block. work: what the largest call holds for a moment on top of all that.
    """

    engine: str
    weights: int = 0
    filters: int = 0
    taps: int = 0
    spectra: int = 0
    sums: int = 0
    blocks: int = 0
    views: int = 0
    work: int = 0

    @property
    def total(self) -> int:
        """The most that is in use at once."""
        return sum(self.parts.values())

    @property
    def held(self) -> int:
        """Bytes of the tensors that are kept between two steps, once every tile has run."""
        return self.total - self.work - self.views

    @property
    def parts(self) -> dict[str, int]:
        """All but the name and the total, in order."""
        return {field.name: getattr(self, field.name) for field in fields(self)[1:]}

    def with_peak(self, peak: int) -> Self:
        """The same with the work that a peak of so many bytes of tensors asks for, and a step's own small tensors."""
        return replace(self, work=CALLS + max(0, peak - self.held))

    def __str__(self) -> str:
        return table([self])


def table(found: list[Memory], free: int | None = None) -> str:
    """Engines as rows, what the bytes are for as columns; a column of zeros is left out. free: says what fits, too.

    The weights are not compared with what is free: whoever asks has them.
    """
    kinds = [kind for kind in found[0].parts if any(memory.parts[kind] for memory in found)]
    rows = [(m.engine, *(readable(m.parts[kind]) for kind in kinds), readable(m.total)) for m in found]
    names = ("engine", *kinds, "in all")
    if free is not None:
        rows = [(*row, "yes" if m.total - m.weights <= free else "no") for row, m in zip(rows, found, strict=True)]
        names += ("fits",)
    return tabulate(rows, names, colalign=("left", *["right"] * (len(names) - 1)))


def readable(size: int) -> str:
    """Bytes as people read them: three digits and a unit, in powers of 1024."""
    power = 0
    while size >= 1000 and power < 4:
        size, power = size / 1024, power + 1
    return f"{size:.{max(0, 3 - len(str(int(size)))) if power else 0}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


BY_NAME = {kind.name: kind for kind in FORMULAS}


def memory_needed(
    engine: str,
    M: int,
    D: int,
    L: int,
    batch_size: int = 1,
    prompt_length: int = 0,
    dtype: torch.dtype = torch.float32,
    base: int | None = None,
    direct_up_to: int | None = None,
    chunk_points: int | None = None,
    device: str | torch.device = "cpu",
) -> Memory:
    """The bytes that an engine needs for M mixers, D channels, L positions and B sequences, its filters' copy included.

    engine: a name as in make_mixer, "auto" too. dtype: of the filters and the inputs; bfloat16 filters are kept in
    float32. base, direct_up_to, chunk_points: what make_mixer would take on this machine, unless told. The caller's own
    filters are not counted. On a CUDA device the work is an estimate: what cuFFT takes for itself is not in it.

    Costs O(log L) time and allocates nothing. Raises ValueError or TypeError for what is no engine or no count, or for
    a prompt longer than L.
    """
    shape = (M, D, L, batch_size, prompt_length)
    held, prompt, conv, run = phases(engine, *shape, dtype, base, direct_up_to, chunk_points, device)
    wide = 4 * batch_size * D * prompt_length if dtype == torch.bfloat16 else 0  # the prompt in float32
    return held.with_peak(max(prompt + wide + conv, run))


def phases(
    engine: str,
    M: int,
    D: int,
    L: int,
    batch_size: int,
    prompt_length: int,
    dtype: torch.dtype,
    base: int | None,
    direct_up_to: int | None,
    chunk_points: int | None,
    device: str | torch.device,
) -> tuple[Memory, int, int, int]:
    """What memory_needed puts together: what is held; all that there is in bytes while a prompt goes through a mixer,
    its long convolution left out; that convolution; and the most that there is at any other time.
    """
    cuda = torch.device(device).type == "cuda"
    engine = ("tiled_gpu" if cuda else "tiled_cpu") if engine == "auto" else engine
    if engine not in BY_NAME:
        raise ValueError(f"engine must be one of {', '.join(BY_NAME)} or auto, got {engine!r}")
    for name, count, least in (("M", M, 1), ("D", D, 1), ("L", L, 0), ("batch_size", batch_size, 1)):
        check_count(name, count, least)
    check_count("prompt_length", prompt_length, 0)
    if prompt_length > L:
        raise ValueError(f"prompt_length must be at most L = {L}, got {prompt_length}")
    if base is not None:
        check_count("base", base, 1)
    kind, item = BY_NAME[engine], torch.promote_types(dtype, torch.float32).itemsize
    tiled = issubclass(kind, TiledCPU)
    chosen = {"base": epoch(L) if kind is Epoched else BASE, "direct_up_to": 0, "chunk_points": 1}
    if tiled:
        chosen |= {"direct_up_to": kind.direct_up_to, "chunk_points": kind.chunk_points}
        chosen |= settings(engine, base, on_cpu=not cuda)
        told = {"direct_up_to": direct_up_to, "chunk_points": chunk_points}
        chosen |= {name: value for name, value in told.items() if value is not None}
    found = FORMULAS[kind](Sizes(M, D, L, batch_size, prompt_length, cuda, **chosen))
    views = VIEW * 3 * chosen["base"] * (M + 1) if tiled else 0
    kept = {name: item * count for name, count in found.kept.items()}
    held = Memory(engine, filters=item * M * D * L, views=views, **kept)
    P = prompt_length
    conv = _prompt(kind, D, L, batch_size, P, dtype, cuda) if P else 0
    prompt = held.held - kept.get("spectra", 0) + item * found.first
    step = max(found.step, 4 * batch_size * D)  # a step's own rows, where no tile is larger
    return held, prompt, conv, max(item * found.begin, held.held + item * step)


def _prompt(kind: type[Mixer], D: int, L: int, B: int, P: int, dtype: torch.dtype, cuda: bool) -> int:
    """The bytes that there are while a mixer convolves its prompt, beside what it keeps."""
    item, points = torch.promote_types(dtype, torch.float32).itemsize, fast_length((P if kind is Lazy else L) + P - 1)
    if kind is Lazy:
        return item * (2 * B + 1) * D * (points + 2)  # two spectra and their product
    channels = min(D, prompt_channels(B, points, "cuda" if cuda else "cpu"))
    # All outputs, and beside them a call's numbers, padded and transformed, or a copy of those that are answered.
    return item * B * D * L + max(item * max(2 * B, B + 2) * channels * (points + 2), dtype.itemsize * B * D * P)


def bytes_held(mixer: Mixer) -> int:
    """Bytes of every tensor that a mixer holds, however deep, but for its filters: counted, not computed."""
    seen, found, left = {id(mixer.filters)}, {}, [mixer]
    filters = mixer.filters.untyped_storage().data_ptr()
    while left:
        thing = left.pop()
        if id(thing) in seen or isinstance(thing, CODE):
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            found[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
        left.extend(gc.get_referents(thing))
    return sum(size for place, size in found.items() if place != filters)
