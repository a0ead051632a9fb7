"""The exercises as a class uses them: released, handed in right, wrong, empty and harmful, and graded by nbgrader."""

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from submissions import SUBMISSIONS, Submission
from submissions_6_to_10 import SUBMISSIONS as MORE
from test_project import ROOT

EXERCISES = ROOT / "notebooks" / "exercises"
NAMES = sorted(path.name for path in (EXERCISES / "source").iterdir() if path.is_dir())
SUBMISSIONS |= MORE
WRONG = [(name, student) for name, students in SUBMISSIONS.items() for student in students]


def cells_of(path: Path) -> dict[str, dict]:
    """The cells that nbgrader knows, by their grade_id."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return {
        cell["metadata"]["nbgrader"]["grade_id"]: cell for cell in notebook["cells"] if "nbgrader" in cell["metadata"]
    }


def source_of(version: str, name: str) -> Path:
    return EXERCISES / version / name / f"{name}.ipynb"


def most_points(name: str, kind: str = "code") -> dict[str, float]:
    """What the checks give. What a person grades is in cells of kind "markdown"."""
    cells = {key: cell for key, cell in cells_of(source_of("source", name)).items() if cell["cell_type"] == kind}
    known = {key: cell["metadata"]["nbgrader"] for key, cell in cells.items()}
    return {key: grading["points"] for key, grading in known.items() if "points" in grading}


def hand_in(course: Path, name: str, student: str, submission: Submission) -> None:
    """The source version with some answers replaced, as a student's file."""
    notebook = json.loads(source_of("source", name).read_text(encoding="utf-8"))
    left = dict(submission.cells)
    for cell in notebook["cells"]:
        key, solution = cell["metadata"].get("nbgrader", {}).get("grade_id"), "".join(cell["source"])
        for old, new in submission.changed.get(key, {}).items():
            assert old in solution, f"{name} {key} has no {old!r}"
            solution = solution.replace(old, new)
        cell["source"] = left.pop(key, solution).strip()
    assert not left, f"{name} has no cell {list(left)}"
    folder = course / "submitted" / student / name
    folder.mkdir(parents=True)
    (folder / f"{name}.ipynb").write_text(json.dumps(notebook))
    if submission.seconds:
        (folder.parent / "seconds.txt").write_text(str(submission.seconds))


