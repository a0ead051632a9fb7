"""Training: on what, how far, stopped and resumed, and what is written."""

import argparse
import json
import math
import signal

import pytest
import torch

import flashref
from flashref import training
from flashref.corpus import HELD_OUT, batch_of_step, python_files
from flashref.training import Settings, bits_per_byte, rate, train

TINY = {"batch": 4, "context": 16, "d_model": 8, "n_layer": 2, "d_inner": 8, "l_max": 32, "emb_dim": 3, "warmup": 2}


@pytest.fixture
def stdlib(tmp_path):
    """A standard library of six files."""
    root = tmp_path / "stdlib"
    for name in ("abc.py", "json/__init__.py", "json/tool.py", "os.py", "test/test_os.py", "xml/dom/x.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"# {name}\n" + "".join(f"x{i} = {i * i}\n" for i in range(80)))
    return root


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def weights(folder):
    return flashref.load(folder).state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def stop_after(monkeypatch, steps):
    """Ctrl-C during a step."""
    real, done = training.train_step, []

    def step(*arguments):
        done.append(True)
        if len(done) == steps:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(training, "train_step", step)


def test_the_held_out_modules_are_whole_and_disjoint_from_the_training_files(stdlib):
    trained, held_out = ([path.as_posix() for path in paths] for paths in python_files(stdlib))
    assert trained == ["abc.py", "os.py", "xml/dom/x.py"]
    assert held_out == ["json/__init__.py", "json/tool.py"]


def test_of_this_python_some_modules_are_held_out_and_no_training_file_is_of_one():
    trained, held_out = python_files()
    assert len(held_out) > 10 and len(trained) > 200
    assert not set(trained) & set(held_out)
    assert not {path.parts[0].removesuffix(".py") for path in trained} & set(HELD_OUT)


def test_files_are_written_and_say_what_was_done(stdlib, out):
    report = train(out, stdlib=stdlib, steps=3, **TINY)
    assert report == json.loads((out / "training.json").read_text())
    assert report["settings"]["steps"] == 3 and report["bytes_trained_on"] == 3 * 64
    assert [row[0] for row in report["files"]["held_out"]] == ["json/__init__.py", "json/tool.py"]
    assert report["files"]["training"][0][1] == (stdlib / "abc.py").stat().st_size
    assert {"model", "xz", "bzip2", "zlib"} == report["held_out_bits_per_byte"].keys()
    model = flashref.load(out)
    assert model.config.l_max == 32 and model(torch.zeros(1, 5, dtype=torch.long)).shape == (1, 5, 256)
    lags = model.backbone.layers[0].mixer.filter_fn.pos_emb.t
    assert torch.equal(lags, flashref.Hyena(model.config).backbone.layers[0].mixer.filter_fn.pos_emb.t)


def test_training_lowers_the_loss(stdlib, out):
    report = train(out, stdlib=stdlib, steps=60, **TINY)
    (_, early), *_, (_, late) = report["curve"]["rows"]
    assert late < early < 8.2
    assert report["held_out_bits_per_byte"]["model"] < 7


def test_a_stopped_and_resumed_run_ends_exactly_where_an_unbroken_one_does(stdlib, out, tmp_path, monkeypatch):
    train(tmp_path / "unbroken", stdlib=stdlib, steps=6, **TINY)
    stop_after(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        train(out, stdlib=stdlib, steps=6, **TINY)
    assert not (out / "weights.safetensors").exists()
    train(out, resume=True, stdlib=stdlib)
    assert same(weights(out), weights(tmp_path / "unbroken"))


def test_the_end_can_be_moved_when_resuming(stdlib, out, monkeypatch):
    stop_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        train(out, stdlib=stdlib, steps=50, **TINY)
    assert train(out, resume=True, stdlib=stdlib, steps=5)["bytes_trained_on"] == 5 * 64


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(stdlib, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tmp_path / name, stdlib=stdlib, steps=2, seed=seed, **TINY)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_each_pass_takes_every_sequence_once():
    data = torch.arange(100, dtype=torch.uint8)
    starts = torch.cat([batch_of_step(data, step, 2, 10, seed=0) for step in range(4)])[:, 0]
    assert len(set(starts.tolist())) == 8 and len(set((starts % 10).tolist())) == 1


def test_the_rate_rises_stays_and_falls_to_zero():
    settings = Settings(steps=100, warmup=10, decay=0.5)
    rates = [rate(step, settings) for step in range(100)]
    assert rates[0] == 0.1 and rates[10:50] == [1.0] * 40 and rates[75] == 0.5 and rates[99] == pytest.approx(0.02)


def test_bits_per_byte_predicts_each_byte_from_the_window_that_the_protocol_names():
    torch.manual_seed(0)
    model = flashref.Hyena(flashref.HyenaConfig(d_model=8, n_layer=1, d_inner=8, vocab_size=256, l_max=8))
    text = bytes(range(60, 60 + 27))
    bits = 8.0
    for place in range(1, len(text)):
        start = 0 if place <= 8 else (place - 1) // 4 * 4 - 4
        context = torch.tensor(list(text[start:place]))[None]
        bits -= model(context)[0, -1].log_softmax(-1)[text[place]].item() / math.log(2)
    assert bits_per_byte(model, text) == pytest.approx(bits / len(text), rel=1e-5)


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_bits_per_byte_of_a_short_text(size):
    model = flashref.Hyena(flashref.HyenaConfig(d_model=8, n_layer=1, d_inner=8, vocab_size=256, l_max=8))
    assert 7 < bits_per_byte(model, b"a" * size) < 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"context": 24}, "context must divide l_max"),
        ({"batch": 3}, "batch"),
        ({"decay": 1.5}, "decay"),
        ({"d_model": 0}, "d_model"),
        ({"lr_matrix": -1.0}, "lr_matrix"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_written(stdlib, out, changes, message):
    with pytest.raises(ValueError, match=message):
        train(out, stdlib=stdlib, **{**TINY, **changes})
    assert not out.exists()


def test_a_run_is_not_overwritten_and_none_is_not_resumed(stdlib, out, tmp_path):
    with pytest.raises(ValueError, match="no run to resume"):
        train(out, resume=True, stdlib=stdlib)
    train(out, stdlib=stdlib, steps=1, **TINY)
    with pytest.raises(ValueError, match="holds a run already"):
        train(out, stdlib=stdlib, steps=1, **TINY)
    with pytest.raises(ValueError, match="keeps its d_model"):
        train(out, resume=True, stdlib=stdlib, d_model=16)
    (stdlib / "os.py").write_text("import sys\n" * 50)
    with pytest.raises(ValueError, match="other files"):
        train(out, resume=True, stdlib=stdlib)
    for state in ({"step": 1}, [1, 2]):
        torch.save(state, out / "state.pt")
        with pytest.raises(ValueError, match="damaged"):
            train(out, resume=True, stdlib=stdlib)
    (out / "state.pt").write_bytes(b"not a state")
    with pytest.raises(ValueError, match="damaged"):
        train(out, resume=True, stdlib=stdlib)


def test_a_folder_without_python_and_a_text_that_is_too_short_are_refused(stdlib, out, tmp_path):
    with pytest.raises(ValueError, match="not the source of a standard library"):
        train(out, stdlib=tmp_path / "nothing", **TINY)
    with pytest.raises(ValueError, match="too few"):
        train(out, stdlib=stdlib, **{**TINY, "l_max": 4096, "context": 4096})
    assert not (out / "weights.safetensors").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        train(tmp_path / "file", stdlib=stdlib, **TINY)


def test_the_command_has_an_option_for_each_setting():
    parser = argparse.ArgumentParser()
    training.add_arguments(parser)
    given = parser.parse_args(["--steps", "7", "--lr-matrix", "0.5", "--out", "there", "--resume"])
    assert (given.steps, given.lr_matrix, str(given.out), given.resume, given.d_model) == (7, 0.5, "there", True, None)
