"""The text that the model is trained on and tested on: the Python standard library's own source, which everyone has."""

import bz2
import hashlib
import lzma
import sysconfig
import zlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

# What is not a person's program text, or too much alike: installed packages; tests and demonstrations; generated tables
# of characters and documentation; the settings of one build of Python; a few odd files.
SKIPPED_FOLDERS = {
    *("site-packages", "dist-packages"),
    *("test", "tests", "idle_test", "turtledemo"),
    *("encodings", "pydoc_data"),
}
SKIPPED_FILES = ("_sysconfigdata", "stringprep.py", "nturl2path.py", "__phello__", "antigravity.py", "this.py")

# Held out with all their files, and with their twins, which are near-copies. Chosen before any training for their
# variety: numbers, dates, text, protocols, data formats, classes, concurrency, a tool. The names that a version of
# Python does not have are simply not found.
HELD_OUT = (
    *("_pydatetime", "datetime", "argparse", "ipaddress", "statistics", "heapq", "textwrap", "shlex", "json"),
    *("mailbox", "smtplib", "wave", "zoneinfo", "pathlib", "dataclasses", "tomllib", "concurrent", "sched", "bisect"),
)


def python_files(root: Path | None = None) -> tuple[list[Path], list[Path]]:
    """The files to train on and those held out, sorted, relative to root (the standard library)."""
    root = Path(sysconfig.get_path("stdlib")) if root is None else Path(root)
    found = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    found = [
        path for path in found if not SKIPPED_FOLDERS & set(path.parts) and not path.name.startswith(SKIPPED_FILES)
    ]
    held_out = [path for path in found if path.parts[0].removesuffix(".py") in HELD_OUT]
    training = [path for path in found if path not in held_out]
    if not training or not held_out:
        raise ValueError(f"{root} is not the source of a standard library: {len(found)} Python files fit for training")
    return training, held_out


def read_all(root: Path, files: list[Path]) -> bytes:
    """The files' bytes, one after another."""
    return b"".join((root / path).read_bytes() for path in files)


def as_tensor(text: bytes) -> UInt8[Tensor, " size"]:
    """A text as the tokens of a byte-level model."""
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def digest(text: bytes) -> str:
    """Enough of the SHA-256 to recognise a text."""
    return hashlib.sha256(text).hexdigest()[:16]


def described(root: Path, path: Path) -> list:
    """Name, size and digest of a file."""
    text = (root / path).read_bytes()
    return [path.as_posix(), len(text), digest(text)]


def batch_of_step(data: UInt8[Tensor, " size"], step: int, batch: int, length: int, seed: int) -> Int[Tensor, "B L1"]:
    """The ``batch`` sequences of ``length`` + 1 bytes of a step.

    A function of its arguments alone, so that a resumed run sees what it would have seen. Each pass over the data
    cuts it into sequences at a new offset and takes them in a new order.
    """
    per_pass = (len(data) - 1) // length - 1
    if per_pass < 1:
        raise ValueError(f"the training text has {len(data)} bytes: too few for sequences of {length}")
    starts = []
    for index in range(step * batch, (step + 1) * batch):
        number, place = divmod(index, per_pass)
        random = np.random.default_rng([seed, number, length])
        offset, order = random.integers(length), random.permutation(per_pass)
        starts.append(offset + length * int(order[place]))
    return torch.stack([data[start : start + length + 1] for start in starts]).long()


def compressed_bits_per_byte(text: bytes) -> dict[str, float]:
    """What xz -9e, bzip2 -9 and zlib -9 need for a text, each given all of it at once."""
    sizes = {
        "xz": len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)),
        "bzip2": len(bz2.compress(text, 9)),
        "zlib": len(zlib.compress(text, 9)),
    }
    return {name: 8 * size / len(text) for name, size in sizes.items()}
