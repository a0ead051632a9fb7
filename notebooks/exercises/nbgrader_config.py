"""nbgrader's settings for this course. Run nbgrader in this folder: it writes here."""

c = get_config()  # noqa: F821 (nbgrader reads this file and knows the name)

c.CourseDirectory.course_id = "flashref"
# Every check bounds itself (flashref/checks/sandbox.py). This is for the rest of a cell.
c.ExecutePreprocessor.timeout = 180
c.ExecutePreprocessor.interrupt_on_timeout = True
c.ExecutePreprocessor.error_on_timeout = {
    "ename": "TimeoutError",
    "evalue": "the cell took over three minutes",
    "traceback": ["TimeoutError: the cell took over three minutes, and was stopped"],
}
c.LimitOutput.max_lines = 200
c.LimitOutput.max_traceback = 60
