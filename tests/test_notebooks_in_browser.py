"""Every notebook in a real JupyterLab: run from the menu, every widget moved, looked at in both themes."""

import itertools
import os
import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from browser import ROOT, Notebook, jupyterlab, launched, open_lab, picture
from playwright.sync_api import Locator, TimeoutError, expect
from test_explorer import SEEN, assert_explains, assert_shows

from flashref.tiling import radix_cost
from flashref.widgets.timeline_explorer import timeline_data

NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
PATIENCE = 60_000  # milliseconds: how long a busy kernel may take to answer
# What is drawn or said, as far as a slider can change it.
SHOWN = """(output) => [...output.querySelectorAll("svg, img, canvas, .widget-html-content, .state")].map(
    (node) => node.src ?? (node.toDataURL ? node.toDataURL() : node.innerHTML + (node.textContent ?? "")))"""


class Opened:
    """A notebook that was opened as it was cloned, and then run."""

    def __init__(self, notebook: Notebook) -> None:
        self.notebook = notebook
        # Before anything runs: how wide the still pictures and tables are, and what the page says beside them.
        self.stills = [
            output.evaluate(
                """async (output) => {
                    const images = [...output.querySelectorAll("img")];
                    await Promise.all(images.map((image) => image.decode()));
                    return {
                        widths: [...images, ...output.querySelectorAll("table, svg")].map((node) => node.clientWidth),
                        text: output.textContent,
                    };
                }"""
            )
            for output in notebook.widgets()
        ]
        notebook.run_all()
        self.failures = notebook.errors()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Opened]]:
    """Opens a notebook beside those that are open, and runs it; each only once."""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("clone")
    with launched() as browser, jupyterlab(folder, home) as address:
        page = open_lab(browser, address)
        found: dict[str, Opened] = {}

        def open_notebook(name: str) -> Opened:
            if name not in found:
                found[name] = Opened(Notebook(page, f"notebooks/{name}.ipynb"))
            found[name].notebook.show()
            return found[name]

        yield open_notebook


def named(start: str) -> str:
    return next(name for name in NAMES if name.startswith(start))


@pytest.mark.parametrize("name", NAMES)
def test_as_cloned_a_notebook_shows_a_picture_or_a_table_in_place_of_each_widget(opened, name):
    for still in opened(name).stills:
        assert max(still["widths"], default=0) > 200
        assert "widget" not in still["text"]


@pytest.mark.parametrize("name", NAMES)
def test_run_from_the_menu_every_cell_ends_without_an_error_and_every_widget_is_shown(opened, name):
    shown = opened(name)
    assert shown.failures == []
    assert len(shown.notebook.widgets()) == len(shown.stills)
    for output in shown.notebook.widgets():
        expect(output.locator(".jupyter-widgets, .flashref-explorer").first).to_be_visible(timeout=PATIENCE)
        expect(output).not_to_contain_text(re.compile("Error displaying widget|Loading widget"), timeout=PATIENCE)


