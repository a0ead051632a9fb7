"""Checkpoints of torch made by hand: none runs code, takes memory beyond its size, or is read for ever."""

import os
import pickle
import random
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hostile import assert_clear, confined
from test_hostile_files import folder, good, lay_out, loaded, refused  # noqa: F401

from flashref import load
from flashref.pickled import read_pickled


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def call(name: str, *arguments: bytes) -> bytes:
    """A pickle's operations that call a function with arguments."""
    return b"c" + name.replace(":", "\n").encode() + b"\n(" + b"".join(arguments) + b"tR"


def state(value: bytes) -> bytes:
    """A pickle of a dictionary with one weight."""
    return b"\x80\x02}" + text("backbone.ln_f.bias") + value + b"s."


def put(archive: Path, pickled: bytes, **options) -> None:
    """An archive as torch.save makes it, with this pickle and one storage of 24 bytes."""
    with zipfile.ZipFile(archive, "w", **options) as made:
        for name, content in {
            "data.pkl": pickled,
            "byteorder": b"little",
            "data/0": bytes(24),
            "version": b"3\n",
        }.items():
            made.writestr(f"archive/{name}", content)


STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
CPU, STRIDED = call("torch:device", text("cpu")), call("torch.serialization:_get_layout", text("torch.strided"))


def tensor(numel: int, *shape: int, strides: int = 1) -> bytes:
    """A tensor of the archive's storage, which the pickle says has so many numbers."""
    long = [b"\x8a\x09" + n.to_bytes(9, "little", signed=True) for n in (numel, *shape)]
    steps = (b"\x8a\x09" + strides.to_bytes(9, "little")) * len(shape)
    where = STORAGE + long[0] + b"tQK\x00(" + b"".join(long[1:]) + b"t(" + steps + b"t\x89"
    return call("torch._utils:_rebuild_tensor_v2", where, call("collections:OrderedDict"))


def nested(levels: int, end: bytes) -> bytes:
    """A tuple of tuples, as short as its levels, with 2^levels to hash where it ends as a key."""
    return b"\x80\x02}q\x01K\x01q\x00" + b"h\x00h\x00\x86q\x00" * levels + end + b"."


def doubled(times: int) -> bytes:
    """16 letters, encoded again and again: twice as long each time."""
    begin = b"\x80\x02c_codecs\nencode\nq\x01" + text("a" * 16) + text("utf-8") + b"\x86Rq\x00"
    return begin + (b"h\x01h\x00" + text("hex") + b"\x86Rq\x00") * times + b"h\x00."


KEY, IN_A_SET = b"h\x01h\x00Ns", call("__builtin__:set", b"(h\x00t")
META = call("torch._utils:_rebuild_meta_tensor_no_storage", b"ctorch\nfloat32\n(K\x06t(K\x01t\x89")
OF_TENSOR = b"ctorch\nTensor\nctorch\nfloat32\n(K\x06t(K\x01tK\x00" + STRIDED + CPU
TERA = b"\x8a\x06" + (2**40).to_bytes(6, "little")


def long_key(numbers: int, times: int, number: bytes = b"K\x01") -> bytes:
    """One tuple of so many numbers, the key of an entry that is put into a dictionary again and again."""
    return b"\x80\x02}(" + number * numbers + b"tq\x00Ns(" + b"h\x00N" * times + b"u."


def copied(entries: int, times: int, late: bool = False) -> bytes:
    """A dictionary, copied into another one again and again; late: it grows when the call already has it."""
    grow = b"(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(entries)) + b"u"
    make = b"}q\x02" + (b"" if late else grow) + b"\x85q\x03" + (b"h\x02" + grow if late else b"")
    return b"\x80\x02" + make + b"]" + b"ccollections\nOrderedDict\nh\x03Ra" * times + b"."


def built(entries: int, times: int) -> bytes:
    """A dictionary, copied again and again into the attributes of another one."""
    grow = b"(" + b"".join(b"X\x05\x00\x00\x00%05dN" % i for i in range(entries)) + b"u"
    return b"\x80\x02}q\x00" + grow + b"ccollections\nOrderedDict\n)R" + b"h\x00b" * times + b"."


