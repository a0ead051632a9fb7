"""The tile explorer: what it is fed, what it refuses, and what a browser shows of it."""

import base64
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import traitlets
from browser import launched, picture
from playwright.sync_api import Browser, BrowserContext, Locator, Page

from flashref.__main__ import main
from flashref.tiling import Cost, Tile, cost, schedule
from flashref.widgets import explorer, tile_explorer
from flashref.widgets.explorer import explorer_data, write_explorer

SCHEDULES = [("lazy", 1), ("eager", 1)] + [("relaxed", base) for base in (1, 2, 4, 8, 16, 32)]
DIRECT = 64  # no tile of 64 positions has a shorter side as long as this


def pairs(tiles: Sequence[Tile]) -> int:
    return sum(len(tile.inputs) * len(tile.outputs) for tile in tiles)


def counters(counted: Cost) -> list[int]:
    return [counted.calls, counted.multiply_adds, counted.fft_points, counted.numbers_moved]


# Without a browser


def unpacked(data: dict) -> Iterator[tuple[str, int, int, list[Tile]]]:
    """Every kind, base and L with its tiles, as explorer.js is told them."""
    numbers = iter(base64.b64decode(data["tiles"]))
    for kind, base in data["schedules"]:
        for L in range(data["most"] + 1):
            fives = [list(itertools.islice(numbers, 5)) for _ in range(max(L - 1, 0))]
            yield kind, base, L, [Tile(step, range(a, b), range(c, d)) for step, a, b, c, d in fives]
    assert next(numbers, None) is None


@pytest.mark.parametrize("base", [1, 3, 100])
def test_the_explorer_is_told_every_schedule_up_to_64_positions_and_what_it_costs(base):
    data = explorer_data(base)
    seen = set()
    for kind, b, L, tiles in unpacked(data):
        assert tiles == schedule(L, kind, b)
        for how, fft_from in (("direct", DIRECT), ("fft", 2)):
            costs = [data["costs"][f"{len(tile.inputs)},{len(tile.outputs)}"][how] for tile in tiles]
            assert [sum(column) for column in zip([0] * 4, *costs, strict=True)] == counters(cost(tiles, fft_from))
        seen.add((kind, b, L))
    assert seen == {(kind, b, L) for kind, b in {*SCHEDULES, ("relaxed", base)} for L in range(65)}


TYPE = (TypeError, traitlets.TraitError)
REFUSED = [
    ({"L": -1}, ValueError, r"L must lie in 0 \.\. 64 to be drawn, got -1$"),
    ({"L": -4}, ValueError, r"L must lie in 0 \.\. 64 to be drawn, got -4$"),
    ({"L": 65}, ValueError, r"L must lie in 0 \.\. 64 to be drawn, got 65"),
    ({"L": 8.0}, TYPE, "L.* int.*float"),
    ({"L": "8"}, TYPE, "L.* int.*str"),
    ({"L": True}, TYPE, "L.* int.*bool"),
    ({"L": None}, TYPE, "L.* int.*NoneType"),
    ({"kind": "fast"}, (ValueError, traitlets.TraitError), "kind.*'fast'"),
    ({"kind": None}, (ValueError, traitlets.TraitError), "kind.*None"),
    ({"base": 0}, ValueError, "base must be >= 1, got 0"),
    ({"base": -2}, ValueError, "base must be >= 1, got -2"),
    ({"base": 2.0}, TYPE, "base.* int.*float"),
    ({"step": -1}, ValueError, "step.* must lie in 0 .. L = 16, got -1"),
    ({"step": 17}, ValueError, "step.* must lie in 0 .. L = 16, got 17"),
    ({"step": 1.0}, TYPE, "step.* int.*float"),
    ({"step": True}, TYPE, "step.* int.*bool"),
]


@pytest.mark.parametrize("change, error, words", REFUSED)
def test_bad_settings_of_an_explorer_are_refused_by_name(change, error, words):
    with pytest.raises(error, match=words):
        tile_explorer(**change)


