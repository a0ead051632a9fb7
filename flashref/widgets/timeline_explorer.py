"""The timeline to play with: which job runs when, on which stream, and what it waited for, as a Jupyter widget.

timeline_explorer.js draws what timeline_data says. Python lays the jobs anew when M, L, the mode, the base or the price
of a call changes; steps, the pointer and the keyboard are the browser's own.
"""

import base64
import functools
from pathlib import Path

import anywidget
import traitlets

from flashref.figures.style import PARTS, as_png
from flashref.figures.timeline import timelines
from flashref.tiling import check_integers
from flashref.timeline import MODES, Costs, Timeline, timeline

HERE = Path(__file__).parent
MOST_MIXERS, MOST_POSITIONS = 4, 16  # more jobs than that cannot be told apart on a screen
BASES, CALLS = (1, 2, 4), (0, 4, 16)


def timeline_explorer(
    M: int = 3, L: int = 8, mode: str = "batched", base: int = 1, call: int = 4, at: int = 0
) -> "TimelineExplorer":
    """The timeline of M <= 4 mixers and L <= 16 positions, at the moment ``at``: so many starts of jobs have passed.

    mode: as in timeline. base: 1, 2 or 4. call: how many units a call of tiles costs beside its work, 0, 4 or 16; a
    cell costs 4. The choices of the reader can be read from its attributes of these names, and set there; a shorter
    timeline takes ``at`` with it. Raises ValueError for what is out of range, TypeError for what is no integer.
    """
    _check(M=M, L=L, mode=mode, base=base, call=call)
    shown = TimelineExplorer(M=M, L=L, mode=mode, base=base, call=call)
    shown.at = at
    return shown


class TimelineExplorer(anywidget.AnyWidget):
    """What timeline_explorer returns. M, L, mode, base, call and at can be read and set while it is shown."""

    _esm = HERE / "timeline_explorer.js"
    _css = (HERE / "explorer.css").read_text(encoding="utf-8") + (HERE / "timeline_explorer.css").read_text("utf-8")
    M = traitlets.Instance(int, (3,)).tag(sync=True)  # not traitlets.Int, which takes 3.0 for 3
    L = traitlets.Instance(int, (8,)).tag(sync=True)
    mode = traitlets.Unicode("batched").tag(sync=True)
    base = traitlets.Instance(int, (1,)).tag(sync=True)
    call = traitlets.Instance(int, (4,)).tag(sync=True)
    at = traitlets.Instance(int, (0,)).tag(sync=True)
    data = traitlets.Dict().tag(sync=True)

    @traitlets.default("data")
    def _first(self) -> dict:
        return timeline_data(self.M, self.L, self.mode, self.base, self.call)

    @traitlets.validate("M", "L", "mode", "base", "call")
    def _drawable(self, proposal: dict) -> int | str:
        _check(**{proposal["trait"].name: proposal["value"]})
        return proposal["value"]

    @traitlets.observe("M", "L", "mode", "base", "call")
    def _lay_anew(self, _: dict) -> None:
        data = self._first()
        with self.hold_sync():
            self.at = min(self.at, len(data["moments"]) - 1)
            self.data = data

    @traitlets.validate("at")
    def _within(self, proposal: dict) -> int:
        check_integers(at=proposal["value"])
        most = len(self.data["moments"]) - 1
        if not 0 <= proposal["value"] <= most:
            raise ValueError(f"at must lie in 0 .. {most}, the moments of this timeline, got {proposal['value']}")
        return proposal["value"]

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        bundle, metadata = super()._repr_mimebundle_(**kwargs)
        shown = {self.mode: timeline(self.M, self.L, self.mode, self.base, Costs(call=self.call))}
        text = (
            f"The timeline of {self.M} mixers and {self.L} positions, {self.mode}. {self.data['moments'][-1]['said']}"
        )
        picture = base64.b64encode(as_png(timelines(shown))).decode()
        return {**bundle, "image/png": picture, "text/plain": text}, metadata


