"""The timeline explorer: what it is fed, what it refuses, and what a browser shows of it."""

import base64
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import traitlets
from browser import launched, picture
from playwright.sync_api import Browser, Locator, Page
from test_explorer import contrast

from flashref.dependencies import Job
from flashref.timeline import MODES, Costs, timeline
from flashref.widgets import timeline_explorer
from flashref.widgets.timeline_explorer import HERE, TimelineExplorer, timeline_data

STATES = [(3, 8, "batched", 1, 4), (4, 16, "bounded", 2, 16), (2, 5, "early", 1, 0), (1, 1, "sequential", 1, 4)]


# Without a browser


@pytest.mark.parametrize("state", STATES)
def test_the_explorer_is_told_where_each_job_lies_and_what_every_mode_takes(state):
    M, L, mode, base, call = state
    data, lay = timeline_data(*state), timeline(M, L, mode, base, Costs(call=call))
    assert data["of"] == list(state)
    for i, (job, told) in enumerate(zip(lay.jobs, data["jobs"], strict=True)):
        assert (told["start"], told["end"], told["stream"]) == (lay.starts[i], lay.ends[i], lay.streams[i])
        assert (told["first"], told["last"]) == (job.mixers[0], job.mixers[-1])
        assert told["label"] == str(job.step if job.tile is None else len(job.tile.inputs))
        assert (told["needs"], told["critical"]) == (lay.needs[i], i in lay.critical)
    for name, numbers in data["modes"]:
        other = timeline(M, L, name, base, Costs(call=call))
        idle = " + ".join(str(n) for n in other.idle)
        assert numbers == [other.length, other.critical_length, other.calls, other.longest_step, idle]
    assert [name for name, _ in data["modes"]] == list(MODES)
    json.dumps(data)


@pytest.mark.parametrize("state", STATES)
def test_a_moment_says_what_runs_then_and_how_many_positions_are_complete(state):
    M, L, mode, base, call = state
    data, lay = timeline_data(*state), timeline(M, L, mode, base, Costs(call=call))
    assert [moment["time"] for moment in data["moments"]] == sorted({*lay.starts, lay.length})
    for moment in data["moments"][:-1]:
        time, said = moment["time"], moment["said"]
        running = [job for i, job in enumerate(lay.jobs) if lay.starts[i] <= time < lay.ends[i]]
        assert running and all(str(job) in said for job in running)
        assert said.count("cell (") == sum(job.tile is None for job in running)
        complete = sum(
            end <= time for job, end in zip(lay.jobs, lay.ends, strict=True) if job == Job(range(M - 1, M), job.step)
        )
        assert said.startswith(f"Time {time} of {lay.length}.") and f" {complete} of {L} positions are complete" in said
    assert "all done" in data["moments"][-1]["said"]


@pytest.mark.parametrize("state", STATES)
def test_a_job_is_explained_by_its_times_its_needs_and_what_it_waited_for(state):
    M, L, mode, base, call = state
    data, lay = timeline_data(*state), timeline(M, L, mode, base, Costs(call=call))
    for i, job in enumerate(data["jobs"]):
        text, needed = job["text"], lay.needs[i]
        assert (
            str(lay.jobs[i])[1:] in text and f": {lay.starts[i]} to {lay.ends[i]} on stream {lay.streams[i]}." in text
        )
        cells = sum(lay.jobs[j].tile is None for j in needed)
        for count, what in ((cells, "cell"), (len(needed) - cells, "tile")):
            assert bool(re.search(rf"\b{count} {what}s?\b.*framed", text)) == bool(count)
        if lay.waited[i] is None:
            assert "It starts at once." in text
        else:
            assert f"{lay.jobs[lay.waited[i]]}." in text
            assert ("waited for its stream" in text) == (lay.waited[i] not in needed)
        assert ("longest chain" in text) == (i in lay.critical)


