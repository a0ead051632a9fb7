"""What the notebooks let the reader move. Each widget carries a still for readers without a kernel."""

import base64
from collections.abc import Sequence
from numbers import Real

import ipywidgets
import numpy as np
import torch

from flashref.figures.cost import BASES, RADIXES, cost_choices
from flashref.figures.model import energy_lags, one_filter
from flashref.figures.style import COLOURS, PARTS, as_png
from flashref.figures.tau import toeplitz_on_a_circle
from flashref.hyena import Hyena
from flashref.tiling import RadixCost, check_integers, radix_cost
from flashref.widgets.explorer import tile_explorer
from flashref.widgets.stepper import numbers, page
from flashref.widgets.timeline_explorer import timeline_explorer

__all__ = [
    "WithStill",
    "as_png",
    "circle_explorer",
    "cost_explorer",
    "filter_viewer",
    "polynomial_stepper",
    "tile_explorer",
    "timeline_explorer",
]


class WithStill(ipywidgets.VBox):
    """A column of widgets that shows a still where no kernel runs: a web page, a printed notebook.

    still: from a MIME type ("image/png": bytes, "text/html": str) to the still; text: one sentence that says the same.
    """

    def __init__(self, children: Sequence[ipywidgets.Widget], still: dict[str, str | bytes], text: str) -> None:
        super().__init__(children)
        encoded = {kind: base64.b64encode(s).decode() if isinstance(s, bytes) else s for kind, s in still.items()}
        self._still = {"text/plain": text, **encoded}

    def _repr_mimebundle_(self, **kwargs) -> dict[str, str | bytes]:
        return {**super()._repr_mimebundle_(**kwargs), **self._still}


def _row(*controls: ipywidgets.Widget) -> ipywidgets.HBox:
    """Controls beside each other, or below each other where the page is too narrow for them."""
    return ipywidgets.HBox(controls, layout={"flex_flow": "row wrap"})


def polynomial_stepper(
    x: Sequence[Real] = (3, 1, 4, 1, 5, 9, 2, 6), rho: Sequence[Real] = (2, 7, 1, 8, 2, 8, 1, 8)
) -> WithStill:
    """Multiply two polynomials while x still arrives, lazy, eager or relaxed, with every number shown.

    x: L coefficients, L = 1 .. 16, which become known one by one; rho: as many, known from the start. Integers,
    fractions or floats. A dropdown chooses the order; a slider (or its arrow keys) and a play button choose how many
    inputs are known, from 0 to L. It starts at the middle. Raises TypeError for what is no number, ValueError for no
    coefficients, more than 16, lengths that differ, or a number that is not finite; each names the argument.
    """
    x, rho = numbers("x", x), numbers("rho", rho)
    if len(rho) != len(x):
        raise ValueError(f"rho must hold as many coefficients as x, {len(x)}, got {len(rho)}")
    L, kinds = len(x), ["lazy", "eager", "relaxed"]
    start = (L + 1) // 2
    kind = ipywidgets.Dropdown(options=kinds, value="relaxed", description="order")
    known = ipywidgets.IntSlider(start, 0, L, description="inputs known", style={"description_width": "initial"})
    signs = "▶ play or pause, ■ back to nothing known, ⇄ play over and over"
    play = ipywidgets.Play(value=start, min=0, max=L, interval=1500, tooltip=signs)
    ipywidgets.jslink((play, "value"), (known, "value"))
    shown = ipywidgets.HTML(page(x, rho, "relaxed", start))

    def show(_: dict) -> None:
        shown.value = page(x, rho, kind.value, known.value)

    for control in (kind, known):
        control.observe(show, "value")
    text = f"The relaxed product of two polynomials with {L} coefficients, {start} of them known."
    controls = _row(kind, play, known)
    return WithStill([controls, shown], {"text/html": shown.value}, text)


_COST_FILLS = {  # from the top of a bar to its foot
    "transforms": COLOURS["tiled_cpu"],
    "products": PARTS["gray_tile"],
    "direct": f"repeating-linear-gradient(45deg, {COLOURS['eager']} 0 4px, #ffffff66 4px 5px), {COLOURS['eager']}",
}


