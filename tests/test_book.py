"""The book that `make book` makes: built once, read as files, and opened in a browser that may ask nobody else."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from browser import launched, picture
from PIL import Image
from playwright.sync_api import Browser, Page
from test_project import ROOT, read

SOURCES = ["notebooks/*.ipynb", "notebooks/exercises/release/*/*.ipynb"]
NOTEBOOKS = [path.relative_to(ROOT).with_suffix(".html") for folder in SOURCES for path in sorted(ROOT.glob(folder))]
REFERENCE = [path.relative_to(ROOT).with_suffix(".html") for path in sorted(ROOT.glob("docs/api/*.rst"))]
PAGES = ["docs/index.html", "docs/many_devices.html", *map(Path.as_posix, NOTEBOOKS + REFERENCE)]
PAGES += ["search.html?q=tiles", "genindex.html", "_modules/flashref/tiled_cpu.html"]
WIDTHS = (1280, 390)  # a desktop and a phone


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book, made by the command that the Makefile has for it."""
    (command,) = re.findall(r"^book:.*\n(?:.*\n)*?\t\$\(RUN\) (sphinx .*) build/book$", read("Makefile"), re.MULTILINE)
    folder = tmp_path_factory.mktemp("made").resolve() / "book"
    run = [sys.executable, "-m", *command.replace("build/", f"{folder.parent}/").split(), folder]
    made = subprocess.run(run, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="session")
def pages(book: Path) -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in book.rglob("*.html") if "_static" not in path.parts}


