"""The public Hyena operator and HyenaDNA model: their files, their outputs."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_engines import ENGINES
from torch import Tensor

from flashref import generate, load, load_operator

REFERENCE = Path(__file__).parent / "reference"
MODEL = REFERENCE / "hyenadna_1layer"
OPERATORS = [REFERENCE / "hyena_operator_order2", REFERENCE / "hyena_operator_order3"]
PROMPT = 16


def near(got: Tensor, truth: Tensor) -> bool:
    return got.shape == truth.shape and got.dtype == truth.dtype and (got - truth).abs().max().item() < 1e-9


def variant(folder: Path, file: str, rename=lambda key: key, settings: dict | None = None) -> Path:
    """A copy of the model's folder with one of its two weight files, its keys renamed, its config changed."""
    config = json.loads((MODEL / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **(settings or {})}))
    if file == "weights.ckpt":
        shutil.copy(MODEL / file, folder)
        weights = torch.load(folder / file, weights_only=True)
        weights["state_dict"] = {rename(key): value for key, value in weights["state_dict"].items()}
        torch.save(weights, folder / file)
    else:
        save_file({rename(key): value for key, value in load_file(MODEL / file).items()}, folder / file)
    return folder


@pytest.mark.parametrize("folder", OPERATORS, ids=lambda folder: folder.name)
def test_the_operators_forward_is_the_public_one(folder):
    io = load_file(folder / "io.safetensors")
    assert near(load_operator(folder)(io["u"]), io["y"])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("folder", OPERATORS, ids=lambda folder: folder.name)
def test_the_operator_online_is_the_public_one(folder, engine):
    io = load_file(folder / "io.safetensors")
    online = load_operator(folder).online(engine=engine, batch_size=2)
    assert near(torch.stack([online.push(u_t) for u_t in io["u"].unbind(1)], dim=1), io["y"])


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.ckpt"])
def test_the_logits_are_the_public_ones_from_either_file(file, tmp_path):
    io = load_file(MODEL / "io.safetensors")
    assert near(load(variant(tmp_path, file))(io["ids"]), io["logits"])


@pytest.mark.parametrize("engine", ENGINES)
def test_greedy_tokens_are_the_public_ones(engine):
    io = load_file(MODEL / "io.safetensors")
    tokens = generate(load(MODEL), io["ids"][:, :PROMPT], io["greedy"].shape[1] - PROMPT, engine=engine)
    assert torch.equal(tokens, io["greedy"])


RENAMED = {
    "without model.": lambda key: key.removeprefix("model."),
    "with mixer.layer.": lambda key: key.replace(".mixer.", ".mixer.layer."),
    "with mlp.layer.": lambda key: key.replace(".mlp.", ".mlp.layer."),
    "with both, without model.": lambda key: (
        key.removeprefix("model.").replace(".mixer.", ".mixer.layer.").replace(".mlp.", ".mlp.layer.")
    ),
}


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.ckpt"])
@pytest.mark.parametrize("rename", RENAMED.values(), ids=RENAMED)
def test_published_spellings_of_the_keys_are_the_same_model(rename, file, tmp_path):
    io = load_file(MODEL / "io.safetensors")
    folder = variant(tmp_path, file, rename, {"checkpoint_mixer": True, "checkpoint_mlp": True})
    assert near(load(folder)(io["ids"]), io["logits"])


def test_a_checkpoint_without_the_tied_head_is_the_same_model(tmp_path):
    io = load_file(MODEL / "io.safetensors")
    folder = variant(tmp_path, "weights.safetensors")
    weights = load_file(folder / "weights.safetensors")
    del weights["model.lm_head.weight"]
    save_file(weights, folder / "weights.safetensors")
    assert near(load(folder)(io["ids"]), io["logits"])


def test_a_bare_state_dict_in_a_ckpt_is_the_same_model(tmp_path):
    io = load_file(MODEL / "io.safetensors")
    folder = variant(tmp_path, "weights.ckpt")
    torch.save(torch.load(folder / "weights.ckpt", weights_only=True)["state_dict"], folder / "weights.ckpt")
    assert near(load(folder)(io["ids"]), io["logits"])