BOMBS = {
    "a tensor of torch's own": state(call("torch:Tensor", b"J\x00\x00\x00\x70", b"K\x08")),
    "storage beyond its end": state(tensor(2**40, 6)),
    "shape beyond the storage": state(tensor(6, 2**33)),
    "one number again and again": state(tensor(6, 2**40, strides=0)),
    "a negative shape": state(tensor(6, -6)),
    "a negative storage": state(tensor(-6, 6)),
    "a meta tensor": state(META),
    "a wrapper": state(call("torch._utils:_rebuild_wrapper_subclass", OF_TENSOR)),
    "an array of bytes": b"\x80\x02" + call("__builtin__:bytearray", TERA) + b".",
    "tuples of tuples as a key": nested(60, KEY),
    "tuples of tuples in a set": nested(60, IN_A_SET),
    "one long tuple as a key again and again": long_key(99_000, 190_000),
    "a tuple of long numbers as a key": long_key(9_000, 100_000, b"\x8a\xff" + b"\x01" * 255),
    "a dictionary copied again and again": copied(50_000, 20_000),
    "a dictionary copied that grows in a tuple": copied(50_000, 20_000, late=True),
    "attributes copied again and again": built(50_000, 100_000),
    "text that is encoded again and again": doubled(40),
    "a million lists": b"\x80\x02" + b"(" * 1_000_000 + b".",
    "a text longer than the file": b"\x80\x02X\xff\xff\xff\x7fa.",
    "a number longer than the file": b"\x80\x02\x8b\xff\xff\xff\x7fa.",
    "a memo at a far place": b"\x80\x02}r\xff\xff\xff\x7f.",
    "an empty stack": b"\x80\x02\x86\x86.",
    "itself": b"\x80\x02]q\x00h\x00a.",
    "a persistent object that is none": b"\x80\x02" + text("x") + b"Q.",
    "nothing": b"",
}


def test_a_large_checkpoint_of_a_training_run_is_read(tmp_path):
    """Thousands of weights, their optimiser's moments, a long curve, and Python's own random state, a tuple of 625."""
    weights = {f"backbone.layers.{i}.weight": torch.full((2,), float(i)) for i in range(2000)}
    moments = {i: {"step": 7, "exp_avg": t, "exp_avg_sq": t.clone()} for i, t in enumerate(weights.values())}
    groups = [{"lr": 1e-3, "betas": (0.9, 0.95), "params": list(range(2000))}]
    whole = {"state_dict": OrderedDict(weights), "optimizer": {"state": moments, "param_groups": groups}}
    whole |= {"curve": [(i, 1 / (i + 1)) for i in range(20_000)], "random": random.getstate()}
    torch.save(whole, tmp_path / "run.ckpt")
    found = read_pickled(tmp_path / "run.ckpt")
    assert found["curve"] == whole["curve"] and found["random"] == whole["random"]
    assert all(torch.equal(found["state_dict"][name], t) for name, t in weights.items())


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("case", BOMBS)
def test_a_pickle_that_asks_for_too_much_is_refused(case, good, folder, tried):  # noqa: F811
    put(lay_out(folder, good, "weights.ckpt") / "weights.ckpt", BOMBS[case])
    refused(folder)
    tried("faults", "a pickle that asks for memory or time")


def test_the_bombs_are_bombs(good, folder):  # noqa: F811
    """torch.load alone takes what a few of them ask for, so that refusing them says something."""
    file = folder / "weights.ckpt"
    small = [
        nested(20, KEY),
        nested(20, IN_A_SET),
        doubled(12),
        long_key(20, 20),
        copied(9, 9),
        copied(9, 9, late=True),
    ]
    for bomb in (*small, built(9, 9)):
        put(file, bomb)
        found = torch.load(file, weights_only=True)
        assert found or vars(found)
    put(file, BOMBS["one number again and again"])
    assert torch.load(file, weights_only=True)["backbone.ln_f.bias"].numel() == 2**40
    put(file, state(tensor(6, 6)))
    assert read_pickled(file)["backbone.ln_f.bias"].tolist() == [0.0] * 6


