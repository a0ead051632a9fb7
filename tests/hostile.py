"""What somebody else may do to a file, and a place where reading it can do no harm: bounded, and watched for a hang."""

import json
import os
import pickle
import resource
import select
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

MEGABYTES, CPU_SECONDS, TURNS = 512, 10, 600  # TURNS of 0.1 s that this process itself waits: a pause counts for none
CLEAR = (ValueError, TypeError, FileNotFoundError)


def confined(job: Callable[[], Any]) -> Any:
    """What a job returns, or the exception that it raises, in a child with bounds on memory and on computing.

    Fails if the child crashes, hangs, computes for seconds, or wants memory far beyond its files'.
    """
    if sys.platform != "linux":
        pytest.skip("a process is bounded here as Linux does it")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            with open("/proc/self/statm") as pages:
                used = int(pages.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEGABYTES * 2**20,) * 2)
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
            try:
                answer = job()
            except Exception as error:
                answer = error
            data = pickle.dumps(answer)
            while data:
                data = data[os.write(write, data) :]
        finally:
            os._exit(0)
    os.close(write)
    data = b""
    try:
        for _ in range(TURNS):
            if select.select([read], [], [], 0.1)[0]:
                if not (piece := os.read(read, 2**20)):
                    break
                data += piece
        else:
            raise AssertionError("it hangs")
    finally:
        os.close(read)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    assert data, f"the child ended without an answer: {signal.Signals(os.WTERMSIG(status)).name}"
    return pickle.loads(data)


def assert_clear(error: Any, named: Path | str) -> None:
    """An error that a user can act on: of an expected kind, naming the file, short, and harmless on a terminal."""
    assert isinstance(error, CLEAR) and not isinstance(error, UnicodeError), repr(error)
    words = str(error)
    assert str(named) in words and len(words) < 5000, words[:6000]
    assert all(character.isprintable() or character == "\n" for character in words), ascii(words)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A file's bytes after an accident: cut off, bits changed, pieces lost, moved, doubled, or blanked."""
    wrong = bytearray(content)
    place = st.integers(0, len(content) - 1) | st.integers(0, min(len(content), 300) - 1)
    for _ in range(draw(st.integers(1, 3))):
        a, b = sorted((draw(place), draw(place)))
        match draw(st.sampled_from(["cut", "flip", "lose", "double", "blank", "move", "length"])):
            case "cut":
                wrong = wrong[:a]
            case "flip" if a < len(wrong):
                wrong[a] ^= 1 << draw(st.integers(0, 7))
            case "lose":
                del wrong[a:b]
            case "double":
                wrong[a:a] = wrong[a:b]
            case "blank":
                wrong[a:b] = bytes(len(wrong[a:b]))
            case "move":
                wrong = wrong[a:] + wrong[:a]
            case "length" if len(wrong) >= 8:  # the first number of a safetensors file
                wrong[:8] = struct.pack("<Q", draw(st.integers(0, 2**64 - 1) | st.integers(0, 3000)))
    return bytes(wrong)


numbers = st.sampled_from([0, -1, 1, 2, 3, 7, 1e-300, 1e300, -0.0, 2**31, 2**63, 10**30, 10**400, 10**9, 10**5])
values = st.recursive(
    numbers | st.none() | st.booleans() | st.sampled_from(["", "x", "\x1b[2J", "a" * 10_000, "mixer", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["L", "a", "seconds"]), inner),
    max_leaves=5,
)


@st.composite
def changed(draw: st.DrawFn, content: Any) -> Any:
    """A JSON value of which one part, at any depth, is lost or replaced by any other."""
    if isinstance(content, dict | list) and content and draw(st.integers(0, 9)):
        keys = sorted(content) if isinstance(content, dict) else range(len(content))
        key, copy = draw(st.sampled_from(keys)), content.copy()
        if draw(st.integers(0, 9)):
            copy[key] = draw(changed(content[key]))
        else:
            del copy[key]
        return copy
    return draw(values)


def as_text(content: Any) -> bytes:
    return json.dumps(content).encode()
