"""What every committed notebook keeps to: how it opens and closes, and what its outputs hold."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from test_project import ABSOLUTE_PATH, MEGABYTE, ROOT, strings

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
HEADINGS = ["## Summary", "## Check yourself", "## Exercises"]


def joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def faults(path: Path) -> list[str]:
    """What is wrong with a notebook, one sentence each."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = notebook["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    prose = [joined(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    found = [f"names the path {ABSOLUTE_PATH.search(s).group()}" for s in strings(notebook) if ABSOLUTE_PATH.search(s)]
    if path.stat().st_size >= 2 * MEGABYTE:
        found.append("is over two megabytes")
    if "widgets" in notebook["metadata"]:
        found.append("holds the state of widgets")
    names = [cell.get("id", "") for cell in cells]
    found += [f"has a cell with the id {name!r}" for name in names if not re.fullmatch(r"[a-z]+-\d\d", name)]
    found += [f"has two cells with the id {name!r}" for name in sorted({n for n in names if names.count(n) > 1})]

    if [cell["execution_count"] for cell in code] != list(range(1, len(code) + 1)):
        found.append("was not run once from top to bottom")
    for cell in code:
        where = f"in cell {cell.get('id')}"
        if len(joined(cell["source"]).splitlines()) > 25:
            found.append(f"has over 25 lines {where}")
        for output in cell["outputs"]:
            data = output.get("data", {})
            said = joined(output.get("text", "")) + joined(data.get("text/plain", ""))
            if output["output_type"] == "error":
                found.append(f"ended with {output['ename']} {where}")
            if output.get("name") == "stderr":
                found.append(f"wrote to the error stream {where}")
            if re.search(r":\d+: \w*Warning: ", said):
                found.append(f"shows a warning {where}")
            if any(kind.startswith("image/") for kind in data) and not joined(data.get("text/plain", "")).strip():
                found.append(f"has a picture without words {where}")

    if not joined(cells[0]["source"]).startswith(f"# {path.name[:2]} "):
        found.append("does not open with its number and title")
    for words in ("**The question.**", "**At the end you can**", "**It builds on**", "**Time:**"):
        if words not in joined(cells[0]["source"]):
            found.append(f"does not say {words} in its first cell")
    text = "\n".join(prose)
    if [line for line in text.splitlines() if line in HEADINGS] != HEADINGS:
        found.append(f"does not close with {', '.join(HEADINGS)}, in this order")
    summary = text.partition("## Summary\n")[2].partition("\n## ")[0]
    if not 1 <= len(re.findall(r"^[-*] |^\d+\. ", summary, re.MULTILINE)) <= 5:
        found.append("does not have one to five points in its summary")
    if "**Next:**" not in joined(cells[-1]["source"]):
        found.append("does not say **Next:** in its last cell")
    for link in re.findall(r"\]\((?!https?://|#|attachment:)([^)#\s]+)", text):
        if not (path.parent / link).exists():
            found.append(f"has a link to {link}, which is not there")
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_has_no_fault(path):
    assert faults(path) == []


def test_each_notebook_has_a_number_of_its_own_and_its_line_in_the_map_of_00():
    """Numbers may be missing while their notebooks are being written."""
    assert len({path.name[:3] for path in NOTEBOOKS}) == len(NOTEBOOKS)
    course = NOTEBOOKS[0].read_text(encoding="utf-8")
    assert all(f"({path.name})" in course for path in NOTEBOOKS[1:])


OPENING = (
    "# 03 Title\n\n**The question.** Why?\n\n**At the end you can** run.\n\n**It builds on** 02. **Time:** an hour."
)
CLOSING = (
    "## Summary\n\n- One.\n- Two.\n\n## Check yourself\n\n1. Why?\n\n## Exercises\n\n1. Do.\n\n**Next:** [04](x.md)."
)
PICTURE = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "aaaa", "text/plain": ["A line."]}}
PRINTED = {"output_type": "stream", "name": "stdout", "text": ["1\n", "UserWarning is a class\n"]}
GOOD = {
    "cells": [
        {"cell_type": "markdown", "id": "cost-00", "metadata": {}, "source": OPENING.splitlines(keepends=True)},
        {"cell_type": "code", "id": "cost-01", "metadata": {}, "source": "1\n" * 25, "execution_count": 1,
         "outputs": [PRINTED]},
        {"cell_type": "code", "id": "cost-02", "metadata": {}, "source": ["2"], "execution_count": 2,
         "outputs": [PICTURE]},
        {"cell_type": "markdown", "id": "cost-03", "metadata": {}, "source": CLOSING},
    ],
    "metadata": {"kernelspec": {"name": "python3"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}  # fmt: skip


def written(folder: Path, notebook: dict) -> Path:
    (folder / "x.md").touch()
    (folder / "03_title.ipynb").write_text(json.dumps(notebook))
    return folder / "03_title.ipynb"


def test_a_good_notebook_has_no_fault(tmp_path):
    assert faults(written(tmp_path, GOOD)) == []


def output(**changes) -> Callable[[list[dict]], None]:
    return lambda cells: cells[1]["outputs"].append({"output_type": "stream", "name": "stdout", **changes})


def setting(i: int, **changes) -> Callable[[list[dict]], None]:
    return lambda cells: cells[i].update(changes)


def without(i: int, words: str) -> Callable[[list[dict]], None]:
    return lambda cells: cells[i].update(source=joined(cells[i]["source"]).replace(words, ""))


@pytest.mark.parametrize(
    "harm, fault",
    [
        (setting(1, execution_count=2), "was not run once from top to bottom"),
        (setting(2, execution_count=None), "was not run once from top to bottom"),
        (setting(2, execution_count=4), "was not run once from top to bottom"),
        (output(output_type="error", ename="KeyError"), "ended with KeyError in cell cost-01"),
        (output(name="stderr", text="100 %"), "wrote to the error stream in cell cost-01"),
        (output(text=["x.py:3: UserWarning: old\n", "  f()"]), "shows a warning in cell cost-01"),
        (output(text="at " + "/home" + "/ada/x.py"), "names the path " + "/home" + "/ada"),
        (output(data={"image/png": "aaaa"}), "has a picture without words in cell cost-01"),
        (output(data={"image/svg+xml": "<svg/>", "text/plain": ""}), "has a picture without words in cell cost-01"),
        (output(text="x" * 2 * MEGABYTE), "is over two megabytes"),
        (setting(1, source="1\n" * 26), "has over 25 lines in cell cost-01"),
        (setting(1, id="3f2a77b1"), "has a cell with the id '3f2a77b1'"),
        (setting(1, id="cost-02"), "has two cells with the id 'cost-02'"),
        (without(0, "# 03 Title"), "does not open with its number and title"),
        (without(0, "**The question.**"), "does not say **The question.** in its first cell"),
        (without(0, "**At the end you can**"), "does not say **At the end you can** in its first cell"),
        (without(0, "**It builds on**"), "does not say **It builds on** in its first cell"),
        (without(0, "**Time:**"), "does not say **Time:** in its first cell"),
        (without(3, "## Check yourself"), "does not close with ## Summary, ## Check yourself, ## Exercises"),
        (without(3, "## Exercises"), "does not close with ## Summary, ## Check yourself, ## Exercises"),
        (without(3, "- One.\n- Two.\n"), "does not have one to five points in its summary"),
        (setting(3, source=CLOSING.replace("- Two", "- Two\n- 3\n- 4\n- 5\n- 6")), "does not have one to five points"),
        (without(3, "**Next:**"), "does not say **Next:** in its last cell"),
        (setting(3, source=CLOSING.replace("x.md", "y.md#part")), "has a link to y.md, which is not there"),
    ],
)  # fmt: skip
def test_each_fault_of_a_notebook_is_found_and_named(tmp_path, harm, fault):
    bad = copy.deepcopy(GOOD)
    harm(bad["cells"])
    (found,) = faults(written(tmp_path, bad))
    assert found.startswith(fault)


def test_a_saved_state_of_widgets_is_found(tmp_path):
    bad = copy.deepcopy(GOOD)
    bad["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": {}}
    assert faults(written(tmp_path, bad)) == ["holds the state of widgets"]
