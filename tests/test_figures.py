"""The figures: what they show, and what they refuse."""

import pytest

from flashref import ENGINES
from flashref.figures import COLOURS, time_per_token


def test_every_engine_has_a_colour_of_its_own():
    assert list(COLOURS) == list(ENGINES)
    assert len(set(COLOURS.values())) == len(ENGINES)


@pytest.mark.parametrize("tokens", [1, 63, 64, 200])
def test_time_per_token_shows_every_token_in_milliseconds_and_a_line_per_engine(tokens, tmp_path):
    times = {"lazy": [2e-3] * tokens, "tiled_cpu": [1e-3] * tokens}
    figure = time_per_token(times)
    (axes,) = figure.axes
    dots = [line for line in axes.lines if line.get_marker() == "."]
    assert [list(line.get_ydata()) for line in dots] == [[2.0] * tokens, [1.0] * tokens]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["lazy", "tiled_cpu"]
    assert axes.get_xlabel() and "ms" in axes.get_ylabel() and axes.get_title(loc="left")
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000


@pytest.mark.parametrize("times", [{"fast": [1.0]}, {"lazy": []}])
def test_a_name_that_is_no_engine_or_no_tokens_are_refused(times):
    with pytest.raises(ValueError, match="seconds must hold"):
        time_per_token(times)
