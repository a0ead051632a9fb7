"""Saved generations that were damaged, or made by hand with a right checksum: refused, or a generation that goes on."""

import json
import math
from pathlib import Path

import pytest
import torch
from depth import examples
from hostile import assert_clear, changed, confined, damaged, numbers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_resumable import MODEL, PROMPT

from flashref import ENGINES, Generation
from flashref.saved import checksum

ALL = [name for name in ENGINES if name != "tiled_gpu"]  # which is tiled_cpu with kernels that a CPU has not


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    """A generation of every engine in the middle, past its first tile, and one that has not begun."""
    home, found = tmp_path_factory.mktemp("saved"), {}
    for name in ("new", *ALL):
        run = Generation(MODEL, PROMPT, 150, engine="auto" if name == "new" else name, temperature=0.9, seed=1)
        for _ in range(0 if name == "new" else 90):
            next(run)
        found[name] = home / name
        run.save(found[name])
    return found


def resumed(file: Path) -> list | Exception:
    """The tokens of the whole generation, or why it is refused; an error later than resume is none of the expected."""

    def job() -> list | Exception:
        run = Generation.resume(file, MODEL)
        try:
            for _ in range(70):
                next(run, None)
        except FloatingPointError as error:  # huge numbers that are finite until they are multiplied
            return error
        except Exception as error:
            return AssertionError(f"resumed, and then {error!r}")
        return run.tokens.tolist()

    return confined(job)


@settings(max_examples=examples(30))
@given(data=st.data(), name=st.sampled_from(ALL))
def test_a_damaged_generation_is_refused_or_the_same(data, name, saved, tmp_path_factory, tried):
    whole = saved[name].read_bytes()
    file = tmp_path_factory.getbasetemp() / "damaged"
    file.write_bytes(wrong := data.draw(damaged(whole)))
    found = resumed(file)
    if isinstance(found, list):
        assert found == resumed(saved[name]) and len(wrong) >= len(load_file(saved[name])) > 0
    else:
        assert_clear(found, file)
    tried("faults", "a saved generation damaged")


def made_by_hand(file: Path, whole: Path, about: object, tensors: dict[str, torch.Tensor]) -> Path:
    """A file that says all this, with the checksum that fits."""
    with safe_open(whole, framework="pt") as opened:
        metadata = opened.metadata()
    metadata["about"] = json.dumps(about)
    metadata["checksum"] = checksum(metadata["about"], tensors)
    save_file(tensors, file, metadata)
    return file


@st.composite
def other(draw: st.DrawFn, t: torch.Tensor) -> torch.Tensor:
    """A tensor of another shape, dtype, or other numbers."""
    match draw(st.sampled_from(["numbers", "shorter", "longer", "flat", "dtype", "empty", "none"])):
        case "numbers":
            t = t.clone()
            at = draw(st.integers(0, t.numel() - 1))
            if t.is_floating_point():
                t.view(-1)[at] = draw(st.sampled_from([0, -1, 100, 1e300, -1.7e308, math.nan, math.inf, -math.inf]))
                return t
            least, most = (-(2**63), 2**63 - 1) if t.dtype == torch.int64 else (0, 255)
            number = draw(st.sampled_from([0, 1, -1, 2, 5, 100, 150, 10**6, least, most]))
            t.view(-1)[at] = number if not t.dtype == torch.uint8 else number % 256
            return t
        case "shorter":
            return t[:-1].clone()
        case "longer":
            return torch.cat([t, t[-1:]])
        case "flat":
            return t.reshape(-1).clone()
        case "dtype":
            return t.to(draw(st.sampled_from([torch.float32, torch.float16, torch.int64, torch.bool, torch.uint8])))
        case "empty":
            return t[:0].clone()
    return torch.zeros(())


@settings(max_examples=examples(50))
@given(data=st.data(), name=st.sampled_from(["new", *ALL]))
def test_a_generation_made_by_hand_is_refused_or_goes_on_to_its_end(data, name, saved, tmp_path_factory, tried):
    with safe_open(saved[name], framework="pt") as opened:
        about = json.loads(opened.metadata()["about"])
    tensors, model = load_file(saved[name]), about.pop("model")
    if data.draw(st.booleans()):
        about = data.draw(changed(about))
    else:
        some = data.draw(st.sampled_from(sorted(tensors)))
        tensors[some] = data.draw(other(tensors[some]))
    about = about | {"model": model} if isinstance(about, dict) else about
    file = made_by_hand(tmp_path_factory.getbasetemp() / "by_hand", saved[name], about, tensors)
    found = resumed(file)
    if isinstance(found, list):
        assert all(0 <= token < MODEL.config.vocab_size for row in found for token in row), found
        assert all(t.isfinite().all() for t in tensors.values())
    elif isinstance(found, FloatingPointError):
        assert "the logits are not finite" in str(found) and all(t.isfinite().all() for t in tensors.values())
    else:
        assert_clear(found, file)
    tried("faults", "a saved generation made by hand, its checksum right")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1.7e308])
@pytest.mark.parametrize("name", ALL)
def test_every_number_that_is_not_finite_is_refused_and_a_sum_that_overflows_is_told(name, number, saved, tmp_path):
    with safe_open(saved[name], framework="pt") as opened:
        about = json.loads(opened.metadata()["about"])
    tensors = load_file(saved[name])
    for some in [key for key, t in tensors.items() if t.is_floating_point() and t.numel()]:
        spoilt = tensors[some].clone()
        spoilt.view(-1)[:] = number
        file = made_by_hand(tmp_path / "spoilt", saved[name], about, tensors | {some: spoilt})
        found = resumed(file)
        if math.isfinite(number):
            assert isinstance(found, list) or isinstance(found, FloatingPointError), found
        else:
            assert_clear(found, file)
            assert f"{some} holds NaN or infinity" in str(found)


@settings(max_examples=examples(15))
@given(key=st.sampled_from(["base", "direct_up_to", "chunk_points"]), number=numbers)
def test_settings_made_by_hand_are_refused_or_make_an_engine(key, number, saved, tmp_path_factory, tried):
    with safe_open(saved["new"], framework="pt") as opened:
        about = json.loads(opened.metadata()["about"])
    about["settings"][key] = number
    file = made_by_hand(tmp_path_factory.getbasetemp() / "settings", saved["new"], about, load_file(saved["new"]))
    found = resumed(file)
    assert isinstance(found, list) or assert_clear(found, file) is None
    tried("faults", "an engine's settings in a saved generation made by hand")


def test_a_million_sequences_of_a_small_file_are_refused(saved, tmp_path, tried):
    with safe_open(saved["tiled_cpu"], framework="pt") as opened:
        about = json.loads(opened.metadata()["about"])
    tensors = load_file(saved["tiled_cpu"]) | {"tokens": torch.zeros(10**6, 1, dtype=torch.long)}
    file = made_by_hand(tmp_path / "wide", saved["tiled_cpu"], about | {"prompt": 1}, tensors)
    assert_clear(resumed(file), file)
    tried("faults", "a saved generation made by hand, its checksum right")
