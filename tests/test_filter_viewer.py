"""The filter viewer: what its controls change, its still, and what it refuses."""

import base64

import numpy as np
import pytest
import torch

from flashref import Hyena, HyenaConfig, widgets
from flashref.figures.model import energy_lags


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Hyena(HyenaConfig(d_model=6, n_layer=2, d_inner=8, vocab_size=9, l_max=80, order=3))


def controls(widget):
    (mixer, channel), (lag, tap), picture, line = (*(row.children for row in widget.children[:2]), *widget.children[2:])
    return mixer, channel, lag, tap, picture, line


def taps_and_bias(model, m, d):
    """The filter without its bias, from what the engines are given."""
    rho = model.filters()[m, d].detach().double().numpy()
    bias = float(model.backbone.layers[m // 2].mixer.filter_fn.bias[m % 2 * 6 + d].detach())
    rho[0] -= bias
    return rho, bias


def test_the_sliders_choose_among_all_mixers_and_channels_and_the_line_follows(model):
    mixer, channel, _, _, picture, line = controls(widgets.filter_viewer(model))
    assert (mixer.min, mixer.max, channel.min, channel.max) == (0, 3, 0, 5)
    seen = set()
    for m, d in ((0, 0), (1, 0), (1, 5), (3, 2)):
        mixer.value, channel.value = m, d
        taps, bias = taps_and_bias(model, m, d)
        assert f"mixer {m}, channel {d} lies in its first {energy_lags(taps)} of 80 lags" in line.value
        assert f"{bias:.2f}" in line.value
        seen.add(bytes(picture.value))
    assert len(seen) == 4


def test_what_is_drawn_is_the_filter_that_the_engines_get_without_its_bias(model, monkeypatch):
    drawn = []
    original = widgets.one_filter
    monkeypatch.setattr(widgets, "one_filter", lambda *args: drawn.append(args) or original(*args))
    *_, tap, _, _ = controls(widgets.filter_viewer(model, mixer=3, channel=4))
    network, window, name, log_lag, log_tap = drawn[0]
    assert np.allclose(network * window, taps_and_bias(model, 3, 4)[0], atol=1e-6)
    assert (name, log_lag, log_tap) == ("Mixer 3, channel 4", False, False)
    tap.value = True
    assert drawn[-1][3:] == (False, True)


def test_each_axis_can_be_logarithmic(model):
    *_, lag, tap, picture, _ = controls(widgets.filter_viewer(model))
    pictures = {bytes(picture.value)}
    for lag.value, tap.value in ((True, False), (True, True), (False, True)):
        pictures.add(bytes(picture.value))
    assert len(pictures) == 4


def test_without_a_kernel_there_is_a_picture_and_a_sentence_of_the_first_state(model):
    bundle = widgets.filter_viewer(model, mixer=2, channel=1)._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert "mixer 2, channel 1" in bundle["text/plain"]


@pytest.mark.parametrize(
    "place, error, words",
    [
        ({"mixer": 4}, ValueError, "mixer must lie in 0 .. 3, got 4"),
        ({"mixer": -1}, ValueError, "mixer must lie in 0 .. 3, got -1"),
        ({"channel": 6}, ValueError, "channel must lie in 0 .. 5, got 6"),
        ({"channel": 1.0}, TypeError, "channel must be an integer, got float"),
        ({"mixer": True}, TypeError, "mixer must be an integer, got bool"),
    ],
)
def test_a_place_that_the_model_does_not_have_is_refused(model, place, error, words):
    with pytest.raises(error, match=words):
        widgets.filter_viewer(model, **place)


def test_what_is_no_hyena_is_refused(model):
    with pytest.raises(TypeError, match=r"model must be a flashref\.Hyena, got Tensor"):
        widgets.filter_viewer(model.filters())
