"""Load and save models: our own folders, and those of the public Hyena and HyenaDNA, as they are.

A folder holds config.json and weights.safetensors or weights.ckpt. Nothing that is loaded can run code.
"""

import functools
import json
import os
import shutil
import tempfile
import zipfile
from collections import OrderedDict
from dataclasses import asdict, fields
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flashref.config import HyenaConfig
from flashref.hyena import Hyena, HyenaOperator

PRETRAINED = Path(__file__).parent / "pretrained" / "python_stdlib"  # the trained model that comes with flashref

# Settings of the public models that change what is computed, each with the only value that is computed here.
_FIXED = {
    "_name_": ("hyena",),
    "short_filter_order": (3,),
    "local_order": (3,),
    "modulate": (True,),
    "num_inner_mlps": (2,),
    "normalized": (False,),
    "num_heads": (1,),
    "num_blocks": (1,),
    "inner_factor": (1,),
    "outer_mixing": (False,),
    "post_order_ffn": (False,),
    "activation": ("id", None),
    "bidirectional": (False,),
}


# What PyTorch Lightning and OmegaConf leave in a checkpoint beside the weights, by the beginnings of their names.
_FRAMEWORKS = (
    *("pytorch_lightning.", "lightning.", "lightning_fabric.", "torchmetrics.", "omegaconf.", "src."),
    *("typing.", "collections.", "abc.", "enum."),
    *(f"builtins.{name}" for name in ("dict", "list", "tuple", "set", "int", "float", "str", "bool", "object")),
)

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def load(path: str | os.PathLike) -> Hyena:
    """The language model in a folder, in evaluation mode, on the CPU, in the weights' own dtype (half ones as float32).

    Keys may or may not start with ``model.`` and may contain ``.mixer.layer.`` and ``.mlp.layer.``, as in checkpoints
    of HyenaDNA. Raises FileNotFoundError for a path that does not exist, ValueError for whatever else is wrong: no
    config, not a checkpoint, keys that are missing, unexpected or of the wrong shape, each named.
    """
    folder, config = _read_config(path)
    model = Hyena(_model_config(config, folder / "config.json"))
    found = _read_weights(folder)
    weights = {_plain_key(key): value for key, value in found.items()}
    if len(weights) < len(found):
        raise ValueError(f"{folder}: two keys name the same weight, with and without a prefix: remove one of them")
    embedding = weights.get("backbone.embeddings.word_embeddings.weight")
    if embedding is not None:
        weights.setdefault("lm_head.weight", embedding)
        if not torch.equal(weights["lm_head.weight"], embedding):
            raise ValueError(f"{folder}: lm_head.weight differs from the embedding, but the head is tied to it")
    return _fill(model, weights, folder)


def load_operator(path: str | os.PathLike) -> HyenaOperator:
    """One Hyena operator in the public layout, in evaluation mode: ``op(u)`` and ``op.online().push(u_t)``.

    The decay window's shift is 0, as in the public stand-alone operator, unless config.json has a ``shift``. Raises as
    load does.
    """
    folder, config = _read_config(path)
    sizes = {"n_layer": 1, "d_inner": 1, "vocab_size": 1, "shift": 0.0, **config}
    operator = HyenaOperator(_make_config(sizes, folder / "config.json"))
    return _fill(operator, _read_weights(folder), folder)


def save(model: Hyena, path: str | os.PathLike, dtype: torch.dtype | None = None) -> None:
    """Write config.json and weights.safetensors into a folder, which is made if missing; load reads it back.

    dtype, if given, is what the parameters are rounded to; positions and windows stay as they are, since half precision
    cannot tell a lag from the next. Each file is written beside its place and then
    renamed, so that a failure leaves the old one.
    """
    if not isinstance(model, Hyena):
        raise TypeError(f"model must be a flashref.Hyena, got {type(model).__name__}")
    if dtype not in (None, *_DTYPES):
        raise TypeError(f"dtype must be one of {', '.join(map(str, _DTYPES))}, got {dtype!r}")
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give a folder to write config.json and the weights into")
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{key}": value for key, value in model.state_dict().items() if key != "lm_head.weight"}
    kept = {f"model.{name}" for name, _ in model.named_buffers()}
    weights = {
        key: value.detach().to("cpu", None if key in kept else dtype).contiguous() for key, value in weights.items()
    }
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
        save_file(weights, Path(scratch) / "weights.safetensors")
        (Path(scratch) / "config.json").write_text(json.dumps(asdict(model.config), indent=1) + "\n")
        shutil.copymode(Path(scratch) / "config.json", Path(scratch) / "weights.safetensors")  # not for its owner alone
        for name in ("config.json", "weights.safetensors"):
            os.replace(Path(scratch) / name, folder / name)