@functools.lru_cache(maxsize=64)
def timeline_data(M: int, L: int, mode: str, base: int, call: int) -> dict:
    """What timeline_explorer.js draws: the jobs, what is said at each moment, and what every mode takes in all."""
    every = {name: timeline(M, L, name, base, Costs(call=call)) for name in MODES}
    lay = every[mode]
    jobs = [
        {
            "start": lay.starts[i],
            "end": lay.ends[i],
            "stream": lay.streams[i],
            "first": job.mixers[0],
            "last": job.mixers[-1],
            "kind": "cell" if job.tile is None else "tile",
            "label": str(job.step if job.tile is None else len(job.tile.inputs)),
            "critical": i in lay.critical,
            "needs": lay.needs[i],
            "waited": lay.waited[i],
            "text": explain(lay, i),
        }
        for i, job in enumerate(lay.jobs)
    ]
    return {
        "of": [M, L, mode, base, call],  # so that the browser knows whether these are the data of its choices
        "M": M,
        "streams": MODES[mode][2],
        "jobs": jobs,
        "moments": [{"time": time, "said": describe(lay, time)} for time in sorted({*lay.starts, lay.length})],
        "tokens": lay.tokens,
        "columns": ["time", "longest chain", "calls of tiles", "longest wait for a token", "idle"],
        "modes": [
            [name, [t.length, t.critical_length, t.calls, t.longest_step, " + ".join(map(str, t.idle))]]
            for name, t in every.items()
        ],
        "bases": BASES,
        "calls": CALLS,
        "most": [MOST_MIXERS, MOST_POSITIONS],
        "colours": PARTS,
    }


def describe(lay: Timeline, time: int) -> str:
    """The moment ``time`` in words: what runs, what is done."""
    sampled = f"{sum(token <= time for token in lay.tokens)} of {len(lay.tokens)} positions are complete"
    if time == lay.length:
        return f"Time {time}: all done. {len(lay.jobs) - lay.calls} cells and {lay.calls} calls of tiles."
    running = [i for i in range(len(lay.jobs)) if lay.starts[i] <= time < lay.ends[i]]
    names = "; ".join(f"{lay.jobs[i]} ({lay.times[i]} units)" for i in running)
    return f"Time {time} of {lay.length}. Now: {names}. {sampled}."


def explain(lay: Timeline, i: int) -> str:
    """One job in words: what it is, when it runs, what it needs, what it waited for."""
    job, needs, waited = lay.jobs[i], lay.needs[i], lay.waited[i]
    cells = sum(lay.jobs[j].tile is None for j in needs)
    parts = [_count(cells, "cell"), _count(len(needs) - cells, "tile")]
    needed = " and ".join(part for part in parts if not part.startswith("0"))
    name = str(job)[0].upper() + str(job)[1:]
    said = [f"{name}: {lay.starts[i]} to {lay.ends[i]} on stream {lay.streams[i]}."]
    said.append(f"It needs {needed}, framed with dashes." if needs else "It needs nothing.")
    if waited is None:
        said.append("It starts at once.")
    elif waited in needs:
        said.append(f"It started when the last of them ended: {lay.jobs[waited]}.")
    else:
        there = max((lay.ends[j] for j in needs), default=0)
        said.append(f"They were done at {there}; then it waited for its stream, which ran {lay.jobs[waited]}.")
    if i in lay.critical:
        said.append("It is on the longest chain of needs.")
    return " ".join(said)


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _check(**values: int | str) -> None:
    """Refuse what cannot be drawn, by name."""
    allowed = {"M": range(1, MOST_MIXERS + 1), "L": range(1, MOST_POSITIONS + 1), "base": BASES, "call": CALLS}
    for name, value in values.items():
        if name == "mode":
            if value not in MODES:
                raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, got {value!r}")
            continue
        check_integers(**{name: value})
        if value not in allowed[name]:
            some = allowed[name]
            words = f"{some[0]} .. {some[-1]}" if isinstance(some, range) else ", ".join(map(str, some))
            raise ValueError(f"{name} must be one of {words} to be drawn, got {value}")
