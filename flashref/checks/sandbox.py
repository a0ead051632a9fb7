"""Somebody else's function, run apart: in a process of its own, with bounds, and without flashref's own solutions.

It guards against mistakes and short cuts: endless loops, crashes, megabytes of output, changed globals, a call of the
very function that was asked for. It is no guard against an attack: a notebook's cells have run in its kernel before.
"""

import contextlib
import faulthandler
import gc
import io
import os
import pickle
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from flashref.checks.guards import USED, SolutionUsed, restore, solutions_off

SECONDS, MEGABYTES, KEPT = 10.0, 2048, 2000  # KEPT: characters of what was printed
PATIENCE = 5  # times its seconds of computing, and 5 s more: what it may take on a busy machine, or asleep
ANSWER = 2**26  # bytes of the largest answer that is read
FORKS = sys.platform == "linux"  # elsewhere a fork of a process with threads may crash


class Complaint(Exception):
    """What a check says of an answer while it runs; its words are for the reader as they are."""


class OutOfTime(BaseException):
    """Raised in the middle of what runs too long, so that its line can be named."""


@dataclass
class Outcome:
    """What became of a run. ``value`` is what the job returned, if nothing of the rest is set.

    error: the exception and where it came from. used: flashref's functions that it called. replaced: functions of
    numpy, torch or Python that are not what they were. printed: the beginning of its output, of ``length`` characters.
    """

    value: Any = None
    error: str = ""
    used: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    printed: str = ""
    length: int = 0

    @property
    def failure(self) -> str:
        """What went wrong, in words; empty if nothing did."""
        if self.used:
            return (
                f"It calls flashref's own {', '.join(self.used)}: write this part yourself. While a check runs, "
                "the solutions in flashref are switched off."
            )
        if self.replaced:
            return (
                f"It replaces {', '.join(self.replaced)}: give your function another name. The check has put the "
                "original back, if that was changed in this notebook."
            )
        return self.error


def run(
    job: Callable[[], Any], seconds: float = SECONDS, megabytes: int = MEGABYTES, fork: bool = FORKS, block: bool = True
) -> Outcome:
    """Run a job in a child process, and say what became of it; this process stays as it was.

    The job returns what pickle takes. It has so many seconds of computing, and megabytes beside what is in use already.
    Without fork it runs here: changes to tensors stay, memory is not bounded, and only the main thread can stop it.
    block: whether calls of flashref's solutions are refused.
    """
    if changed := restore():
        return Outcome(replaced=changed)
    return _forked(job, seconds, megabytes, block) if fork else _execute(job, seconds, block)


# The run itself. ------------------------------------------------------------------------------------------------


class _Bounded(io.TextIOBase):
    """A stream that keeps the beginning of what is written and counts the rest."""

    def __init__(self) -> None:
        self.text, self.length = "", 0

    def write(self, text: str) -> int:
        self.length += len(text)
        self.text += text[: max(0, KEPT - len(self.text))]
        return len(text)


def _endless(seconds: float, where: str = "") -> str:
    return f"It did not come back within {seconds:g} s, and was stopped{where}. A loop without an end?"


def _alarm(*_) -> None:
    raise OutOfTime


def _execute(job: Callable[[], Any], seconds: float, block: bool) -> Outcome:
    """Run a job in this process and thread, and catch whatever it does."""
    outcome, said = Outcome(), _Bounded()
    timed = hasattr(signal, "setitimer")
    try:
        before = signal.signal(signal.SIGPROF, _alarm) if timed else None
    except ValueError:  # not the main thread
        timed = False
    try:
        if timed:
            signal.setitimer(signal.ITIMER_PROF, seconds)
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.ExitStack() as stack:
            if block:
                stack.enter_context(solutions_off())
            try:
                outcome.value = job()
            finally:
                if timed:
                    signal.setitimer(signal.ITIMER_PROF, 0)
    except OutOfTime as error:
        outcome.error = _endless(seconds, _where(error))
    except SolutionUsed:
        pass
    except BaseException as error:
        outcome.error = _explain(error)
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)
    outcome.used = sorted(set(USED)) if block else []
    outcome.replaced = restore()
    outcome.printed, outcome.length = said.text, said.length
    return outcome