REFUSED = [
    ({"M": 0}, ValueError, r"M must be one of 1 \.\. 4 to be drawn, got 0"),
    ({"M": 5}, ValueError, r"M must be one of 1 \.\. 4 to be drawn, got 5"),
    ({"M": 2.0}, (TypeError, traitlets.TraitError), "M.* int.*float"),
    ({"L": 17}, ValueError, r"L must be one of 1 \.\. 16 to be drawn, got 17"),
    ({"L": True}, (TypeError, traitlets.TraitError), "L.* int.*bool"),
    ({"mode": "fast"}, ValueError, "mode must be one of 'sequential', .* got 'fast'"),
    ({"base": 3}, ValueError, "base must be one of 1, 2, 4 to be drawn, got 3"),
    ({"call": 5}, ValueError, "call must be one of 0, 4, 16 to be drawn, got 5"),
    ({"at": -1}, ValueError, r"at must lie in 0 \.\. 31, the moments of this timeline, got -1"),
    ({"at": 32}, ValueError, r"at must lie in 0 \.\. 31, the moments of this timeline, got 32"),
]


@pytest.mark.parametrize("change, error, words", REFUSED)
def test_bad_settings_are_refused_by_name_when_made_and_when_set_and_nothing_changes(change, error, words):
    with pytest.raises(error, match=words):
        timeline_explorer(**change)
    shown = timeline_explorer(at=5)
    ((name, value),) = change.items()
    with pytest.raises(error, match=words):
        setattr(shown, name, value)
    assert (shown.M, shown.L, shown.mode, shown.base, shown.call, shown.at) == (3, 8, "batched", 1, 4, 5)
    assert shown.data["of"] == [3, 8, "batched", 1, 4]


def test_a_choice_lays_the_jobs_anew_and_a_shorter_timeline_takes_the_moment_with_it():
    shown = timeline_explorer(M=4, L=16, mode="sequential", at=100)
    shown.mode = "early"
    assert shown.data == timeline_data(4, 16, "early", 1, 4)
    shown.L = 2
    assert shown.data == timeline_data(4, 2, "early", 1, 4)
    assert shown.at == len(shown.data["moments"]) - 1 < 100


def test_where_no_widget_can_be_shown_there_is_a_picture_and_a_sentence():
    bundle, _ = timeline_explorer(2, 4, "bounded")._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    said = "The timeline of 2 mixers and 4 positions, bounded. Time"
    assert bundle["text/plain"].startswith(said) and "8 cells" in bundle["text/plain"]


# In a browser: a page that asks Python for the data of each choice, as the widget does

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<style>{css}</style><div id="shown"></div><script type="module">{js}
window.told = [];
window.shown = mount(document.getElementById("shown"), {data}, {state}, async (state) => {{
    window.told.push(state);
    const answer = await window.lay(state);
    window.shown.set(...answer);
}});</script></html>"""
NAMES = ["M", "L", "mode", "base", "call"]

SEEN = """() => {
    const all = (selector, root = document) => [...root.querySelectorAll(selector)];
    const texts = (selector, root) => all(selector, root).map((node) => node.textContent);
    const place = (node) => ["x", "y", "width", "height"].map((name) => Number(node.getAttribute(name)));
    return {
        jobs: all("svg .job").map((node) => [...node.classList, Number(node.dataset.job), place(node)]),
        chain: all("svg .critical").length,
        said: texts(".state")[0],
        why: texts(".why")[0],
        present: texts(".counters .present th")[0],
        table: all(".counters tr").slice(1).map((row) => [texts("th", row)[0], texts("td", row)]),
    };
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


class Shown:
    def __init__(self, page: Page, file: Path, clock: bool) -> None:
        self.page, self.problems = page, []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda message: self.problems.append(message.text))
        page.expose_function("lay", self.lay)
        if clock:
            page.clock.install(time=0)
        state = dict(zip(NAMES, STATES[0], strict=True), at=0)
        js, css = ((HERE / f"timeline_explorer.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
        css = (HERE / "explorer.css").read_text(encoding="utf-8") + css
        html = PAGE.format(js=js, css=css, data=json.dumps(timeline_data(*STATES[0])), state=json.dumps(state))
        file.write_text(html, encoding="utf-8")
        page.goto(file.as_uri())
        if clock:
            page.clock.pause_at(1000)

    def lay(self, state: dict) -> list:
        """What the kernel answers: the data of what the reader chose, and the last moment if there are no more."""
        made = TimelineExplorer(**{name: state[name] for name in NAMES})
        most = len(made.data["moments"]) - 1
        return [{"at": most} if state["at"] > most else {}, made.data]

    def control(self, name: str) -> Locator:
        return self.page.locator(f'[data-control="{name}"]')

    def choose(self, *state: int | str) -> None:
        for name, value in zip(NAMES, state, strict=True):
            self.control(name).evaluate(
                "(node, value) => { node.value = value; node.dispatchEvent(new Event('input')); }", value
            )
            self.page.wait_for_function(f"window.told.at(-1).{name} === {json.dumps(value)}")
        # The answer to the last choice has come when the table says so: every mode's numbers are in it.
        data = timeline_data(*state)
        table = [[name, [str(n) for n in numbers]] for name, numbers in data["modes"]]
        self.page.wait_for_function(
            f"(table) => JSON.stringify(({SEEN})().table) === JSON.stringify(table)", arg=table, timeout=10_000
        )

    def shows(self, state: tuple, at: int) -> dict:
        """What the page shows at a moment is what timeline says; returns what was seen."""
        M, L, mode, base, call = state
        lay, data, seen = timeline(M, L, mode, base, Costs(call=call)), timeline_data(*state), self.page.evaluate(SEEN)
        time = data["moments"][at]["time"]
        assert seen["said"] == data["moments"][at]["said"] and seen["present"] == mode
        assert seen["chain"] == len(lay.critical)
        unit = max(x + width for *_, (x, _, width, _) in seen["jobs"]) - 62  # the left edge of the rows
        for (_, kind, when, i, (x, y, width, height)), job, start, end in zip(
            seen["jobs"], lay.jobs, lay.starts, lay.ends, strict=True
        ):
            assert kind == ("cell" if job.tile is None else "tile") and lay.jobs[i] == job
            assert when == ("done" if end <= time else "now" if start <= time else "owed")
            assert x == pytest.approx(62 + start * unit / lay.length, abs=0.1)
            assert width == pytest.approx((end - start) * unit / lay.length, abs=0.1)
            assert height == 30 * len(job.mixers) - 4
            assert y == 26 + lay.streams[i] * (30 * M + 16) + 30 * job.mixers[0]
        assert self.control("at").input_value() == str(at)
        return seen


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Shown]]:
    contexts, pages = [], []

    def open_page(clock: bool = False, **options) -> Shown:
        contexts.append(browser.new_context(offline=True, **options))
        pages.append(Shown(contexts[-1].new_page(), tmp_path / "page.html", clock))
        return pages[-1]

    yield open_page
    assert [problem for shown in pages for problem in shown.problems] == []
    for context in contexts:
        context.close()


