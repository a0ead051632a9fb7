"""All of `make test-all`: the deep tests on this Python, and beside them `make test`'s on the lowest and the newest.

The arguments are pytest's, for the deep tests. The lowest of the supported versions of Python that this machine has
gets the lowest versions of everything that pyproject.toml accepts (requirements-lowest.txt), the newest those of
requirements.txt. Each has an environment of its own, .venv-lowest and .venv-newest, which is made again when what it is
made of changes. What is about the notebooks, the book or a browser is left out there.
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
    # With one thread each, these tests and one of the others do not wait for each other on two cores.
    deep = subprocess.Popen(
        [sys.executable, "-m", "pytest", *sys.argv[1:]], cwd=ROOT, env=os.environ | {"FLASHREF_DEEP": "1"}
    )
    versions = supported()
    here = {version: path for version in versions if (path := interpreter(version))}
    missing = [version for version in versions if version not in here]
    said = [f"Python here: {', '.join(here)}; not here, so not tried: {', '.join(missing) or 'none'}"]
    lowest, newest = min(here, key=versions.index), max(here, key=versions.index)
    wanted = {".venv-lowest": (lowest, "requirements-lowest.txt")}
    if newest != f"{sys.version_info.major}.{sys.version_info.minor}":  # which the deep tests run on
        wanted[".venv-newest"] = (newest, "requirements.txt")
    failed = False
    for name, (version, requirements) in wanted.items():
        try:
            inside = environment(name, here[version], ROOT / requirements)
        except subprocess.CalledProcessError as error:
            said.append(f"{name}: Python {version} with {requirements} cannot be installed: {error}")
            failed = True
            continue
        left_out = [f"--ignore-glob=*/{pattern}.py" for pattern in LEFT_OUT]
        command = [inside, "-m", "pytest", "tests", "-q", "-rfE", "-m", "not deep", "-p", "no:cacheprovider", *left_out]
        alone = os.environ | {"OMP_NUM_THREADS": "1"}
        ran = subprocess.run(command, cwd=ROOT, env=alone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        lines = ran.stdout.splitlines()
        said += lines if ran.returncode else []
        said.append(f"{name}: Python {version} with {requirements}: {lines[-1] if lines else 'nothing was run'}")
        failed = failed or ran.returncode != 0
    status = deep.wait()
    print(*said, sep="\n")
    return int(failed or status != 0)


if __name__ == "__main__":
    sys.exit(main())