def _where(error: BaseException) -> str:
    """The last line of a traceback that is not a library's or flashref's."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        name = frame.filename
        if (
            "site-packages" not in name
            and os.path.dirname(__file__) not in name
            and not name.startswith(sys.base_prefix)
        ):
            return f" in {frame.name}, line {frame.lineno}" + (f": {frame.line[:90]}" if frame.line else "")
    return ""


def _explain(error: BaseException) -> str:
    where = ", ".join([_where(error), *getattr(error, "__notes__", [])])
    if isinstance(error, Complaint):
        return str(error)
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return f"It wanted more memory than it may have{where}."
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return f"It ended with {type(error).__name__}{where}: let it return instead."
    if isinstance(error, NotImplementedError):
        return f"It is not written yet{where}."
    text = str(error)
    return f"{type(error).__name__}{where}\n{text if len(text) < 600 else text[:600] + ' ...'}".strip()


def _limit(seconds: float, megabytes: int) -> None:
    """Bounds that the system keeps: on the processor's time, later than our own alarm, and on memory."""
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 3, resource.RLIM_INFINITY))
    with open("/proc/self/statm") as pages:
        used = int(pages.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, resource.RLIM_INFINITY))


def _child(job: Callable[[], Any], seconds: float, megabytes: int, block: bool, pipe: int) -> None:
    """What the child process does; it never returns."""
    try:
        os.setsid()  # it and whatever it starts can be ended together, and an interrupt of the kernel is not for it
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nowhere, standard)
        faulthandler.disable()  # a crash is told in words, not as a dump of all threads
        gc.disable()  # what the kernel left to collect, sockets among it, is none of the child's business
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        torch.set_num_threads(1)  # the threads of the parent do not exist here, and a call that waits for them hangs
        _limit(seconds, megabytes)
        outcome = _execute(job, seconds, block)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        try:
            data = pickle.dumps(outcome)
        except BaseException as error:
            data = pickle.dumps(Outcome(error=f"Its answer cannot be used: {_explain(error)}"))
        while data:
            data = data[os.write(pipe, data) :]
    finally:
        os._exit(0)


def _forked(job: Callable[[], Any], seconds: float, megabytes: int, block: bool) -> Outcome:
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # on forks beside threads: see _child
        child = os.fork()
    if child == 0:
        os.close(read)
        _child(job, seconds, megabytes, block, write)
    os.close(write)
    try:
        data, in_time = _read(read, time.monotonic() + PATIENCE * seconds + 5)
    finally:
        os.close(read)
        for end in (os.killpg, os.kill):  # killpg fails where it had not begun yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                end(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if not in_time or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return Outcome(error=_endless(seconds))
    with contextlib.suppress(Exception):
        if isinstance(outcome := pickle.loads(data), Outcome):
            return outcome
    if len(data) >= ANSWER:
        return Outcome(error=f"Its answer is larger than {ANSWER >> 20} MB.")
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    how = f"by {signal.Signals(number).name}" if number and number != signal.SIGKILL else "before it had answered"
    return Outcome(error=f"It ended its process {how}. This notebook's own kernel is unharmed.")


def _read(pipe: int, deadline: float) -> tuple[bytes, bool]:
    """All that comes through a pipe, and whether its end came before the deadline."""
    data = bytearray()
    while (left := deadline - time.monotonic()) > 0 and len(data) < ANSWER:
        if select.select([pipe], [], [], left)[0]:
            piece = os.read(pipe, 2**20)
            if not piece:
                return bytes(data), True
            data += piece
    return bytes(data), len(data) >= ANSWER
