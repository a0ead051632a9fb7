"""What torch.save wrote and somebody else may have changed, read so that it runs no code and fills no memory.

torch.load with weights_only=True runs no code of a file's. It still does what the file says with the functions that it
knows, and some of those can be asked for any amount of memory or time; so a file is looked through first.
"""

import pickletools
import re
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flashref.files import check_regular, check_room, shown

MEGABYTES = 8  # of the pickle that says where a file's tensors are: more than any needs
OPERATIONS = 500_000  # of such a pickle: some seconds' worth; HyenaDNA's have a few ten thousand
TAKEN = 10_000_000  # numbers and texts that they take in all: the hash of a tuple takes as long as all that lies in it

# What torch.load would call by itself, and is not needed for tensors: some of it allocates what the file asks for.
_OF_TORCH = ("torch.", "_codecs.")
_NEEDED = {
    *("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "torch.Size", "torch.device"),
    *(f"torch.{name}Storage" for name in ("Float", "Double", "Half", "BFloat16", "Untyped")),
    *(f"torch.{name}Storage" for name in ("Long", "Int", "Short", "Char", "Byte", "Bool")),
    *(f"torch.{name}" for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool")),
}


class _Skipped:
    """Stands in for a class of a training framework. Its objects become plain dictionaries, which nobody looks at."""

    def __new__(cls, *_, **__) -> OrderedDict:
        return OrderedDict()  # of the types that weights_only fills with items and with state, the one that takes both


def read_pickled(file: Path, skipped: tuple[str, ...] = (), device: str = "cpu") -> Any:
    """What torch.save put into a file, by torch.load with weights_only=True, which runs no code of the file's.

    skipped: the beginnings of the names of classes whose objects become empty dictionaries; a file with any other class
    is refused. So is what torch.load would believe: compressed entries, entries that are longer together than the file,
    a changed byte anywhere in it, functions that no tensor needs, and what takes for ever to hash or to copy.

    Costs one more pass over the file than torch.load. Raises ValueError, with what to do; MemoryError where there is
    no room.
    """
    check_regular(file)
    try:
        _check_archive(file)
        found = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        with torch.serialization.safe_globals([(_Skipped, name) for name in found if name.startswith(skipped)]):
            return torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file fails in as many ways as there are damages
        check_room(file, error)
        refused = re.search(r"Unsupported .*|Trying to .*", str(error))  # torch's reason, behind its advice to trust
        why = f"{type(error).__name__}: {shown(refused[0] if refused else str(error).partition(chr(10))[0])}"
        raise ValueError(f"{file} is not a checkpoint of plain tensors, or is damaged ({why})") from error


def _check_archive(file: Path) -> None:
    if not zipfile.is_zipfile(file):
        raise ValueError("not what torch.save has written since version 1.6")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed, as torch.save does not do")
        if sum(entry.file_size for entry in entries) > file.stat().st_size:
            raise ValueError("its entries are longer than the file")
        if (bad := archive.testzip()) is not None:
            raise ValueError(f"{bad} was changed")
        for entry in entries:
            if entry.filename.lower().endswith(".pkl"):  # torch does not tell small letters from large ones
                _check_pickle(archive.read(entry))


@dataclass
class _Sized:
    """Of an object on the stack: how much lies in it, and whether a tuple, whose size is fixed, counts it already."""

    size: int = 1
    in_tuple: bool = False


_KEEP = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD")  # change the first object that they take, and leave it


def _check_pickle(data: bytes) -> None:
    """Run a pickle's operations on sizes alone: what would it call, and how much would be hashed and copied?"""
    if len(data) > MEGABYTES * 10**6:
        raise ValueError(f"its pickle has {len(data):,} bytes, at most {MEGABYTES} MB")
    stack: list[_Sized | None] = []  # None for a mark
    memo: dict[int, _Sized | None] = {}
    all_taken = 0
    for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
        if count > OPERATIONS:
            raise ValueError(f"its pickle has more than {OPERATIONS:,} operations")
        match operation.name:
            case "GLOBAL":
                name = argument.replace(" ", ".")
                if (name.startswith(_OF_TORCH) and name not in _NEEDED) or name.endswith(".bytearray"):
                    raise ValueError(f"it calls {shown(name)}, which no tensor needs")
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
                continue
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
                continue
        taken = _taken(stack, operation.stack_before)
        made = taken.pop(0) if operation.name in _KEEP else _Sized()
        inside = sum(each.size for each in taken)
        if (all_taken := all_taken + inside) > TAKEN:
            raise ValueError("it has tuples or lists that would take for ever to hash or to copy")
        if "TUPLE" in operation.name:
            made.size += inside
            for each in taken:
                each.in_tuple = True
        elif operation.name in _KEEP:
            if made.in_tuple:
                raise ValueError("it changes what a tuple holds, as torch.save does not do")
            made.size += inside
        elif operation.name == "LONG1":
            made.size += argument.bit_length() // 64  # a long number takes long to hash
        stack += [None if after is pickletools.markobject else made for after in operation.stack_after]


def _taken(stack: list[_Sized | None], before: list[pickletools.StackObject]) -> list[_Sized]:
    """What an operation takes from the stack, lowest first: so many objects, or those around the last mark."""
    if pickletools.markobject not in before:
        kept = len(stack) - len(before)
    else:
        mark = next(i for i in reversed(range(len(stack))) if stack[i] is None)
        kept = mark - before.index(pickletools.markobject)
    if kept < 0:
        raise ValueError("it takes more than there is")
    taken = stack[kept:]
    del stack[kept:]
    return [each for each in taken if each is not None]
