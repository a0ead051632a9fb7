"""Whether every mutant that survived is explained in survivors.toml: what `make mutants` runs last, in build/mutants.

A mutant is one small change of the code: another operator, number, word or argument. mutmut makes them inside functions
and runs the tests that reach the function; a mutant that no test notices has survived. It leaves alone what is outside
functions (constants of the classes), functions with a decorator (properties), annotations, what stands inside len() and
isinstance(), and the fixed words of f-strings. tiled_gpu.py and kernels.py are not in the list: half of them needs a
CUDA device.

Prints how many there were, killed, ended by the time limit (which kills too), or survived, for which reason:
"same", nothing that comes out can differ; "speed"; "gpu", only a CUDA device can tell. Then those that
survived without a reason. Fails if there are any, or one that no test reaches, or (where all were run) a reason for one
that survives no more.
"""

import json
import re
import sys
import tomllib
from collections import Counter
from pathlib import Path

from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code
from tabulate import tabulate

NAME = re.compile(r"flashref\.(\w+)\.x(?:ǁ(\w+)ǁ|_)(\w+)__mutmut_\d+")
REASONS = ("same", "speed", "gpu")


def change(name: str) -> tuple[str, str, str]:
    """Of a mutant: the function, the line as it is, and as the mutant has it."""
    module, of, function = NAME.fullmatch(name).groups()
    lines = [line for line in get_diff_for_mutant(name).splitlines() if not line.startswith(("+++", "---"))]
    before, after = (" ".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
    return ".".join(filter(None, (module, of, function))), before, after


def main() -> int:
    listed = tomllib.loads(Path("tests/survivors.toml").read_text())["survivor"]
    reasons = {(s["function"], s["line"], s["mutant"]): s["reason"] for s in listed}
    rows, wrong, seen, not_run = {}, [], set(), 0
    for meta in sorted(Path("mutants/flashref").glob("*.meta")):
        for name, code in json.loads(meta.read_text())["exit_code_by_key"].items():
            counts, status = rows.setdefault(meta.name.removesuffix(".py.meta"), Counter()), status_by_exit_code[code]
            if code is None:
                not_run += 1
                continue
            if status not in ("killed", "timeout"):
                seen.add(what := change(name))
                if status == "survived":
                    status = reasons.get(what, "unexplained")
                if status not in REASONS:
                    wrong.append((name, *what))
            counts["mutants"] += 1
            counts[status] += 1
    columns = ["mutants", "killed", "timeout", *REASONS]
    columns += sorted({key for counts in rows.values() for key in counts} - {*columns})
    rows["all"] = sum(rows.values(), Counter())
    print(tabulate([[module, *(counts[c] for c in columns)] for module, counts in rows.items()], ["", *columns]))
    for name, function, before, after in wrong:
        print(f"\n{name}, in {function}\n- {before}\n+ {after}")
    stale = [] if not_run else [what for what in reasons if what not in seen]
    for function, before, after in stale:
        print(f"\nlisted, but it does not survive any more: in {function}\n- {before}\n+ {after}")
    print(f"\n{len(wrong)} to explain or kill, {len(stale)} listed for nothing, {not_run} not run")
    return 1 if wrong or stale else 0


if __name__ == "__main__":
    sys.exit(main())
