"""Model folders that somebody else made: damaged, absurd, or meant to harm. A clear error, soon, and no code is run."""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from depth import examples
from hostile import as_text, assert_clear, changed, confined, damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_hyena import config, randomised

from flashref import Hyena, load, save
from flashref.checkpoints import _shapes
from flashref.files import read_safetensors
from flashref.hyena import HyenaOperator

SIZES = ("d_model", "n_layer", "d_inner", "vocab_size", "l_max", "order", "filter_order", "emb_dim")


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A small model in both forms."""
    folder = tmp_path_factory.mktemp("good")
    model = randomised(Hyena, config(order=3)).float()
    save(model, folder)
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, folder / "weights.ckpt")
    return folder


@pytest.fixture(scope="module")
def folder(good, tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("wrong")


def lay_out(folder: Path, good: Path, form: str, **contents: bytes) -> Path:
    """The good model with weights of one form, and other contents in some files."""
    shutil.rmtree(folder)
    folder.mkdir()
    for name in ("config.json", form):
        (folder / name).write_bytes(contents.get(name.partition(".")[0], (good / name).read_bytes()))
    return folder


def loaded(folder: Path) -> dict | Exception:
    return confined(lambda: {name: t.numpy() for name, t in load(folder).state_dict().items()})


def refused(folder: Path, words: str = "") -> None:
    error = loaded(folder)
    assert_clear(error, folder)
    assert words in str(error), str(error)


@settings(max_examples=examples(25))
@given(data=st.data())
def test_damaged_weights_in_safetensors_are_refused_or_are_numbers_of_the_right_shapes(data, good, folder, tried):
    wrong = data.draw(damaged((good / "weights.safetensors").read_bytes()))
    found = loaded(lay_out(folder, good, "weights.safetensors", weights=wrong))
    if isinstance(found, dict):  # the format has no checksum: a changed number is another number
        assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in load(good).state_dict().items()}
    else:
        assert_clear(found, folder)
    tried("faults", "weights.safetensors of a model damaged")


@settings(max_examples=examples(25))
@given(data=st.data())
def test_damaged_weights_of_torch_are_refused_or_the_same_to_the_last_bit(data, good, folder, tried):
    wrong = data.draw(damaged((good / "weights.ckpt").read_bytes()))
    found = loaded(lay_out(folder, good, "weights.ckpt", weights=wrong))
    if isinstance(found, dict):  # what changed is a date or padding
        assert all((found[name] == t.numpy()).all() for name, t in load(good).state_dict().items())
    else:
        assert_clear(found, folder)
    tried("faults", "weights.ckpt of a model damaged")


shapes = st.lists(st.sampled_from([0, 1, 2, 6, 2**20, 2**40, 2**63, 2**64, -1, 1.5, "6", None]), max_size=4)
offsets = st.lists(st.sampled_from([0, 1, 4, 24, 2**40, 2**63, 2**64 - 1, -4]), max_size=3)
dtypes = st.sampled_from(["F32", "F64", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "F4", "C64", "X", 3])
entry = st.fixed_dictionaries({}, optional={"dtype": dtypes, "shape": shapes, "data_offsets": offsets})
names = st.sampled_from(["model.backbone.ln_f.bias", "../../x", "\x1b[2Jx", "a" * 5000, "", "__metadata__"])


@settings(max_examples=examples(25))
@given(header=st.dictionaries(names, entry | st.integers(), max_size=4), size=st.sampled_from([0, 24, 2000]))
def test_a_header_made_by_hand_is_refused(header, size, good, folder, tried):
    text = as_text(header)
    refused(lay_out(folder, good, "weights.safetensors", weights=struct.pack("<Q", len(text)) + text + bytes(size)))
    tried("faults", "header of a safetensors file made by hand")


@settings(max_examples=examples(25))
@given(data=st.data())
def test_a_config_that_says_anything_is_refused_or_changes_no_weight(data, good, folder, tried):
    wrong = data.draw(changed(json.loads((good / "config.json").read_text())))
    found = loaded(lay_out(folder, good, "weights.safetensors", config=as_text(wrong)))
    if isinstance(found, dict):
        assert all((found[name] == t.numpy()).all() for name, t in load(good).state_dict().items())
    else:
        assert_clear(found, folder)
    tried("faults", "config of a model changed")


@pytest.mark.parametrize("size", [10**5, 2**31 - 1, 10**9 + 1, 10**30, 10**4000])
@pytest.mark.parametrize("name", SIZES)
def test_a_config_of_absurd_size_is_refused_before_anything_is_made(name, size, good, folder, tried):
    wrong = json.loads((good / "config.json").read_text()) | {name: size}
    refused(lay_out(folder, good, "weights.ckpt", config=as_text(wrong)))
    tried("faults", "absurd size in a config")


@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.parametrize("kind", [Hyena, HyenaOperator])
def test_the_shapes_that_weights_are_compared_with_are_those_of_a_module(kind, order):
    sizes = config(order=order, n_layer=2, emb_dim=7, filter_order=9, pad_vocab_size_multiple=8)
    made = {name: tuple(t.shape) for name, t in kind(sizes).state_dict().items()}
    assert _shapes(kind, sizes, 100, Path()) == made


CONFIGS = {
    "a name twice": (b'{"d_model": 6, "d_model": 6}', "names 'd_model' twice"),
    "a name twice, a million others": (
        b'{%s "b": 1, "b": 2}' % b"".join(b'"%d":0,' % i for i in range(600_000)),
        "'b'",
    ),
    "NaN": (b'{"w": NaN}', "NaN is no finite number"),
    "infinity": (b'{"w": -Infinity}', "-Infinity is no finite number"),
    "a number that becomes infinite": (b'{"w": 1e999}', "1e999 is no finite number"),
    "a number of 5000 digits": (b'{"d_model": %s}' % (b"1" * 5000), "4300 digits"),
    "ten million brackets": (b"[" * 7_000_000, "is not JSON"),
    "UTF-16": ('{"d_model": 6}'.encode("utf-16"), "is not JSON"),
    "nothing but zeros": (bytes(1000), "is not JSON"),
    "100 MB": (b" " * 100_000_000, "too large"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_json_that_is_none_is_refused_by_name(case, good, folder, tried):
    content, words = CONFIGS[case]
    refused(lay_out(folder, good, "weights.ckpt", config=content), words)
    tried("faults", "JSON that is none")


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "weights.ckpt"])
def test_what_is_no_file_is_not_opened(name, good, folder, tried):
    weights = "weights.safetensors" if name == "config.json" else name
    places = [os.mkfifo, os.mkdir, lambda p: os.symlink("/dev/zero", p), lambda p: os.symlink(p, p)]
    for make in places:  # to open a pipe would be to wait for ever, a device has no end
        (lay_out(folder, good, weights) / name).unlink()
        make(folder / name)
        refused(folder)
        tried("faults", "a pipe, folder, device or loop in place of a file")
    with open(lay_out(folder, good, weights) / name, "r+b") as file:
        file.truncate(2**40)  # a hole: it takes no room on the disk
    error = loaded(folder)
    if isinstance(error, MemoryError):  # it may be a good file, for which there is no room
        assert str(error).startswith(f"memory is short for {folder / name}")
    else:
        assert_clear(error, folder)
    tried("faults", "a file of a terabyte")


def test_a_link_to_a_file_is_followed(good, folder):
    shutil.rmtree(folder)
    folder.mkdir()
    for name in ("config.json", "weights.safetensors"):  # as the Hugging Face Hub's cache lays them out
        (folder / name).symlink_to(good / name)
    assert isinstance(loaded(folder), dict)


def test_weights_that_are_no_numbers_are_refused(good, folder):
    for wrong in (float("nan"), float("inf")):
        model = load(good)
        with torch.no_grad():
            model.backbone.ln_f.bias[2] = wrong
        lay_out(folder, good, "weights.safetensors")
        save(model, folder)
        refused(folder, "backbone.ln_f.bias: holds NaN or infinity")
        buffer = io.BytesIO()
        torch.save(model.state_dict(), buffer)
        refused(lay_out(folder, good, "weights.ckpt", weights=buffer.getvalue()), "holds NaN or infinity")


# In a new process: in a fork of the tests' process whatever that has freed is room that no limit takes away.
READ = """
import resource, sys
from pathlib import Path
from flashref.files import read_safetensors
from flashref.pickled import read_pickled
name, megabytes = sys.argv[1:]
with open("/proc/self/statm") as pages:
    used = int(pages.read().split()[0]) * resource.getpagesize()