def cost_explorer(L: int = 4096) -> WithStill:
    """Bars of what every base and every radix would cost, in multiply-adds; sliders choose L, base and radix.

    L: how many positions at the start, a power of two in 2^4 .. 2^20. It starts with base 1 and radix 2, the paper's
    tiling. The numbers are radix_cost's; bars show theirs under the pointer. Raises TypeError for L that is no integer,
    ValueError for one that is no power of two or out of range.
    """
    check_integers(L=L)
    if not 2**4 <= L <= 2**20 or L & (L - 1):
        raise ValueError(f"L must be a power of two in 2^4 .. 2^20, got {L}")
    wide = {"style": {"description_width": "initial"}, "layout": {"flex": "1 1 240px", "max_width": "300px"}}
    # Of the same kind as the other two: a slider of integers has another height.
    power = ipywidgets.SelectionSlider(options=range(4, 21), value=L.bit_length() - 1, description="log2 L", **wide)
    base = ipywidgets.SelectionSlider(options=BASES, value=1, description="base b", **wide)
    radix = ipywidgets.SelectionSlider(options=RADIXES, value=2, description="radix r", **wide)
    shown = ipywidgets.HTML(_cost_page(L, 1, 2))

    def show(_: dict) -> None:
        shown.value = _cost_page(2**power.value, base.value, radix.value)

    for control in (power, base, radix):
        control.observe(show, "value")
    total = radix_cost(L).total
    text = f"With base 1 and radix 2, {L:,} positions cost {total:,} multiply-adds per channel, online."
    return WithStill([_row(power, base, radix), shown], {"image/png": as_png(cost_choices(L))}, text)


def _cost_page(L: int, base: int, radix: int) -> str:
    """What cost_explorer shows for one choice, as HTML: bars over base and over radix, and the counts in a sentence."""
    bases, radixes = [radix_cost(L, radix, b) for b in BASES], [radix_cost(L, r, base) for r in RADIXES]
    top = max(cost.total for cost in (*bases, *radixes))
    cost, lazy = radix_cost(L, radix, base), L * (L - 1) // 2
    ratio = lazy / cost.total
    times = "just as many" if ratio == 1 else f"{ratio:,.1f} times as many" if ratio > 1 else f"{ratio:.0%} of that"
    legend = "".join(
        f'<span style="margin-right:1.2em"><span style="background:{fill};padding:0 .6em">&nbsp;</span> {part}</span>'
        for part, fill in _COST_FILLS.items()
    )
    panels = "".join(
        f'<div style="flex:{len(labels)} 1 {2 * len(labels)}em">'
        '<div style="display:flex;align-items:flex-end;gap:4px">'
        f'{_bars(L, labels, costs, chosen, top)}</div><div style="text-align:center">{title}</div></div>'
        for labels, costs, chosen, title in (
            (BASES, bases, base, f"base b, with radix {radix}"),
            (RADIXES, radixes, radix, f"radix r, with base {base}"),
        )
    )
    return (
        '<div style="color:var(--jp-ui-font-color1, inherit);line-height:1.5;max-width:60em">'
        f"<div><b>Multiply-adds per position and channel</b>, L = {L:,}</div><div>{legend}</div>"
        f'<div style="display:flex;flex-wrap:wrap;align-items:flex-end;gap:1em 2.5em;font-size:85%">{panels}</div>'
        f"<div>Base {base}, radix {radix}: {cost.direct:,} multiply-adds directly, {cost.products:,} in products of "
        f"spectra, {cost.transforms:,} in transforms, <b>{cost.total:,} in all</b>: lazy does {lazy:,}, {times}. "
        f"The longest step does {cost.longest:,}.</div></div>"
    )


def _bars(L: int, labels: Sequence[int], costs: Sequence[RadixCost], chosen: int, top: int) -> str:
    """One column for each label: its number, the three parts stacked, the label; the chosen column is outlined."""
    columns = []
    for label, cost in zip(labels, costs, strict=True):
        parts = "".join(
            f'<div title="{part}: {getattr(cost, part):,}" style="background:{fill};'
            f'height:{170 * getattr(cost, part) / top:.1f}px"></div>'
            for part, fill in _COST_FILLS.items()
        )
        line = "currentColor" if label == chosen else "transparent"
        columns.append(
            f'<div style="flex:1;text-align:center">{cost.total / L:.0f}<div style="outline:2px solid {line};'
            f'border-bottom:1px solid currentColor">{parts}</div>{label}</div>'
        )
    return "".join(columns)


