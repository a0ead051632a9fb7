"""Load and save models: our own folders, and those of the public Hyena and HyenaDNA, as they are.

A folder holds config.json and weights.safetensors or weights.ckpt. Nothing that is loaded can run code.
"""

import functools
import json
import os
import shutil
import tempfile
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from flashref.config import HyenaConfig
from flashref.files import read_json, read_safetensors, shown
from flashref.hyena import SHORT_TAPS, Hyena, HyenaOperator
from flashref.pickled import read_pickled

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

_EMBEDDING = "backbone.embeddings.word_embeddings.weight"
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def load(path: str | os.PathLike) -> Hyena:
    """The language model in a folder, in evaluation mode, on the CPU, in the weights' own dtype (half ones as float32).

    Keys may or may not start with ``model.`` and may contain ``.mixer.layer.`` and ``.mlp.layer.``, as in checkpoints
    of HyenaDNA. Raises FileNotFoundError for a path that does not exist, ValueError for whatever else is wrong: no
    config, not a checkpoint, keys that are missing, unexpected or of the wrong shape, each named.
    """
    folder, config = _read_config(path)
    found = _read_weights(folder)
    weights = {_plain_key(key): value for key, value in found.items()}
    if len(weights) < len(found):
        raise ValueError(f"{folder}: two keys name the same weight, with and without a prefix: remove one of them")
    if (embedding := weights.get(_EMBEDDING)) is not None:
        weights.setdefault("lm_head.weight", embedding)
    return _filled(Hyena, _model_config(config, folder / "config.json"), weights, folder)


def load_operator(path: str | os.PathLike) -> HyenaOperator:
    """One Hyena operator in the public layout, in evaluation mode: ``op(u)`` and ``op.online().push(u_t)``.

    The decay window's shift is 0, as in the public stand-alone operator, unless config.json has a ``shift``. Raises as
    load does.
    """
    folder, config = _read_config(path)
    sizes = {"n_layer": 1, "d_inner": 1, "vocab_size": 1, "shift": 0.0, **config}
    return _filled(HyenaOperator, _make_config(sizes, folder / "config.json"), _read_weights(folder), folder)


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
    config = read_json(file)
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
            raise ValueError(f"{file}: {name} = {shown(repr(settings[name]))} is not supported, only {allowed[0]!r} is")
    known = {field.name for field in fields(HyenaConfig)}
    try:
        return HyenaConfig(**{name: value for name, value in settings.items() if name in known})
    except TypeError as error:
        missing = {"d_model", "n_layer", "d_inner", "vocab_size", "l_max"} - settings.keys()
        raise ValueError(f"{file} does not say {', '.join(sorted(missing)) or error}") from error
    except ValueError as error:
        raise ValueError(f"{file}: {shown(error)}") from error


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder's file by their keys, together at most twice its size: a tied one counts twice."""
    tensors, ckpt = folder / "weights.safetensors", folder / "weights.ckpt"
    if tensors.is_file():
        return read_safetensors(tensors)[0]
    if not ckpt.is_file():
        raise ValueError(f"{folder} has neither weights.safetensors nor weights.ckpt")
    try:
        weights = read_pickled(ckpt, skipped=_FRAMEWORKS)
    except ValueError as error:
        raise ValueError(f"{error}: copy it again, or save its state_dict as weights.safetensors") from error
    if isinstance(weights, dict) and isinstance(weights.get("state_dict"), dict):
        weights = weights["state_dict"]  # PyTorch Lightning keeps the weights there, beside its own state
    if not isinstance(weights, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()
    ):
        raise ValueError(f"{ckpt} must hold a dictionary of tensors, or one under 'state_dict'")
    if sum(value.numel() * value.element_size() for value in weights.values()) > 2 * ckpt.stat().st_size:
        raise ValueError(f"{ckpt} holds tensors that repeat a few numbers: they would take more than twice its size")
    return weights


def _plain_key(key: str) -> str:
    return key.removeprefix("model.").replace(".mixer.layer.", ".mixer.").replace(".mlp.layer.", ".mlp.")


