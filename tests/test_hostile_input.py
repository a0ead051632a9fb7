"""Results, settings, prompts and arguments of any kind: every command ends with a line that says what is wrong."""

import json
import os
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import pytest
import torch
from depth import examples
from hostile import as_text, assert_clear, changed, confined, damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from test_command_line import folder  # noqa: F401

from flashref import Hyena, HyenaConfig, calibration, comparison, error_growth, machine, save
from flashref.__main__ import main
from flashref.bench_report import as_table, best_naive, from_json, summary
from flashref.text import DNA, decode, encode

ROOT = Path(__file__).parent.parent
RESULTS = json.loads((ROOT / "results" / "amd-epyc-2-cores.json").read_text())
RESULTS["records"] = [r for r in RESULTS["records"] if r["L"] == 8192]
ERRORS = json.loads((ROOT / "results" / "errors" / "amd-epyc-2-cores.json").read_text())
ERRORS["records"] = [r for r in ERRORS["records"] if r["L"] == 4096]
COMPARED = json.loads((ROOT / "results" / "alternatives" / "amd-epyc-2-cores.json").read_text())


def of_bench(file: Path) -> str:
    environment, records = from_json(file)
    return as_table(records) + summary(environment, records) + str(best_naive(records, records[0] if records else None))


def of_compare(file: Path) -> str:
    environment, records = comparison.read(file)
    return comparison.as_table(records) + str(environment)


def of_errors(file: Path) -> str:
    environment, records = error_growth.read(file)
    return error_growth.as_table(records) + str(environment)


def of_calibration(file: Path) -> str:
    os.environ[calibration.VARIABLE] = str(file)  # in a child of its own
    return repr(asdict(calibration.choices()))


CHOICES = {calibration.machine(): {"base": 32, "chunk_points": 4096}, "another": {"base": 64, "chunk_points": 1}}
READERS = {"bench": (of_bench, RESULTS), "compare": (of_compare, COMPARED), "calibrate": (of_calibration, CHOICES)}
READERS["errors"] = (of_errors, ERRORS)


@settings(max_examples=examples(40))
@given(data=st.data(), name=st.sampled_from(sorted(READERS)))
def test_results_that_say_anything_are_refused_or_make_a_table(data, name, tmp_path_factory, tried):
    read, content = READERS[name]
    file = tmp_path_factory.getbasetemp() / "results.json"
    text = as_text(content)
    wrong = data.draw(changed(content).map(as_text) if data.draw(st.booleans()) else damaged(text))
    file.write_bytes(wrong)
    found = confined(lambda: read(file))
    if isinstance(found, str):
        assert "\x1b" not in found
    else:
        assert_clear(found, file)
    tried("faults", f"a file that {name} reads changed")


@pytest.mark.parametrize("name", sorted(machine.environment().keys() - {"load_average"}))
@pytest.mark.parametrize("reader", ["bench", "compare", "errors"])
def test_results_that_do_not_say_where_they_were_measured_are_refused(reader, name, tmp_path):
    read, content = READERS[reader]
    environment = {key: value for key, value in content["environment"].items() if key != name}
    (tmp_path / "r.json").write_bytes(as_text(content | {"environment": environment}))
    assert_clear(confined(lambda: read(tmp_path / "r.json")), tmp_path / "r.json")


def test_results_without_a_record_are_refused(tmp_path):
    (tmp_path / "r.json").write_bytes(as_text(RESULTS | {"records": []}))
    assert_clear(confined(lambda: of_bench(tmp_path / "r.json")), tmp_path / "r.json")


@pytest.mark.parametrize("name", sorted(READERS))
def test_results_that_are_no_file_are_not_waited_for(name, tmp_path, tried):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for file in (tmp_path / "pipe", tmp_path / "zero", tmp_path):
        assert_clear(confined(lambda file=file: READERS[name][0](file)), file)
        tried("faults", "a pipe, folder, device or loop in place of a file")


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_nothing_is_renamed_onto_what_is_no_file(kind, folder, tmp_path, monkeypatch, capfd, tried):  # noqa: F811
    """A rename would replace it: --save /dev/null, as root, would be the end of /dev/null."""
    place = tmp_path / kind
    os.mkfifo(place) if kind == "pipe" else place.symlink_to("/dev/null")
    monkeypatch.setenv(calibration.VARIABLE, str(place))
    before = os.lstat(place)
    for command in (
        ["generate", "x", "--model", str(folder), "-n", "2", "--engine", "lazy", "--save", str(place)],
        ["bench", "--lengths", "10", "--json", str(place)],
        ["compare", "--json", str(place)],
        ["errors", "--lengths", "16", "--json", str(place)],
        ["explorer", "--html", str(place)],
        ["calibrate", "--forget"],
    ):
        assert main(command) == 2
        out, err = capfd.readouterr()
        assert out == "" and str(place) in err and "pipe or device" in err and err.count("\n") == 1
        assert os.lstat(place) == before and sorted(p.name for p in tmp_path.iterdir()) == sorted([kind, "model"])
        tried("faults", "a pipe or device as the place to write to")


