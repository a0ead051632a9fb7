"""The figure of notebook 08 that asks mixers which contributions are known: what it shows, and what it refuses."""

import pytest
import torch
from matplotlib.colors import to_hex

from flashref import schedule
from flashref.figures import PARTS, as_png, contributions_known
from flashref.framework_examples import AttentionFree, SoftmaxAttention


def mixers(L):
    g = torch.Generator().manual_seed(0)
    x = [tuple(torch.randn(3, 1, generator=g)) for _ in range(L)]
    return {"has": (AttentionFree(torch.zeros(1, L)), x), "lacks": (SoftmaxAttention(), x)}


def cells(axes, part):
    found = [p for p in axes.patches if p.get_fill() and to_hex(p.get_facecolor()).upper() == PARTS[part]]
    return {p.get_xy() for p in found}


@pytest.mark.parametrize(("L", "n"), [(2, 1), (8, 3), (16, 4), (16, 12), (20, 10), (32, 16)])
def test_with_p2_whole_columns_are_known_and_the_tile_is_green_without_it_rows_and_the_tile_is_yellow(L, n):
    has, lacks = contributions_known(mixers(L), L, n).axes
    (tile,) = (tile for tile in schedule(L) if tile.step == n)
    inside = {(j, t) for j in tile.inputs for t in tile.outputs}
    pairs = {(j, t) for t in range(L) for j in range(t + 1)}
    assert cells(has, "now") == inside and not cells(has, "wrong")
    assert cells(has, "gray_tile") == {(j, t) for j, t in pairs if j < n} - inside
    assert cells(lacks, "wrong") == inside and not cells(lacks, "now")
    assert cells(lacks, "gray_tile") == {(j, t) for j, t in pairs if t < n}
    for axes, ready in ((has, len(inside)), (lacks, 0)):
        assert f"{ready} of the {len(inside)} contributions" in axes.get_title(loc="left")
        assert axes.get_xlabel() and axes.get_ylabel()
    assert len(as_png(has.figure)) > 5000


@pytest.mark.parametrize(
    ("chosen", "L", "n", "error", "said"),
    [
        (mixers(8), 1, 1, ValueError, "L must be >= 2"),
        (mixers(8), 33, 1, ValueError, r"L must lie in 2 \.\. 32"),
        (mixers(8), 8, 8, ValueError, r"n in 1 \.\. L-1"),
        (mixers(8), 8, 0, ValueError, "n must be >= 1"),
        (mixers(8), 8, 1.5, TypeError, "n must be an integer"),
        (mixers(8), 9, 1, ValueError, r"too few for \['has', 'lacks'\]"),
        ({}, 8, 1, ValueError, "at least one mixer"),
    ],
)
def test_what_cannot_be_drawn_is_refused(chosen, L, n, error, said):
    with pytest.raises(error, match=said):
        contributions_known(chosen, L, n)
