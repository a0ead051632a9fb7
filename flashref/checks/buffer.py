"""Checks of what an online convolution keeps between two steps: which of its numbers depend on the inputs."""

import numpy as np
import torch
from torch import Tensor

from flashref.checks.feedback import attempt, fail, fresh, name_of
from flashref.checks.online import Online
from flashref.figures.checks import numbers_kept

SPARE = 16  # numbers that anybody may keep beside a buffer: the last output, say


def check_single_buffer(cls: type[Online], share: float = 0.5, seed: int | None = None) -> None:
    """cls, right as check_online wants it, may keep share*L numbers a channel between steps, beside filter and spectra.

    What depends on the inputs is counted: two objects with one filter are pushed different inputs, and numbers that
    differ between them are state. SPARE more are allowed. A failure shows what is kept after every step.
    """
    rng = np.random.default_rng(fresh(seed))
    for L in (64, 101, 256):
        rho, x = torch.from_numpy(rng.standard_normal((1, L))), torch.from_numpy(rng.standard_normal((L, 2, 1)))

        def job(rho: Tensor = rho, x: Tensor = x, L: int = L) -> list[int]:
            two = [cls(rho.clone()) for _ in range(2)]
            kept = []
            for t in range(L):
                for i in range(2):
                    two[i].push(x[t, i].clone())
                kept.append(_differing(two[0], two[1]))
            return kept

        kept = attempt(cls, job)
        most, part = int(np.ceil(share * L)), {1: "L", 0.5: "L/2"}.get(share, f"{share:g} L")
        late = np.flatnonzero(np.array(kept) > most + SPARE)
        if late.size:
            t = int(late[0])
            if share < 1 and kept[t] == L:
                why = (
                    "Does every position have a slot of its own? Or is the buffer a view (a slice) of something longer?"
                )
            else:
                why = "Is x_t kept beside its slot? A view (a slice) keeps all of the tensor that it was cut from."
            fail(
                f"{name_of(cls)} at L = {L}: after step {t} it keeps {kept[t]} numbers a channel that depend on the "
                f"inputs, and up to {max(kept)} in all. {part} is {most}, and {most + SPARE} are allowed. {why}",
                numbers_kept(np.array(kept), most + SPARE, name_of(cls)),
            )
    print(f"Right: never more than {part} numbers between two steps, for L = 64, 101 and 256.")


def _differing(one: object, two: object) -> int:
    """How many real numbers differ between what two objects hold, tensors and lists of them included."""

    def numbers(thing: object) -> list[Tensor]:
        if isinstance(thing, Tensor):
            base = thing if thing._base is None else thing._base  # a view keeps all of its base alive
            return [torch.view_as_real(base.resolve_conj()).flatten() if base.is_complex() else base.flatten()]
        if isinstance(thing, np.ndarray):
            return [torch.from_numpy(np.ascontiguousarray(thing)).flatten()]
        if isinstance(thing, float):
            return [torch.tensor([thing], dtype=torch.float64)]
        if isinstance(thing, dict):
            return [part for value in thing.values() for part in numbers(value)]
        if isinstance(thing, list | tuple):
            return [part for value in thing for part in numbers(value)]
        return numbers(vars(thing)) if hasattr(thing, "__dict__") and not callable(thing) else []

    pairs = list(zip(numbers(vars(one)), numbers(vars(two)), strict=False))
    return sum(int((a.double() != b.double()).sum()) if a.shape == b.shape else a.numel() for a, b in pairs)