_, most = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + int(megabytes) * 2**20, most))
try:
    (read_safetensors if name.endswith(".safetensors") else read_pickled)(Path(name))
    print("read")
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


# Where not even the file can be mapped, and where its numbers have no room: of a pickle they are read once, not twice.
@pytest.mark.skipif(sys.platform != "linux", reason="a process is bounded here as Linux does it")
@pytest.mark.parametrize(
    "name, rooms", [("weights.safetensors", (20, 160)), ("weights.ckpt", (10, 80))], ids=["safetensors", "ckpt"]
)
def test_a_good_file_for_which_there_is_no_room_is_not_called_damaged(name, rooms, tmp_path):
    file, tensors = tmp_path / name, {"w": torch.ones(25 * 2**20)}
    save_file(tensors, file) if name == "weights.safetensors" else torch.save(tensors, file)

    def read(megabytes: int) -> str:
        command = [sys.executable, "-c", READ, str(file), str(megabytes)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    for short in rooms:
        assert read(short).startswith(f"MemoryError: memory is short for {file}: ")
    assert read(400) == "read\n"


def test_tensors_that_were_read_stay_when_their_file_changes(tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file({"w": torch.ones(5000)}, file)
    tensors, _ = read_safetensors(file)
    with open(file, "r+b") as changed:
        changed.seek(1000)
        changed.write(bytes(10_000))
    assert torch.equal(tensors["w"], torch.ones(5000))