@pytest.mark.parametrize("change, error, words", [*REFUSED, ({"base": 3}, ValueError, "base must be one of .* got 3")])
def test_attributes_refuse_the_same_and_stay_as_they_were(change, error, words):
    shown = tile_explorer(L=16, kind="relaxed", base=2, step=5)
    ((name, value),) = change.items()
    with pytest.raises(error, match=words):
        setattr(shown, name, value)
    assert (shown.L, shown.kind, shown.base, shown.step) == (16, "relaxed", 2, 5)


@pytest.mark.parametrize("kind", ["lazy", "eager"])
def test_a_base_with_a_kind_that_has_none_is_refused(kind):
    with pytest.raises(ValueError, match="base belongs to"):
        tile_explorer(kind=kind, base=4)


def test_a_base_of_ones_own_can_be_chosen():
    shown = tile_explorer(L=12, base=3)
    shown.base = 8
    shown.base = 3
    assert shown.base == 3


def test_a_shorter_L_takes_step_with_it():
    shown = tile_explorer(L=16, step=16)
    shown.L = 20
    assert shown.step == 16
    shown.L = 5
    assert shown.step == 5


@pytest.mark.parametrize("L, kind, step", [(0, "lazy", 0), (1, "eager", 1), (13, "relaxed", 6), (64, "relaxed", 64)])
def test_where_no_widget_can_be_shown_there_is_a_picture_and_a_sentence(L, kind, step):
    bundle, _ = tile_explorer(L, kind, step=step)._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert all(word in bundle["text/plain"] for word in (kind, f"{L} positions", f"{step} inputs known"))