@pytest.mark.parametrize("state", STATES)
def test_every_moment_shows_what_timeline_says(opened, state):
    shown = opened()
    if state != STATES[0]:
        shown.choose(*state)
    last = len(timeline_data(*state)["moments"]) - 1
    for at in {0, 1, last // 2, last - 1, last} & set(range(last + 1)):
        shown.control("at").evaluate("(node, at) => { node.value = at; node.dispatchEvent(new Event('input')); }", at)
        shown.shows(state, at)


def test_buttons_and_keys_step_and_stay_within_the_timeline(opened):
    shown = opened()
    for button, at in [("back", 0), ("next", 1), ("next", 2), ("last", 31), ("next", 31), ("back", 30), ("first", 0)]:
        shown.control(button).click()
        shown.shows(STATES[0], at)
    shown.page.locator("svg").focus()
    for key, at in [("ArrowLeft", 0), ("ArrowRight", 1), ("End", 31), ("ArrowRight", 31), ("Home", 0)]:
        shown.page.keyboard.press(key)
        shown.shows(STATES[0], at)
    assert [state["at"] for state in shown.page.evaluate("window.told")][-5:] == [0, 1, 31, 31, 0]


def test_it_plays_to_the_end_and_stops_there_and_a_key_stops_it(opened):
    shown = opened(clock=True)
    shown.control("play").click()
    assert shown.control("play").get_attribute("aria-label") == "Pause"
    shown.page.clock.run_for(1600)
    at = int(shown.control("at").input_value())
    assert at in (2, 3)  # a moment lasts 500 ms; on a busy machine the first may begin before the clock stands still
    shown.shows(STATES[0], at)
    shown.page.locator("svg").focus()
    shown.page.keyboard.press(" ")
    shown.page.clock.run_for(5000)
    shown.shows(STATES[0], at)
    shown.page.keyboard.press(" ")
    shown.page.clock.run_for(60_000)
    shown.shows(STATES[0], 31)
    assert shown.control("play").get_attribute("aria-label") == "Play"


def test_the_job_under_the_mouse_is_framed_and_explained_and_its_needs_are_framed_too(opened):
    shown = opened(viewport={"width": 1280, "height": 900})
    state = (3, 8, "bounded", 1, 4)
    shown.choose(*state)
    data = timeline_data(*state)
    boxes = shown.page.evaluate(
        "() => [...document.querySelectorAll('svg .job')].map((node) => node.getBoundingClientRect())"
    )
    for i, box in enumerate(boxes):
        shown.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert shown.page.evaluate(SEEN)["why"] == data["jobs"][i]["text"]
        assert shown.page.locator("svg .needed").count() == len(data["jobs"][i]["needs"])
        assert shown.page.locator("svg .chosen").count() == 1
    shown.page.mouse.move(1, 1)
    assert shown.page.evaluate(SEEN)["why"].startswith("Point at a job")
    assert shown.page.locator("svg .chosen, svg .needed").count() == 0


def test_shift_and_an_arrow_choose_the_next_job_in_time_and_stop_at_the_ends(opened):
    shown = opened()
    texts = [job["text"] for job in timeline_data(*STATES[0])["jobs"]]
    order = sorted(range(len(texts)), key=lambda i: timeline_data(*STATES[0])["jobs"][i]["start"])
    shown.page.locator("svg").focus()
    for key, place in [("Right", 0), ("Left", 0), ("Right", 1), ("Right", 2), ("Right", 3), ("Left", 2)]:
        shown.page.keyboard.press(f"Shift+Arrow{key}")
        assert shown.page.evaluate(SEEN)["why"] == texts[order[place]]
    for _ in range(len(texts)):
        shown.page.keyboard.press("Shift+ArrowRight")
    assert shown.page.evaluate(SEEN)["why"] == texts[order[-1]]
    shown.shows(STATES[0], 0)


def test_the_close_view_keeps_the_present_in_sight(opened):
    shown = opened()
    shown.choose(4, 16, "sequential", 1, 16)
    shown.control("view").select_option("close")
    for key in ("Home", "End", *["ArrowLeft"] * 9):
        shown.page.locator("svg").focus()
        shown.page.keyboard.press(key)
        x = float(shown.page.locator("svg .time").get_attribute("x1"))
        width = shown.page.evaluate("document.querySelector('svg').clientWidth")
        assert 61 <= x <= width
        if key != "End":
            assert shown.page.locator("svg .job.now").count() == 1


def test_controls_have_names_and_are_reached_by_tab(opened):
    shown = opened()
    for role, names in {
        "slider": ["mixers M", "positions L", "moment"],
        "combobox": ["mode", "base b", "a call costs", "speed", "view"],
        "button": ["To the start", "One moment back", "Play", "One moment on", "To the end"],
        "img": ["Jobs over time"],
    }.items():
        for name in names:
            assert shown.page.get_by_role(role, name=name).count() == 1
    reached = []
    for _ in range(14):
        shown.page.keyboard.press("Tab")
        reached.append(shown.page.evaluate("document.activeElement.dataset.control ?? document.activeElement.tagName"))
    order = ["M", "L", "mode", "base", "call", "first", "back", "play", "next", "last", "at", "speed", "view", "svg"]
    assert reached == order


@pytest.mark.parametrize("scheme, width", [*itertools.product(["light", "dark"], [1280, 800, 420])])
def test_nothing_is_wider_than_the_window_and_text_can_be_read(opened, scheme, width):
    shown = opened(color_scheme=scheme, viewport={"width": width, "height": 900})
    for state in STATES[:2]:
        if state != STATES[0]:
            shown.choose(*state)
        shown.page.locator("svg").focus()
        for key in ("Home", "ArrowRight", "Shift+ArrowRight"):
            shown.page.keyboard.press(key)
        wide, view = shown.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide <= view
        picture(shown.page, f"timeline-{scheme}-{width}-{state[2]}")
    inks = shown.page.evaluate("""() => {
        const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        const rgb = (colour) => {
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
        };
        const paper = rgb(getComputedStyle(document.querySelector(".flashref-timeline")).backgroundColor);
        return [".state", ".why", ".counters td", "label", "svg text:not(.label)"].flatMap(
            (name) => [...document.querySelectorAll(name)].map((node) => {
                const style = getComputedStyle(node);
                return [rgb(node instanceof SVGElement ? style.fill : style.color), paper];
            }));
    }""")
    assert len(inks) > 20 and all(contrast(ink, paper) >= 4.5 for ink, paper in inks)
