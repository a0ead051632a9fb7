"""What holds for the tests and for the notebooks that nbval runs."""

import os
import signal
from collections import Counter

import pytest

pytest_plugins = ["tests.tried"]


def pytest_configure():
    """What was measured on this machine must not decide what the tests run, nor how they were started."""
    os.environ["FLASHREF_CALIBRATION"] = ""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's job in the background ignores Ctrl-C


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """Start a notebook's kernel as on a machine without a GPU: its committed outputs were made that way."""
    with pytest.MonkeyPatch.context() as patch:
        if item.path.suffix == ".ipynb":
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
        return (yield)


def pytest_terminal_summary(terminalreporter):
    """Say how long each notebook took, its kernel's start included: none should need a minute."""
    seconds = Counter()
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        name = getattr(report, "nodeid", "").partition("::")[0]
        if isinstance(report, pytest.TestReport) and name.endswith(".ipynb"):
            seconds[name] += report.duration
    if seconds:
        terminalreporter.section("time of each notebook")
    for name in sorted(seconds):
        terminalreporter.line(f"{seconds[name]:6.1f} s  {name}")
