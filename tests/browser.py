"""A real browser and a real JupyterLab for the tests: Chromium, driven by Playwright.

Without a browser on the machine the tests that need one are skipped and say so; with FLASHREF_NEEDS_BROWSER set, as
.ci/run does, they fail instead. With FLASHREF_SCREENSHOTS=FOLDER they leave pictures of what they saw there.
"""

import ast
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

ROOT = Path(__file__).parent.parent
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# No sandbox, since CI runs as root, and no requests of the browser's own.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
TOKEN = "of-the-tests"


def executable() -> str:
    """The browser of this machine; skips the test, or fails it where a browser is required."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        say = pytest.fail if os.environ.get("FLASHREF_NEEDS_BROWSER") else pytest.skip
        say(f"the tests in a browser were NOT RUN: none of {', '.join(NAMES)} is here. Debian: apt install chromium")
    return found


@contextmanager
def launched() -> Iterator[Browser]:
    path = executable()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def picture(seen: Page | Locator, name: str) -> None:
    """Leave a screenshot for somebody to look at, where one is asked for."""
    if folder := os.environ.get("FLASHREF_SCREENSHOTS"):
        whole = {"full_page": True} if isinstance(seen, Page) else {}
        seen.screenshot(path=Path(folder) / f"{name}.png", **whole)


@contextmanager
def jupyterlab(folder: Path, home: Path) -> Iterator[str]:
    """A JupyterLab on a copy of what notebooks read, with settings of its own in ``home``; yields its address."""
    for name in ("notebooks", "results"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    # All cells stay in the page, in view or not, so that a test finds what it looks for; no question about news.
    for plugin, settings in {
        "notebook-extension/tracker": {"windowingMode": "none"},
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }.items():
        file = home / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}
    own |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython"}
    environment = os.environ | {name: str(home / place) for name, place in own.items()}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}  # a second thread waits where others are busy
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    options += [f"--IdentityProvider.token={TOKEN}", "--expose-app-in-browser"]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options, folder], env=environment, stdout=log, stderr=log
        )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5)
                break
            except OSError:
                assert server.poll() is None, (home / "log").read_text()
                time.sleep(0.25)
        else:
            pytest.fail("JupyterLab did not start within a minute:\n" + (home / "log").read_text())
        yield address
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:  # a kernel that does not end; it follows its server
            server.kill()
            server.wait()


def open_lab(browser: Browser, address: str) -> Page:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{address}/lab?token={TOKEN}")
    page.wait_for_function("window.jupyterapp?.restored", timeout=120_000)
    return page


class Notebook:
    """A notebook that is open in JupyterLab in a page, beside others."""

    def __init__(self, page: Page, path: str) -> None:
        self.page = page
        page.evaluate(
            "async (path) => { await window.jupyterapp.commands.execute('docmanager:open', { path }); }", path
        )
        page.wait_for_function(
            """(path) => {
                const { context, sessionContext } = window.jupyterapp.shell.currentWidget ?? {};
                return context?.path === path && context.isReady && sessionContext.isReady
                    && sessionContext.session?.kernel?.status === "idle";
            }""",
            arg=path,
            timeout=120_000,
        )
        self.id = page.evaluate("window.jupyterapp.shell.currentWidget.id")

    def show(self) -> None:
        """Bring it to the front; returns when JupyterLab has moved the focus there, which it does a little later."""
        self.page.evaluate("(id) => window.jupyterapp.shell.activateById(id)", self.id)
        self.page.wait_for_function(
            """(id) => {
                const { currentWidget } = window.jupyterapp.shell;
                return currentWidget.id === id && currentWidget.content.node.contains(document.activeElement);
            }""",
            arg=self.id,
        )

    def code_cells(self, script: str) -> list:
        """What a function in JavaScript says of each code cell with something in it."""
        return self.page.evaluate(
            f"""(id) => [...window.jupyterapp.shell.widgets("main")].find((panel) => panel.id === id).content.widgets
                .filter((cell) => cell.model.type === "code" && cell.model.sharedModel.source.trim()).map({script})""",
            self.id,
        )

    def run_all(self, seconds: float = 240) -> None:
        """Restart the kernel and run all, from the menu as a reader does; returns when the last cell is done."""
        # The counts that the file came with would look like those of a run that is over.
        self.code_cells("(cell) => { cell.model.executionCount = null; }")
        self.page.get_by_role("menuitem", name="Kernel", exact=True).click()
        self.page.get_by_role("menuitem", name="Restart Kernel and Run All Cells").click()
        self.page.get_by_role("button", name="Confirm Kernel Restart").click()
        self.page.wait_for_function(
            """() => {
                const cells = window.jupyterapp.shell.currentWidget.content.widgets.filter(
                    (cell) => cell.model.type === "code" && cell.model.sharedModel.source.trim());
                const counts = cells.map((cell) => cell.model.executionCount);
                return counts.every((count, i) => count === i + 1)
                    || cells.some((cell) => cell.model.outputs.toJSON().some((out) => out.output_type === "error"));
            }""",
            timeout=1000 * seconds,
        )

    def errors(self) -> list[str]:
        """What went wrong in the cells, as the page has it: errors, and anything on the error stream."""
        outputs = self.code_cells("(cell) => cell.model.outputs.toJSON()")
        return [
            f"{output['ename']}: {output['evalue']}" if "ename" in output else str(output["text"])
            for output in itertools.chain(*outputs)
            if output["output_type"] == "error" or output.get("name") == "stderr"
        ]

    def widgets(self) -> list[Locator]:
        """Where the page shows the outputs that are widgets, or what stands in for them."""
        holds = "some((output) => output.data?.['application/vnd.jupyter.widget-view+json'])"
        found = self.code_cells(
            f"(cell) => cell.model.outputs.toJSON().{holds} ? Number(cell.node.dataset.windowedListIndex) : null"
        )
        cell = f'[id="{self.id}"] .jp-Cell[data-windowed-list-index="%d"] .jp-Cell-outputArea'
        return [self.page.locator(cell % i) for i in found if i is not None]

    def ask(self, expression: str, first: str = "") -> object:
        """The value of an expression in the kernel, after the code ``first``, without a cell for them."""
        said = self.page.evaluate(
            """async ([id, code, asked]) => {
                const panel = [...window.jupyterapp.shell.widgets("main")].find((panel) => panel.id === id);
                const { content } = await panel.sessionContext.session.kernel.requestExecute(
                    { code, store_history: false, user_expressions: { asked } }).done;
                return content.user_expressions.asked.data?.["text/plain"] ?? JSON.stringify(content);
            }""",
            [self.id, first, expression],
        )
        return ast.literal_eval(said)

    def theme(self, name: str) -> None:
        """JupyterLab Light or JupyterLab Dark."""
        self.page.evaluate(
            "async (theme) => { await window.jupyterapp.commands.execute('apputils:change-theme', { theme }); }", name
        )
        self.page.wait_for_function(
            "(light) => document.body.dataset.jpThemeLight === light", arg=str(name.endswith("Light")).lower()
        )
