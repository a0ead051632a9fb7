"""The end of `make test-all`: the tests on the lowest Python with the lowest versions, and on the newest.

The lowest of the supported versions of Python that this machine has gets the lowest versions of everything that
pyproject.toml accepts (requirements-lowest.txt), the newest those of requirements.txt. Each has an environment of its
own, .venv-lowest and .venv-newest, which is made again when what it is made of changes. Both run at the same time.
What is about the notebooks, the book or a browser is left to `make test`.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYPROJECT = ROOT / "pyproject.toml"
SUITS = "import sys, ensurepip, venv; print('%d.%d' % sys.version_info[:2])"
LEFT_OUT = ("test_book", "test_slides", "test_lab", "test_warnings", "*notebooks*", "*exercises*")
LEFT_OUT += ("test_explorer", "test_timeline_explorer")


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


def main() -> int:
    versions = supported()
    here = {version: path for version in versions if (path := interpreter(version))}
    missing = [version for version in versions if version not in here]
    print(f"Python here: {', '.join(here)}; not here, so not tried: {', '.join(missing) or 'none'}", flush=True)
    lowest, newest = min(here, key=versions.index), max(here, key=versions.index)
    wanted = {".venv-lowest": (lowest, "requirements-lowest.txt")}
    if newest != f"{sys.version_info.major}.{sys.version_info.minor}":  # which all tests have just run on
        wanted[".venv-newest"] = (newest, "requirements.txt")
    running, failed = [], []
    # Both run at once: with a thread each they do not wait for each other.
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    for name, (version, requirements) in wanted.items():
        try:
            inside = environment(name, here[version], ROOT / requirements)
        except subprocess.CalledProcessError as error:
            print(f"{name}: Python {version} with {requirements} cannot be installed: {error}", flush=True)
            failed.append(name)
            continue
        left_out = [f"--ignore-glob=*/{pattern}.py" for pattern in LEFT_OUT]
        options = ["-q", "-rfE", "-m", "not deep", "-p", "no:cacheprovider", *left_out]
        said = ROOT / name / "tests.txt"
        with said.open("w") as output:
            command = [inside, "-m", "pytest", "tests", *options]
            tests = subprocess.Popen(command, cwd=ROOT, env=alone, stdout=output, stderr=subprocess.STDOUT)
        running.append((name, version, requirements, said, tests))
    for name, version, requirements, said, tests in running:
        status = tests.wait()
        lines = said.read_text().splitlines()
        print(f"{name}: Python {version} with {requirements}: {lines[-1] if lines else 'nothing was run'}", flush=True)
        if status:
            print("\n".join(lines))
            failed.append(name)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