def graded(course: Path, name: str) -> dict[str, dict[str, float] | None]:
    """Grade everything that was handed in for one exercise, in a course of its own and a process of its own."""
    shutil.copytree(EXERCISES / "source" / name, course / "source" / name)
    shutil.copy(EXERCISES / "nbgrader_config.py", course)
    hand_in(course, name, "full", Submission({}))
    shutil.copytree(EXERCISES / "release" / name, course / "submitted" / "untouched" / name)
    for student, submission in SUBMISSIONS.get(name, {}).items():
        hand_in(course, name, student, submission)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": str(ROOT), "FLASHREF_CALIBRATION": "", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, ROOT / "tests" / "grade_course.py", course, name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def courses(tmp_path_factory) -> dict[str, tuple[Path, Future]]:
    """Every exercise in a course of its own, all being graded, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        folders = {name: tmp_path_factory.mktemp(name) for name in NAMES}
        yield {name: (folder, pool.submit(graded, folder, name)) for name, folder in folders.items()}


def said(course: Path, name: str, student: str) -> dict[str, str]:
    """What each cell of a graded notebook shows, as text."""
    found = {}
    for key, cell in cells_of(course / "autograded" / student / name / f"{name}.ipynb").items():
        texts = []
        for output in cell.get("outputs", []):
            texts += output.get("traceback") or [output.get("text") or output.get("data", {}).get("text/plain", "")]
        found[key] = "\n".join("".join(text) for text in texts)
    return found


def pictures(course: Path, name: str, student: str, key: str) -> int:
    cell = cells_of(course / "autograded" / student / name / f"{name}.ipynb")[key]
    return sum("image/png" in output.get("data", {}) for output in cell["outputs"])


@pytest.mark.parametrize("name", NAMES)
def test_the_released_version_is_what_nbgrader_makes_of_the_source(courses, name):
    course, result = courses[name]
    result.result()
    made = json.loads((course / "release" / name / f"{name}.ipynb").read_text())
    assert json.loads(source_of("release", name).read_text()) == made, "run make release and commit what it writes"


def test_no_exercise_is_released_without_a_source_and_none_holds_a_solution():
    assert sorted(path.name for path in (EXERCISES / "release").iterdir()) == NAMES
    for name in NAMES:
        text = source_of("release", name).read_text()
        assert "YOUR CODE HERE" in text or "YOUR ANSWER HERE" in text
        assert "SOLUTION" not in text and "HIDDEN TESTS" not in text


@pytest.mark.parametrize("name", NAMES)
def test_the_source_version_gets_full_marks(courses, name):
    most = most_points(name)
    assert sum(most.values()) + sum(most_points(name, "markdown").values()) == 10
    course, result = courses[name]
    assert result.result()["full"] == most, said(course, name, "full")


@pytest.mark.parametrize("name", NAMES)
def test_the_released_version_gets_no_marks_while_nothing_is_written(courses, name):
    course, result = courses[name]
    assert result.result()["untouched"] == dict.fromkeys(most_points(name), 0.0)
    texts = said(course, name, "untouched")
    assert all("It is not written yet" in texts[key] for key in most_points(name))


@pytest.mark.parametrize("name, student", WRONG)
def test_a_wrong_answer_loses_its_own_marks_only_and_is_told_why(courses, name, student):
    submission = SUBMISSIONS[name][student]
    course, result = courses[name]
    points = result.result()[student]
    if submission.died:
        assert points is None
        return
    assert points == {key: 0.0 if key in submission.lost else most for key, most in most_points(name).items()}
    texts = said(course, name, student)
    for key, words in submission.lost.items():
        plain = " ".join(texts[key].split())
        assert re.search(words, plain), plain
    size = (course / "autograded" / student / name / f"{name}.ipynb").stat().st_size
    assert size < 10**6, "what it printed fills the graded notebook"


@pytest.mark.parametrize("name", NAMES)
def test_without_nbgrader_every_cell_of_a_solved_exercise_runs_to_its_end(name, monkeypatch, capsys):
    monkeypatch.chdir(source_of("source", name).parent)
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # exercise 8 sets it; undone afterwards
    cells = json.loads(source_of("source", name).read_text())["cells"]
    names = {"__name__": "__main__"}
    for cell in cells:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"]).replace("%matplotlib inline\n", "")
            exec(compile(source, cell["id"], "exec"), names)
    assert capsys.readouterr().out.count("Right") >= len(most_points(name))


@pytest.mark.parametrize(
    "name, student, key",
    [
        ("01_lazy_and_eager", "filter_not_flipped", "lazyeager-lazy-values"),
        ("02_schedule", "off_by_one_in_U", "bits-schedule-right"),
        ("02_schedule", "uses_future_inputs_and_prints_megabytes", "bits-schedule-right"),
        ("03_tau", "changes_its_input_and_aliases", "tau-fft-values"),
        ("04_put_together", "eager_inside", "flash-work"),
        ("07_single_buffer", "keeps_inputs_beside_the_slots_and_a_view", "buffer-single-memory"),
        ("08_kernel", "a_launch_for_each_channel_and_the_sum_lost", "kernel-engine-values"),
        ("09_relaxed_product", "first_pair_twice_and_lags_too_few", "product-rule-right"),
        ("10_longest_step", "relaxed", "bound-half"),
    ],
)
def test_a_wrong_answer_is_shown_in_a_picture(courses, name, student, key):
    course, result = courses[name]
    result.result()
    assert pictures(course, name, student, key) == 1
