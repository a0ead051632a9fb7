"""Training the model of the recall task: phases, stopping and resuming, refusals."""

import argparse
import json

import pytest
import torch

import flashref
from flashref import recall_training
from flashref.__main__ import main
from flashref.recall import Task, sequences
from flashref.recall_training import FRESH, Settings, stretched, train

TINY = {"keys": 2, "values": 3, "page": 8, "back": 2, "first_back": 1, "steps": 4, "batch": 64, "warmup": 2}
TINY |= {"d_model": 8, "n_layer": 1, "d_inner": 8, "emb_dim": 3, "filter_order": 8}


def test_the_phases_double_the_distance_and_the_last_is_the_task():
    assert [task.back for task in Settings(back=16, first_back=2).phases()] == [2, 4, 8, 16]
    assert Settings().phases()[-1] == Task()


def test_a_stretched_model_has_the_old_filters_at_twice_the_lags():
    settings = Settings(**TINY)
    near, far = settings.phases()
    model = stretched(None, settings, near)
    longer = stretched(model, settings, far)
    network, twice = (each.backbone.layers[0].mixer.filter_fn for each in (model, longer))
    with torch.no_grad():
        old, new = network(model.config.l_max), twice(longer.config.l_max)
    assert longer.config.l_max == 2 * model.config.l_max == 32
    # Time is i / (L-1), so the same fraction lies up to half a lag away.
    assert (new[:, ::2] - old).abs().max() < 0.2 * old.abs().max()
    assert torch.equal(network.implicit_filter[0].weight, twice.implicit_filter[0].weight)


def weights(folder):
    return flashref.load(folder).state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("steps", [3, 4, 6])
def test_a_stopped_and_resumed_run_ends_exactly_where_an_unbroken_one_does(tmp_path, monkeypatch, steps):
    train(tmp_path / "unbroken", **TINY)
    real, done = recall_training.answer_loss, []

    def stop(*arguments):
        done.append(True)
        if len(done) > steps:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(recall_training, "answer_loss", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", save_minutes=0, **TINY)
    monkeypatch.undo()
    report = train(tmp_path / "run", resume=True)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "unbroken"))
    assert report == json.loads((tmp_path / "run" / "training.json").read_text())


def test_training_lowers_the_loss_and_stays_away_from_the_seeds_to_measure_with(tmp_path, monkeypatch):
    seeds, real = [], sequences
    monkeypatch.setattr(recall_training, "sequences", lambda *given: seeds.append(given[-1]) or real(*given))
    report = train(tmp_path / "run", **{**TINY, "steps": 50, "seed": 3})
    early, *_, late = (row[2] for row in report["curve"]["rows"])
    assert late < early
    assert len(set(seeds)) == len(seeds) == 100 and max(seeds) < FRESH


def test_wrong_settings_and_folders_are_refused_before_anything_is_written(tmp_path):
    for changes, message in (
        ({"back": 3}, "power of two"),
        ({"batch": 31}, "batch must hold a sequence of 32"),
        ({"decay": 2.0}, "decay"),
        ({"steps": 0}, "steps"),
        ({"seed": 10**9}, "seed must be below"),
        ({"page": 4}, "page must be"),
    ):
        with pytest.raises(ValueError, match=message):
            train(tmp_path / "run", **{**TINY, **changes})
    with pytest.raises(ValueError, match="no run to resume"):
        train(tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()
    train(tmp_path / "run", **{**TINY, "steps": 1})
    with pytest.raises(ValueError, match="holds a run already"):
        train(tmp_path / "run", **TINY)
    with pytest.raises(ValueError, match="keeps its settings, got steps"):
        train(tmp_path / "run", resume=True, steps=9)


def test_the_command_has_an_option_for_each_setting():
    parser = argparse.ArgumentParser()
    recall_training.add_arguments(parser)
    given = parser.parse_args(["--keys", "3", "--lr-matrix", "0.5", "--out", "there", "--resume"])
    assert (given.keys, given.lr_matrix, str(given.out), given.resume, given.back) == (3, 0.5, "there", True, None)


def test_the_command_trains_and_says_how_many_answers_are_right(tmp_path, capsys):
    options = [text for name, value in TINY.items() for text in ("--" + name.replace("_", "-"), str(value))]
    assert main(["recall", "--out", str(tmp_path / "run"), *options]) == 0
    assert "of 512 answers are right, a guess is in 33.3%" in capsys.readouterr().out
    assert flashref.load(tmp_path / "run").config.l_max == 32
    assert main(["recall", "--out", str(tmp_path / "run"), *options]) == 2
    assert "holds a run already" in capsys.readouterr().err
