"""Grade submissions of one exercise with nbgrader: python grade_course.py COURSE EXERCISE; prints JSON.

COURSE is a copy of notebooks/exercises with what students handed in below submitted/. For each student: the points of
each check, or null where the notebook could not be graded. A student's seconds.txt bounds the time of their cells.
"""

import json
import logging
import sys
from pathlib import Path

from nbgrader.apps import NbGraderAPI
from traitlets.config import Config


def interface(course: Path, seconds: int | None = None) -> NbGraderAPI:
    config = Config()
    exec((course / "nbgrader_config.py").read_text(), {"get_config": lambda: config})
    config.CourseDirectory.root = str(course)
    if seconds:
        config.ExecutePreprocessor.timeout = seconds
    api = NbGraderAPI(config=config)
    api.log.setLevel(logging.CRITICAL)
    return api


def main(course: Path, exercise: str) -> None:
    api = interface(course)
    released = api.generate_assignment(exercise, force=True)
    assert released["success"], released
    points = {}
    for folder in sorted((course / "submitted").iterdir()):
        bound = folder / "seconds.txt"
        grader = interface(course, int(bound.read_text())) if bound.exists() else api
        if not grader.autograde(exercise, folder.name, force=True, create=True)["success"]:
            points[folder.name] = None
            continue
        with grader.gradebook as gradebook:
            notebook = gradebook.find_submission_notebook(exercise, exercise, folder.name)
            points[folder.name] = {
                grade.name: grade.score for grade in notebook.grades if grade.cell.cell_type == "code"
            }
    print(json.dumps(points))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
