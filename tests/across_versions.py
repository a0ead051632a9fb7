"""All of `make test-all`: all tests, the random ones deep, and `make test`'s on other Pythons.

The arguments are pytest's options, for this Python. Five parts, two at a time: what tries at random; notebooks and
exercises; the book and what is seen in a browser; and, without these two, each of the other Pythons. The lowest of the
supported versions of Python that this machine has gets the lowest versions of everything that pyproject.toml accepts
(requirements-lowest.txt), the newest those of requirements.txt. Each has an environment of its own, .venv-lowest and
.venv-newest, which is made again when what it is made of changes.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYPROJECT = ROOT / "pyproject.toml"
SUITS = "import sys, ensurepip, venv; print('%d.%d' % sys.version_info[:2])"
NOTEBOOKS = ("*notebooks*", "test_exercises", "test_exercises_form")
PAGES = ("test_book", "test_slides", "test_lab", "test_warnings", "test_exercises_in_browser")
PAGES += ("test_explorer", "test_timeline_explorer")


def supported() -> list[str]:
    """The versions of Python that pyproject.toml names, the lowest first."""
    lines = tomllib.loads(PYPROJECT.read_text())["project"]["classifiers"]
    return [line.rpartition(" ")[2] for line in lines if ":: Python :: 3." in line]


def interpreter(version: str) -> str | None:
    """A Python of this version that can make an environment: the running one, on the path, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [*sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"))]
    for path in [sys.executable, shutil.which(f"python{version}"), *found]:
        if path is not None:
            asked = subprocess.run([path, "-c", SUITS], capture_output=True, text=True)
            if asked.returncode == 0 and asked.stdout.strip() == version:
                return str(path)
    return None


def environment(name: str, python: str, requirements: Path) -> Path:
    """The Python of an environment with these requirements and this package; raises CalledProcessError if one fails."""
    folder = ROOT / name
    made_of = "\n".join([python, requirements.read_text(), PYPROJECT.read_text()])
    mark, inside = folder / "made_of", folder / "bin" / "python"
    if not mark.exists() or mark.read_text() != made_of:
        shutil.rmtree(folder, ignore_errors=True)
        pip = [inside, "-m", "pip", "install", "--disable-pip-version-check", "-qq"]
        subprocess.run([python, "-m", "venv", folder], check=True)
        subprocess.run([*pip, "-r", requirements], check=True)
        subprocess.run([*pip, "--no-deps", "--editable", ROOT], check=True)
        subprocess.run([inside, "-m", "pip", "check"], check=True)
        mark.write_text(made_of)
    return inside


def files(patterns: tuple[str, ...]) -> list[Path]:
    """The test files with these names."""
    return [file for pattern in patterns for file in sorted((ROOT / "tests").glob(f"{pattern}.py"))]


def run(name: str, python: Path | str, arguments: list[str | Path], live: bool = False, **more: str) -> bool:
    """Whether the tests pass there, with these variables set too. What they print is shown at once, or in one piece."""
    command = [python, "-m", "pytest", *arguments, "-p", "no:cacheprovider"]
    out = {} if live else {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    one_thread = {"OMP_NUM_THREADS": "1"}  # of two, one would wait for the core that the tests beside it have
    ran = subprocess.run(command, cwd=ROOT, env=os.environ | one_thread | more, **out)
    print(f"\n===== {name}\n{ran.stdout or ''}", end="", flush=True)
    return ran.returncode == 0


def run_elsewhere(name: str, version: str, python: str, requirements: str, arguments: list[str]) -> bool:
    """run in an environment of its own."""
    try:
        inside = environment(name, python, ROOT / requirements)
    except subprocess.CalledProcessError as error:
        print(f"\n===== {name}: Python {version} with {requirements} cannot be installed: {error}", flush=True)
        return False
    return run(f"Python {version} with {requirements}", inside, arguments)


def main() -> int:
    versions = supported()
    here = {version: path for version in versions if (path := interpreter(version))}
    missing = [version for version in versions if version not in here]
    print(f"Python here: {', '.join(here)}; not here, so not tried: {', '.join(missing) or 'none'}", flush=True)
    lowest, newest = min(here, key=versions.index), max(here, key=versions.index)
    options = sys.argv[1:]
    without = [f"--ignore-glob=*/{pattern}.py" for pattern in NOTEBOOKS + PAGES]
    notebooks = [*sorted((ROOT / "notebooks").glob("*.ipynb")), *files(NOTEBOOKS)]
    deep = ["tests", *without, *options, "--write-trust", "docs/trust.md"]
    brief = ["tests", "-q", "-rfE", "-m", "not deep", *without]
    quiet = [*options, "-q"]
    with ThreadPoolExecutor(2) as two:  # in this order both have something to do to the end
        parts = [
            two.submit(run, "deep", sys.executable, deep, live=True, FLASHREF_DEEP="1"),
            two.submit(run_elsewhere, ".venv-lowest", lowest, here[lowest], "requirements-lowest.txt", brief),
            two.submit(run, "notebooks, exercises", sys.executable, [*notebooks, *quiet], FLASHREF_DEEP="1"),
        ]
        if newest != f"{sys.version_info.major}.{sys.version_info.minor}":  # which the others run on
            parts.append(two.submit(run_elsewhere, ".venv-newest", newest, here[newest], "requirements.txt", brief))
        parts.append(two.submit(run, "book, browser", sys.executable, [*files(PAGES), *quiet], FLASHREF_DEEP="1"))
        passed = [part.result() for part in parts]
    return int(not all(passed))


if __name__ == "__main__":
    sys.exit(main())
