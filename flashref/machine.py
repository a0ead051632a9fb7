"""What a reader needs to judge a measurement: the machine it was taken on, its versions, the commit and the date."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch


def environment(device: str = "cpu") -> dict:
    """What a reader needs to judge the figures: machine, cores, versions, commit, date, load."""
    return {
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": version("numpy"),
            "flashref": version("flashref"),
        },
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, as the system gives it, and what tells two of the same name apart.

    A virtual machine may call every generation of a maker's processors the same. Their family and model differ, and
    often the widest instructions that PyTorch uses.
    """
    found = {}
    if cpuinfo.exists():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        found = {key.strip(): value.strip() for key, _, value in lines}
    name = found.get("model name") or platform.processor() or platform.machine()
    generation = [f"{key} {found[f]}" for key, f in (("family", "cpu family"), ("model", "model")) if f in found]
    return f"{name} ({', '.join([*generation, torch.backends.cpu.get_cpu_capability()])})"


def _commit() -> str | None:
    """The commit that is measured, marked if files differ from it; None outside a git checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return None
    return found.stdout.strip() or None
