"""Checks of an engine inside a model: one call for all mixers, little work, and the trained model's own tokens."""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from flashref.checkpoints import PRETRAINED, load
from flashref.checks.cost import check_work
from flashref.checks.feedback import attempt, fail, name_of, number
from flashref.checks.sandbox import Complaint
from flashref.checks.work import Work, counted
from flashref.hyena import Hyena
from flashref.mixer import Mixer

PROMPT = b"def read_table(path):\n"
NEAR = 1e-3  # logits that float32 may order either way


def check_mixer_work(cls: type[Mixer]) -> None:
    """cls, right as check_engine wants it, must do the work of relaxed tiles: at most twice what they cost by FFT."""

    class Alone:
        """One mixer of one sequence, as check_work wants it."""

        def __init__(self, rho: Tensor) -> None:
            self.mixer = cls(rho[None], 1)

        def push(self, x_t: Tensor) -> Tensor:
            z_t = self.mixer.step(0, x_t[None])[0]
            self.mixer.advance()
            return z_t

    Alone.__name__ = name_of(cls)
    check_work(Alone, "relaxed")


def check_one_call(cls: type[Mixer], L: int = 64) -> None:
    """The tiles of all mixers and sequences must run together: as many FFT calls for 4 mixers as for 1; counted."""

    def calls(M: int, B: int) -> int:
        def job() -> Work:
            mixer, x_t = cls(torch.randn(M, 2, L, dtype=torch.float64), B), torch.randn(B, 2, dtype=torch.float64)
            with counted() as work:
                for _ in range(L):
                    for m in range(M):
                        mixer.step(m, x_t)
                    mixer.advance()
            return work

        return attempt(cls, job).calls

    one = calls(1, 1)
    for M, B, what in ((4, 1, "4 mixers"), (1, 3, "3 sequences")):
        if (more := calls(M, B)) > one:
            fail(
                f"{name_of(cls)} makes {one} calls of an FFT for {L} positions of one mixer and one sequence, and "
                f"{more} for {what}. Their tiles are due at the same moment: one call on (B, M, D, U) does them all."
            )
    if not one:
        fail(f"{name_of(cls)} makes no FFT at all.")
    print(f"Right: {one} calls of an FFT for {L} positions, however many mixers and sequences there are.")


def check_trained(f: Callable[[Hyena, Tensor, int], Int[Tensor, " P+n"]], n: int = 160) -> None:
    """f(model, prompt (P,), n), right as check_generate wants it, must write what the shipped, trained model writes.

    Each token must be the likeliest to the model's forward pass in float64, given f's own tokens before it, or within
    NEAR of it: f runs in float32, which may order two such tokens either way.
    """
    model = load(PRETRAINED)
    V, prompt, name = model.config.vocab_size, torch.tensor(list(PROMPT)), name_of(f)  # tokens are bytes
    P = len(prompt)

    def job() -> list[int]:
        tokens = f(model, prompt.clone(), n)
        if not isinstance(tokens, Tensor) or tokens.is_floating_point() or tokens.shape != (P + n,):
            raise Complaint(f"It must return integers of shape (P+n,) = ({P + n},).")
        return tokens.tolist()

    tokens = attempt(f, job, seconds=60)
    if tokens[:P] != prompt.tolist():
        fail(f"{name} must return the prompt first: {prompt[:8].tolist()} ..., got {tokens[:8]} ...")
    if not all(0 <= token < V for token in tokens):
        fail(f"{name} returns tokens outside of 0 .. {V - 1}: the embedding has more rows than there are tokens.")
    with torch.no_grad():
        logits = model.double()(torch.tensor([tokens[:-1]]))[0, P - 1 :, :V]
    behind = logits.amax(-1) - logits.gather(-1, torch.tensor(tokens[P:])[:, None])[:, 0]
    if (behind > NEAR).any():
        i = int((behind > NEAR).nonzero()[0])
        fail(
            f"{name} writes {bytes(tokens[P : P + i + 1])!r}. Its last token, number {i} after the prompt, is "
            f"{number(round(float(behind[i]), 3))} behind {bytes([int(logits[i].argmax())])!r} in the model's logits. "
            f"{'The prompt itself is taken wrongly' if i == 0 else 'The prompt is right, a later step is wrong'}."
        )
    print(f"Right: {n} tokens after {P}, each the likeliest to the model:")
    print(bytes(tokens).decode("utf-8", "replace"))
