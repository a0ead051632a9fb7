"""How deep random tests go: `make test` tries the same cases on every run, `make test-all` ten times as many, new."""

import os

DEEP = bool(os.environ.get("FLASHREF_DEEP"))


def examples(n: int) -> int:
    """n cases in `make test`, ten times as many in `make test-all`."""
    return 10 * n if DEEP else n
