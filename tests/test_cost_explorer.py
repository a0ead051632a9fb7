"""The cost explorer: what its bars and its sentence say when the sliders move, its still, and what it refuses."""

import base64
import re

import pytest

from flashref.figures.cost import BASES, RADIXES
from flashref.tiling import radix_cost
from flashref.widgets import cost_explorer


def controls(widget):
    row, shown = widget.children
    return *row.children, shown


def assert_shows(html, L, base, radix):
    cost = radix_cost(L, radix, base)
    for number in (cost.direct, cost.products, cost.transforms, cost.longest, L * (L - 1) // 2):
        assert f"{number:,}" in html
    assert f"<b>{cost.total:,} in all</b>" in html
    # Every bar: its number on top, then the heights of its three parts, in proportion to the highest bar.
    bars = re.findall(r"text-align:center\">(\d+)<div(.*?)</div>(\d+)</div>", html)
    costs = [radix_cost(L, radix, b) for b in BASES] + [radix_cost(L, r, base) for r in RADIXES]
    assert [(int(number), int(label)) for number, _, label in bars] == [
        (round(cost.total / L), label) for cost, label in zip(costs, BASES + RADIXES, strict=True)
    ]
    heights = [sum(float(px) for px in re.findall(r"height:([\d.]+)px", bar)) for _, bar, _ in bars]
    highest = max(cost.total for cost in costs)
    assert heights == pytest.approx([170 * cost.total / highest for cost in costs], abs=0.2)
    outlined = [int(label) for _, bar, label in bars if "outline:2px solid currentColor" in bar]
    assert outlined == [base, radix]


def test_the_sliders_choose_the_length_the_base_and_the_radix():
    power, base, radix, shown = controls(cost_explorer(4096))
    assert_shows(shown.value, 4096, 1, 2)
    base.value = 64
    assert_shows(shown.value, 4096, 64, 2)
    radix.value = 16
    assert_shows(shown.value, 4096, 64, 16)
    power.value = 4  # one block is longer than everything
    assert_shows(shown.value, 16, 64, 16)
    power.value = 20
    base.value = 1
    assert_shows(shown.value, 2**20, 1, 16)


def test_without_a_kernel_there_is_a_picture_and_a_sentence_of_the_first_state():
    bundle = cost_explorer(256)._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert f"256 positions cost {radix_cost(256).total:,} multiply-adds" in bundle["text/plain"]


@pytest.mark.parametrize(
    "L, base, says",
    [(16, 1, "120, 24% of that"), (16, 64, "120, just as many"), (4096, 1, "8,386,560, 9.4 times as many")],
)
def test_lazy_is_compared_in_words_that_hold_on_either_side_of_the_tiling(L, base, says):
    _, choose, _, shown = controls(cost_explorer(L))
    choose.value = base
    assert f"lazy does {says}" in shown.value


@pytest.mark.parametrize(
    "L, error, words",
    [
        (8, ValueError, "L must be a power of two in"),
        (100, ValueError, "L must be a power of two in"),
        (2**21, ValueError, "L must be a power of two in"),
        (0, ValueError, "L must be a power of two in"),
        (64.0, TypeError, "L must be an integer"),
        (True, TypeError, "L must be an integer"),
    ],
)
def test_lengths_that_cannot_be_shown_are_refused(L, error, words):
    with pytest.raises(error, match=words):
        cost_explorer(L)
