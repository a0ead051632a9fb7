"""The file that a generation is put away in: what it says about itself, and what is refused when it is read.

Safetensors, with a checksum over all that is in it. The checksum tells of accidents; a file that somebody made by hand
can have the right one, so what it asks for is checked too.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from flashref.files import fits, parse_json, read_safetensors, shown
from flashref.hyena import Hyena
from flashref.mixer import Mixer
from flashref.tiled_cpu import TiledCPU

FORMAT = "flashref generation 1"  # changes when a file of today could be read wrongly
ABOUT = {"engine": str, "settings": dict[str, int], "prompt": int, "n": int, "temperature": float}
ABOUT |= {"top_k": int | None, "model": str, "torch": str}


def fingerprint(model: Hyena) -> str:
    """A digest of a model's settings and of every bit of its weights. Costs one pass over them.

    Raises ValueError for a model that is split over processes.
    """
    if any(hasattr(p, "device_mesh") for p in model.parameters()):  # a DTensor, whose class takes seconds to import
        raise ValueError(
            "each rank of a model that parallel.split has split holds a part only, of it and of its generations: "
            "keep the tokens, and begin anew with them as the prompt"
        )
    state = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    return checksum(repr(model.config), state)


def marks(model: Hyena) -> list[tuple[int, int]]:
    """What is another list once a weight was written or replaced. Costs microseconds.

    A fingerprint would cost as long as twenty tokens of a small model. But writing to a weight's .data goes past the
    counters that this looks at.
    """
    state = (*model.parameters(), *model.buffers())
    return [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in state]


def checksum(text: str, tensors: dict[str, Tensor]) -> str:
    """A digest of a text and of names, dtypes, shapes and every bit of tensors on the CPU."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        t = tensors[name]
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def settings(mixer: Mixer) -> dict[str, int]:
    """What a tiled engine must be made with to round as this one does."""
    if not isinstance(mixer, TiledCPU):
        return {}
    return {"base": mixer.base, "direct_up_to": mixer.direct_up_to, "chunk_points": mixer.chunk_points}


def check_settings(found: dict[str, int], kind: type[Mixer], l_max: int) -> None:
    """Refuse what a tiled engine would believe: buffers as long as the base, matrices as large as direct_up_to."""
    most = {"base": max(l_max, 1024), "direct_up_to": 1024, "chunk_points": 2**40} if issubclass(kind, TiledCPU) else {}
    if found.keys() != most.keys() or any(found[name] > most[name] for name in most):
        raise ValueError(f"{kind.name} cannot have the settings {found}")


def check_numbers(tensors: dict[str, Tensor]) -> None:
    """Refuse a NaN or an infinity: every later token would be made of it. Costs one pass and no memory."""
    for name, t in tensors.items():
        # The least and the largest are finite if all are, and NaN if one is.
        if t.is_floating_point() and t.numel() and not torch.isfinite(torch.stack(t.aminmax())).all():
            raise ValueError(f"{shown(name)} holds NaN or infinity: the model had overflowed, and what follows is void")


def write(path: Path, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Make the file that read reads, beside its place, and rename it: a kill leaves the old one or the new one, whole.

    A kill may also leave a folder .saving-* there, which nobody needs. A link stays a link, and a file keeps its mode.
    Raises OSError, which names the file, for a disk that is full and for whatever else is in the way.
    """
    metadata = {"format": FORMAT, "about": json.dumps(about)}
    metadata["checksum"] = checksum(metadata["about"], tensors)
    place = Path(os.path.realpath(path))
    try:
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".saving-", ignore_cleanup_errors=True) as scratch:
            new, any_other = Path(scratch) / "new", Path(scratch) / "any_other"
            save_file(tensors, new, metadata)
            with open(new, "rb") as file:
                os.fsync(file.fileno())
            any_other.touch()  # has the mode that files have here; what safetensors makes is for its owner alone
            shutil.copymode(place if place.exists() else any_other, new)
            new.replace(place)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def read(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """What a file says about itself, and its tensors; nothing in it is run, and no more is read than it is long."""
    broken = f"{path} is no whole generation: it was cut off, changed, or is another kind of file"
    try:
        tensors, metadata = read_safetensors(path)
    except ValueError as error:
        raise ValueError(f"{broken} ({error})") from error
    if metadata.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"{path} has the format {shown(metadata['format'])!r} and this flashref reads {FORMAT!r}: resume it with "
            "the version that wrote it, or begin anew with its tokens as the prompt"
        )
    if metadata.keys() != {"format", "about", "checksum"}:
        raise ValueError(f"{broken} (its metadata is not ours)")
    try:
        if metadata["checksum"] != checksum(metadata["about"], tensors):
            raise ValueError("its checksum does not fit")
        about = parse_json(metadata["about"])
        if not fits(about, dict[str, Any]) or not all(fits(about.get(name), hint) for name, hint in ABOUT.items()):
            raise ValueError("it does not say what it is")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{broken} ({shown(error)})") from error
    return about, tensors


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
