"""The tile explorer: the tiling diagram to play with, as a Jupyter widget and as a page of its own.

explorer.js draws it in the browser from what explorer_data says; Python is asked nothing while it is played with.
"""

import base64
import functools
import json
from pathlib import Path

import anywidget
import traitlets

from flashref import figures
from flashref.tiling import Cost, check_integers, cost, schedule

HERE = Path(__file__).parent
MOST_POSITIONS = 64  # more cells than that cannot be told apart on a screen
BASES = (1, 2, 4, 8, 16, 32)


def tile_explorer(L: int = 16, kind: str = "relaxed", base: int = 1, step: int = 0) -> "TileExplorer":
    """The tiling diagram to play with: a schedule of L <= 64 positions, at the step at which ``step`` inputs are known.

    It needs no kernel once it is drawn, and write_explorer makes a page of it. The choices of the reader can be read
    from its attributes L, kind, base and step, and set there; a shorter L takes step with it, as its slider does.
    Raises as schedule does, ValueError for more positions than can be drawn or more inputs than positions, and
    TypeError for a step that is no integer.
    """
    _check_state(L, step)
    schedule(L, kind, base)
    return TileExplorer(L=L, kind=kind, base=base, step=step, data=explorer_data(base))


def write_explorer(file: str | Path) -> None:
    """Write the tile explorer as one HTML page, which needs neither a kernel nor a network."""
    script = (HERE / "explorer.js").read_text(encoding="utf-8")
    data = json.dumps(explorer_data(), separators=(",", ":"))
    page = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>The tiling of Flash Inference</title>
<style>
{(HERE / "explorer.css").read_text(encoding="utf-8")}
body {{ max-width: 1000px; margin: 20px auto; padding: 0 14px; font: 15px/1.5 system-ui, sans-serif; }}
h1 {{ margin: 0 0 6px; font-size: 22px; }}
</style>
<h1>Which pairs are computed when?</h1>
<p>Output z<sub>t</sub> of a causal convolution is the sum of x<sub>j</sub>·ρ<sub>t−j</sub> over all j up to t. The
inputs arrive one by one. Each cell of the triangle is one such product. Lazy gathers a row when its output is due,
eager pushes a column when its input is known, relaxed (Oncescu et al. 2025) runs square tiles, each by FFT.</p>
<div id="explorer"></div>
<script type="module">
{script}
mount(document.getElementById("explorer"), {data}, {{ L: 16, kind: "relaxed", base: 1, step: 0 }});
</script>
</html>
"""
    Path(file).write_text(page, encoding="utf-8")


class TileExplorer(anywidget.AnyWidget):
    """What tile_explorer returns. L, kind, base and step can be read and set while it is shown."""

    _esm = HERE / "explorer.js"
    _css = HERE / "explorer.css"
    data = traitlets.Dict().tag(sync=True)
    L = traitlets.Instance(int, (0,)).tag(sync=True)  # not traitlets.Int, which takes 8.0 for 8
    kind = traitlets.Enum(["lazy", "eager", "relaxed"]).tag(sync=True)
    base = traitlets.Instance(int, (1,)).tag(sync=True)
    step = traitlets.Instance(int, (0,)).tag(sync=True)

    @traitlets.validate("L")
    def _drawable(self, proposal: dict) -> int:
        _check_state(proposal["value"], 0)
        return proposal["value"]

    @traitlets.observe("L")
    def _no_more_inputs_than_positions(self, change: dict) -> None:
        self.step = min(self.step, self.L)

    @traitlets.validate("step")
    def _within(self, proposal: dict) -> int:
        _check_state(self.L, proposal["value"])
        return proposal["value"]

    @traitlets.validate("base")
    def _known(self, proposal: dict) -> int:
        schedule(0, base=proposal["value"])
        bases = sorted({base for kind, base in self.data["schedules"] if kind == "relaxed"})
        if proposal["value"] not in bases:
            raise ValueError(f"base must be one of {bases} here, got {proposal['value']}: make another tile_explorer")
        return proposal["value"]

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        bundle, metadata = super()._repr_mimebundle_(**kwargs)
        tiles = schedule(self.L, self.kind, self.base if self.kind == "relaxed" else 1)
        picture = figures.as_png(figures.tiling(tiles, self.L, self.step))
        text = (
            f"The {self.kind} schedule of {self.L} positions with {self.step} inputs known, {len(tiles)} tiles in all."
        )
        return {**bundle, "image/png": base64.b64encode(picture).decode(), "text/plain": text}, metadata


@functools.cache
def explorer_data(base: int = 1) -> dict:
    """What explorer.js draws from: every schedule up to 64 positions, and what each shape of tile costs.

    schedules: the kinds and bases, ``base`` among them. tiles: for each of them and each L the tiles in order, five
    bytes each (step, inputs from and to, outputs from and to), in base64. costs: by the shape of a tile.
    """
    schedules = [("lazy", 1), ("eager", 1)] + [("relaxed", b) for b in sorted({*BASES, base})]
    tiles = [tile for s in schedules for L in range(MOST_POSITIONS + 1) for tile in schedule(L, *s)]
    shapes = {(len(tile.inputs), len(tile.outputs)): tile for tile in tiles}
    packed = bytes(
        n
        for tile in tiles
        for n in (tile.step, tile.inputs.start, tile.inputs.stop, tile.outputs.start, tile.outputs.stop)
    )
    return {
        "most": MOST_POSITIONS,
        "schedules": schedules,
        "tiles": base64.b64encode(packed).decode(),
        "counters": ["calls", "multiply-adds", "FFT points", "numbers moved"],
        "costs": {
            f"{p},{q}": {"direct": _counters(cost([tile], fft_from=MOST_POSITIONS)), "fft": _counters(cost([tile]))}
            for (p, q), tile in shapes.items()
        },
        "colours": figures.PARTS,
    }


def _counters(cost: Cost) -> list[int]:
    return [cost.calls, cost.multiply_adds, cost.fft_points, cost.numbers_moved]


def _check_state(L: int, step: int) -> None:
    check_integers(L=L, step=step)
    if not 0 <= L <= MOST_POSITIONS:
        elsewhere = ": flashref.schedule has no such limit" if L > 0 else ""
        raise ValueError(f"L must lie in 0 .. {MOST_POSITIONS} to be drawn, got {L}{elsewhere}")
    if not 0 <= step <= L:
        raise ValueError(f"step, the number of inputs known, must lie in 0 .. L = {L}, got {step}")
