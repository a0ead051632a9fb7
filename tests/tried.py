"""What the tests tried, counted: printed when they end and, with --write-trust FILE, written into that page."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from flashref.machine import processor

BEGIN, END = "<!-- tried: make test-all writes what stands here -->", "<!-- end of tried -->"
KEY = pytest.StashKey[Counter]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-trust", metavar="FILE", type=Path, help="if all pass, write what was tried into FILE")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[KEY] = Counter()


@pytest.fixture(scope="session")
def tried(pytestconfig: pytest.Config) -> Callable[..., None]:
    """``tried("faults", "a byte of a saved generation changed", n)`` adds n to a row of the table of what was tried.

    The first word is the row's kind: "cases" or "faults". What was lost or wrong is counted too: kind "lost".
    """

    def add(kind: str, what: str, n: int = 1) -> None:
        assert kind in ("cases", "faults", "lost"), kind
        pytestconfig.stash[KEY][kind, what] += n

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    rows = [f"| {what} | {kind} | {n:,} |" for (kind, what), n in sorted(config.stash[KEY].items())]
    if not rows:
        return
    table = ["| what was tried | kind | how often |", "| --- | --- | ---: |", *rows]
    terminalreporter.section("what was tried")
    for line in table:
        terminalreporter.line(line)
    page = config.getoption("--write-trust")
    if page and exitstatus == pytest.ExitCode.OK:  # not if it was interrupted, either
        before, _, rest = page.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        passed, skipped = (len(terminalreporter.stats.get(name, ())) for name in ("passed", "skipped"))
        made = f"{passed:,} tests (without notebooks and browser) passed, none failed, {skipped:,} skipped"
        made += f" (they need a CUDA device), on {processor()}, {time.strftime('%Y-%m-%d')}."
        page.write_text("\n\n".join([before + BEGIN, made, "\n".join(table), END + after]))
