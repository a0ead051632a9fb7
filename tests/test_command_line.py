"""The commands: demo, generate, bench; and text as tokens."""

import io
import json
import sys

import pytest
import torch

import flashref
from flashref import bench, demo
from flashref.__main__ import main
from flashref.text import decode, encode

PROMPT = b"def f(x):\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small random model of bytes on disk, where the shipped one would be."""
    torch.manual_seed(0)
    config = flashref.HyenaConfig(d_model=8, n_layer=2, d_inner=16, vocab_size=256, l_max=96, filter_order=8)
    flashref.save(flashref.Hyena(config), tmp_path / "model")
    monkeypatch.setattr(demo, "PRETRAINED", tmp_path / "model")
    return tmp_path / "model"


class Wrong(flashref.Lazy):
    """An engine that goes wrong at position 20."""

    name = "tiled_cpu"

    def _step(self, m, x_t):
        z_t = super()._step(m, x_t)
        return z_t if self.position < 20 else 1e4 * z_t


@pytest.fixture
def wrong_engine(monkeypatch):
    monkeypatch.setitem(flashref.ENGINES, "tiled_cpu", Wrong)


def expected(folder, n):
    model = flashref.load(folder)
    return bytes(flashref.generate(model, torch.tensor(list(PROMPT)), n, engine="lazy")[0].tolist()) + b"\n"


def test_generate_continues_the_prompt_from_the_argument(folder, capfdbinary):
    assert main(["generate", PROMPT.decode(), "--model", str(folder), "-n", "20"]) == 0
    assert capfdbinary.readouterr().out == expected(folder, 20)


def test_generate_continues_the_prompt_from_a_file(folder, tmp_path, capfdbinary):
    (tmp_path / "prompt.py").write_bytes(PROMPT)
    assert main(["generate", "--file", str(tmp_path / "prompt.py"), "--model", str(folder), "-n", "20"]) == 0
    assert capfdbinary.readouterr().out == expected(folder, 20)


def test_generate_continues_the_prompt_from_standard_input(folder, monkeypatch, capfdbinary):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PROMPT)))
    assert main(["generate", "--model", str(folder), "-n", "20"]) == 0
    assert capfdbinary.readouterr().out == expected(folder, 20)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["x", "--model", "no-such-folder"], "no-such-folder"),
        (["x", "--file", "prompt.py"], "--file"),
        (["--file", "no-such-file"], "no-such-file"),
        ([""], "prompt"),
        (["x", "-n", "-1"], "n must"),
        (["x", "-n", "1000"], "96"),
        (["x", "-n", "1", "--engine", "fast"], "engine"),
        (["x", "-n", "1", "--temperature", "-1"], "temperature"),
        (["x", "-n", "1", "--top-k", "0"], "top_k"),
    ],
)
def test_wrong_input_to_generate_ends_with_status_2_one_line_that_names_it_and_no_text(folder, arguments, named, capfd):
    if "--model" not in arguments:
        arguments = [*arguments, "--model", str(folder)]
    assert main(["generate", *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("flashref: ") and named in err and err.count("\n") == 1


def test_the_demo_shows_the_text_twice_and_a_line_for_every_engine_and_the_bound(folder, capfd):
    assert main(["demo", "--prompt", PROMPT.decode(), "-n", "30", "--temperature", "0"]) == 0
    out = capfd.readouterr().out
    text = expected(folder, 30).decode("utf-8", "replace").rstrip("\n")
    assert out.count(text) == 2
    rows = {line.split()[0]: line.split() for line in out[out.index("same tokens as lazy") :].splitlines()[2:]}
    assert list(rows) == [*flashref.ENGINES, "(bound)"]
    assert all(rows[engine][1] == "30" and rows[engine][-1] == "yes" for engine in flashref.ENGINES)


def test_the_demo_says_at_which_token_an_engine_differs_from_lazy(folder, wrong_engine, capfd):
    assert main(["demo", "--prompt", PROMPT.decode(), "-n", "60", "--temperature", "2", "--seed", "1"]) == 0
    table = capfd.readouterr().out
    (line,) = [line for line in table.splitlines() if line.startswith("tiled_cpu ")]
    first = int(line.rpartition("no, from token ")[2])
    assert 20 - len(PROMPT) < first < 60


def test_wrong_input_to_the_demo_ends_with_status_2_and_prints_nothing(folder, capfd):
    assert main(["demo", "-n", "1000"]) == 2
    assert capfd.readouterr().out == ""


SMALL = ["bench", "--mixers", "2", "--channels", "8", "--repeats", "2", "--lengths", "20", "100"]


def test_bench_writes_every_kind_for_every_engine_and_length_with_the_environment(tmp_path, capfd):
    assert main([*SMALL, "--json", str(tmp_path / "r.json")]) == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["environment"].keys() >= {"device", "cores", "versions", "commit", "date"}
    kinds = {(r["kind"], r["engine"], r["L"]) for r in found["records"]}
    both = {(kind, engine, L) for kind in ("mixer", "end_to_end") for engine in flashref.ENGINES for L in (20, 100)}
    assert kinds == both | {
        (kind, engine, L) for kind, engine in (("blocks_only", "none"), ("offline", "fft")) for L in (20, 100)
    }
    for record in found["records"]:
        assert (record["M"], record["D"], record["B"], record["dtype"], record["device"]) == (2, 8, 1, "float32", "cpu")
        assert record["seconds"] > 0 and len(record["runs"]) == 2 and record["extrapolated"] is False
    table = capfd.readouterr().out
    assert table.count("\n") == 2 + len(found["records"])


def test_beyond_the_length_that_is_run_in_full_only_lazy_and_eager_are_sampled_and_marked():
    records = bench.measure([1500], ["lazy", "eager", "tiled_cpu"], 1, 4, repeats=1, full_up_to=1000, progress=False)
    sampled = {record.engine for record in records if record.extrapolated}
    assert sampled == {"lazy", "eager"}


def test_bench_writes_nothing_when_an_engine_is_wrong(tmp_path, wrong_engine, capfd):
    assert main([*SMALL, "--json", str(tmp_path / "r.json")]) == 1
    assert "tiled_cpu" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_sampled_run_of_a_wrong_engine_is_refused_too(monkeypatch):
    monkeypatch.setitem(flashref.ENGINES, "lazy", Wrong)
    with pytest.raises(bench.EnginesDisagree):
        bench.measure([1500], ["lazy"], 1, 4, repeats=1, full_up_to=1000, progress=False)


def test_wrong_input_to_bench_is_refused_before_anything_is_measured(tmp_path, capfd):
    assert main([*SMALL, "--json", str(tmp_path / "missing" / "r.json")]) == 2
    assert main(["bench", "--lengths", "0"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and "missing" in err and "--lengths" in err


def test_all_bytes_and_all_bases_survive_encoding_and_decoding():
    everything = bytes(range(256))
    assert decode(encode(everything, 256), 256) == everything
    assert decode(encode(b"ACGTN", 12), 12) == b"ACGTN"


def test_a_dna_prompt_may_have_small_letters_and_line_ends_but_nothing_else():
    assert encode(b" acg\nT N\n", 12).tolist() == [7, 8, 9, 10, 11]
    with pytest.raises(ValueError, match="'X' at position 2"):
        encode(b"ACXG", 12)


def test_a_vocabulary_without_a_text_form_is_refused():
    with pytest.raises(ValueError, match="50257"):
        encode(b"x", 50257)
    with pytest.raises(ValueError, match="50257"):
        decode(torch.tensor([1]), 50257)
