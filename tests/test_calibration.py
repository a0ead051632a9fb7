"""The choices that are measured on a machine: kept, found again, and used by make_mixer, unless told otherwise."""

import json
from dataclasses import asdict

import pytest
import torch

from flashref import TiledCPU, calibration, make_mixer
from flashref.__main__ import main
from flashref.calibration import CANDIDATES, VARIABLE, Choices, choices, remember

FOUND = Choices(base=8, chunk_points=500)


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache" / "choices.json"))
    return tmp_path / "cache" / "choices.json"


def test_without_a_file_or_with_the_variable_set_to_nothing_the_defaults_hold(file, monkeypatch):
    assert choices() == Choices()
    monkeypatch.setenv(VARIABLE, "")
    assert choices() == Choices()
    with pytest.raises(ValueError, match=VARIABLE):
        remember(FOUND)


def test_what_is_remembered_is_used_by_the_tiled_engines_on_a_cpu_only(file):
    assert remember(FOUND) == file and choices() == FOUND
    filters = torch.randn(1, 2, 100)
    for engine in ("tiled_cpu", "bounded", "auto"):
        mixer = make_mixer(engine, filters)
        assert (mixer.base, mixer.chunk_points) == (8, 500)
    assert make_mixer("tiled_gpu", filters).base == 64
    assert make_mixer("tiled_cpu", filters, base=5).base == 5
    make_mixer("lazy", filters)


def test_other_machines_choices_are_left_alone_and_not_used(file):
    file.parent.mkdir()
    file.write_text(json.dumps({"another machine": asdict(FOUND)}))
    assert choices() == Choices()
    remember(Choices(base=32))
    assert choices() == Choices(base=32)
    assert json.loads(file.read_text())["another machine"] == asdict(FOUND)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"m": {}, "n": 3}', '{"m": {"base": 0}}', '{"m": {"base": 1.5}}', '{"m": {"speed": 1}}']
)
def test_a_file_that_cannot_be_understood_is_named_and_not_changed(file, content):
    file.parent.mkdir()
    file.write_text(content)
    for call in (choices, lambda: remember(FOUND)):
        with pytest.raises(ValueError, match=r"choices.json cannot be understood .*flashref calibrate"):
            call()
    assert file.read_text() == content


def test_calibrate_takes_the_fastest_candidate_of_each_choice(file, monkeypatch, capfd):
    fastest = {"base": 32, "chunk_points": 2**20}

    def seconds(filters, settings, repeats, bar):
        return [1 + sum(getattr(setting, name) != value for name, value in fastest.items()) for setting in settings]

    monkeypatch.setattr(calibration, "_fastest_runs", seconds)
    assert main(["calibrate"]) == 0
    assert choices() == Choices(**fastest)
    out = capfd.readouterr().out
    assert out.count("chosen") == 2 and str(file) in out
    assert main(["calibrate", "--forget"]) == 0
    assert choices() == Choices() and not file.exists()


def test_a_small_calibration_measures_every_candidate_once():
    found, measured = calibration.calibrate(L=64, M=1, D=2, repeats=1)
    assert [(name, value) for name, value, _ in measured] == [
        (n, v) for n, values in CANDIDATES.items() for v in values
    ]
    assert all(s > 0 for _, _, s in measured)
    for name, values in CANDIDATES.items():
        assert getattr(found, name) in values
        assert min((s, v) for n, v, s in measured if n == name)[1] == getattr(found, name)


@pytest.mark.parametrize("change", [{"base": -1}, {"chunk_points": 0}])
def test_bad_choices_are_refused_by_name(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        TiledCPU(torch.randn(1, 1, 4), **change)