def _read_config(path: str | os.PathLike) -> tuple[Path, dict]:
    folder = Path(path)
    if not folder.exists():
        raise FileNotFoundError(f"no such folder: {folder}")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file: give the folder that holds config.json and the weights")
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"{folder} has no config.json: it says how large the model is; copy it beside the weights")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} must hold a JSON object, got {type(config).__name__}")
    return folder, config


def _model_config(config: dict, file: Path) -> HyenaConfig:
    """Ours is flat; HyenaDNA's keeps the operator's settings under "layer"."""
    layer = config.get("layer", {})
    if not isinstance(layer, dict):
        raise ValueError(f'"layer" in {file} must be an object, got {type(layer).__name__}')
    return _make_config({**config, **layer}, file)


def _make_config(settings: dict, file: Path) -> HyenaConfig:
    """Keep what a HyenaConfig has, refuse what would change the arithmetic, ignore the rest (learning rates, say)."""
    for name, allowed in _FIXED.items():
        if name in settings and settings[name] not in allowed:
            raise ValueError(f"{file}: {name} = {settings[name]!r} is not supported, only {allowed[0]!r} is")
    known = {field.name for field in fields(HyenaConfig)}
    try:
        return HyenaConfig(**{name: value for name, value in settings.items() if name in known})
    except TypeError as error:
        missing = {"d_model", "n_layer", "d_inner", "vocab_size", "l_max"} - settings.keys()
        raise ValueError(f"{file} does not say {', '.join(sorted(missing)) or error}") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _read_weights(folder: Path) -> dict[str, Tensor]:
    tensors, ckpt = folder / "weights.safetensors", folder / "weights.ckpt"
    if tensors.is_file():
        try:
            return load_file(tensors)
        except (SafetensorError, ValueError, OverflowError) as error:
            raise ValueError(f"{tensors} is not a safetensors file, or is damaged: {error}") from error
    if not ckpt.is_file():
        raise ValueError(f"{folder} has neither weights.safetensors nor weights.ckpt")
    with ckpt.open("rb") as file:
        try:
            weights = _unpickle(file)
        except Exception as error:  # a damaged file fails in as many ways as there are damages
            raise ValueError(
                f"{ckpt} is not a checkpoint of plain tensors, or is damaged ({type(error).__name__}): "
                "copy it again, or save its state_dict as weights.safetensors"
            ) from error
    if isinstance(weights, dict) and isinstance(weights.get("state_dict"), dict):
        weights = weights["state_dict"]  # PyTorch Lightning keeps the weights there, beside its own state
    if not isinstance(weights, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()
    ):
        raise ValueError(f"{ckpt} must hold a dictionary of tensors, or one under 'state_dict'")
    return weights


class _Skipped:
    """Stands in for a class of a training framework. Its objects become plain dictionaries, which nobody looks at."""

    def __new__(cls, *_, **__) -> OrderedDict:
        return OrderedDict()  # of the types that weights_only fills with items and with state, the one that takes both


def _unpickle(file: BinaryIO) -> object:
    """torch.load with weights_only=True, which runs no code of the file's.

    HyenaDNA's published checkpoints also hold settings and callbacks, of classes that weights_only refuses. Those of
    known training frameworks are replaced by stand-ins; a file with any other class is refused as it always was.
    """
    is_zip = zipfile.is_zipfile(file)
    file.seek(0)
    found = torch.serialization.get_unsafe_globals_in_checkpoint(file) if is_zip else []
    file.seek(0)
    with torch.serialization.safe_globals([(_Skipped, name) for name in found if name.startswith(_FRAMEWORKS)]):
        return torch.load(file, map_location="cpu", weights_only=True)


def _plain_key(key: str) -> str:
    return key.removeprefix("model.").replace(".mixer.layer.", ".mixer.").replace(".mlp.layer.", ".mlp.")


def _fill(module: nn.Module, weights: dict[str, Tensor], folder: Path) -> nn.Module:
    """Put weights into a module, all of them and nothing else, or say which do not fit."""
    expected = module.state_dict()
    faults = [f"missing: {key}" for key in expected if key not in weights]
    faults += [f"unexpected: {key}" for key in weights if key not in expected]
    faults += [
        f"{key}: shape {tuple(value.shape)}, expected {tuple(expected[key].shape)}"
        for key, value in weights.items()
        if key in expected and value.shape != expected[key].shape
    ]
    faults += [f"{key}: dtype {value.dtype}" for key, value in weights.items() if value.dtype not in _DTYPES]
    if faults:
        more = [f"and {len(faults) - 12} more"] if len(faults) > 12 else []
        raise ValueError(f"the weights in {folder} do not fit its config.json:\n  " + "\n  ".join(faults[:12] + more))
    dtype = functools.reduce(torch.promote_types, (value.dtype for value in weights.values()), torch.float32)
    module.to(dtype).load_state_dict({key: value.to(dtype) for key, value in weights.items()})
    return module.eval()