class Runs:
    """Pickled, it calls a function when it is read."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attempts(canary: Path) -> dict[str, bytes]:
    command = text(f"touch '{canary}'")
    of_objects = {
        "os.system": Runs(os.system, f"touch '{canary}'"),
        "exec": Runs(exec, f"open({str(canary)!r}, 'w')"),
        "eval": Runs(eval, f"open({str(canary)!r}, 'w')"),
        "a file opened": Runs(open, str(canary), "w"),
        "torch.load": Runs(torch.load, str(canary)),
        "torch.save": Runs(torch.save, {}, str(canary)),
        "a path": Runs(Path.touch, canary),
    }
    by_hand = {
        "posix": call("posix:system", command),
        "through a framework's name": call("omegaconf.os:system", command),
        "through typing": call("typing.sys.modules:os.system", command),
        "through typing's attributes": call("typing:sys.modules.os.system", command),
        "through abc": call("abc.os:system", command) + call("collections.abc:sys", command),
        "through collections": call("collections._sys.modules:os.system", command),
        "through enum": call("enum.sys:exit", b"K\x00"),
        "getattr": call("__builtin__:getattr", call("__builtin__:__import__", text("os")), text("system")),
        "a rebuilt type": call("torch._tensor:_rebuild_from_type_v2", b"cposix\nsystem\nNN(" + command + b"t"),
        "a state": b"cposix\nsystem\n" + command + b"b",
        "a new object": b"cposix\nsystem\n" + command + b"\x85\x81",
        "an instance": b"(" + command + b"iposix\nsystem\n",
        "an object": b"(cposix\nsystem\n" + command + b"o",
        "stacked": b"\x8c\x05posix\x8c\x06system\x93" + command + b"\x85R",
        "an extension": b"\x82\x01",
    }
    pickled = {name: pickle.dumps({"w": value}, 2) for name, value in of_objects.items()}
    return pickled | {name: state(value) for name, value in by_hand.items()}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("inside", [True, False])
def test_no_pickle_runs_code(inside, good, folder, tmp_path, tried):  # noqa: F811
    """As an archive, and bare as before torch 1.6; a function of a framework's is not called but stood in for."""
    for case, pickled in attempts(tmp_path / "canary").items():
        file = lay_out(folder, good, "weights.ckpt") / "weights.ckpt"
        put(file, pickled) if inside else file.write_bytes(pickled)
        assert_clear(loaded(folder), folder)
        assert not (tmp_path / "canary").exists(), case
        tried("faults", "a pickle that wants to run code")
    file.write_bytes(attempts(tmp_path / "canary")["os.system"])
    pickle.loads(file.read_bytes())
    assert (tmp_path / "canary").exists()  # where it may, it does


def test_an_archive_that_is_not_as_torch_writes_it_is_refused(good, folder, tried):  # noqa: F811
    file = lay_out(folder, good, "weights.ckpt") / "weights.ckpt"
    whole = {name: zipfile.ZipFile(good / "weights.ckpt").read(name) for name in zipfile.ZipFile(file).namelist()}

    def write(compression: int = zipfile.ZIP_STORED, **others: bytes) -> None:
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name, content in {**whole, **others}.items():
                archive.writestr(name, content)

    write()
    assert isinstance(loaded(folder), dict)  # as the good one
    write(**{"../../canary": b"x"})
    refused(folder)
    assert not (folder.parent.parent / "canary").exists()
    write(zipfile.ZIP_DEFLATED)
    refused(folder, "it is compressed")
    write(zipfile.ZIP_DEFLATED, **{"weights/data/9": bytes(2**30)})  # a gigabyte in a megabyte
    refused(folder, "it is compressed")
    write(**{"weights/constants.pkl": b"\x80\x02).", "weights/code/x.py": b"raise SystemExit"})
    refused(folder)  # a TorchScript archive
    write()
    central = file.read_bytes()
    size = struct.pack("<I", len(next(data for name, data in whole.items() if name.endswith("data/0"))))
    file.write_bytes(central.replace(size, struct.pack("<I", 2**31)))
    refused(folder)
    torch.save(load(good).state_dict(), file, _use_new_zipfile_serialization=False)
    refused(folder, "since version 1.6")
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.type = tarfile.FIFOTYPE  # unpacked and opened, it would be waited for
            archive.addfile(member)
    refused(folder, "since version 1.6")
    tried("faults", "an archive that torch did not write", 7)


def test_a_damaged_state_of_a_training_run_is_refused(tmp_path, tried):
    from flashref.training import STATE, Settings, read_state

    whole = {"settings": vars(Settings()), "step": 3, "seconds": 1.5, "curve": [], "model": {}, "optimisers": []}
    torch.save(whole, tmp_path / STATE)
    assert read_state(tmp_path, "cpu")["step"] == 3
    for change in ({"step": "3"}, {"seconds": None}, {"settings": {"d_model": "x"}}, {"settings": 3}, {"curve": {}}):
        torch.save(whole | change, tmp_path / STATE)
        assert_clear(confined(lambda: read_state(tmp_path, "cpu")), tmp_path / STATE)
        tried("faults", "the state of a training run changed")