@settings(max_examples=examples(200))
@given(text=st.binary(max_size=300))
def test_any_bytes_are_a_prompt_of_bytes(text, tried):
    tokens = encode(text, 256)
    assert tokens.dtype == torch.int64 and tokens.tolist() == list(text) and decode(tokens, 256) == text
    tried("cases", "any bytes as a prompt")


@settings(max_examples=examples(200))
@given(text=st.binary(max_size=12) | st.text("ACGTNacgtn \n\t", max_size=50).map(str.encode))
def test_any_bytes_are_a_prompt_of_dna_or_refused_with_the_first_that_is_no_base(text, tried):
    bare = bytes(byte for byte in text if byte not in b" \t\n\r\x0b\x0c")
    wrong = [i for i, byte in enumerate(bare) if byte not in b"ACGTNacgtn"]
    if wrong:
        with pytest.raises(ValueError, match=rf"got .* at position {wrong[0]}$") as caught:
            encode(text, 12)
        assert repr(chr(bare[wrong[0]])) in str(caught.value)
    else:
        assert [DNA[token] for token in encode(text, 12).tolist()] == list(bare.decode().upper())
    tried("cases", "any bytes as a prompt")


@settings(max_examples=examples(10))
@given(text=st.binary(max_size=120))
def test_generate_takes_a_prompt_of_any_bytes_or_says_what_is_wrong(text, tmp_path_factory, tried):
    home = tmp_path_factory.getbasetemp() / "small"
    if not home.exists():
        save(Hyena(HyenaConfig(d_model=4, n_layer=1, d_inner=4, vocab_size=256, l_max=96, filter_order=4)), home)
    prompt = home / "prompt"
    prompt.write_bytes(text)
    status, out, err = run(["generate", "--file", str(prompt), "--model", str(home), "-n", "3"])
    assert (status, out[: len(text)], err) == (0, text, "") if 0 < len(text) <= 94 else status == 2 and "prompt" in err
    tried("cases", "any bytes as a prompt")


def run(arguments: list[str], place: Path = ROOT) -> tuple[int, bytes, str]:
    """A command in a child, in a folder where it may write: its status, and what it wrote."""

    def job() -> tuple[int, bytes, str]:
        out = TextIOWrapper(written := BytesIO(), write_through=True)
        sys.stderr = said = StringIO()
        os.chdir(place)
        with redirect_stdout(out):
            try:
                status = main(arguments)
            except SystemExit as error:  # argparse
                status = error.code
        return status, written.getvalue(), said.getvalue()

    found = confined(job)
    assert isinstance(found, tuple), repr(found)
    return found


def test_a_prompt_without_an_end_is_refused(folder, tried):  # noqa: F811
    status, out, err = run(["generate", "--file", "/dev/zero", "--model", str(folder)])
    assert (status, out) == (2, b"") and "longer than 16,777,216 bytes" in err
    tried("faults", "a prompt without an end")


words = [
    "",
    "-1",
    "0",
    "1",
    "3",
    "1e999",
    "nan",
    "inf",
    "-0.0",
    "1e-320",
    str(10**30),
    "x",
    "\udcff",
    "lazy",
    "bounded",
]
options = ["-n", "--temperature", "--top-k", "--seed", "--engine", "--resume", "--save", "--file", "--model", "--x"]


@settings(max_examples=examples(25))
@given(arguments=st.lists(st.tuples(st.sampled_from(options), st.sampled_from(words)), max_size=4))
def test_any_arguments_end_with_a_text_or_with_what_is_wrong(arguments, tmp_path_factory, tried):
    home = tmp_path_factory.getbasetemp() / "model"
    if not home.exists():
        save(Hyena(HyenaConfig(d_model=4, n_layer=1, d_inner=4, vocab_size=256, l_max=96, filter_order=4)), home)
    given = ["generate", "ab", "--model", str(home), "-n", "3", *(word for pair in arguments for word in pair)]
    status, out, err = run(given, home)
    assert (status == 0 and out.startswith(b"ab") and err == "") or (status == 2 and out == b"" and err), (status, err)
    assert "Traceback" not in err and (err.startswith(("flashref: ", "usage: ")) or not err), err
    tried("cases", "any arguments of a command")


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["bench", "--lengths", "10", "--channels", str(10**9)], "memory is short"),
        (["bench", "--lengths", "10", "--batch", str(10**14)], "memory is short"),
        (["bench", "--lengths", "10", "--mixers", str(10**24)], "Overflow"),
        (["bench", "--device", "nonsense"], "--device must be one that is here"),
        (["bench", "--device", "cuda:99"], "--device must be one that is here"),
        (["bench", "--device", "meta"], "--device must be one that is here"),
        (["demo", "-n", "0"], "n must be >= 1"),
        (["demo", "--seed", str(10**30)], "seed must fit into 64 bits"),
        (["compare", "--windows", str(10**15)], "--windows must be <= 10000"),
    ],
)
def test_absurd_arguments_are_refused_in_one_line(arguments, named, tried):
    status, out, err = run(arguments)
    assert (status, out) == (2, b"") and named in err and err.count("\n") == 1, err
    tried("cases", "any arguments of a command")
