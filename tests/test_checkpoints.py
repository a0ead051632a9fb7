"""Saving and loading, and what is refused: by name, without running code, without losing what was there."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_hyena import config, randomised
from test_reference import MODEL, OPERATORS

import flashref.checkpoints
from flashref import Hyena, load, load_operator, save

TOKENS = torch.arange(24).remainder(11).view(2, 12)


@pytest.fixture
def model() -> Hyena:
    return randomised(Hyena, config(order=3, pad_vocab_size_multiple=8))


@pytest.fixture
def folder(model, tmp_path) -> Path:
    save(model, tmp_path / "model")
    return tmp_path / "model"


def change_config(folder: Path, **changes) -> None:
    file = folder / "config.json"
    settings = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in settings.items() if value is not ...}))


def change_weights(folder: Path, change) -> None:
    weights = load_file(folder / "weights.safetensors")
    change(weights)
    save_file(weights, folder / "weights.safetensors")


def weights_as_ckpt(folder: Path, content: bytes | object) -> None:
    (folder / "weights.safetensors").unlink(missing_ok=True)
    if isinstance(content, bytes):
        (folder / "weights.ckpt").write_bytes(content)
    else:
        torch.save(content, folder / "weights.ckpt")


def refused(folder: Path, words: str, loader=load) -> str:
    with pytest.raises(ValueError, match=words) as caught:
        loader(folder)
    return str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", [2, 3, 4])
def test_a_model_that_is_saved_and_loaded_is_the_same(order, dtype, tmp_path):
    model = randomised(Hyena, config(order=order, shift=0.01, w=7.0)).to(dtype)
    save(model, str(tmp_path / "new" / "folder"))
    again = load(str(tmp_path / "new" / "folder"))
    assert again.config == model.config and not again.training
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value) and again.state_dict()[name].dtype == dtype
    assert torch.equal(again(TOKENS), model(TOKENS))
    assert again.lm_head.weight is again.backbone.embeddings.word_embeddings.weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_model_saved_rounded_is_the_model_with_rounded_parameters(dtype, tmp_path):
    model = randomised(Hyena, config(order=3)).float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save(model, tmp_path, dtype=dtype)
    again, positions = load(tmp_path), dict(model.named_buffers())
    assert len(positions) == 2 * 3
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value), "saving must not change the model"
        rounded = value if name in positions else value.to(dtype).float()
        assert torch.equal(again.state_dict()[name], rounded), name
    for name, value in load_file(tmp_path / "weights.safetensors").items():
        assert value.dtype == (torch.float32 if name.removeprefix("model.") in positions else dtype)


def test_saving_again_overwrites_and_leaves_nothing_else(model, folder):
    other = randomised(Hyena, config(order=2), seed=1)
    save(other, folder)
    assert torch.equal(load(folder)(TOKENS), other(TOKENS))
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "weights.safetensors"]


@pytest.mark.parametrize("broken", ["save_file", "asdict"])
def test_nothing_is_lost_when_saving_fails(model, folder, monkeypatch, broken):
    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(flashref.checkpoints, broken, fail)
    with pytest.raises(OSError, match="no space"):
        save(randomised(Hyena, config()), folder)
    assert torch.equal(load(folder)(TOKENS), model(TOKENS))
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "weights.safetensors"]


def test_save_refuses_what_it_cannot_write(model, folder):
    with pytest.raises(TypeError, match=r"model must be a flashref.Hyena, got OrderedDict"):
        save(model.state_dict(), folder)
    for dtype in (torch.int64, torch.complex64, "float32"):
        with pytest.raises(TypeError, match="dtype must be one of"):
            save(model, folder, dtype=dtype)
    with pytest.raises(ValueError, match="is a file: give a folder"):
        save(model, folder / "config.json")
    assert torch.equal(load(folder)(TOKENS), model(TOKENS))


def test_a_path_that_does_not_exist_is_a_file_not_found_error(tmp_path):
    for loader in (load, load_operator):
        with pytest.raises(FileNotFoundError, match=r"no such folder.*nowhere"):
            loader(tmp_path / "nowhere")


def test_a_folder_that_is_not_a_model_is_refused(folder, tmp_path):
    refused(folder / "config.json", "is a file: give the folder")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "has no config.json")
    (folder / "weights.safetensors").unlink()
    refused(folder, "neither weights.safetensors nor weights.ckpt")
    (folder / "config.json").unlink()
    refused(folder, "has no config.json")


@pytest.mark.parametrize("content", [b"", b"{", b"d_model: 4", b"\xff\xfe", b"[" * 100_000, b'{"d_model": 1e}'])
def test_a_config_that_is_not_json_is_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    refused(folder, "config.json is not JSON")


@pytest.mark.parametrize("content", ["[1]", "null", "3"])
def test_a_config_that_is_no_object_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    refused(folder, "must hold a JSON object")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"d_model": ...}, "does not say d_model"),
        ({"l_max": ..., "vocab_size": ...}, "does not say l_max, vocab_size"),
        ({"d_model": 0}, "d_model must be an integer >= 1, got 0"),
        ({"d_model": 6.0}, "d_model must be an integer"),
        ({"n_layer": True}, "n_layer must be an integer"),
        ({"d_model": "6"}, "d_model must be an integer"),
        ({"order": 1}, "order must be an integer >= 2"),
        ({"emb_dim": 4}, "emb_dim must be odd"),
        ({"w": None}, "w must be a finite number"),
        ({"shift": "x"}, "shift must be a finite number"),
        ({"w": float("nan")}, "NaN is no finite number"),
        ({"w": 1e31}, "w must be a finite number of at most 1e30"),
        ({"fast_decay": 0}, "fast_decay must be at least 1e-30"),
        ({"slow_decay": 1e-31}, "slow_decay must be at least 1e-30"),
        ({"layer": 3}, '"layer" in .* must be an object'),
        ({"short_filter_order": 4}, "short_filter_order = 4 is not supported, only 3"),
        ({"layer": {"num_heads": 2}}, "num_heads = 2 is not supported, only 1"),
        ({"layer": {"_name_": "attention"}}, "_name_ = 'attention' is not supported"),
        ({"bidirectional": True}, "bidirectional = True is not supported"),
        ({"activation": "gelu"}, "activation = 'gelu' is not supported"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_name(folder, changes, words):
    change_config(folder, **changes)
    refused(folder, words)


def test_missing_unexpected_and_mis_shaped_keys_are_each_named(folder):
    def spoil(weights):
        del weights["model.backbone.ln_f.bias"]
        weights["model.backbone.layers.7.norm1.bias"] = torch.ones(6)
        weights["model.backbone.ln_f.weight"] = torch.ones(7)
        weights["model.backbone.layers.0.norm1.weight"] = torch.ones(6, dtype=torch.int64)

    change_weights(folder, spoil)
    message = refused(folder, "do not fit its config.json")
    assert "missing: backbone.ln_f.bias" in message
    assert "unexpected: backbone.layers.7.norm1.bias" in message
    assert "backbone.ln_f.weight: shape (7,), expected (6,)" in message
    assert "backbone.layers.0.norm1.weight: dtype torch.int64" in message


def test_a_config_of_another_size_is_refused_and_the_list_of_faults_ends(folder):
    change_config(folder, d_model=5)
    assert "more" in refused(folder, "do not fit its config.json").splitlines()[-1]


def test_a_head_that_is_not_the_embedding_is_refused(folder):
    change_weights(folder, lambda weights: weights.update({"lm_head.weight": torch.ones(16, 6)}))
    refused(folder, "lm_head.weight differs from the embedding")


def test_two_spellings_of_one_key_are_refused(folder):
    change_weights(folder, lambda weights: weights.update({"backbone.ln_f.bias": torch.ones(6)}))
    refused(folder, "two keys name the same weight")


@pytest.mark.parametrize("keep", [0, 1, 8, 100, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("file", ["weights.safetensors", "weights.ckpt"])
def test_a_truncated_checkpoint_is_refused(tmp_path, file, keep):
    (tmp_path / "config.json").write_bytes((MODEL / "config.json").read_bytes())
    content = (MODEL / file).read_bytes()
    (tmp_path / file).write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    refused(tmp_path, f"{file} is not a .*, or is damaged")


@pytest.mark.parametrize("content", [b"\x80", b"hello", b"\x80\x02.", b"PK\x03\x04", b"\n", b"\x00" * 99, b"(dp0\n."])
@pytest.mark.parametrize("file", ["weights.safetensors", "weights.ckpt"])
def test_a_file_that_is_no_checkpoint_is_refused(folder, file, content):
    (folder / "weights.safetensors").unlink()
    (folder / file).write_bytes(content)
    refused(folder, f"{file} is not a .*, or is damaged")


@pytest.mark.parametrize(
    "content",
    [
        [torch.ones(1)],
        {1: torch.ones(1)},
        {"a": 3},
        {"state_dict": {"a": torch.ones(1), "b": "text"}},
    ],
)
def test_a_ckpt_that_holds_something_else_is_refused(folder, content):
    weights_as_ckpt(folder, content)
    refused(folder, "must hold a dictionary of tensors")


class Intruder:
    """Pickled, it asks whoever unpickles it to write a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.write_text, (self.mark, "code ran")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_pickle_that_wants_to_run_code_is_refused_and_does_not_run(folder, tmp_path, form):
    mark = tmp_path / "mark"
    content = {"state_dict": {"a": torch.ones(1)}, "extra": Intruder(mark)}
    weights_as_ckpt(folder, b"")
    if form == "pickle":
        (folder / "weights.ckpt").write_bytes(pickle.dumps(Intruder(mark)))
    else:
        torch.save(content, folder / "weights.ckpt", _use_new_zipfile_serialization=form == "zip")
    refused(folder, "not a checkpoint of plain tensors")
    refused(folder, "does not say|not a checkpoint", load_operator)
    assert not mark.exists()
    if form == "zip":  # the file does what it threatens, where it may
        torch.load(folder / "weights.ckpt", weights_only=False)
        assert mark.exists()


def test_an_operator_that_does_not_fit_is_refused(tmp_path):
    for file in ("config.json", "weights.safetensors"):
        (tmp_path / file).write_bytes((OPERATORS[0] / file).read_bytes())
    load_operator(tmp_path)
    change_weights(tmp_path, lambda weights: weights.pop("in_proj.bias"))
    refused(tmp_path, "missing: in_proj.bias", load_operator)
    change_config(tmp_path, l_max=...)
    refused(tmp_path, "does not say l_max", load_operator)


def test_the_shift_of_an_operator_is_0_unless_its_config_says_otherwise(tmp_path):
    for file in ("config.json", "weights.safetensors"):
        (tmp_path / file).write_bytes((OPERATORS[0] / file).read_bytes())
    without = load_operator(tmp_path).filters()
    change_config(tmp_path, shift=0.25)
    assert load_operator(tmp_path).filter_fn.modulation.shift == 0.25
    assert not torch.allclose(load_operator(tmp_path).filters(), without)
