"""What `make lab` starts is for this machine alone, and for whoever has its token."""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def arguments() -> list[str]:
    """What `make lab` hands to Jupyter, as make itself says it."""
    command = ["make", "--dry-run", "--assume-old=.venv/installed", "lab"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = re.findall(r"-m jupyterlab (--LabApp.*)", said.replace("\\\n", " "))
    return shlex.split(line)


def test_make_lab_says_nothing_of_a_token_and_names_the_loopback_address():
    given = arguments()
    assert "--ip=127.0.0.1" in given
    assert [word for word in given if re.search("token|password|allow_(origin|remote)|xsrf|identity", word, re.I)] == []


def get(address: str) -> int:
    try:
        return urllib.request.urlopen(address, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


def test_jupyterlab_listens_on_the_loopback_address_only_and_wants_its_token(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    environment = {name: value for name, value in os.environ.items() if name != "JUPYTER_TOKEN"} | own
    options = [*arguments(), "--no-browser", f"--port={port}", "--ServerApp.port_retries=0", str(tmp_path)]
    log = tmp_path / "log"
    with log.open("w") as output:
        command = [sys.executable, "-m", "jupyterlab", *options]
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        for _ in range(600):
            if found := re.search(rf"http://127.0.0.1:{port}/lab\S*[?&]token=(\w+)", log.read_text()):
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        else:
            pytest.fail("JupyterLab did not say its address:\n" + log.read_text())
        token, place = found[1], f"http://127.0.0.1:{port}/api/contents"
        assert re.fullmatch("[0-9a-f]{48}", token)
        assert (get(place), get(f"{place}?token=guessed"), get(f"{place}?token={token}")) == (403, 403, 200)
        with pytest.raises(OSError):  # another of this machine's own addresses
            socket.create_connection(("127.0.0.2", port), timeout=10)
    finally:
        server.kill()
        server.wait()
