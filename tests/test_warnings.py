"""Nothing of ours warns: what a user starts runs with every warning an error, those at import too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = [path.stem for path in sorted((ROOT / "flashref").glob("*.py")) if not path.stem.startswith("_")]
COMMANDS = {
    "import": ["-c", "import flashref, " + ", ".join(f"flashref.{module}" for module in MODULES)],
    "pictures": ["-c", "from flashref import checks, figures, widgets; figures.three_tilings().savefig('x.png')"],
    "help": ["-m", "flashref", "--help"],
    "generate": ["-m", "flashref", "generate", "def f(x):", "-n", "20", "--temperature", "1", "--save", "state"],
    "demo": ["-m", "flashref", "demo", "-n", "3"],
    "bench": ["-m", "flashref", "bench", "--lengths", "70", "--channels", "4", "--json", "r.json", "--plots", "."],
    "explorer": ["-m", "flashref", "explorer", "--html", "x.html"],
}


OFTEN = ("import", "generate", "bench")  # the others start the same way, and wait for `make test-all`


@pytest.mark.parametrize("name", [n if n in OFTEN else pytest.param(n, marks=pytest.mark.deep) for n in COMMANDS])
def test_a_command_runs_where_every_warning_is_an_error(name, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", *COMMANDS[name]]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
