"""The slides that `make slides` makes: one page that asks nobody for anything, and shows every slide whole."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from browser import launched, picture
from playwright.sync_api import Browser, Page
from test_notebooks import joined
from test_project import ROOT, read

CELLS = json.loads(read("notebooks/slides/flash_inference.ipynb"))["cells"]
KINDS = [cell["metadata"]["slideshow"]["slide_type"] for cell in CELLS]
SLIDES = KINDS.count("slide")
OUTSIDE = """() => {
    const slide = Reveal.getCurrentSlide(), whole = slide.getBoundingClientRect();
    const seen = [...slide.querySelectorAll("*")].filter((part) => !part.closest("aside"));
    return seen.filter((part) => {
        const { left, right, top, bottom, width } = part.getBoundingClientRect();
        const out = [whole.left - left, whole.top - top, right - whole.right, bottom - whole.bottom];
        return width && Math.max(...out) > 1;
    }).map((part) => part.outerHTML.slice(0, 80));
}"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slides, made by the command that the Makefile has for them."""
    (command,) = re.findall(r"^slides:.*\n.*?\$\(RUN\) ((?:.*\\\n)*.*)$", read("Makefile"), re.MULTILINE)
    folder = tmp_path_factory.mktemp("made")
    words = command.replace("\\\n", " ").replace("--output-dir build", f"--output-dir {folder}").split()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    run = [sys.executable, "-m", *words]
    made = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    (file,) = folder.iterdir()
    assert f"build/{file.name}" in read("Makefile")
    return file


def test_the_notebook_holds_no_outputs_and_runs_from_top_to_bottom_into_figures_with_words():
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    drawn = [cell for cell in code if re.search(r"^figures\.", joined(cell["source"]), re.MULTILINE)]
    assert len(drawn) >= 12
    assert all(len(cell["metadata"]["alt"].split()) > 4 for cell in drawn)
    assert all(len(joined(cell["source"]).splitlines()) <= 25 for cell in code)


def test_every_slide_has_a_title_and_notes_for_the_speaker():
    starts = [i for i, kind in enumerate(KINDS) if kind == "slide"]
    for start, end in zip(starts, [*starts[1:], len(CELLS)], strict=True):
        assert re.match("##? .", joined(CELLS[start]["source"]))
        assert KINDS[start:end].count("notes") == 1, joined(CELLS[start]["source"])


def test_the_slides_are_one_file_that_names_no_other(page_file):
    text = page_file.read_text(encoding="utf-8")
    assert page_file.stat().st_size < 8e6
    assert "MIT licensed" in text  # reveal.js asks for its notice to stay
    page = re.sub(r"(?s)(<script\b[^>]*>).*?</script>", r"\1", text)
    assert re.findall(r"""\b(?:src|href)=["'](?!data:)[^"']*["']|url\((?!data:)[^)]*\)|@import""", page) == []


def test_the_plan_of_the_lecture_names_cells_and_slides_that_are_there():
    plan = read("notebooks/exercises/README.md").partition("## The lecture")[2].partition("\n## ")[0]
    named = re.findall(r"notebook (\d\d),\s+cell `([a-z]+-\d\d)`", plan, re.IGNORECASE)
    assert len(named) >= 5
    for number, cell in named:
        (notebook,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
        assert f'"id": "{cell}"' in notebook.read_text(encoding="utf-8"), (number, cell)
    slides = [
        int(n) for row in re.findall(r"^\| \d+ \| ([\d, to]+) \|", plan, re.MULTILINE) for n in re.findall(r"\d+", row)
    ]
    assert slides == sorted(slides) and (slides[0], slides[-1]) == (1, SLIDES)


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(browser: Browser, page_file: Path) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 720}, offline=True)
    page = context.new_page()
    page.asked, page.wrong = [], []
    context.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda message: page.wrong.append(message.text) if message.type == "error" else None)
    page.goto(page_file.as_uri())
    page.wait_for_function("window.Reveal?.isReady()")
    yield page
    context.close()


def here(page: Page) -> int:
    return page.evaluate("Reveal.getIndices().h")


def test_the_arrow_keys_move_through_all_slides_and_back(page):
    assert page.evaluate("Reveal.getTotalSlides()") == SLIDES
    page.evaluate("Reveal.slide(0)")
    for i in range(1, SLIDES):
        page.keyboard.press("ArrowRight")
        assert here(page) == i
    page.keyboard.press("ArrowRight")
    assert here(page) == SLIDES - 1
    page.keyboard.press("ArrowLeft")
    assert here(page) == SLIDES - 2


@pytest.mark.parametrize("i", range(SLIDES))
def test_nothing_of_a_slide_is_outside_it_and_its_figure_is_large(page, i):
    page.evaluate(f"Reveal.slide({i})")
    picture(page, f"slide_{i + 1:02}")
    assert page.evaluate(OUTSIDE) == []
    heights = page.evaluate("[...document.querySelectorAll('section.present .figure')].map((f) => f.clientHeight)")
    assert all(height > 400 for height in heights)
    assert "$" not in page.locator("section.present").inner_text()


def test_what_is_outside_a_slide_would_be_found(page):
    page.evaluate("Reveal.slide(2)")
    page.evaluate("document.querySelector('section.present h2').style.marginTop = '700px'")
    found = page.evaluate(OUTSIDE)
    page.evaluate("document.querySelector('section.present h2').style.marginTop = ''")
    assert any(part.startswith("<h2") for part in found) and page.evaluate(OUTSIDE) == []


def test_the_key_s_opens_the_speakers_view_with_the_notes_of_the_slide(page):
    page.evaluate("Reveal.slide(3)")
    with page.context.expect_page() as opened:
        page.keyboard.press("s")
    notes = opened.value.locator(".speaker-controls-notes .value")
    notes.get_by_text("Minute").wait_for()
    assert notes.inner_text().split()[:2] == page.evaluate(
        "document.querySelector('section.present aside').textContent.trim().split(/\\s+/).slice(0, 2)"
    )
    opened.value.close()


def test_the_page_asks_nobody_for_anything_and_has_no_errors(page, page_file):
    assert {url for url in page.asked if not url.startswith(("data:", page_file.as_uri()))} <= {"about:blank"}
    assert page.wrong == []


def test_printed_they_are_a_page_each(browser, page_file):
    printed = browser.new_page()
    printed.goto(f"{page_file.as_uri()}?print-pdf")
    printed.wait_for_function("document.querySelectorAll('.pdf-page').length > 0")
    pdf = printed.pdf(prefer_css_page_size=True, print_background=True)
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == SLIDES
    printed.close()


def test_without_scripts_the_slides_stand_below_each_other_in_order(browser, page_file):
    context = browser.new_context(viewport={"width": 1280, "height": 720}, java_script_enabled=False)
    still = context.new_page()
    still.goto(page_file.as_uri())
    boxes = [section.bounding_box() for section in still.locator("section").all()]
    assert len(boxes) == SLIDES
    for above, below in pairwise(boxes):
        assert above["y"] + above["height"] <= below["y"] + 1
    assert still.locator("section h2").first.is_visible()
    picture(still, "slides_without_scripts")
    context.close()
