"""How deep random tests go: `make test` repeats the same cases, `make test-all` tries ten times as many, new ones."""

import os

DEEP = bool(os.environ.get("FLASHREF_DEEP"))


def examples(n: int) -> int:
    """n cases in `make test`, ten times as many in `make test-all`."""
    return 10 * n if DEEP else n
