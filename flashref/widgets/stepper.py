"""The polynomial stepper's page: every product of an online multiplication at one moment, as HTML.

Row t holds the products x_j * rho_(t-j) that make up coefficient z_t. What is written into a cell says what was done
with it, so that the page can be read without its colours.
"""

import math
from collections.abc import Iterable
from fractions import Fraction
from numbers import Integral, Rational, Real

from flashref.figures.style import PARTS
from flashref.tiling import Tile, schedule

Number = int | float | Fraction
MOST_COEFFICIENTS = 16  # more columns than that do not fit beside each other
CELL = "padding: 2px 1px; border: 1px solid rgba(128, 128, 128, 0.35); text-align: center; white-space: nowrap;"
LOOKS = {
    "done": "background: rgba(140, 140, 140, 0.4);",
    "now": f"border: 2px solid {PARTS['now']}; background: rgba(0, 158, 115, 0.22); font-weight: bold;",
    "plain": "padding: 2px;",
    "owed": "color: var(--jp-ui-font-color3, inherit);",
    "red done": f"background: {PARTS['red_cell']}; color: white;",
    "red owed": f"border: 2px dashed {PARTS['red_cell']};",
    "bare": "border: 0;",
    "left": "border: 0; text-align: left; padding-left: 4px;",
}


