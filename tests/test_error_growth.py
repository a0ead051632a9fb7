"""The rounding error of every engine: it stays below the bound, and the bound is not so high that it says nothing."""

import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from depth import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engines import ENGINES, TILED, run
from truth import causal_sum

import flashref
from flashref import error_growth, make_mixer
from flashref.__main__ import main
from flashref.alternatives import Truncated
from flashref.convolution import fast_length
from flashref.error_bound import _pieces, _tiles, error_bound, fft_gamma
from flashref.error_growth import CASES, exact_outputs, exact_sum, measure, outputs, read

MADE = "errors of an output held against its bound"


def made(engine, filters, batch_size=1, base=4, direct_up_to=0):
    how = {"base": base, "direct_up_to": direct_up_to} if engine in TILED else {}
    mixer = flashref.ENGINES[engine](filters, batch_size, **how)
    mixer.piece_points = 30  # the bounded engine's
    return mixer


def uneven(shape, decades, g):
    """Normal numbers, times powers of ten drawn from as many decades: the largest beside the smallest."""
    scales = torch.randint(-decades, decades + 1, shape, generator=g).double()
    return torch.randn(shape, generator=g, dtype=torch.float64) * 10**scales


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=examples(40))
@given(
    L=st.integers(1, 300),
    prompt=st.none() | st.integers(0, 300),
    base=st.integers(1, 70),
    direct_up_to=st.sampled_from([0, 5, 16]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    shape=st.sampled_from(["flat", "uneven", "growing", "decaying", "positive", "sparse"]),
    seed=st.integers(0, 2**31),
)
def test_no_output_is_further_off_than_its_bound(engine, L, prompt, base, direct_up_to, dtype, shape, seed, tried):
    g, arithmetic = torch.Generator().manual_seed(seed), torch.promote_types(dtype, torch.float32)
    x, rho = uneven((2, 2, L), 6 if shape == "uneven" else 0, g), uneven((2, L), 6 if shape == "uneven" else 0, g)
    time = torch.arange(L) / L
    if shape in ("growing", "decaying"):
        rho *= torch.exp((20 if shape == "growing" else -20) * time)
    elif shape == "positive":
        x, rho = x.abs() + 1, rho.abs() + 1
    elif shape == "sparse":
        x *= torch.rand(x.shape, generator=g) < 0.05
    x, rho = x.to(dtype), rho.to(arithmetic)
    prompt = None if prompt is None else min(prompt, L)
    mixer = made(engine, rho[None], 2, base, direct_up_to)
    z = run(mixer, x[None], prompt)[0].double()
    if dtype == torch.float64:
        exact = torch.cat([exact_outputs(x_b[None], rho, range(L)) for x_b in x])
    else:
        exact = causal_sum(x, rho)
    assert ((z - exact).abs() <= error_bound(mixer, 0, x, prompt=prompt or 0)).all()
    tried("cases", MADE, z.numel())


@pytest.mark.parametrize("engine", ENGINES)
@given(L=st.integers(1, 130), prompt=st.integers(0, 130), base=st.integers(1, 40))
def test_the_pieces_of_the_bound_hold_every_input_once(engine, L, prompt, base):
    prompt = min(prompt, L)
    mixer = made(engine, torch.ones(1, 1, L), 1, base)
    tiles = _tiles(mixer, L - prompt)
    for t in range(L):
        parts = _pieces(mixer, tiles, t, prompt)
        held = sorted(j for part in parts for j in part.inputs)
        assert held == list(range(prompt if t < prompt else t + 1))  # a prompt is one FFT, later inputs too
        for part in parts:
            lags = range(max(0, t - part.inputs[-1]), t - part.inputs[0] + 1) if len(part.inputs) else range(0)
            assert not part.points or not len(lags) or (part.lags[0] <= lags[0] and lags[-1] <= part.lags[-1])


def test_the_bound_of_a_short_sum_is_that_of_the_formula():
    x, rho = torch.tensor([[[3.0, -4.0, 5.0]]]), torch.tensor([[1.0, -2.0, 7.0]])
    u = 2.0**-24
    terms = 3 * 7 + 4 * 2 + 5 * 1
    direct = error_bound(made("lazy", rho[None]), 0, x, [2]).item()
    assert direct == pytest.approx(3 * u / (1 - 3 * u) * terms, rel=1e-12)
    # Behind a block of two: one FFT of 4 points for inputs 0 and 1 with the taps at lags 1 to 3, and the red cell.
    tiled = error_bound(made("tiled_cpu", rho[None], base=2), 0, x, [2]).item()
    twice = 2 * u / (1 - 2 * u)
    fft = 72 * u / (1 - 72 * u) * math.hypot(3, 4) * math.hypot(2, 7)  # 24 * (log2(4) + 1) = 72
    assert tiled == pytest.approx(twice * terms + (1 + twice) * fft, rel=1e-12)
    assert fft_gamma(2**19, u) == pytest.approx(480 * u, rel=1e-4)
    rounded = error_bound(made("lazy", rho[None]), 0, x.bfloat16(), [2]).item()
    assert rounded == pytest.approx(direct + 2.0**-8 * (terms + direct), rel=1e-12)


def test_an_engine_without_a_bound_is_refused():
    with pytest.raises(ValueError, match="no bound is known for engine 'truncated'"):
        error_bound(Truncated(torch.ones(1, 1, 8), window=2), 0, torch.ones(1, 1, 8))


@given(st.lists(st.tuples(*[st.floats(-1e30, 1e30, allow_subnormal=False)] * 2), min_size=1, max_size=9))
def test_the_sum_without_rounding_is_that_of_fractions(pairs):
    pairs = [(a if abs(a) > 1e-30 else 0.0, b if abs(b) > 1e-30 else 0.0) for a, b in pairs]
    pairs += [(-a, b * (1 + 2**-40)) for a, b in pairs]  # most of it cancels
    a, b = np.array(pairs).T
    assert exact_sum(a, b) == float(sum(Fraction(p) * Fraction(q) for p, q in pairs))


def test_lazy_asked_at_some_positions_gives_the_bits_of_all_steps():
    x, rho = error_growth.draw("flat", 500, torch.float32)
    z = run(make_mixer("lazy", rho[None]), x[None])[0]
    at = [0, 1, 63, 250, 499]
    assert torch.equal(outputs(make_mixer("lazy", rho[None]), x, 0, at), z[..., at])


def check_all(records, tried):
    """What is said of the records: all below the bound, and how much below, and how slowly they grow."""
    assert records and all(r.of_bound <= 1 for r in records), [r for r in records if r.of_bound > 1]
    own = [r for r in records if r.engine != "tiled_gpu"]  # which on a CPU runs tiled_cpu's code
    tried("cases", MADE, error_growth.CHANNELS * sum(r.compared for r in own))
    for r in records:
        u = torch.finfo(getattr(torch, r.dtype)).eps / 2
        in_a_row = math.sqrt(r.L) * u if r.engine == "eager" else 0  # its sums are as long as the text
        if r.case != "outlier":
            assert r.relative <= 32 * u + in_a_row, r
        if r.engine == "lazy" or (r.engine == "eager" and not r.prompt):
            assert r.of_terms <= 16 * u + in_a_row, r
        if r.case == "positive" and r.engine != "lazy":  # which adds in pairs, and is off by far less than it may be
            assert r.of_bound_late > 5e-4, r  # the bound is not so high that any error would pass


def test_a_direct_sum_forgets_an_outlier_that_has_faded_and_an_fft_does_not():
    """Why the bound of a tile is one of norms: of an output as large as its terms, some have two digits right."""
    for r in measure([1000], ["float32"], ["outlier"]):
        if r.engine == "lazy" or (r.engine == "eager" and not r.prompt):
            assert r.of_terms < 1e-6
        elif r.prompt or r.engine != "bounded":  # whose tiles are smaller there
            assert r.of_terms > 1e-3


def test_errors_up_to_3000_positions_are_below_the_bound_and_grow_slowly(tried):
    check_all(list(measure([256, 3000])), tried)


@pytest.mark.deep
def test_errors_at_262144_positions_are_below_the_bound_and_not_much_larger(tried):
    check_all(list(measure([2**18], ["float32"], ["growing"])), tried)  # the other cases: in the recorded file


def test_the_recorded_errors_are_complete_and_below_the_bound(tried):
    folder = Path(__file__).parent.parent / "results" / "errors"
    for file in folder.glob("*.json"):
        machine, records = read(file)
        assert machine["device"]
        check_all(records, tried)
        kinds = {(r.engine, r.dtype, r.case, r.prompt > 0) for r in records if r.L == 2**16}
        assert len(kinds) == len(ENGINES) * 3 * len(CASES) * 2
        longest = {(r.engine, r.dtype) for r in records if r.L == 2**18}
        assert longest == {(e, d) for e in ENGINES for d in error_growth.DTYPES if e != "eager" or d == "float32"}
    assert list(folder.glob("*.json"))


def test_the_page_says_of_the_recorded_errors_what_the_file_does():
    root = Path(__file__).parent.parent
    _, records = read(root / "results" / "errors" / "amd-epyc-2-cores.json")
    page = " ".join((root / "docs" / "trust.md").read_text().split())

    def said(words: str) -> None:
        assert words in page, words

    of_cpu = {(r.dtype, r.case, r.L, r.prompt): r for r in records if r.engine == "tiled_cpu"}
    twice = [r for r in records if r.engine == "tiled_gpu"]
    for r in twice:  # what the page says of it, and that it is not counted
        assert r == replace(of_cpu[r.dtype, r.case, r.L, r.prompt], engine="tiled_gpu")
    counts = [error_growth.CHANNELS * sum(r.compared for r in some) for some in (records, twice)]
    said(f"{counts[0] - counts[1]:,} outputs in [the recorded file]")
    said(f"(It has {counts[0]:,}: on a CPU tiled_gpu runs tiled_cpu's code, and its {counts[1]:,} are the same")

    worst = {dtype: max(r.of_bound for r in records if r.dtype == dtype) for dtype in error_growth.DTYPES}
    wide = ("float32", "float64")
    said(f"came to {worst['bfloat16']:.0%} of it in bfloat16".replace("%", " %"))
    said(f"to {max(worst[dtype] for dtype in wide):.0%} in float32 and float64".replace("%", " %"))
    late = max(r.of_bound_late for r in records if r.dtype in wide)
    said(f"where sums are long, to {100 * late:.1f} %.")

    for dtype, unit in (("float32", 7), ("float64", 16)):
        for engine in ("lazy", "eager", "tiled_cpu", *(("bounded", "epoched") if unit == 7 else ())):
            errors = []
            for L in (2**8, 2**12, 2**16, 2**18):
                some = [r for r in records if (r.dtype, r.engine, r.L, r.prompt) == (dtype, engine, L, 0)]
                found = [r.relative * 10**unit for r in some if r.case != "outlier"]
                errors.append(two_digits(max(found)) if found else "not measured")
            said(f"| {dtype}, $10^{{-{unit}}}$ | {engine} | {' | '.join(errors)} |")

    faded = [r for r in records if r.case == "outlier" and r.dtype == "float32"]
    direct = {"lazy": [r for r in faded if r.engine == "lazy"]}
    direct["eager"] = [r for r in faded if r.engine == "eager" and not r.prompt]
    said(f"may be off by {100 * max(r.of_terms for r in faded):.1f} % of the sum of its terms' moduli with FFTs")
    lazy, eager = (max(r.of_terms for r in direct[engine]) for engine in ("lazy", "eager"))
    said(f"at most ${1e7 * lazy:.1f} \\cdot 10^{{-7}}$ of it with lazy")
    said(f"by ${1e6 * eager:.1f} \\cdot 10^{{-6}}$ with eager, which adds in a row ($2^{{18}}$ positions)")
    assert max(direct["eager"], key=lambda r: r.of_terms).L == 2**18


def two_digits(number: float) -> str:
    return f"{number:.1f}" if number < 9.95 else f"{float(f'{number:.1e}'):.0f}"


def test_the_command_writes_what_it_shows(tmp_path, capsys):
    file = tmp_path / "errors.json"
    assert main(["errors", "--lengths", "16", "40", "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    machine, records = read(file)
    assert machine["cores"] >= 1 and {r.L for r in records} == {16, 40}
    assert len(records) == len(ENGINES) * 2 * 3 * len(CASES) * 2 == len(json.loads(file.read_text())["records"])
    line = next(line.split() for line in shown.splitlines() if line.split()[:4] == ["float32", "flat", "none", "eager"])
    mine = [r for r in records if (r.dtype, r.case, r.prompt, r.engine) == ("float32", "flat", 0, "eager")]
    assert line[4:6] == [f"{r.relative:.1e}" for r in mine]
    assert line[6] == f"{max(r.of_terms for r in mine):.1e}"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--lengths", "1"], "--lengths must be >= 2, got 1"),
        (["--json", "nowhere/x.json"], "there is no folder"),
        (["--json", "."], "is a folder, give a file"),
    ],
)
def test_the_command_refuses_what_it_cannot_do_before_it_measures(arguments, words, capsys, monkeypatch):
    def measured(_):
        raise AssertionError("something was measured")

    monkeypatch.setattr(error_growth, "measure", measured)
    assert main(["errors", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_convolution_by_fft_of_any_length_is_within_its_bound(tried):
    """The allowance for lengths with factors 3 and 5, where no theorem of the literature is: all lengths up to 4500."""
    g, u = torch.Generator().manual_seed(0), 2.0**-24
    lengths = sorted({fast_length(n) for n in range(2, 4500)})
    for n in lengths:
        pairs = [torch.randn(2, n, generator=g), 1 + torch.rand(2, n, generator=g), torch.ones(2, n)]
        wave = torch.cos(2 * torch.pi * torch.arange(n) * (n // 3) / n)
        pairs.append(torch.stack([wave, wave.roll(1)]))
        for a, b in pairs:
            z = torch.fft.irfft(torch.fft.rfft(a) * torch.fft.rfft(b), n).double()
            a, b = a.double(), b.double()
            exact = torch.fft.irfft(torch.fft.rfft(a) * torch.fft.rfft(b), n)  # its own error is 10^-9 of the bound
            assert (z - exact).abs().max() <= fft_gamma(n, u) * a.norm() * b.norm()
            tried("cases", MADE, n)