def check_fit(kind: type[nn.Module], config: HyenaConfig, weights: dict[str, Tensor], where: Path) -> None:
    """Refuse weights that are not those of a module of this kind and config, before it is made: it may be absurd.

    ``where`` is the folder or file that the message names, with what is missing, unexpected, of another shape or dtype,
    or no number.
    """
    shapes = _shapes(kind, config, len(weights), where)
    faults = [f"missing: {key}" for key in shapes if key not in weights]
    faults += [f"unexpected: {shown(key)}" for key in weights if key not in shapes]
    faults += [
        f"{key}: shape {tuple(value.shape)}, expected {shapes[key]}"
        for key, value in weights.items()
        if key in shapes and value.shape != shapes[key]
    ]
    faults += [f"{shown(key)}: dtype {value.dtype}" for key, value in weights.items() if value.dtype not in _DTYPES]
    if not faults:
        faults = [f"{key}: holds NaN or infinity" for key, value in weights.items() if not value.isfinite().all()]
    if faults:
        more = [f"and {len(faults) - 12} more"] if len(faults) > 12 else []
        raise ValueError(f"the weights in {where} do not fit its config.json:\n  " + "\n  ".join(faults[:12] + more))


def _filled(
    kind: type[Hyena] | type[HyenaOperator], config: HyenaConfig, weights: dict[str, Tensor], folder: Path
) -> nn.Module:
    """A module with these weights, all of them and nothing else."""
    check_fit(kind, config, weights, folder)
    dtype = functools.reduce(torch.promote_types, (value.dtype for value in weights.values()), torch.float32)
    weights = {key: value.to(dtype) for key, value in weights.items()}
    if kind is Hyena and not torch.equal(weights["lm_head.weight"], weights[_EMBEDDING]):
        raise ValueError(f"{folder}: lm_head.weight differs from the embedding, but the head is tied to it")
    module = kind(config).to(dtype)
    module.load_state_dict(weights)
    return module.eval()


def _shapes(kind: type[nn.Module], config: HyenaConfig, found: int, where: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a module's weights by name, worked out without making it: its sizes may be absurd."""
    if kind is HyenaOperator:
        return _operator_shapes(config)
    D, inner = config.d_model, config.d_inner
    layer = {f"mixer.{key}": shape for key, shape in _operator_shapes(config).items()}
    layer |= {
        "mlp.fc1.weight": (inner, D),
        "mlp.fc1.bias": (inner,),
        "mlp.fc2.weight": (D, inner),
        "mlp.fc2.bias": (D,),
    }
    layer |= {f"norm{i}.{part}": (D,) for i in (1, 2) for part in ("weight", "bias")}
    if config.n_layer * len(layer) > 2 * found:  # far more than could be named as missing
        raise ValueError(f"{where}: n_layer = {config.n_layer:,} asks for more weights than the {found:,} there are")
    layers = {f"backbone.layers.{i}.{key}": layer[key] for i in range(config.n_layer) for key in layer}
    ends = {"backbone.ln_f.weight": (D,), "backbone.ln_f.bias": (D,), "lm_head.weight": (config.rows, D)}
    return {_EMBEDDING: (config.rows, D)} | layers | ends


def _operator_shapes(config: HyenaConfig) -> dict[str, tuple[int, ...]]:
    D, L, E, width = config.d_model, config.l_max, config.emb_dim, config.filter_order
    streams, channels = (config.order + 1) * D, (config.order - 1) * D
    network = {f"filter_fn.implicit_filter.{i}.weight": (width, width if i else E) for i in (0, 2, 4)}
    network |= {f"filter_fn.implicit_filter.{i}.bias": (width,) for i in (0, 2, 4)}
    network |= {f"filter_fn.implicit_filter.{i}.freq": (1, width) for i in (1, 3, 5)}
    return {
        "in_proj.weight": (streams, D),
        "in_proj.bias": (streams,),
        "short_filter.weight": (streams, 1, SHORT_TAPS),
        "short_filter.bias": (streams,),
        "filter_fn.bias": (channels,),
        "filter_fn.pos_emb.z": (1, L, E),
        "filter_fn.pos_emb.t": (1, L, 1),
        **network,
        "filter_fn.implicit_filter.6.weight": (channels, width),
        "filter_fn.modulation.deltas": (1, 1, channels),
        "out_proj.weight": (D, D),
        "out_proj.bias": (D,),
    }
