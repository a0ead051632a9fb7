"""The project around the code: one list of versions, small files, nothing of anybody's machine."""

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import flashref

ROOT = Path(__file__).parent.parent
MEGABYTE = 10**6
ABSOLUTE_PATH = re.compile(r"(?<![\w.+~/-])(/(home|root|Users|work|tmp|opt|mnt|private)/|[A-Za-z]:\\+Users\\+)\w+")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def by_name(lines: list[str]) -> dict[str, Requirement]:
    """Requirements by their canonical names; a package that is listed twice is refused."""
    found = [Requirement(line) for line in lines]
    named = {canonicalize_name(requirement.name): requirement for requirement in found}
    assert len(named) == len(found), f"a package is listed twice: {sorted(requirement.name for requirement in found)}"
    return named


PROJECT = tomllib.loads(read("pyproject.toml"))["project"]
CONDA = yaml.safe_load(read("environment.yml"))["dependencies"]
EXTRAS = PROJECT["optional-dependencies"]
DECLARED = by_name(PROJECT["dependencies"] + [line for extra in EXTRAS.values() for line in extra])
PINS = [line for name in ("requirements.txt", "requirements-mutants.txt") for line in read(name).splitlines()]
PINNED = by_name([line for line in PINS if line and not line.startswith("#")])
SURVIVORS = tomllib.loads(read("tests/survivors.toml"))["survivor"]


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """Every file that is tracked, or would be if it were added now."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    found = [ROOT / name for name in listed if (ROOT / name).is_file()]
    assert ROOT / "pyproject.toml" in found
    return found


def texts(path: Path) -> Iterator[str]:
    """The pieces of text in a file: a notebook's strings without its pictures, another file as a whole, binary none."""
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    yield from strings(json.loads(content) if path.suffix == ".ipynb" else content)


def strings(content: str | list | dict) -> Iterator[str]:
    """Every string in what JSON holds, but for names and pictures."""
    pending = [content]
    while pending:
        piece = pending.pop()
        if isinstance(piece, str):
            yield piece
        elif isinstance(piece, list):
            pending += piece
        elif isinstance(piece, dict):
            pending += [value for key, value in piece.items() if not key.startswith("image/")]


def test_requirements_pin_exactly_the_packages_that_pyproject_declares():
    assert EXTRAS.keys() == {"notebooks", "book", "teach", "dev", "mutants"}
    assert PINNED.keys() == DECLARED.keys()


@pytest.mark.parametrize("name", sorted(PINNED))
def test_each_requirement_is_one_public_version_within_the_bounds_of_pyproject(name):
    (pin,) = PINNED[name].specifier
    assert pin.operator == "==" and "*" not in pin.version and "+" not in pin.version, f"{PINNED[name]} is not a pin"
    assert DECLARED[name].specifier.contains(pin.version), f"{PINNED[name]} is outside {DECLARED[name]}"


@pytest.mark.parametrize("name", sorted(PINNED))
def test_each_requirement_is_for_the_platforms_that_pyproject_names(name):
    assert str(PINNED[name].marker) == str(DECLARED[name].marker)


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_each_dependency_in_pyproject_has_a_lower_bound_and_no_upper_one(name):
    assert [bound.operator for bound in DECLARED[name].specifier] == [">="]


def test_the_lowest_requirements_are_the_lower_bounds_of_pyproject():
    extras = [*PROJECT["dependencies"], *EXTRAS["notebooks"], *EXTRAS["dev"]]
    lowest = [line for line in read("requirements-lowest.txt").splitlines() if line and not line.startswith("#")]
    assert lowest == [line.replace(">=", "==") for line in extras]


def test_environment_yml_installs_requirements_txt_and_the_package_and_lists_no_versions_of_its_own():
    *conda, pip = CONDA
    assert pip == {"pip": ["-r requirements.txt", "-e ."]}
    assert by_name(conda).keys() == {"python", "pip"}


def test_pyproject_environment_yml_and_the_workflow_name_the_same_versions_of_python():
    classifiers = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if ":: Python :: 3." in line]
    in_workflow = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert in_workflow == classifiers

    minors = [f"3.{minor}" for minor in range(30)]
    oldest = minors.index(classifiers[0])
    assert list(SpecifierSet(PROJECT["requires-python"]).filter(minors)) == minors[oldest:]
    assert list(by_name(CONDA[:-1])["python"].specifier.filter(minors)) == classifiers


def test_the_version_is_the_same_in_pyproject_and_in_the_citation():
    assert yaml.safe_load(read("CITATION.cff"))["version"] == PROJECT["version"]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_each_make_target_that_a_page_names_exists(page):
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", read(page), re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    assert named and named <= targets


def test_the_layout_in_the_readme_names_every_module():
    layout = read("README.md").partition("## Layout")[2].partition("\n## ")[0]
    modules = [path.name for path in (ROOT / "flashref").glob("*.py") if path.name != "__init__.py"]
    assert [name for name in modules if not re.search(rf"[`/]{name}`", layout)] == []


def test_the_examples_in_the_readme_run(tmp_path, monkeypatch):
    example, *others = re.findall(r"```python\n(.*?)```", read("README.md"), re.DOTALL)
    config = flashref.HyenaConfig(d_model=8, n_layer=2, d_inner=16, vocab_size=12, l_max=1026)
    flashref.save(flashref.Hyena(config), tmp_path / re.search(r'load\("(.*?)"\)', example)[1])
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(example, names)
    assert names["z_t"].shape == (1, 16)
    assert names["mixer"].position == 1
    assert names["tokens"].shape == (1, 204)
    for other in others:
        exec(other, names)
    assert torch.equal(names["run"].tokens[:, :4], names["prompt"][None]) and names["run"].left == 0


@pytest.mark.parametrize("survivor", SURVIVORS, ids=lambda survivor: survivor["mutant"])
def test_a_mutant_that_is_explained_is_one_of_the_code_as_it_is(survivor):
    module = read(f"flashref/{survivor['function'].partition('.')[0]}.py")
    assert survivor.keys() == {"function", "line", "mutant", "reason", "why"}
    line, mutant, module = (re.sub(r"\s+", " ", text) for text in (survivor["line"], survivor["mutant"], module))
    assert line in module and mutant not in module


def test_ci_looks_for_the_browsers_that_the_tests_look_for():
    (named,) = re.findall(r"for name in (.*); do", read(".ci/run"))
    assert tuple(named.split()) == browser.NAMES


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_each_link_to_a_file_leads_to_one(page):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", read(page))
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_no_file_is_over_8_megabytes(files):
    assert [path.name for path in files if path.stat().st_size > 8 * MEGABYTE] == []


def test_no_text_names_an_absolute_path_of_a_machine(files):
    found = [(path.name, ABSOLUTE_PATH.search(piece)) for path in files for piece in texts(path)]
    assert [(name, match.group()) for name, match in found if match] == []


def test_an_absolute_path_is_told_from_a_url_and_a_relative_path():
    slash = "/"  # written apart, so that this file passes the test above
    for path in [f"{slash}home/ada/flashref", f'"{slash}tmp/x.json"', f"at {slash}root/a", "C:" + "\\Users\\ada"]:
        assert ABSOLUTE_PATH.search(path), path
    for path in ["https://example.org/home/ada", "~/code/tmp/b", "docs/home/index", "/usr/bin/env", "a/tmp/b"]:
        assert not ABSOLUTE_PATH.search(path), path