def filter_viewer(model: Hyena, mixer: int = 0, channel: int = 0) -> WithStill:
    """The long filters of a model, one at a time: which mixer and channel, linear or logarithmic axes, are chosen.

    model: a Hyena. mixer, channel: what is shown first, 0 .. M-1 and 0 .. D-1 (at order 2, mixer m is layer m). Drawn
    is what the filter network and the decay window make; the bias, which is added to lag 0, is named beside it. Raises
    TypeError for what is no Hyena or no integer, ValueError for a mixer or channel that the model does not have.
    """
    if not isinstance(model, Hyena):
        raise TypeError(f"model must be a flashref.Hyena, got {type(model).__name__}")
    networks = [layer.mixer.filter_fn for layer in model.backbone.layers]
    D, M = model.config.d_model, len(networks) * (model.config.order - 1)
    for name, value, count in (("mixer", mixer, M), ("channel", channel, D)):
        check_integers(**{name: value})
        if not 0 <= value < count:
            raise ValueError(f"{name} must lie in 0 .. {count - 1}, got {value}")

    def arrays(parts: list[torch.Tensor]) -> np.ndarray:
        return torch.cat(parts).unflatten(0, (M, D)).double().cpu().numpy()

    with torch.no_grad():
        answers = arrays([f.implicit_filter(f.pos_emb.z)[0].T for f in networks])
        windows = arrays([f.modulation(f.pos_emb.t, torch.ones_like(f.pos_emb.t))[0].T for f in networks])
        bias = arrays([f.bias for f in networks])

    which = ipywidgets.IntSlider(mixer, 0, M - 1, description="mixer", continuous_update=False)
    place = ipywidgets.IntSlider(channel, 0, D - 1, description="channel", continuous_update=False)
    log_lag, log_tap = (
        ipywidgets.ToggleButtons(options={"linear": False, "logarithmic": True}, description=name)
        for name in ("lag axis", "tap axis")
    )
    picture, line = ipywidgets.Image(format="png"), ipywidgets.HTML()

    def show(_: dict | None = None) -> None:
        m, d = which.value, place.value
        name = f"Mixer {m}, channel {d}"
        picture.value = as_png(one_filter(answers[m, d], windows[m, d], name, log_lag.value, log_tap.value))
        lags, L = energy_lags(answers[m, d] * windows[m, d]), answers.shape[-1]
        line.value = (
            f"99 % of the energy of mixer {m}, channel {d} lies in its first {lags:,} of {L:,} lags. "
            f"The bias, which is added to lag 0 and not drawn, is {bias[m, d]:.2f}."
        )

    for control in (which, place, log_lag, log_tap):
        control.observe(show, "value")
    show()
    controls = [_row(which, place), _row(log_lag, log_tap), picture, line]
    return WithStill(controls, {"image/png": bytes(picture.value)}, line.value)


def circle_explorer(U: int = 4, N: int = 8) -> WithStill:
    """A tile of U inputs on a circle of N points: which lags each cell gets, and which cells are wrong; both chosen.

    U: 1 .. 8; N: U .. 4U. Raises as toeplitz_on_a_circle does.
    """
    picture, line = ipywidgets.Image(format="png"), ipywidgets.HTML()
    picture.value = as_png(toeplitz_on_a_circle(U, N))
    size = ipywidgets.IntSlider(U, 1, 8, description="inputs U", continuous_update=False)
    circle = ipywidgets.IntSlider(N, U, 4 * U, description="circle N", continuous_update=False)

    def show(_: dict | None = None) -> None:
        picture.value = as_png(toeplitz_on_a_circle(size.value, circle.value))
        points, plain = 2 * circle.value, 3 * 4 * size.value
        line.value = f"Two transforms of {circle.value} points: {points}. The plain way, three of 4U: {plain}."

    def resize(_: dict) -> None:
        with circle.hold_trait_notifications():  # the bounds must never cross on their way
            circle.min, circle.max, circle.value = size.value, 4 * size.value, 2 * size.value
        show()

    size.observe(resize, "value")
    circle.observe(show, "value")
    show()
    text = f"A tile of {U} inputs on a circle of {N} points, as matrices of lags."
    return WithStill([_row(size, circle), picture, line], {"image/png": bytes(picture.value)}, text)