def press(output: Locator, slider: Locator, key: str) -> None:
    """Press a key on a slider, and wait until what is shown beside it has changed."""
    before = output.evaluate(SHOWN)
    slider.focus()
    output.page.keyboard.press(key)
    output.page.wait_for_function(
        f"([output, before]) => JSON.stringify(({SHOWN})(output)) !== JSON.stringify(before)",
        arg=[output.element_handle(), before],
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_slider_of_a_notebook_changes_what_is_shown_beside_it(opened, name):
    for output in opened(name).notebook.widgets():
        sliders = output.get_by_role("slider").all()
        assert sliders
        for slider in sliders:
            at_end = slider.evaluate(
                "(node) => (node.max ?? node.ariaValueMax) - (node.value ?? node.ariaValueNow) <= 0"
            )
            press(output, slider, "ArrowLeft" if at_end else "ArrowRight")


# Controls, pictures and words that are cut off at the side, and sliders too short to be moved. A table may scroll.
CUT = """(output) => {
    const { left, right } = output.getBoundingClientRect();
    const boxes = (node) => {
        if (node.nodeType !== Node.TEXT_NODE) return [...node.getClientRects()];
        const range = new Range();
        range.selectNodeContents(node);
        return [...range.getClientRects()];
    };
    const words = document.createTreeWalker(output, NodeFilter.SHOW_TEXT);
    const nodes = [...output.querySelectorAll("button, select, input, svg, img, .noUi-target")];
    while (words.nextNode()) if (!words.currentNode.parentElement.closest("table, svg")) nodes.push(words.currentNode);
    const outside = (box) => box.left < left - 1 || box.right > right + 1;
    const short = (node) => node.matches?.("input[type=range], .noUi-target") && node.clientWidth < 60;
    return nodes.filter((node) => boxes(node).some(outside) || short(node)).map((node) => node.outerHTML ?? node.data);
}"""


@pytest.mark.parametrize("name", NAMES)
def test_every_widget_fits_beside_the_file_browser_in_both_themes_at_1280_and_at_800_pixels(opened, name):
    notebook = opened(name).notebook
    page = notebook.page
    for theme, width in itertools.product(("Light", "Dark"), (1280, 800)):
        notebook.theme(f"JupyterLab {theme}")
        page.set_viewport_size({"width": width, "height": 900})
        for output in notebook.widgets():
            # The page is laid out anew a little after the window has its new size.
            page.wait_for_function("([width]) => document.querySelector('#main').clientWidth === width", arg=[width])
            handle = output.element_handle()
            try:
                page.wait_for_function(f"(output) => ({CUT})(output).length === 0", arg=handle, timeout=10_000)
            except TimeoutError:
                assert output.evaluate(CUT) == [], f"{theme}, {width} pixels"
            picture(output, f"widget-{name[:2]}-{theme.lower()}-{width}")
        if os.environ.get("FLASHREF_SCREENSHOTS"):
            height = page.evaluate(
                """() => {
                    const { outerNode } = window.jupyterapp.shell.currentWidget.content;
                    outerNode.scrollTop = 0;
                    return outerNode.scrollHeight;
                }"""
            )
            page.set_viewport_size({"width": width, "height": min(height + 150, 16_000)})
            picture(page, f"notebook-{name[:2]}-{theme.lower()}-{width}")
    notebook.theme("JupyterLab Light")
    page.set_viewport_size({"width": 1280, "height": 900})


def drag(slider: Locator, part: float) -> None:
    """Drag a slider of the browser's own with the mouse to a part of its width."""
    slider.scroll_into_view_if_needed()
    box, value, most = slider.bounding_box(), float(slider.input_value()), float(slider.get_attribute("max"))
    mouse, y = slider.page.mouse, box["y"] + box["height"] / 2
    mouse.move(box["x"] + 8 + (box["width"] - 16) * value / most, y)
    mouse.down()
    mouse.move(box["x"] + 8 + (box["width"] - 16) * part, y, steps=8)
    mouse.up()


def test_the_tile_explorer_of_notebook_02_shows_what_schedule_says_and_the_kernel_knows_its_choices(opened):
    notebook = opened(named("02")).notebook
    (output,) = notebook.widgets()
    control = {name: output.locator(f'[data-control="{name}"]') for name in ("L", "kind", "base", "step", "speed")}
    chosen = "(explorer.L, explorer.kind, explorer.base, explorer.step)"

    control["speed"].select_option("fast")
    control["L"].focus()
    for key in ("Home", *["ArrowRight"] * 6):
        notebook.page.keyboard.press(key)
    assert_shows(output.evaluate(SEEN), 6, "relaxed", 1, 0)
    output.get_by_role("button", name="Play").click()
    expect(output.locator(".state")).to_contain_text("none owed", timeout=PATIENCE)
    assert_shows(output.evaluate(SEEN), 6, "relaxed", 1, 6)
    assert notebook.ask(chosen) == (6, "relaxed", 1, 6)

    control["L"].focus()
    notebook.page.keyboard.press("End")
    control["base"].select_option("2")
    drag(control["step"], 0.7)
    step = int(control["step"].input_value())
    assert 40 <= step <= 50
    assert_shows(output.evaluate(SEEN), 64, "relaxed", 2, step)
    assert notebook.ask(chosen) == (64, "relaxed", 2, step)

    centres = """(svg) => [...svg.querySelectorAll(".red")].map((node) => {
        const { left, right, top, bottom } = node.getBoundingClientRect();
        return [(left + right) / 2, (top + bottom) / 2];
    })"""
    triangle = output.locator(".picture svg")
    triangle.scroll_into_view_if_needed()
    reds = triangle.evaluate(centres)
    for j, t in [(3, 3), (step - 3, step), (60, 63), (40, 20), (2, 40)]:
        notebook.page.mouse.move(reds[j][0], reds[t][1])
        assert_explains(output.locator(".why").text_content(), 64, "relaxed", 2, step, j, t)

    # JupyterLab has commands of its own for these keys, such as "delete this cell" for d d.
    cells = len(notebook.code_cells("(cell) => cell.model.id"))
    triangle.focus()
    for key in ("Home", "ArrowRight", "End", "ArrowLeft", "Shift+ArrowUp", "Shift+ArrowLeft"):
        notebook.page.keyboard.press(key)
    assert_shows(output.evaluate(SEEN), 64, "relaxed", 2, 63)
    assert_explains(output.locator(".why").text_content(), 64, "relaxed", 2, 63, 1, 39)
    for focused in [*control.values(), output.get_by_role("button").first, triangle]:
        focused.focus()
        for key in "ddxmyb":
            notebook.page.keyboard.press(key)
        expect(focused).to_be_focused()
    assert len(notebook.code_cells("(cell) => cell.model.id")) == cells

    # And the other way: what the kernel sets, the page shows.
    notebook.ask("None", first="explorer.L, explorer.kind, explorer.step = 13, 'eager', 5")
    expect(output.locator(".state")).to_contain_text("5 of 13 inputs known", timeout=PATIENCE)
    expect(control["kind"]).to_have_value("eager", timeout=PATIENCE)
    assert_shows(output.evaluate(SEEN), 13, "eager", 1, 5)


def test_the_stepper_of_notebook_01_ends_at_the_product_in_every_order_and_gives_out_what_is_known(opened):
    notebook = opened(named("01")).notebook
    (output,) = notebook.widgets()
    x, rho = notebook.ask("([int(i) for i in x], [int(i) for i in rho])")
    product = np.convolve(x, rho)[: len(x)].tolist()
    slider = output.get_by_role("slider")
    for kind in ("lazy", "eager", "relaxed"):
        slider.focus()
        notebook.page.keyboard.press("Home")
        output.locator("select").select_option(kind)
        expect(output).to_contain_text("no input is known", timeout=PATIENCE)
        for key, n in [("ArrowRight", 1), ("ArrowRight", 2), ("ArrowRight", 3), ("End", len(x))]:
            press(output, slider, key)
            expect(output.locator("p")).to_contain_text(f"n = {n}:", timeout=PATIENCE)
            expect(output.locator("p")).to_contain_text(kind if n < len(x) else "All red cells", timeout=PATIENCE)
            sums = output.locator(".sum").all_text_contents()
            assert [int(number) for number in sums[:n]] == product[:n]


def test_the_cost_explorer_of_notebook_03_says_what_radix_cost_says(opened):
    notebook = opened(named("03")).notebook
    (output,) = notebook.widgets()
    power, base, radix = output.get_by_role("slider").all()
    for slider, key in [(power, "ArrowRight"), (base, "ArrowRight"), (radix, "ArrowRight"), (base, "ArrowRight")]:
        press(output, slider, key)
        said = output.locator(".widget-html-content").text_content()
        L, b, r = (int(re.search(words, said)[1].replace(",", "")) for words in
                   (r"L = ([\d,]+)", r"Base (\d+),", r"radix (\d+):"))  # fmt: skip
        assert f"{radix_cost(L, r, b).total:,} in all" in said


def test_the_filter_viewer_of_notebook_04_draws_and_names_what_is_chosen(opened):
    notebook = opened(named("04")).notebook
    (output,) = notebook.widgets()
    mixer, channel = output.get_by_role("slider").all()
    for slider, key in [(mixer, "Home"), (mixer, "ArrowRight"), (channel, "Home"), (channel, "ArrowRight")]:
        if slider.get_attribute("aria-valuenow") != slider.get_attribute("aria-valuemin") or key != "Home":
            press(output, slider, key)
    expect(output).to_contain_text("mixer 1, channel 1", timeout=PATIENCE)
    for name in ("logarithmic", "linear"):
        for button in output.get_by_role("button", name=name).all():
            before = output.locator("img").get_attribute("src")
            if "mod-active" not in button.get_attribute("class"):
                button.click()
                expect(output.locator("img")).not_to_have_attribute("src", before, timeout=PATIENCE)


def test_the_timeline_of_notebook_06_is_laid_anew_by_the_kernel_and_explains_every_job(opened):
    notebook = opened(named("06")).notebook
    (output,) = notebook.widgets()
    control = {name: output.locator(f'[data-control="{name}"]') for name in ("M", "L", "mode", "base", "call")}
    kernel = "(explorer.M, explorer.L, explorer.mode, explorer.base, explorer.call, explorer.at)"
    picture_, state = output.locator(".picture svg"), output.locator(".state")

    def shows(*chosen, at):
        data = timeline_data(*chosen)
        expect(state).to_have_text(data["moments"][at]["said"], timeout=PATIENCE)
        expect(output.locator("svg .job")).to_have_count(len(data["jobs"]), timeout=PATIENCE)
        assert notebook.ask(kernel) == (*chosen, at)
        return data

    control["mode"].select_option("bounded")
    control["call"].select_option("16")
    control["M"].focus()
    notebook.page.keyboard.press("Home")
    notebook.page.keyboard.press("ArrowRight")
    expect(output.locator("svg text", has_text="mixer 1")).to_have_count(2, timeout=PATIENCE)
    picture_.focus()
    notebook.page.keyboard.press("Home")
    for _ in range(4):
        notebook.page.keyboard.press("ArrowRight")
    data = shows(2, int(control["L"].input_value()), "bounded", 1, 16, at=4)

    picture_.scroll_into_view_if_needed()
    boxes = output.locator("svg .job").evaluate_all("(nodes) => nodes.map((node) => node.getBoundingClientRect())")
    for i in (0, 5, len(boxes) - 1):
        notebook.page.mouse.move(boxes[i]["x"] + boxes[i]["width"] / 2, boxes[i]["y"] + boxes[i]["height"] / 2)
        expect(output.locator(".why")).to_have_text(data["jobs"][i]["text"], timeout=PATIENCE)

    # JupyterLab has commands of its own for these keys, such as "delete this cell" for d d.
    cells = len(notebook.code_cells("(cell) => cell.model.id"))
    for focused in [*control.values(), picture_]:
        focused.focus()
        for key in "ddxmyb":
            notebook.page.keyboard.press(key)
        expect(focused).to_be_focused()
    assert len(notebook.code_cells("(cell) => cell.model.id")) == cells

    notebook.ask(
        "None", first="explorer.M, explorer.L, explorer.mode, explorer.base, explorer.call = 3, 4, 'early', 2, 0"
    )
    expect(output.locator("svg text", has_text="mixer 2")).to_have_count(2, timeout=PATIENCE)
    notebook.ask("None", first="explorer.at = 2")
    shows(3, 4, "early", 2, 0, at=2)
    expect(control["mode"]).to_have_value("early", timeout=PATIENCE)
