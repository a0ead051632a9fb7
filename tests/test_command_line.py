"""The commands: demo, generate, bench; and text as tokens."""

import io
import json
import sys
from pathlib import Path

import pytest
import torch

import flashref
from flashref import Generation, bench, demo
from flashref.__main__ import main
from flashref.bench_report import END, summary, with_summaries
from flashref.bench_runs import counted_per_position
from flashref.machine import environment
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


def test_generate_is_stopped_put_away_and_resumed_with_the_same_text(folder, tmp_path, monkeypatch, capfdbinary):
    state = str(tmp_path / "state")
    real, made = Generation.__next__, []

    def pressed(run):
        if len(made) == 9:
            raise KeyboardInterrupt
        made.append(real(run))
        return made[-1]

    monkeypatch.setattr(Generation, "__next__", pressed)
    assert main(["generate", PROMPT.decode(), "--model", str(folder), "-n", "20", "--save", state]) == 130
    assert capfdbinary.readouterr().out == expected(folder, 20)[: len(PROMPT) + 9]
    monkeypatch.setattr(Generation, "__next__", real)
    assert main(["generate", "--model", str(folder), "--resume", state, "--save", state]) == 0
    assert capfdbinary.readouterr().out == expected(folder, 20)
    assert main(["generate", "--model", str(folder), "--resume", state]) == 0  # there is nothing left to do
    assert capfdbinary.readouterr().out == expected(folder, 20)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["x", "--model", "no-such-folder"], "no-such-folder"),
        (["x", "--file", "prompt.py"], "--file"),
        (["--file", "no-such-file"], "no-such-file"),
        ([""], "prompt"),
        (["--resume", "no-such-file"], "no-such-file"),
        (["x", "--resume", "no-such-file"], "--resume"),
        (["x", "-n", "1", "--save", "no-such-folder/x"], "no-such-folder"),
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
    assert main([*SMALL, "--json", str(tmp_path / "r.json"), "--plots", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["environment"].keys() >= {"device", "cores", "versions", "commit", "date"}
    kinds = [(r["kind"], r["engine"], r["L"]) for r in found["records"]]
    tiled = ("tiled_cpu", "bounded")
    expected = {
        "mixer": ("lazy", "eager", *tiled), "end_to_end": ("lazy", "eager", *tiled), "blocks_only": ("none",),
        "tiles": tiled, "offline": ("fft",), "prefill": tiled, "forward": ("fft",),
    }  # fmt: skip
    assert sorted(kinds) == sorted(
        (kind, e, L) for kind, engines in expected.items() for e in engines for L in (20, 100)
    )
    for record in found["records"]:
        assert (record["M"], record["D"], record["B"], record["dtype"], record["device"]) == (2, 8, 1, "float32", "cpu")
        assert record["seconds"] > 0 and len(record["runs"]) >= 2 and record["extrapolated"] is False
        if record["kind"] in ("mixer", "end_to_end", "blocks_only"):
            assert 0 < record["step"]["median"] <= record["step"]["p99"] <= record["step"]["longest"]
            assert record["curve"][-1][0] == record["L"]
    table = capfd.readouterr().out
    assert table.count("\n") == 2 + len(found["records"])
    assert sorted(file.name for file in tmp_path.glob("*.png")) == [
        "breakdown.png", "cumulative_time.png", "speed_up.png", "time_per_token.png"
    ]  # fmt: skip
    assert main(["bench", "--show", str(tmp_path / "r.json")]) == 0
    assert capfd.readouterr().out == table


def measured(*settings, engines=("lazy", "eager", "tiled_cpu")):
    return [record for records in bench.measure(settings, engines, progress=False) for record in records]


def test_beyond_the_length_that_is_run_in_full_only_lazy_and_eager_are_sampled_and_marked():
    records = measured(bench.Setting(1500, M=1, D=4, repeats=1, naive_in_full=1000))
    assert {(r.engine, r.extrapolated) for r in records if r.kind in ("mixer", "end_to_end")} == {
        ("lazy", True), ("eager", True), ("tiled_cpu", False)
    }  # fmt: skip
    assert not any(r.extrapolated for r in records if r.kind not in ("mixer", "end_to_end"))


def test_where_both_are_possible_lazy_and_eager_are_run_in_full_and_sampled():
    records = measured(bench.Setting(1500, M=1, D=4, repeats=1, naive_in_full=2000, models=False))
    found = [(r.engine, r.extrapolated) for r in records if r.kind == "mixer"]
    assert sorted(found) == sorted([(e, s) for e in ("lazy", "eager") for s in (False, True)] + [("tiled_cpu", False)])


def test_order_3_has_two_mixers_a_layer():
    records = measured(bench.Setting(70, M=2, D=4, order=3, repeats=1))
    assert {record.M for record in records} == {4}


def test_blocks_of_tokens_agree_with_the_other_engines_token_by_token():
    """As on a GPU, without its graph: tiled_gpu writes its own tokens, the others read them and choose the same."""
    records = measured(bench.Setting(150, M=2, D=8, repeats=1), engines=("lazy", "eager", "tiled_gpu"))
    assert {r.engine for r in records if r.kind == "end_to_end"} == {"lazy", "eager", "tiled_gpu"}


def test_what_is_counted_per_position_is_what_the_engines_transform():
    filters = torch.ones(1, 1, 4096)
    of_tiled, of_bounded = (counted_per_position(flashref.ENGINES[e](filters), 4096) for e in ("tiled_cpu", "bounded"))
    assert of_tiled["fft_points"] == 2 * 6  # six sizes of tile from 64 to 2048, at 4U points for 2U positions each
    # The tile to the next block, 4U points for U positions, then one of each size from 64 to 1024: 4U points for U
    # positions too, but none for the first two blocks of a size.
    sizes = [64 * 2**q for q in range(5)]
    expected = (4 * 64 * 63 + sum(4 * U * (4096 // U - 2) for U in sizes)) / 4096
    assert of_bounded["fft_points"] == pytest.approx(expected, abs=0.01)
    assert counted_per_position(flashref.ENGINES["eager"](filters), 64)["multiply_adds"] == 31.5
    of_gpu = counted_per_position(flashref.ENGINES["tiled_gpu"](filters, base=32, direct_up_to=64), 4096)
    assert of_gpu["fft_points"] == 2 * 5  # from 128 to 2048, counted with the base and the limit that it has


def test_bench_writes_nothing_when_an_engine_is_wrong(tmp_path, wrong_engine, capfd):
    assert main([*SMALL, "--json", str(tmp_path / "r.json")]) == 1
    assert "tiled_cpu" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_sampled_run_of_a_wrong_engine_is_refused_too(monkeypatch):
    monkeypatch.setitem(flashref.ENGINES, "lazy", Wrong)
    with pytest.raises(bench.EnginesDisagree):
        measured(bench.Setting(1500, M=1, D=4, repeats=1, naive_in_full=1000), engines=("lazy",))


def test_wrong_input_to_bench_is_refused_before_anything_is_measured(tmp_path, capfd):
    assert main([*SMALL, "--json", str(tmp_path / "missing" / "r.json")]) == 2
    assert main([*SMALL, "--plots", str(tmp_path / "missing")]) == 2
    assert main(["bench", "--lengths", "0"]) == 2
    (tmp_path / "other.json").write_text("{}")
    assert main(["bench", "--show", str(tmp_path / "other.json")]) == 2
    out, err = capfd.readouterr()
    assert out == "" and "missing" in err and "--lengths" in err and "other.json" in err


def test_the_summary_goes_between_its_marks_in_a_readme_and_nothing_else_changes(tmp_path, capfd):
    readme, start = tmp_path / "README.md", "<!-- measured: r.json -->"
    readme.write_text(f"before\n{start}\nold\n{END}\nbetween\n{start}\n{END}\nafter\n")
    assert main([*SMALL, "--json", str(tmp_path / "r.json")]) == 0
    assert main(["bench", "--readme", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith(f"before\n{start}\n") and text.endswith(f"{END}\nafter\n") and "old" not in text
    assert text.count("| 2, 8, 1, 2 ") == 4 and text.count("best naive") == 4 and f"{END}\nbetween\n{start}" in text
    lost = f"<!-- measured: lost.json -->\n{END}"
    for wrong, word in [("no marks", "before each table"), (start, "behind the table"), (lost, "lost.json")]:
        readme.write_text(wrong)
        assert main(["bench", "--readme", str(readme)]) == 2
        assert readme.read_text() == wrong and word in capfd.readouterr().err


def test_a_summary_leaves_empty_what_its_file_lacks():
    records = measured(bench.Setting(70, M=1, D=4, repeats=1, models=False), engines=("lazy",))
    machine = environment()
    lacking = summary(machine, [r for r in records if r.kind == "mixer"]).splitlines()[-1]
    assert [cell.strip() for cell in lacking.split("|")[1:-1]] == ["1, 4, 1, 2", "70", "", "", "", "", ""]


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


def test_the_tables_in_the_readme_are_made_from_the_recorded_files():
    readme = Path(__file__).parent.parent / "README.md"
    assert readme.read_text(encoding="utf-8") == with_summaries(readme)
