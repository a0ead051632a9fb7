"""The released exercises as a new student meets them: in JupyterLab, typed in right and wrong, without nbgrader."""

import json
import re
from collections.abc import Callable, Iterator

import pytest
from browser import ROOT, Notebook, jupyterlab, launched, open_lab, picture
from playwright.sync_api import Locator, expect
from submissions import SUBMISSIONS
from test_exercises import NAMES, cells_of, most_points, source_of

PATIENCE = 60_000
# Of each exercise: one wrong answer, its answer cell, the check that finds it, and whether that draws a picture.
SHOWN = {
    "01_lazy_and_eager": ("filter_not_flipped", "lazyeager-lazy", "lazyeager-lazy-values", True),
    "02_schedule": ("off_by_one_in_U", "bits-schedule", "bits-schedule-right", True),
    "03_tau": ("changes_its_input_and_aliases", "tau-fft", "tau-fft-values", True),
    "04_put_together": ("eager_inside", "flash-engine", "flash-work", True),
    "05_count_it": ("hard_coded", "count-tiles", "count-tiles-right", False),
    "06_generate": ("a_call_for_each_mixer", "generate-engine", "generate-engine-calls", False),
    "07_single_buffer": ("keeps_inputs_beside_the_slots_and_a_view", "buffer-single", "buffer-single-memory", True),
    "08_kernel": ("off_by_one_lag_and_a_sum_in_float32", "kernel-tile", "kernel-tile-values", False),
    "09_relaxed_product": ("fixed_filter_rule_uses_taps_of_the_future", "product-rule", "product-rule-right", True),
    "10_longest_step": ("relaxed", "bound-engine", "bound-half", True),
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Notebook]]:
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("clone")
    with launched() as browser, jupyterlab(folder, home) as address:
        page = open_lab(browser, address)
        yield lambda name: Notebook(page, f"notebooks/exercises/release/{name}/{name}.ipynb")


def cell(notebook: Notebook, key: str) -> Locator:
    """The cell with this grade_id."""
    index = notebook.page.evaluate(
        """([id, key]) => [...window.jupyterapp.shell.widgets("main")].find((panel) => panel.id === id).content.widgets
            .findIndex((cell) => cell.model.sharedModel.getMetadata().nbgrader?.grade_id === key)""",
        [notebook.id, key],
    )
    return notebook.page.locator(f'[id="{notebook.id}"] .jp-Cell[data-windowed-list-index="{index}"]')


def type_in(notebook: Notebook, key: str, source: str) -> None:
    cell(notebook, key).locator(".cm-content").click()
    notebook.page.keyboard.press("Control+A")
    notebook.page.keyboard.insert_text(source)


def answers(name: str) -> dict[str, str]:
    known = cells_of(source_of("source", name))
    return {
        key: "".join(c["source"])
        for key, c in known.items()
        if c["metadata"]["nbgrader"]["solution"] and c["cell_type"] == "code"  # a report is no code
    }


def wrong_answer(name: str, student: str, key: str) -> str:
    submission = SUBMISSIONS[name][student]
    if key in submission.cells:
        return submission.cells[key].strip()
    source = answers(name)[key]
    for old, new in submission.changed[key].items():
        assert old in source
        source = source.replace(old, new)
    return source


@pytest.mark.parametrize("name", NAMES)
def test_typed_in_right_every_check_says_so_and_typed_in_wrong_it_is_shown(opened, name):
    notebook = opened(name)
    notebook.show()
    for key, source in answers(name).items():
        type_in(notebook, key, source)
    notebook.run_all()
    assert notebook.errors() == []
    for key in most_points(name):
        expect(cell(notebook, key).locator(".jp-Cell-outputArea")).to_contain_text("Right", timeout=PATIENCE)

    student, answer, check, drawn = SHOWN[name]
    submission = SUBMISSIONS[name][student]
    type_in(notebook, answer, wrong_answer(name, student, answer))
    notebook.run_all()
    (error,) = notebook.errors()
    assert error.startswith("CheckFailed")
    output = cell(notebook, check).locator(".jp-Cell-outputArea")
    expect(output).to_contain_text("Not yet.", timeout=PATIENCE)
    expect(output).not_to_contain_text("Traceback")
    said = " ".join(output.inner_text().split())
    assert re.search(submission.lost[check], said), said
    assert output.locator("img").count() == drawn
    if drawn:
        wide = "async (image) => { await image.decode(); return image.clientWidth; }"
        assert output.locator("img").evaluate(wide) > 300
    picture(cell(notebook, check), f"exercise-{name}-wrong")


@pytest.mark.parametrize("name", NAMES)
def test_hints_are_closed_until_asked_for_and_links_lead_somewhere(opened, name):
    notebook = opened(name)
    notebook.show()
    details = notebook.page.locator(f'[id="{notebook.id}"] details')
    hints = details.filter(has_text=re.compile("^Hint"))
    assert hints.count() >= 3 and hints.count() % 3 == 0
    first = hints.first
    expect(first.locator("p").first).not_to_be_visible()
    first.locator("summary").click()
    expect(first.locator("p").first).to_be_visible()
    picture(notebook.page.locator(f'[id="{notebook.id}"]'), f"exercise-{name}")
    for version in ("source", "release"):
        path = source_of(version, name)
        prose = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "markdown"]
        for c in prose:
            for link in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", re.sub(r"`[^`]*`", "", "".join(c["source"]))):
                assert (path.parent / link).resolve().is_relative_to(ROOT) and (path.parent / link).exists(), link
