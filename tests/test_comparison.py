"""The comparison of exact and approximate engines: what is measured is what the engines do."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from test_alternatives import decaying
from test_engines import draw

import flashref
from flashref import comparison, turns
from flashref.__main__ import main
from flashref.alternatives import Distilled, Truncated
from flashref.comparison import Compared, held_out_windows, logits_with, lost_bits, window_bits
from flashref.corpus import python_files
from flashref.decoder import Decoder
from flashref.turns import bytes_held, memory, time_in_turns


@pytest.fixture(scope="module", params=[2, 3])
def model(request) -> flashref.Hyena:
    torch.manual_seed(0)
    sizes = {"d_model": 8, "n_layer": 2, "d_inner": 16, "vocab_size": 256, "l_max": 64}
    return flashref.Hyena(flashref.HyenaConfig(**sizes, order=request.param)).double()


@pytest.mark.parametrize("make", [flashref.Lazy, partial(Distilled, state_size=3), partial(Truncated, window=5)])
def test_bits_per_byte_by_fft_are_those_of_an_engine_that_reads_the_text_byte_by_byte(model, make):
    windows = torch.randint(256, (3, 65), generator=torch.Generator().manual_seed(1))
    mixer = make(model.filters().detach(), 3)
    with torch.no_grad():
        decoder = Decoder(model, mixer)
        logits = torch.stack([decoder.step(token) for token in windows[:, :-1].unbind(1)], dim=1)
    assert (logits_with(model, mixer.filters, windows[:, :-1]) - logits).abs().max() < 1e-10
    likelihood = logits.log_softmax(-1).gather(-1, windows[:, 1:, None])[..., 0]
    truth = -likelihood[:, 32:].mean(1) / math.log(2)  # the second half
    assert (window_bits(model, mixer.filters, windows, batch=2) - truth).abs().max() < 1e-5  # in float32


def test_with_its_own_filters_the_logits_are_the_models(model):
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.allclose(logits_with(model, model.filters(40), tokens), model(tokens), atol=1e-12)


def test_lost_bits_are_the_mean_difference_and_its_standard_error():
    lost, error = lost_bits(torch.tensor([2.0, 3.0, 4.0]), torch.tensor([1.0, 1.0, 1.0]))
    assert lost == pytest.approx(2) and error == pytest.approx(1 / 3**0.5)


def test_windows_are_spread_over_the_held_out_modules():
    root = Path(comparison.sysconfig.get_path("stdlib"))
    text = b"".join((root / path).read_bytes() for path in python_files(root)[1])
    windows = held_out_windows(5, 100)
    assert windows.shape == (5, 101)
    pieces = [bytes(window.tolist()) for window in windows]
    assert pieces[0] == text[:101] and pieces[-1] == text[-101:] and all(piece in text for piece in pieces)


class Counting:
    """A run that notes what is asked of it, and takes the seconds that it is told by a clock of its own."""

    def __init__(self, clock: list[float], seconds: list[float]) -> None:
        self.clock, self.seconds, self.calls = clock, iter(seconds), []

    def start(self, P: int) -> None:
        self.calls.append(f"start {P}")

    def step(self, t: int) -> None:
        self.calls.append(t)
        if t % turns.TURN == 0:
            self.clock[0] += next(self.seconds)


def test_engines_run_in_turns_and_of_each_turn_the_median_over_the_repeats_counts(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(turns, "perf_counter", lambda: clock[0])
    quiet, interrupted = Counting(clock, [1, 2, 1, 2, 1, 2]), Counting(clock, [5, 1, 500, 1, 5, 900])
    found = time_in_turns({"quiet": quiet, "interrupted": interrupted}, {"quiet": 200, "interrupted": 200}, repeats=3)
    assert found == {"quiet": 3, "interrupted": 5 + 1}
    assert quiet.calls == ["start 0", *range(200)] * 3


def test_the_turns_of_a_shorter_run_are_spread_over_those_of_the_longest(monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr(turns, "perf_counter", lambda: clock[0])
    runs = {L: Counting(clock, [1] * 8) for L in (1000, 250)}
    for L, run in runs.items():
        monkeypatch.setattr(run, "step", lambda t, L=L: t % turns.TURN or order.append((L, t)))
    time_in_turns(runs, {L: L for L in runs})
    longer = [(1000, t) for t in range(0, 1000, 128)]
    assert order == [*longer[:4], (250, 0), *longer[4:], (250, 128)]


def test_memory_counts_what_grows_with_the_sequences_and_what_does_not():
    filters = torch.randn(2, 3, 200)
    for make, shared, each in [
        (flashref.Lazy, 2 * 3 * 200, 2 * 3 * 200 + 3 * 200),  # reversed taps; inputs, and the sums of one row
        (flashref.Eager, 2 * 3 * 200, 2 * 3 * 200),
        # Taps, lag 0 by itself, and the errors, 3 numbers a channel in float64; partial sums, and an input.
        (partial(Truncated, window=10), 2 * 3 * (9 + 1 + 2 * 3), 2 * 3 * (64 + 10 + 1)),
    ]:
        mixer = make(filters, 1)
        for _ in range(200):
            for m in range(2):
                mixer.step(m, torch.randn(1, 3))
            mixer.advance()
        assert memory(make, mixer) == (4 * shared, 4 * each)
    assert bytes_held(flashref.Lazy(filters)) == 0


def test_memory_of_a_distilled_mixer_does_not_depend_on_the_length():
    modes = Distilled(decaying(draw(2, 1, 3, 300)[1]), state_size=4).modes
    held = []
    for L in (100, 300):
        make = partial(Distilled, modes=modes)
        mixer = make(draw(2, 1, 3, L)[1], 1)
        turns._first_step(mixer)
        held.append(memory(make, mixer))
    assert held[0] == held[1]
    K = modes.poles.shape[-1]
    assert held[0][1] == 2 * 3 * (16 * K + 2 * 8)  # a complex state each; x and what is ahead


def test_the_command_writes_what_the_notebook_reads(monkeypatch, tmp_path, capsys):
    torch.manual_seed(0)
    sizes = {"d_model": 4, "n_layer": 2, "d_inner": 8, "vocab_size": 256, "l_max": 64}
    small = flashref.Hyena(flashref.HyenaConfig(**sizes))
    monkeypatch.setattr(comparison, "load", lambda _: small)
    monkeypatch.setattr(comparison, "compare", partial(comparison.compare, lengths=(16, 64), longest=128))
    monkeypatch.setattr(comparison, "STATES", (4, 16))
    assert main(["compare", "--windows", "2", "--json", str(tmp_path / "found.json")]) == 0
    assert "distilled 16" in capsys.readouterr().out
    machine, records = comparison.read(tmp_path / "found.json")
    assert machine["cores"] >= 1
    by_name = {(r.label, r.L): r for r in records}
    for L in (16, 64):
        assert {name for name, length in by_name if length == L} >= {"none", *comparison.EXACT, "distilled 4"}
        assert all(by_name[name, L].lost == 0 for name in comparison.EXACT)
        assert by_name["truncated 4", L].relative_error > by_name["truncated 16", L].relative_error or L == 16
        assert by_name["truncated 64", L].lost == pytest.approx(0, abs=1e-5)
    assert by_name["tiled_cpu", 128].microseconds > 0 and by_name["tiled_cpu", 128].lost is None
    assert main(["compare", "--again", str(tmp_path / "found.json"), "--json", str(tmp_path / "twice.json")]) == 0
    _, twice = comparison.read(tmp_path / "twice.json")
    assert [(r.label, r.L, r.lost, r.tokens_per_second) for r in twice] == [
        (r.label, r.L, r.lost, r.tokens_per_second) for r in records
    ]
    assert all(r.microseconds != s.microseconds for r, s in zip(records, twice, strict=True) if r.microseconds)


@pytest.mark.parametrize(
    "arguments, words",
    [(["--windows", "1"], "--windows must be >= 2, got 1"), (["--json", "nowhere/x.json"], "there is no folder")],
)
def test_the_command_refuses_what_it_cannot_do_before_it_measures(arguments, words, capsys):
    assert main(["compare", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_the_recorded_comparison_is_complete():
    folder = Path(__file__).parent.parent / "results" / "alternatives"
    for file in folder.glob("*.json"):
        machine, records = comparison.read(file)
        assert machine["device"] and json.loads(file.read_text())["windows"] >= 2
        for L in (1024, 4096):
            here = {r.label: r for r in records if r.L == L}
            assert {f"distilled {N}" for N in comparison.STATES} <= here.keys()
            assert {f"truncated {W}" for W in comparison.WINDOWS} <= here.keys()
            assert all(r.exact == (r.relative_error == 0) for r in here.values() if r.engine in comparison.EXACT)
    assert list(folder.glob("*.json"))


def test_a_record_says_its_size_in_its_label():
    assert Compared("distilled", False, 4, 8).label == "distilled 4" and Compared("lazy", True, L=8).label == "lazy"
