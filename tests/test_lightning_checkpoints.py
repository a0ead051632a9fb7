"""Checkpoints as PyTorch Lightning leaves them: weights among settings and callbacks of classes that are not here."""

import abc
import builtins
import collections
import sys
import types
import typing

import pytest
import torch
from test_checkpoints import TOKENS, folder, model, refused, weights_as_ckpt  # noqa: F401

from flashref import load


class Framework:
    """A class that says when it is used; instances pickle with their state, as OmegaConf's do."""

    used: typing.ClassVar[list] = []

    def __init__(self, **state) -> None:
        self.__dict__.update(state)

    def __setstate__(self, state) -> None:
        Framework.used.append(state)


class Callback(Framework, abc.ABC):
    pass


class Table(dict):
    """A dictionary of a framework's own: its items are set one by one when it is unpickled."""

    def __setitem__(self, key, value) -> None:
        Framework.used.append(key)


@pytest.fixture
def lightning(monkeypatch):
    """Modules of the frameworks that are there while a checkpoint is written, and gone when it is read."""
    places = {"omegaconf.dictconfig": Framework, "pytorch_lightning.callbacks": Callback, "src.utils": Table}
    with monkeypatch.context() as patch:
        for name, cls in places.items():
            module = types.ModuleType(name)
            setattr(module, cls.__name__, cls)
            patch.setitem(sys.modules, name.partition(".")[0], types.ModuleType(name.partition(".")[0]))
            patch.setitem(sys.modules, name, module)
            patch.setattr(cls, "__module__", name)
        Framework.used.clear()
        yield patch


@pytest.fixture
def extras(lightning) -> dict:
    return {
        "epoch": 3,
        "hyper_parameters": Framework(content={"a": Framework(type=typing.Any, kind=builtins.dict)}, counts=[1, 2]),
        "callbacks": {Callback: {"best": 0.5}, "table": Table(a=1)},
        "loops": collections.defaultdict(dict, x={}),
    }


def test_weights_among_a_frameworks_objects_are_loaded_and_the_objects_left_alone(folder, model, extras, lightning):  # noqa: F811
    truth = load(folder)(TOKENS)
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    weights_as_ckpt(folder, {"state_dict": weights, **extras})
    lightning.undo()
    Framework.used.clear()
    assert torch.equal(load(folder)(TOKENS), truth)
    assert Framework.used == []


@pytest.mark.parametrize("name", ["eval", "exec", "open", "__import__", "getattr"])
def test_a_function_beside_a_frameworks_objects_is_refused(folder, model, extras, name):  # noqa: F811
    weights_as_ckpt(folder, {"state_dict": model.state_dict(), "extra": getattr(builtins, name), **extras})
    refused(folder, "not a checkpoint of plain tensors")


def test_a_frameworks_object_in_place_of_a_weight_is_refused(folder, model, lightning):  # noqa: F811
    weights = {**model.state_dict(), "backbone.ln_f.bias": Framework()}
    weights_as_ckpt(folder, {"state_dict": weights})
    refused(folder, "must hold a dictionary of tensors")
