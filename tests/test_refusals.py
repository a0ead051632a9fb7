"""What the engines refuse, in which words, and that a refused call leaves everything as it was."""

from functools import partial

import pytest
import torch
from test_engines import ENGINES, PLACES, draw, truth
from truth import assert_close

from flashref import ENGINES as ENGINES_BY_NAME
from flashref import OnlineConvolution, make_mixer

M, B, D, L, P = 2, 2, 3, 40, 7
NAN_FILTERS = torch.ones(M, D, L).index_fill(2, torch.tensor([5]), torch.nan)


def refused(error, words, call, *args):
    with pytest.raises(error, match=words):
        call(*args)


def bad_tensors(good: torch.Tensor, name: str) -> list:
    """Wrong type, rank, batch, channels, dtype and device for one argument."""
    return [
        (TypeError, f"{name} must be a torch.Tensor, got list", [1.0]),
        (TypeError, f"{name} must be a torch.Tensor, got NoneType", None),
        (ValueError, f"{name} must have shape", good[0]),
        (ValueError, f"{name} must have shape", good[None]),
        (ValueError, f"{name} must have shape", good[:1]),
        (ValueError, f"{name} must have shape", good[:, :2]),
        (TypeError, f"{name} must be torch.float64.* got torch.float32: convert", good.float()),
        (TypeError, f"{name} must be torch.float64.* got torch.int64: convert", good.long()),
        (TypeError, f"{name} must be torch.float64.* got torch.bfloat16: convert", good.bfloat16()),
        (ValueError, f"{name} must be on .* where the filters are, got meta", good.to("meta")),
    ]


@pytest.mark.parametrize("engine, device", PLACES)
@pytest.mark.parametrize("prompt", [None, 0, P])
def test_after_every_refused_call_the_engine_is_as_it_was(engine, device, prompt):
    """At every stage of a generation each wrong call is made; the outputs are the sum all the same."""
    x, filters = draw(M, B, D, L, torch.float64, device)
    mixer = make_mixer(engine, filters, B, **({"base": 4} if engine.startswith("tiled") else {}))
    start, z = prompt or 0, torch.empty_like(x)

    def refuse_all_but_prefill(due: int):
        given = x[due, ..., :start]
        for m in range(-1, M + 1):
            if m != due:
                refused(ValueError, rf"prefill\({m}\) is out of order: next is .*\({due}\)", mixer.prefill, m, given)
            if m or due:
                refused(ValueError, rf"step\({m}\) is out of order: next is", mixer.step, m, x[0, ..., 0])
        refused(ValueError, r"advance is out of order: next is .*\(\d\)", mixer.advance)
        for error, words, bad in bad_tensors(x[0, ..., :start], "x"):
            refused(error, words, mixer.prefill, due, bad)
        if due:
            refused(ValueError, r"x must have shape \(B, D, P\)", mixer.prefill, due, x[0, ..., : start + 1])
        else:
            too_long = torch.zeros(B, D, L + 1, dtype=torch.float64, device=device)
            refused(ValueError, "prompt has 41 positions but the filters hold 40: shorten", mixer.prefill, 0, too_long)

    def refuse_all_but_step(due: int, t: int):
        for m in range(-1, M + 1):
            if m != due or due == M:
                refused(ValueError, rf"step\({m}\) is out of order: next is", mixer.step, m, x[0, ..., 0])
            if t or due or prompt is not None:
                refused(ValueError, rf"prefill\({m}\) is out of order: next is", mixer.prefill, m, x[0, ..., :start])
        if due < M:
            refused(ValueError, rf"advance is out of order: next is .*step\({due}\)", mixer.advance)
            for error, words, bad in bad_tensors(x[0, ..., 0], "x_t"):
                refused(error, words, mixer.step, due, bad)

    if prompt is not None:
        for m in range(M):
            refuse_all_but_prefill(m)
            assert mixer.position == 0
            z[m, ..., :start] = mixer.prefill(m, x[m, ..., :start])
    for t in range(start, L):
        for m in range(M):
            refuse_all_but_step(m, t)
            z[m, ..., t] = mixer.step(m, x[m, ..., t])
        refuse_all_but_step(M, t)
        assert mixer.position == t
        mixer.advance()
    for _ in range(2):
        refused(ValueError, "the filters hold 40 positions and all are used: reset", mixer.step, 0, x[0, ..., 0])
        refused(ValueError, "advance is out of order", mixer.advance)
        refused(ValueError, "reset.. starts again", mixer.prefill, 0, x[0])
    assert mixer.position == L
    assert_close(z, truth(x, filters), 1e-10)