def test_the_page_names_no_address_but_that_of_the_svg_standard(tmp_path):
    write_explorer(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert set(re.findall(r"\b[a-z]{1,9}://[^\s\"']*", page)) == {"http://www.w3.org/2000/svg"}
    assert re.findall(r"\b(?:src|href)\s*=|@import|url\(", page) == []


def test_the_command_writes_the_page_and_says_where(tmp_path, capfd):
    assert main(["explorer", "--html", str(tmp_path / "a page.html")]) == 0
    assert str(tmp_path / "a page.html") in capfd.readouterr().out
    write_explorer(tmp_path / "the same.html")
    assert (tmp_path / "a page.html").read_bytes() == (tmp_path / "the same.html").read_bytes()


@pytest.mark.parametrize("name", ["missing/page.html", ".", "x" * 300 + ".html"])
def test_a_file_that_cannot_be_written_ends_with_status_2_and_one_line_that_names_it(name, tmp_path, capfd):
    assert main(["explorer", "--html", str(tmp_path / name)]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("flashref: ") and str(tmp_path) in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# In a browser

# Called with an element, or, by page.evaluate, with null: the whole page.
SEEN = """(element) => {
    const root = element ?? document;
    const place = (rect) => ["x", "y", "width", "height"].map((name) => Number(rect.getAttribute(name)));
    const all = (selector) => [...root.querySelectorAll(selector)];
    const rects = (selector) => all(selector).map((rect) => [place(rect), rect.classList[1]]);
    return {
        tiles: rects("svg .tile"),
        reds: rects("svg .red"),
        known: rects("svg .known").map(([, state]) => state),
        given: rects("svg .given").map(([, state]) => state),
        said: root.querySelector(".state").textContent,
        counters: all(".counters tr").slice(1).map(
            (row) => [...row.querySelectorAll("td")].map(
                ({ textContent }) => textContent === "–" ? null : Number(textContent.replaceAll(",", "")))),
        cut: root.querySelector(".cut").checkVisibility() ? root.querySelector(".cut").textContent : "",
    };
}"""

# All steps of one schedule, chosen with the controls.
EVERY_STEP = f"""([L, kind, base]) => {{
    const choose = (name, value) => {{
        const control = document.querySelector(`[data-control="${{name}}"]`);
        if (control.disabled) return;
        control.value = value;
        control.dispatchEvent(new Event("input"));
    }};
    choose("L", L);
    choose("kind", kind);
    choose("base", base);
    return JSON.stringify(Array.from({{ length: L + 1 }}, (_, step) => {{
        choose("step", step);
        return ({SEEN})();
    }}));
}}"""


def assert_says_where_the_positions_are_cut(cut: str, L: int, kind: str, base: int) -> None:
    """It says so just for the relaxed tiles of more than one block that are not base * 2^k positions."""
    if kind != "relaxed" or L <= base or L in [base * 2**k for k in range(8)]:
        assert cut == ""
    else:
        step = int(re.search(r"cut at their middle, (\d+),", cut)[1])
        (tile,) = [tile for tile in schedule(L, kind, base) if tile.step == step]
        assert (tile.inputs, tile.outputs) == (range(step), range(step, L))


def assert_shows(seen: dict, L: int, kind: str, base: int, step: int) -> None:
    """What the page shows when ``step`` inputs are known is what schedule and cost say."""
    tiles = schedule(L, kind, base)
    done = [tile for tile in tiles if tile.step < step]
    now = [tile for tile in tiles if tile.step == step]
    unit = seen["reds"][0][0][2] if L else 1
    states = {tuple(round(side / unit, 6) for side in place): state for place, state in seen["tiles"]}
    assert len(states) == len(seen["tiles"])
    assert states == {
        (tile.inputs.start, tile.outputs.start, len(tile.inputs), len(tile.outputs)): (
            "done" if tile.step < step else "now" if tile.step == step else "owed"
        )
        for tile in tiles
    }
    arrived = ["done" if t < step else "owed" for t in range(L)]
    assert [place for place, _ in seen["reds"]] == [pytest.approx([t * unit, t * unit, unit, unit]) for t in range(L)]
    assert [state for _, state in seen["reds"]] == seen["known"] == seen["given"] == arrived

    ends = [
        position for tile in now for side in (tile.inputs, tile.outputs) for position in sorted({side[0], side[-1]})
    ]
    numbers = [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", seen["said"])]
    everything = [pairs(tiles)] if tiles else []  # a single position has a red cell and no tile
    if L == 0:
        assert "nothing to compute" in seen["said"]
    elif step == 0:
        assert "No input is known" in seen["said"] and numbers == [*everything, L]
    elif step == L:
        assert "none owed" in seen["said"] and numbers == [L, L, *everything, L]
    else:
        assert "still owed" in seen["said"]
        assert numbers == [step, L, step, *ends, pairs(now), pairs(done), pairs(tiles) - pairs(done) - pairs(now)]
    direct = counters(cost(done + now, fft_from=DIRECT))
    fft = counters(cost(done + now)) if kind == "relaxed" else [None] * 4  # rows and columns have no FFT
    assert seen["counters"] == [list(row) for row in zip(direct, fft, strict=True)]
    assert_says_where_the_positions_are_cut(seen["cut"], L, kind, base)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "explorer.html"
    write_explorer(file)
    return file


CENTRE = """(node) => {
    const { left, right, top, bottom } = node.getBoundingClientRect();
    return [(left + right) / 2, (top + bottom) / 2];
}"""


class Shown:
    """The stand-alone page, opened without a network."""

    def __init__(self, context: BrowserContext, file: Path, clock: bool = False) -> None:
        self.page: Page = context.new_page()
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("request", lambda request: self.problems.append(request.url))
        if clock:
            self.page.clock.install(time=0)
        self.page.goto(file.as_uri())
        if clock:
            self.page.clock.pause_at(1000)
        assert self.problems.pop(0) == file.as_uri()
        self.picture = self.page.locator("svg")

    def control(self, name: str) -> Locator:
        return self.page.locator(f'[data-control="{name}"]')

    def choose(self, **values: int | str) -> None:
        for name, value in values.items():
            self.control(name).evaluate(
                "(control, value) => { control.value = value; control.dispatchEvent(new Event('input')); }", value
            )

    def shows(self, L: int, kind: str, base: int, step: int) -> None:
        assert_shows(self.page.evaluate(SEEN), L, kind, base, step)
        controls = {name: self.control(name).input_value() for name in ("L", "kind", "base", "step")}
        assert controls == {"L": str(L), "kind": kind, "base": str(base), "step": str(step)}

    def centres(self) -> dict[tuple[int, int], tuple[float, float]]:
        """Where the pairs (j, t) are on the page: below red cell j and left of red cell t."""
        reds = self.page.evaluate(f"[...document.querySelectorAll('svg .red')].map({CENTRE})")
        return {(j, t): (column[0], row[1]) for (j, column), (t, row) in itertools.product(enumerate(reds), repeat=2)}

    @property
    def why(self) -> str:
        return self.page.evaluate("document.querySelector('.why').textContent")


Open = Callable[..., Shown]


@pytest.fixture
def opened(browser: Browser, file: Path) -> Iterator[Open]:
    """Opens the page; at the end nothing went wrong in it, and it asked for nothing."""
    contexts, pages = [], []

    def open_page(clock: bool = False, **options) -> Shown:
        contexts.append(browser.new_context(offline=True, **options))
        pages.append(Shown(contexts[-1], file, clock))
        return pages[-1]

    yield open_page
    assert [problem for shown in pages for problem in shown.problems] == []
    for context in contexts:
        context.close()


@pytest.mark.parametrize("kind, base", SCHEDULES)
def test_every_step_of_every_schedule_shows_what_schedule_and_cost_say(opened, kind, base):
    shown = opened()
    for L in (0, 1, 2, 6, 13, 16, 24, 64):
        seen = json.loads(shown.page.evaluate(EVERY_STEP, [L, kind, base]))
        assert len(seen) == L + 1
        for step in range(L + 1):
            assert_shows(seen[step], L, kind, base, step)


def test_the_buttons_step_and_stay_within_the_positions(opened):
    shown = opened()
    shown.shows(16, "relaxed", 1, 0)
    for button, step in [
        ("back", 0), ("next", 1), ("next", 2), ("back", 1), ("last", 16), ("next", 16), ("back", 15), ("first", 0),
    ]:  # fmt: skip
        shown.control(button).click()
        shown.shows(16, "relaxed", 1, step)


def drag(shown: Shown, name: str, start: float, end: float) -> int:
    """Drag a slider with the mouse between two parts of its width; returns where it is now."""
    box = shown.control(name).bounding_box()
    x, y = (lambda part: box["x"] + 8 + part * (box["width"] - 16)), box["y"] + box["height"] / 2
    shown.page.mouse.move(x(start), y)
    shown.page.mouse.down()
    for part in range(1, 11):
        shown.page.mouse.move(x(start + (end - start) * part / 10), y)
    shown.page.mouse.up()
    return int(shown.control(name).input_value())


def test_the_sliders_follow_the_mouse(opened):
    shown = opened()
    for end, least, most in [(0.5, 6, 10), (1, 16, 16), (0.25, 2, 6), (0, 0, 0)]:
        step = drag(shown, "step", int(shown.control("step").input_value()) / 16, end)
        assert least <= step <= most
        shown.shows(16, "relaxed", 1, step)
    shown.control("last").click()
    L = drag(shown, "L", 16 / 64, 0.15)
    assert 6 <= L <= 13
    shown.shows(L, "relaxed", 1, L)  # there are no more inputs than positions
    assert drag(shown, "L", L / 64, 1) == 64
    shown.shows(64, "relaxed", 1, L)
    assert drag(shown, "L", 1, 0) == 0
    shown.shows(0, "relaxed", 1, 0)


def test_the_sliders_and_lists_follow_the_keyboard(opened):
    shown = opened()
    shown.control("step").focus()
    for key, step in [("ArrowRight", 1), ("ArrowUp", 2), ("ArrowLeft", 1), ("End", 16), ("Home", 0)]:
        shown.page.keyboard.press(key)
        shown.shows(16, "relaxed", 1, step)
    shown.control("L").focus()
    for key, L in [("ArrowLeft", 15), ("Home", 0), ("ArrowRight", 1), ("End", 64)]:
        shown.page.keyboard.press(key)
        shown.shows(L, "relaxed", 1, 0)
    shown.control("base").focus()
    shown.page.keyboard.press("ArrowDown")
    shown.shows(64, "relaxed", 2, 0)
    shown.control("kind").focus()
    for kind in ("eager", "lazy"):
        shown.page.keyboard.press("ArrowUp")
        assert_shows(shown.page.evaluate(SEEN), 64, kind, 1, 0)
        assert shown.control("base").is_disabled()
    shown.page.keyboard.press("End")
    shown.shows(64, "relaxed", 2, 0)  # the base that was chosen is not forgotten
    assert shown.control("base").is_enabled()


def test_play_steps_at_its_speed_stops_at_the_end_and_starts_again_from_there(opened):
    shown = opened(clock=True)
    play = shown.control("play")
    shown.choose(L=4)
    for speed, milliseconds in [("slow", 1500), ("normal", 600), ("fast", 150)]:
        shown.choose(speed=speed)
        play.click()
        for step in range(1, 5):
            assert play.get_attribute("aria-label") == "Pause"
            shown.page.clock.run_for(milliseconds - 1)
            shown.shows(4, "relaxed", 1, step - 1)
            shown.page.clock.run_for(1)
            shown.shows(4, "relaxed", 1, step)
        assert play.get_attribute("aria-label") == "Play"
        shown.page.clock.run_for(10_000)
        shown.shows(4, "relaxed", 1, 4)
    play.click()
    shown.shows(4, "relaxed", 1, 0)
    assert play.get_attribute("aria-label") == "Pause"


@pytest.mark.parametrize("pause, step", [("play", 2), ("next", 3), ("back", 1), ("first", 0), ("last", 16)])
def test_play_is_paused_by_its_button_and_by_every_step_of_the_readers_own(opened, pause, step):
    shown = opened(clock=True)
    shown.choose(speed="fast")
    shown.control("play").click()
    shown.page.clock.run_for(300)
    shown.shows(16, "relaxed", 1, 2)
    shown.control(pause).click()
    shown.page.clock.run_for(10_000)
    shown.shows(16, "relaxed", 1, step)
    assert shown.control("play").get_attribute("aria-label") == "Play"


def test_another_speed_length_kind_or_base_can_be_chosen_while_it_plays(opened):
    shown = opened(clock=True)
    shown.control("play").click()
    shown.page.clock.run_for(600)
    shown.choose(speed="fast")
    shown.page.clock.run_for(150)
    shown.choose(L=20, base=2)
    shown.page.clock.run_for(150)
    shown.shows(20, "relaxed", 2, 3)
    shown.choose(L=2)
    shown.shows(2, "relaxed", 2, 2)
    shown.page.clock.run_for(10_000)
    shown.shows(2, "relaxed", 2, 2)
    assert shown.control("play").get_attribute("aria-label") == "Play"


def test_a_screen_reader_is_told_each_state_once_and_none_but_the_last_while_it_plays(opened):
    shown = opened(clock=True)
    told = """() => [...document.querySelectorAll("[aria-live], [role=status], output")]
        .filter((text) => text.getAttribute("aria-live") !== "off").map((text) => text.className)"""
    assert shown.page.evaluate(told) == ["state", "why"]
    shown.choose(L=2)
    shown.control("play").click()
    assert shown.page.evaluate(told) == []
    shown.page.evaluate(
        "() => { new MutationObserver(([{ target }]) => { window.told = target.ariaLive; })"
        ".observe(document.querySelector('.state'), { childList: true }); }"
    )
    for live in ("off", "polite"):
        shown.page.clock.run_for(600)
        assert shown.page.evaluate("window.told") == live
    assert shown.page.evaluate(told) == ["state", "why"]


def test_keys_on_the_picture_step_and_play(opened):
    shown = opened(clock=True)
    shown.picture.focus()
    for key, step in [("ArrowLeft", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("End", 16), ("ArrowRight", 16)]:
        shown.page.keyboard.press(key)
        shown.shows(16, "relaxed", 1, step)
    shown.page.keyboard.press("Home")
    shown.page.keyboard.press(" ")
    shown.page.clock.run_for(1200)
    shown.shows(16, "relaxed", 1, 2)
    shown.page.keyboard.press(" ")
    shown.page.clock.run_for(10_000)
    shown.shows(16, "relaxed", 1, 2)


def test_keys_that_mean_something_else_are_left_to_the_browser(opened):
    shown = opened()
    left = """(svg, keys) => keys.map(([key, held]) => svg.dispatchEvent(
        new KeyboardEvent("keydown", { key, [`${held}Key`]: true, bubbles: true, cancelable: true })))"""
    keys = [["ArrowDown"], ["Tab"], ["a"], ["Home", "shift"], ["ArrowLeft", "alt"], ["ArrowRight", "ctrl"]]
    assert shown.picture.evaluate(left, keys) == [True] * 6
    shown.shows(16, "relaxed", 1, 0)


def assert_explains(why: str, L: int, kind: str, base: int, step: int, j: int, t: int) -> None:
    """The sentence about the pair (j, t) names its tile, when it runs, and why it may."""
    if j > t:
        assert f"Pair ({j}, {t})" in why and "contributes nothing" in why
    elif j == t:
        assert f"Red cell ({t}, {t})" in why
        assert ("is done" if t < step else "is owed") in why
    else:
        (tile,) = [tile for tile in schedule(L, kind, base) if j in tile.inputs and t in tile.outputs]
        when = "ran" if tile.step < step else "runs now," if tile.step == step else "runs"
        numbers = [int(n) for n in re.findall(r"\d+", why.translate(str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")))]
        ends = [*sorted({tile.inputs[0], tile.inputs[-1]}), *sorted({tile.outputs[0], tile.outputs[-1]})]
        assert numbers == [j, t, j, t - j, t, *ends, tile.step, tile.inputs[-1], tile.outputs[0]]
        assert f", {when} at step {tile.step}" in why
        assert "is known by then" in why and "the next to be given out" in why


@pytest.mark.parametrize("kind, base, step", [("relaxed", 1, 6), ("relaxed", 4, 5), ("eager", 1, 3), ("lazy", 1, 9)])
def test_the_cell_under_the_mouse_is_framed_and_explained_whichever_it_is(opened, kind, base, step):
    L = 9
    shown = opened(viewport={"width": 1280, "height": 900})
    shown.choose(L=L, kind=kind, step=step)
    if kind == "relaxed":
        shown.choose(base=base)
    for (j, t), (x, y) in shown.centres().items():
        shown.page.mouse.move(x, y)
        assert_explains(shown.why, L, kind, base, step, j, t)
        assert shown.page.evaluate(f"({CENTRE})(document.querySelector('svg .pointer'))") == pytest.approx([x, y])
    shown.page.mouse.move(1, 1)
    assert shown.why.startswith("Point at a cell")
    assert shown.page.locator("svg .pointer").is_hidden()


def test_shift_and_an_arrow_move_the_cell_that_is_explained_and_stop_at_the_edge(opened):
    shown = opened()
    shown.choose(step=6)
    shown.picture.focus()
    moves = [("Right", 0, 6), ("Right", 1, 6), ("Down", 1, 7), ("Left", 0, 7), ("Left", 0, 7)]
    moves += [("Up", 0, t) for t in (6, 5, 4, 3, 2, 1, 0, 0)]
    for arrow, j, t in moves:
        shown.page.keyboard.press(f"Shift+Arrow{arrow}")
        assert_explains(shown.why, 16, "relaxed", 1, 6, j, t)
    shown.shows(16, "relaxed", 1, 6)
    shown.page.keyboard.press("End")  # the cell stays, and what is said of it is new
    assert_explains(shown.why, 16, "relaxed", 1, 16, 0, 0)


def test_every_control_and_the_picture_are_reached_by_tab_in_order_and_show_it(opened):
    shown = opened()
    focused = """() => {
        const { activeElement: at } = document;
        const style = getComputedStyle(at);
        const visible = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
        return at === document.body ? null : [at.dataset.control ?? at.tagName, visible];
    }"""
    reached = []
    for _ in range(20):
        shown.page.keyboard.press("Tab")
        reached.append(shown.page.evaluate(focused))
        if reached[-1] is None or reached[-1] in reached[:-1]:
            break
    order = ["L", "kind", "base", "first", "back", "play", "next", "last", "step", "speed", "svg"]
    assert reached[:-1] == [[name, True] for name in order]


def test_every_control_and_the_picture_have_a_name(opened):
    shown = opened()
    for role, names in {
        "slider": ["positions L", "inputs known n"],
        "combobox": ["kind", "base b", "speed"],
        "button": ["To the start", "One step back", "Play", "One step on", "To the end"],
        "img": ["Tiles in the triangle"],
    }.items():
        for name in names:
            assert shown.page.get_by_role(role, name=name).count() == 1
    assert shown.page.get_by_role("status").filter(has_text="No input is known yet").count() == 1


def test_a_key_press_changes_the_picture_before_anything_else_can_happen(opened):
    """So no timer and no frame lies between the two: what the browser draws next shows the step."""
    shown = opened()
    shown.choose(L=64, step=31)
    seen = shown.picture.evaluate(f"""(svg) => {{
        svg.dispatchEvent(new KeyboardEvent("keydown", {{ key: "ArrowRight", bubbles: true }}));
        return ({SEEN})();
    }}""")
    assert_shows(seen, 64, "relaxed", 1, 32)


CONTRASTS = """(selectors) => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const above = (node) => (node ? [node, ...above(node.parentElement)] : []);
    const paper = rgba(getComputedStyle(document.querySelector(".flashref-explorer")).backgroundColor);
    const [r, g, b] = paper;
    return {
        paper,
        texts: selectors.flatMap((selector) => [...document.querySelectorAll(selector)].map((node) => {
            const style = getComputedStyle(node);
            const drawn = rgba(node instanceof SVGElement ? style.fill : style.color);
            const part = above(node).reduce((product, one) => product * getComputedStyle(one).opacity, drawn[3] / 255);
            return [selector, drawn.slice(0, 3).map((c, i) => part * c + (1 - part) * paper[i])];
        })),
        tiles: [...document.querySelectorAll("svg text.step")].map((node, i) => {
            const tile = document.querySelectorAll("svg .tile")[i];
            return [tile.classList[1], rgba(getComputedStyle(node).fill), rgba(getComputedStyle(tile).fill)];
        }),
    };
}"""


def contrast(one: Sequence[float], other: Sequence[float]) -> float:
    """The contrast ratio of two colours, as WCAG 2 defines it."""

    def luminance(colour: Sequence[float]) -> float:
        parts = [c / 255 for c in colour[:3]]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_the_contrast_of_black_and_white_is_21_and_of_middle_gray_and_white_about_4_and_a_half():
    assert contrast([0, 0, 0], [255, 255, 255]) == pytest.approx(21)
    assert contrast([255, 255, 255], [118, 118, 118]) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(opened, scheme):
    shown = opened(color_scheme=scheme)
    shown.choose(L=22, step=6)
    texts = [".state", ".why", ".help", ".key", ".counters caption", ".counters th", ".counters td", "label", "output"]
    texts += [".cut", "button", "select:enabled", "svg text:not(.step)"]
    found = shown.page.evaluate(CONTRASTS, texts)
    dark = contrast(found["paper"], [0, 0, 0]) < contrast(found["paper"], [255, 255, 255])
    assert dark == (scheme == "dark")
    assert {selector for selector, _ in found["texts"]} == set(texts)
    assert [(text, ink) for text, ink in found["texts"] if contrast(ink, found["paper"]) < 4.5] == []
    assert {state for state, *_ in found["tiles"]} == {"done", "now", "owed"}
    assert [state for state, ink, fill in found["tiles"] if contrast(ink, fill) < 3] == []


BOXES = """() => {
    const parts = "label, button, svg, .cut:not([hidden]), .state, .legend, .counters, .why, .help, h1, body > p";
    const box = (node) => node.getBoundingClientRect();
    return {
        width: [document.documentElement.scrollWidth, document.documentElement.clientWidth],
        cut: [...document.querySelectorAll(parts)].filter((node) => node.scrollWidth > node.clientWidth + 1)
            .map((node) => node.textContent).filter((text) => text && !getSelection(text).length),
        boxes: [...document.querySelectorAll(parts)].map((node) => [
            node.dataset.control ?? (node.className.baseVal ?? node.className) + " " + node.textContent.slice(0, 15),
            box(node).left, box(node).top, box(node).right, box(node).bottom]),
    };
}"""


@pytest.mark.parametrize("scheme, width", [*itertools.product(["light", "dark"], [1280, 800, 420])])
def test_nothing_overlaps_or_is_wider_than_the_window(opened, scheme, width):
    shown = opened(color_scheme=scheme, viewport={"width": width, "height": 900})
    states = [(16, "relaxed", 6), (22, "relaxed", 3), (64, "relaxed", 48), (64, "lazy", 40), (1, "eager", 0)]
    for L, kind, step in [*states, (0, "lazy", 0)]:
        shown.choose(L=L, kind=kind, step=step)
        if L > 1:
            shown.page.mouse.move(*shown.centres()[2, 5])
            assert "Pair (2, 5)" in shown.why
        found = shown.page.evaluate(BOXES)
        assert found["width"][0] <= found["width"][1]
        assert len(found["boxes"]) > 15
        for name, left, top, right, bottom in found["boxes"]:
            assert 0 <= left < right <= width and top < bottom, name
        for one, other in itertools.combinations(found["boxes"], 2):
            apart = one[3] <= other[1] or other[3] <= one[1] or one[4] <= other[2] or other[4] <= one[2]
            assert apart, f"{one[0]} and {other[0]} overlap"
        picture(shown.page, f"explorer-{scheme}-{width}-{kind}-{L}")


def test_two_explorers_on_one_page_do_not_disturb_each_other(opened):
    shown = opened()
    script = (Path(explorer.__file__).parent / "explorer.js").read_text(encoding="utf-8")
    shown.page.evaluate(
        """async ([script, data]) => {
            const address = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
            const { mount } = await import(address);
            const second = document.createElement("div");
            second.id = "second";
            document.body.append(second);
            window.changes = [];
            window.second = mount(second, data, { L: 12, kind: "relaxed", base: 3, step: 5 },
                (state) => window.changes.push(state));
        }""",
        [script, explorer_data(3)],
    )
    shown.problems.clear()  # the script that was just brought in from memory counts as a request

    def both(first: int, second: int) -> None:
        assert_shows(shown.page.locator("#explorer").evaluate(SEEN), 16, "relaxed", 1, first)
        assert_shows(shown.page.locator("#second").evaluate(SEEN), 12, "relaxed", 3, second)

    both(0, 5)
    shown.page.locator("#second svg").focus()
    shown.page.keyboard.press("ArrowRight")
    both(0, 6)
    shown.page.locator('#explorer [data-control="last"]').click()
    both(16, 6)
    shown.page.locator("#explorer svg").hover()
    assert shown.page.locator("#second .why").text_content().startswith("Point at a cell")
    # What the reader changes is reported; what is set from outside is not.
    shown.page.evaluate("window.second.set({ step: 2 })")
    both(16, 2)
    assert shown.page.evaluate("window.changes") == [{"L": 12, "kind": "relaxed", "base": 3, "step": 6}]
