"""Associative recall from exactly long ago: a task for long filters, which shortened ones cannot solve.

In the associative recall of Poli et al. (2023, arXiv 2302.10866) a sequence lists keys with their values and then asks
for the value of a key. Here every page of the sequence lists all keys again, with new values, and asks for those of the
page ``back`` pages earlier. Each page in between contradicts the answer, in the same words: only the distance tells
which one is meant. So a model must reach that far, and must tell one page from the next when it gets there. Without the
second it could add up what it reads, key by key, and a recurrence with one state per channel would do.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from flashref.checkpoints import PRETRAINED
from flashref.decoder import Decoder
from flashref.engines import make_mixer
from flashref.hyena import Hyena
from flashref.mixer import Mixer
from flashref.tiling import check_count, check_integers

PRETRAINED_RECALL = PRETRAINED.with_name("recall")  # the trained model that comes with flashref


@dataclass(frozen=True)
class Task:
    """The sizes of the task.

    A page has ``page`` tokens: ``keys`` questions with their answers, ``keys`` keys with their new values, then blanks.
    Tokens: the keys, as many questions (question k asks for the value of key k), ``values`` values, and the blank.
    """

    keys: int = 4
    values: int = 8
    page: int = 32
    back: int = 64

    def __post_init__(self) -> None:
        for field in fields(self):
            check_count(field.name, getattr(self, field.name), 1)
        if self.page < 4 * self.keys:
            raise ValueError(
                f"page must be >= 4 * keys = {4 * self.keys}, two tokens each for questions and pairs, got {self.page}"
            )

    @property
    def vocab_size(self) -> int:
        return 2 * self.keys + self.values + 1

    @property
    def blank(self) -> int:
        return self.vocab_size - 1

    @property
    def distance(self) -> int:
        """From a place in a page to the same place in the page that it asks about, in tokens."""
        return self.page * self.back

    @property
    def lags(self) -> range:
        """How far a question can stand from the value it asks for, in tokens."""
        first = 2 * self.keys + 1  # the place of a page's first value; its last is 2 * keys - 2 further
        return range(self.distance - first - 2 * self.keys + 2, self.distance - first + 2 * self.keys - 1)

    @property
    def chance(self) -> float:
        """The accuracy of a guess."""
        return 1 / self.values

    def name(self, token: int) -> str:
        """A token as a reader sees it: key A, question A?, value 3, a dot for the blank."""
        if token < 2 * self.keys:
            return chr(ord("A") + token % self.keys) + "?" * (token >= self.keys)
        return "·" if token == self.blank else str(token - 2 * self.keys)


def sequences(task: Task, batch: int, pages: int, seed: int) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """``batch`` random sequences of ``pages`` pages, and which questions count: their answers are the next tokens.

    The first ``back`` pages ask about pages before the beginning; those answers cannot be known and do not count. The
    same seed gives the same sequences. Raises TypeError or ValueError for a count below 1 or a seed that is no integer.
    """
    check_count("batch", batch, 1)
    check_count("pages", pages, 1)
    check_integers(seed=seed)
    generator = torch.Generator().manual_seed(seed)

    def orders() -> Int[Tensor, "B pages keys"]:
        return torch.rand(batch, pages, task.keys, generator=generator).argsort(-1)

    first = 2 * task.keys  # the token of the first value, and how many tokens of a page are questions and answers
    values = first + torch.randint(task.values, (batch, task.back + pages, task.keys), generator=generator)
    asked, listed = orders(), orders()
    tokens = torch.full((batch, pages, task.page), task.blank)
    tokens[..., 0:first:2] = task.keys + asked
    tokens[..., 1:first:2] = values[:, :pages].gather(-1, asked)
    tokens[..., first : 2 * first : 2] = listed
    tokens[..., first + 1 : 2 * first : 2] = values[:, task.back :].gather(-1, listed)
    count = torch.zeros_like(tokens, dtype=torch.bool)
    count[:, task.back :, 0:first:2] = True
    return tokens.flatten(1), count.flatten(1)


@torch.no_grad()
def accuracy(
    model: Hyena,
    task: Task,
    engine: str | Callable[[Tensor, int], Mixer] = "auto",
    batch: int = 32,
    seed: int = 0,
    pages: int | None = None,
    prompt: int | None = None,
) -> float:
    """The share of questions that the model answers rightly while it generates.

    ``batch`` fresh sequences of ``pages`` pages, by default 2 * back, so that nearly as many pages lie before the one
    that is meant as after it. On the last page the questions count: each is answered with the likeliest token, and the
    model goes on with its own answer, right or wrong. engine: as make_mixer takes it, or a function that makes a Mixer
    of filters (M, D, L) and a batch size, for an approximation. prompt: how many tokens are read at once; the engine
    takes the others one by one. By default all up to the first question that counts are the prompt.

    Costs one prefill and at least 2 * keys - 1 steps. Raises ValueError for a model of other tokens, filters that are
    too short, too few pages to ask about one, or a prompt that is empty or ends after the first question that counts;
    TypeError for a number that is no integer. What sequences and make_mixer refuse is refused too.
    """
    if model.config.vocab_size != task.vocab_size:
        raise ValueError(f"the task has {task.vocab_size} tokens, the model {model.config.vocab_size}")
    pages = 2 * task.back if pages is None else pages
    check_count("pages", pages, task.back + 1)
    first = task.page * (pages - 1)  # the place of the first question that counts
    prompt = first + 1 if prompt is None else prompt
    check_count("prompt", prompt, 1)
    if prompt > first + 1:
        raise ValueError(f"prompt must end at the first question that counts, after {first + 1} tokens, got {prompt}")
    length = first + 2 * task.keys - 1  # the last answer is not fed back
    if length > model.config.l_max:
        raise ValueError(f"the filters hold {model.config.l_max} positions, the task needs {length}")
    tokens, _ = sequences(task, batch, pages, seed)
    make = engine if callable(engine) else lambda filters, size: make_mixer(engine, filters, size)
    decoder = Decoder(model, make(model.filters(length), batch))
    right, logits = 0, decoder.prefill(tokens[:, :prompt])
    for t in range(prompt, length + 1):
        if t in range(first + 1, length + 1, 2):  # the places of the answers
            answer = logits[:, : task.vocab_size].argmax(-1)
            right += int((answer == tokens[:, t]).sum())
            tokens[:, t] = answer
        if t < length:
            logits = decoder.step(tokens[:, t])
    return right / (batch * task.keys)
