"""What every exercise keeps to: how it opens, what each task holds, and what a grader needs to know of its cells."""

import json
import re
from itertools import pairwise

import pytest
from test_exercises import NAMES, source_of
from test_project import ABSOLUTE_PATH, strings


def faults(name: str) -> list[str]:
    """What is wrong with an exercise, one sentence each."""
    notebook = json.loads(source_of("source", name).read_text(encoding="utf-8"))
    cells = [(cell, "".join(cell["source"])) for cell in notebook["cells"]]
    prose = [text for cell, text in cells if cell["cell_type"] == "markdown"]
    code = [(cell, text) for cell, text in cells if cell["cell_type"] == "code"]
    found = [f"names the path {ABSOLUTE_PATH.search(s).group()}" for s in strings(notebook) if ABSOLUTE_PATH.search(s)]
    if not cells[0][1].startswith(f"# Exercise {int(name[:2])} "):
        found.append("does not open with its number and title")
    for words in ("**The question.**", "**At the end you can**", "**It builds on**", "**Points:** 10"):
        if words not in cells[0][1]:
            found.append(f"does not say {words} in its first cell")
    minutes = re.search(r"\*\*Time:\*\* (\d+) minutes", cells[0][1])
    if not minutes or not 30 <= int(minutes[1]) <= 60:
        found.append("does not take 30 to 60 minutes")
    headings = [line for text in prose for line in text.splitlines() if line.startswith("## ")]
    if headings[:1] != ["## Why"] or headings[-1] != "## Going further" or "**Predict.**" not in "".join(prose):
        found.append("does not begin with why, ask for a prediction, and end with going further")
    for text in prose:
        tasks, hints = text.count("## Task "), re.findall(r"<summary>(Hint \d)</summary>", text)
        if tasks and hints != ["Hint 1", "Hint 2", "Hint 3"] * tasks:
            found.append(f"has not three hints in {text[:40]!r}")
        if any(len(line) > 130 for line in text.splitlines() if not line.startswith("|")):
            found.append(f"has a line over 130 columns in {text[:40]!r}")
    names = [cell["id"] for cell, _ in cells]
    if len(set(names)) < len(names) or not all(re.fullmatch(r"[a-z]+-\d\d", each) for each in names):
        found.append("has cells without an id of their own, such as tau-07")
    if any(cell["outputs"] or cell["execution_count"] for cell, _ in code):
        found.append("holds outputs")
    for cell, text in code:
        known = cell["metadata"].get("nbgrader")
        if known is None and "skip-execution" not in cell["metadata"].get("tags", []):
            found.append(f"has a cell to play with that a grader would run: {cell['id']}")
        if known and known["solution"] != ("### BEGIN SOLUTION" in text) and not known["grade"]:
            found.append(f"has no solution in {cell['id']}")
        if len(text.splitlines()) > 45:
            found.append(f"has over 45 lines in {cell['id']}")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_an_exercise_has_no_fault(name):
    assert faults(name) == []


def test_the_exercises_are_numbered_from_one_on_and_each_names_the_next():
    assert [int(name[:2]) for name in NAMES] == list(range(1, len(NAMES) + 1))
    for name, following in pairwise(NAMES):
        last = "".join(json.loads(source_of("source", name).read_text())["cells"][-1]["source"])
        assert f"**Next:** [Exercise {int(following[:2])} " in last and f"../{following}/{following}.ipynb" in last