def as_text(page: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", page))


def test_the_front_page_leads_to_the_contents(book, pages):
    (target,) = re.findall(r'http-equiv="refresh" content="0; url=(.*?)"', pages[book / "index.html"])
    assert book / target in pages


def test_the_contents_list_every_notebook_in_order_and_all_of_the_reference(book, pages):
    links = re.findall(r'class="toctree-l1"><a [^>]*href="([^"#]*)"', pages[book / "docs/index.html"])
    listed = list(dict.fromkeys((book / "docs" / link).resolve().relative_to(book) for link in links))
    assert listed[: len(NOTEBOOKS)] == NOTEBOOKS
    assert set(listed) >= set(REFERENCE)


def test_the_reference_describes_every_module():
    named = {
        name
        for page in (ROOT / "docs" / "api").glob("*.rst")
        for name in re.findall(r"module:: flashref\.([\w.]+)", read(page))
    }
    package = ROOT / "flashref"
    files = [path.relative_to(package).with_suffix("") for path in package.rglob("*.py")]
    modules = {".".join(path.parts).removesuffix(".__init__") for path in files}
    assert named == modules - {"__init__", "__main__", "figures"}  # the figures are described where they are drawn


def test_every_link_within_the_book_leads_to_a_page_and_a_place_in_it(pages):
    places = {path: {unescape(place) for place in re.findall(r'\sid="([^"]*)"', page)} for path, page in pages.items()}
    broken = []
    for path, page in pages.items():
        for link in re.findall(r'\s(?:href|src)="([^"]*)"', page):
            if re.match(r"https?:|data:", link):
                continue
            target, place = urldefrag(unquote(unescape(link)))
            file = (path.parent / target.partition("?")[0]).resolve() if target else path
            if not file.is_file() or (place and place not in places[file]):
                broken.append((path.name, link))
    assert broken == []


def test_every_picture_has_words_that_say_what_it_shows(book, pages):
    seen = []
    for name in NOTEBOOKS:
        for tag in re.findall(r"<img [^>]*>", pages[book / name]):
            words = re.search(r'alt="([^"]*)"', tag)[1]
            seen.append(words)
            assert len(words.split()) > 4 and not words.startswith("&lt;Figure"), tag
    assert len(seen) > 30


def test_every_figure_stays_readable_on_a_dark_page(book):
    """Its letters are black: so none of its ground may be transparent."""
    figures = list((book / "_images").glob("*.png"))
    assert figures
    for file in figures:
        with Image.open(file) as image:
            assert image.convert("RGBA").getextrema()[3][0] == 255, file.name


def test_a_signature_says_the_shapes(book, pages):
    text = " ".join(as_text(pages[book / "docs/api/engines.html"]).split())
    assert "x: Float[Tensor, '*batch D L'], inputs: range, rho: Float[Tensor, 'D K']" in text
    assert "flashref.tiling.schedule( L: int, kind: str = 'relaxed', base: int = 1, ) → list[Tile]" in text


def test_a_docstring_is_read_as_plain_prose(book, pages):
    model = as_text(pages[book / "docs/api/model.html"])
    assert "exp(-t * |delta|) + shift" in model
    assert "M = n_layer * (order - 1), layer by layer" in model


def test_names_in_a_notebooks_code_lead_to_the_reference_and_from_there_to_the_source(book, pages):
    notebook = pages[book / "notebooks/02_the_tiling_diagram.html"]
    for place in ("engines.html#flashref.tiling.schedule", "figures.html#flashref.figures.tilings.three_tilings"):
        assert f'href="../docs/api/{place}"' in notebook
    assert 'href="../../_modules/flashref/tiling.html#schedule"' in pages[book / "docs/api/engines.html"]


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass


@pytest.fixture(scope="module")
def address(book: Path) -> Iterator[str]:
    """A plain file server on the book."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=book)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def opened(browser: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page as wide as the test says; at the end nothing was asked of another host and nothing went wrong in it."""
    context = browser.new_context(viewport={"width": getattr(request, "param", 1280), "height": 900}, base_url=address)
    page = context.new_page()
    problems = []
    page.on("request", lambda asked: asked.url.startswith((address, "data:")) or problems.append(asked.url))
    page.on("response", lambda answer: answer.ok or answer.status == 304 or problems.append(answer.url))
    page.on("console", lambda said: said.type in ("error", "warning") and problems.append(said.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    context.close()
    assert problems == []


@pytest.mark.parametrize("opened", WIDTHS, indirect=True)
def test_every_page_fits_its_window_with_its_formulas_set_and_asks_nobody_else(opened):
    formulas = 0
    for path in PAGES:
        opened.goto(path)
        opened.wait_for_load_state("networkidle")
        opened.evaluate("window.MathJax?.startup.promise")
        found = opened.evaluate(
            """() => ({
                wide: [document.scrollingElement, document.querySelector(".content")].filter(
                    (node) => node.scrollWidth > node.clientWidth).length,
                unset: [...document.querySelectorAll(".math")].filter((node) => !node.querySelector("mjx-math")).length,
                wrong: document.querySelectorAll("mjx-merror, [data-mjx-error]").length,
                formulas: document.querySelectorAll("mjx-math").length,
            })"""
        )
        formulas += found.pop("formulas")
        assert found == {"wide": 0, "unset": 0, "wrong": 0}, path
        picture(opened, f"book-{opened.viewport_size['width']}-{re.sub(r'[^a-z0-9]+', '-', path)}")
    assert formulas > 500


@pytest.mark.parametrize("opened", WIDTHS, indirect=True)
def test_the_explorer_in_notebook_02_answers_to_a_key(opened):
    opened.goto("notebooks/02_the_tiling_diagram.html")
    explorer = opened.frame_locator("iframe.explorer")
    explorer.locator("svg").focus()
    assert "No input is known yet" in explorer.locator(".state").inner_text()
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("ArrowRight")
    assert "2 of 16" in explorer.locator("#explorer").inner_text()
    frame = opened.locator("iframe.explorer").element_handle().content_frame()
    assert frame.evaluate("document.scrollingElement.scrollHeight <= window.innerHeight"), "it is cut off"
    assert frame.evaluate("document.scrollingElement.scrollWidth <= window.innerWidth")


def test_search_finds_a_word_in_a_notebook_and_a_name_in_the_reference(opened):
    for word, title in (("schoolbook", "01 Relaxed polynomial"), ("tau_direct", "flashref.tau.tau_direct")):
        opened.goto("docs/index.html")
        opened.get_by_role("textbox", name="Search").fill(word)
        opened.keyboard.press("Enter")
        opened.locator("#search-results li", has_text=title).first.wait_for()


def test_answers_open_on_request(opened):
    opened.goto("notebooks/02_the_tiling_diagram.html")
    answers = opened.locator("details").first
    inside = answers.locator("li, p").first
    assert not inside.is_visible()
    answers.locator("summary").click()
    inside.wait_for()