def numbers(name: str, values: Iterable[Real]) -> list[Number]:
    """The coefficients of a polynomial, checked: 1 to 16 finite real numbers. Integers and fractions stay exact."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list of numbers, got {type(values).__name__}")
    checked: list[Number] = []
    for i, value in enumerate(values):
        if not isinstance(value, Real) or isinstance(value, bool):
            raise TypeError(f"{name} must hold integers or real numbers, got {type(value).__name__} at {name}[{i}]")
        kind = int if isinstance(value, Integral) else Fraction if isinstance(value, Rational) else float
        checked.append(kind(value))
        if kind is float and not math.isfinite(value):
            raise ValueError(f"{name} must hold finite numbers, got {value} at {name}[{i}]")
    if not 1 <= len(checked) <= MOST_COEFFICIENTS:
        raise ValueError(f"{name} must hold 1 .. {MOST_COEFFICIENTS} coefficients to be drawn, got {len(checked)}")
    return checked


def partial_sums(x: list[Number], rho: list[Number], tiles: list[Tile], n: int) -> list[Number]:
    """z_0 .. z_(L-1) as far as they are added up once n inputs are known and the tile of step n has run."""
    z = [x[t] * rho[0] if t < n else 0 for t in range(len(x))]
    for tile in tiles:
        if tile.step <= n:
            for t in tile.outputs:
                z[t] += sum(x[j] * rho[t - j] for j in tile.inputs)
    return z


def page(x: list[Number], rho: list[Number], kind: str, n: int) -> str:
    """The moment at which n inputs are known, as HTML: a sentence, then the table of all products and partial sums."""
    L = len(x)
    tiles = schedule(L, kind)
    tile = next((tile for tile in tiles if tile.step == n), None)
    before = partial_sums(x, rho, [other for other in tiles if other is not tile], n)
    after = partial_sums(x, rho, tiles, n)
    heads = _heads(x, rho, tile, n)
    rows = []
    for t in range(L):
        cells = [_product(x, rho, tiles, n, j, t) for j in range(t + 1)] + [_cell("", "bare")] * (L - 1 - t)
        adds = tile is not None and t in tile.outputs
        state = "given" if t < n else "<b>due</b>" if t == n else "owed"
        cells += [
            _cell(_text(before[t]), "plain") if adds else _cell("", "bare"),
            _cell(f"+ {_text(after[t] - before[t])}", "now", "adds") if adds else _cell("", "bare", "adds"),
            _cell(_text(after[t]), "done" if t < n else "plain", "sum"),
            _cell(state, "left", "state"),
        ]
        rows.append(_row(f"z<sub>{t}</sub>", cells))
    table = (
        "border-collapse: collapse; margin: 6px 0; font: inherit; font-variant-numeric: tabular-nums; color: inherit; "
        "font-size: 12px;"
    )
    # As wide as its place whatever the table needs: there the table scrolls, and the sentence above it breaks. In its
    # small print the table of eight coefficients fits beside the file browser in a window of 800 pixels.
    box = "font-size: 13px; line-height: 1.4; overflow-x: auto; width: 0; min-width: 100%;"
    return (
        f'<div style="color: var(--jp-ui-font-color1, inherit); {box}">'
        f'<p aria-live="polite" style="margin: 4px 0; min-height: 3.2em;">{sentence(kind, L, n, tile)}</p>'
        f'<table style="{table}"><thead>{"".join(heads)}</thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def sentence(kind: str, L: int, n: int, tile: Tile | None) -> str:
    """What is known, what runs, what is due: the state in words."""
    if n == 0:
        return f"n = 0: no input is known, so no product can be made. Every coefficient is owed, {L} in all."
    known = f"n = {n}: {_range('x', range(n))} known and {_range('z', range(n))} given out."
    if n == L:
        return f"{known} All red cells and all tiles are done: these are the first {L} coefficients of the product."
    products = len(tile.inputs) * len(tile.outputs)
    makes = f"makes {products} products" if products > 1 else "makes one product"
    reads = f"{_range('x', tile.inputs)} times {_range('ρ', _lags(tile))} for {_range('z', tile.outputs)}"
    return (
        f"{known} The {kind} tile that now runs {makes}: {reads}. "
        f"Then z<sub>{n}</sub>, which is due next, lacks only x<sub>{n}</sub>·ρ<sub>0</sub>."
    )


def _heads(x: list[Number], rho: list[Number], tile: Tile | None, n: int) -> list[str]:
    """Positions, the inputs that are known so far, the filter; what the tile of this step reads is marked."""
    inputs, lags = (tile.inputs, _lags(tile)) if tile else ((), ())
    # As wide as the widest product that a column may hold, so that the table keeps its shape from step to step.
    widest = max(len(_text(value)) for value in x) + max(len(_text(value)) for value in rho) + 1
    space = f'<div style="width: {widest}ch;"></div>'
    known = [_cell(_text(x_j), "now" if j in inputs else "plain", "x") for j, x_j in enumerate(x[:n])]
    taps = [_cell(_text(rho_k), "now" if k in lags else "plain", "rho") for k, rho_k in enumerate(rho)]
    titles = [_cell(title, "bare") for title in ("was", "adds", "sum")]
    return [
        _row("j, k", [_cell(f"{i}{space}", "bare") for i in range(len(x))]),
        _row("x<sub>j</sub>", known + [_cell("?", "owed", "x")] * (len(x) - n)),
        _row("ρ<sub>k</sub>", taps + titles),
    ]


def _product(x: list[Number], rho: list[Number], tiles: list[Tile], n: int, j: int, t: int) -> str:
    """The cell of x_j * rho_(t-j): its value once done, its factors while it is being done, a dot while it is owed."""
    if j == t:
        return _cell(_text(x[t] * rho[0]), "red done") if t < n else _cell("·", "red owed")
    step = next(tile.step for tile in tiles if j in tile.inputs and t in tile.outputs)
    if step == n:
        return _cell(f"{_text(x[j])}·{_text(rho[t - j])}", "now")
    return _cell(_text(x[j] * rho[t - j]), "done") if step < n else _cell("·", "owed")


def _lags(tile: Tile) -> range:
    return range(tile.outputs.start - tile.inputs.stop + 1, tile.outputs.stop - tile.inputs.start)


def _row(name: str, cells: list[str]) -> str:
    head = f'<th scope="row" style="{CELL} border: 0; font-weight: normal;">{name}</th>'
    return f'<tr style="background: none;">{head}{"".join(cells)}</tr>'


def _cell(text: object, look: str, name: str = "") -> str:
    return f'<td class="{name or look}" style="{CELL} {LOOKS[look]}">{text}</td>'


def _text(value: Number) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _range(name: str, positions: range) -> str:
    first, last = positions[0], positions[-1]
    one = f"{name}<sub>{first}</sub>"
    return one if first == last else f"{one} .. {name}<sub>{last}</sub>"