def test_the_shape_that_a_row_must_have_and_what_to_do_at_the_end_are_said_exactly():
    mixer = make_mixer("lazy", torch.ones(1, 3, 1), 2)
    words = r"^x_t must have shape \(B, D\) = \(2, 3\), got \(3, 3\)$"
    refused(ValueError, words, mixer.step, 0, torch.ones(3, 3))
    mixer.step(0, torch.ones(2, 3))
    mixer.advance()
    words = r"^the filters hold 1 positions and all are used: reset\(\), or make the mixer with longer filters$"
    refused(ValueError, words, mixer.step, 0, torch.ones(2, 3))


def test_the_shape_that_a_prompt_must_have_is_said_exactly():
    mixer, good = make_mixer("lazy", torch.ones(2, 3, 9), 2), torch.ones(2, 3, 7)
    words = r"^x must have shape \(B, D, P\) = \(2, 3, 'P'\), got \(2, 2, 7\)$"
    refused(ValueError, words, mixer.prefill, 0, good[:, :2])
    mixer.prefill(0, good)
    words = r"^x must have shape \(B, D, P\) = \(2, 3, 7\), got \(2, 3, 6\)$"
    refused(ValueError, words, mixer.prefill, 1, good[..., :6])


def test_what_is_due_is_said_at_every_stage():
    mixer = make_mixer("lazy", torch.ones(2, 1, 4))
    row, fresh = torch.ones(1, 1), r"next is prefill\(0\) or step\(0\)$"
    refused(ValueError, f"^advance is out of order: {fresh}", mixer.advance)
    refused(ValueError, rf"^prefill\(1\) is out of order: {fresh}", mixer.prefill, 1, row[..., None])
    mixer.prefill(0, torch.ones(1, 1, 0))
    refused(ValueError, r"next is prefill\(1\): the prompt goes through every mixer before the first step$", mixer.fork)
    mixer.prefill(1, torch.ones(1, 1, 0))
    words = r"^prefill\(0\) is out of order: next is step\(0\): a prompt comes before any step; reset\(\) starts again$"
    refused(ValueError, words, mixer.prefill, 0, row[..., None])
    mixer.step(0, row)
    refused(ValueError, r"^advance is out of order: next is step\(1\)$", mixer.advance)
    mixer.step(1, row)
    refused(
        ValueError, r"^step\(0\) is out of order: next is advance\(\): every mixer has stepped$", mixer.step, 0, row
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_float32_engines_take_float32_and_bfloat16_only(engine):
    mixer = make_mixer(engine, torch.ones(1, 2, 4))
    words = "x_t must be torch.float32 or torch.bfloat16"
    for dtype in (torch.float64, torch.float16, torch.int32, torch.complex64):
        refused(TypeError, words, mixer.step, 0, torch.ones(1, 2, dtype=dtype))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "filters, error, words",
    [
        ([[1.0]], TypeError, "filters must be a torch.Tensor, got list"),
        (torch.ones(3, 4), ValueError, r"filters must have shape \(M, D, L\) .* got \(3, 4\)"),
        (torch.ones(1, 2, 3, 4), ValueError, r"filters must have shape \(M, D, L\)"),
        (torch.ones(0, 2, 3), ValueError, r"^filters must have shape \(M, D, L\) with M, D >= 1, got \(0, 2, 3\)$"),
        (torch.ones(2, 0, 3), ValueError, "M, D >= 1"),
        (torch.ones(1, 2, 3, dtype=torch.float16), TypeError, "filters must be float32, float64 or bfloat16"),
        (torch.ones(1, 2, 3, dtype=torch.int64), TypeError, "filters must be float32, float64 or bfloat16"),
        (torch.ones(1, 2, 3, dtype=torch.complex64), TypeError, "filters must be float32, float64 or bfloat16"),
        (NAN_FILTERS, ValueError, r"filters must be finite, got nan at filters\[0, 0, 5\]"),
        (torch.full((1, 1, 3), -torch.inf), ValueError, "filters must be finite, got -inf"),
        (torch.ones(1, 2, 3, device="meta"), ValueError, "filters must be on a device"),
    ],
)
def test_bad_filters_are_refused_by_name(engine, filters, error, words):
    refused(error, words, make_mixer, engine, filters)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "rho, error, words",
    [
        (None, TypeError, "rho must be a torch.Tensor, got NoneType"),
        (torch.ones(4), ValueError, r"rho must have shape \(D, K\) .* got \(4,\)"),
        (torch.ones(1, 2, 3), ValueError, r"rho must have shape \(D, K\)"),
        (torch.ones(2, 3, dtype=torch.int64), TypeError, "rho must be float32, float64 or bfloat16"),
        (torch.full((2, 3), torch.nan), ValueError, r"rho must be finite, got nan at rho\[0, 0\]"),
    ],
)
def test_a_bad_filter_of_an_online_convolution_is_refused_by_name(engine, rho, error, words):
    refused(error, words, OnlineConvolution, rho, engine)


@pytest.mark.parametrize(
    "change, error, words",
    [
        (
            {"engine": "fast"},
            ValueError,
            'engine must be one of "lazy", "eager", "tiled_cpu", "tiled_gpu", "bounded", "epoched", "auto"',
        ),
        ({"engine": None}, ValueError, "engine must be one of"),
        ({"engine": ["lazy"]}, ValueError, "engine must be one of"),
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1, got 0"),
        ({"batch_size": 1.0}, TypeError, "batch_size must be an integer, got float"),
        ({"batch_size": True}, TypeError, "batch_size must be an integer, got bool"),
        ({"base": 0}, ValueError, "base must be >= 1, got 0"),
        ({"base": -3}, ValueError, "base must be >= 1"),
        ({"base": 8.0}, TypeError, "base must be an integer"),
        ({"base": True}, TypeError, "base must be an integer"),
        ({"engine": "lazy", "base": 8}, ValueError, "base belongs to the tiled engines"),
        ({"engine": "eager", "base": 64}, ValueError, "base belongs to the tiled engines"),
    ],
)
def test_bad_settings_are_refused_by_name(change, error, words):
    with pytest.raises(error, match=words):
        make_mixer(**{"engine": "tiled_cpu", "filters": torch.ones(1, 2, 8), **change})
    with pytest.raises(error, match=words):
        OnlineConvolution(**{"engine": "tiled_cpu", "rho": torch.ones(2, 8), **change})


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine not in ("lazy", "eager")])
@pytest.mark.parametrize("name, least", [("base", 1), ("direct_up_to", 0), ("chunk_points", 1)])
def test_bad_settings_of_a_tiled_engine_are_refused_by_name(engine, name, least):
    made = ENGINES_BY_NAME[engine]
    refused(
        ValueError,
        f"^{name} must be >= {least}, got {least - 1}$",
        partial(made, **{name: least - 1}),
        torch.ones(1, 2, 8),
    )
    refused(TypeError, f"^{name} must be an integer, got float$", partial(made, **{name: 2.0}), torch.ones(1, 2, 8))
    assert getattr(made(torch.ones(1, 2, 8), **{name: least}), name) == least


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tiled_cpu_refuses_filters_on_a_gpu():
    refused(ValueError, 'use "tiled_gpu"', make_mixer, "tiled_cpu", torch.ones(1, 1, 4, device="cuda"))


@pytest.mark.parametrize("engine, device", PLACES)
def test_a_prompt_that_does_not_fit_into_memory_leaves_a_fresh_engine(engine, device, monkeypatch):
    x, filters = draw(M, B, D, L, torch.float64, device)
    mixer = make_mixer(engine, filters, B)

    def no_memory(*_):
        raise MemoryError

    for method in ("_begin", "_remember"):
        with monkeypatch.context() as patch:
            patch.setattr(mixer, method, no_memory)
            refused(MemoryError, None, mixer.prefill, 0, x[0, ..., :P])
    z = torch.empty_like(x)
    for t in range(L):
        for m in range(M):
            z[m, ..., t] = mixer.step(m, x[m, ..., t])
        mixer.advance()
    assert_close(z, truth(x, filters), 1e-10)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_is_made_by_its_class_refuses_in_the_same_words(engine):
    made = ENGINES_BY_NAME[engine]
    form = r"^filters must have shape \(M, D, L\) with M, D >= 1, got \(2, 3\)$"
    refused(ValueError, form, made, torch.ones(2, 3))
    refused(ValueError, "^batch_size must be >= 1, got 0$", made, torch.ones(1, 2, 8), 0)


@pytest.mark.parametrize("engine", ENGINES)
def test_room_is_looked_for_once_at_the_first_mixers_prompt(engine, monkeypatch):
    asked, mixer = [], make_mixer(engine, torch.ones(3, D, L), B)
    monkeypatch.setattr("flashref.budget.check_prompt", lambda *args: asked.append(args))
    for m in range(3):
        mixer.prefill(m, torch.ones(B, D, P))
        assert asked == [(mixer, P, torch.float32)]
