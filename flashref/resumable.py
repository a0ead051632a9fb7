"""A generation as an object: interrupt it, fork it, put it away in a file, go on another day with the same tokens.

    run = flashref.Generation(model, prompt, n=100_000, seed=0)
    for token in run:  # Ctrl-C whenever you like: run.tokens has what was made, and the loop can be entered again
        ...
    run.save("run.safetensors")
    run = flashref.Generation.resume("run.safetensors", model)

What is kept is the engine's own state, not the tokens alone: a prompt made of them would round differently, and where
two tokens are nearly as likely another one could win.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Int
from torch import Tensor

from flashref.budget import check_generation
from flashref.decoder import Decoder
from flashref.engines import ENGINES, ON_CUDA, Engine, make_unasked
from flashref.files import check_target, shown
from flashref.finite import Checked, as_checked
from flashref.generation import check_request, sample
from flashref.hyena import Hyena, check_tokens
from flashref.mixer import Mixer
from flashref.saved import check_numbers, check_settings, fingerprint, marks, read, settings, under, write


class Generation(Iterator):
    """An iterator over n new tokens, (B,) each, that can be stopped between any two of them and taken up again.

    The arguments are those of stream, and so are the tokens. ``tokens``: the prompt and what was made so far, (B, P+k).
    next() raises FloatingPointError for logits that no token can be drawn from (see sample).

    Ctrl-C takes effect between two tokens, so that the object stays good. Any other error in the middle of a step, out
    of memory say, leaves it unusable, and next() then says so; resume the last file, or begin anew with ``tokens``.
    """

    def __init__(
        self,
        model: Hyena,
        prompt: Int[Tensor, "*B P"],
        n: int,
        engine: Engine = "auto",
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> None:
        batch = check_request(model, prompt, n, engine, temperature, top_k, seed)
        check_generation(model, batch.shape[1], n, engine, batch.shape[0])
        self._marks, self._fingerprint = marks(model), None
        with torch.no_grad():
            mixer = make_unasked(engine, model.filters(max(0, batch.shape[1] + n - 1)), batch.shape[0])
        self._generator = torch.Generator(batch.device)
        self._generator.manual_seed(seed) if seed is not None else self._generator.seed()
        self._set_up(model, mixer, Decoder(model, mixer), batch.shape[1], n, temperature, top_k)
        self._tokens[:, : self._prompt] = batch

    def _set_up(
        self,
        model: Hyena,
        mixer: Mixer,
        decoder: Decoder,
        prompt: int,
        n: int,
        temperature: float,
        top_k: int | None,
    ) -> None:
        self._model, self._mixer, self._decoder = model, mixer, decoder
        self._prompt, self._n, self._temperature, self._top_k = prompt, n, temperature, top_k
        self._tokens = torch.zeros(mixer.batch_size, prompt + n, dtype=torch.long, device=mixer.filters.device)
        self._made, self.broken = 0, False

    @property
    def tokens(self) -> Int[Tensor, "B P+k"]:
        """The prompt and the tokens made so far, a copy."""
        return self._tokens[:, : self._prompt + self._made].clone()

    @property
    def left(self) -> int:
        """How many tokens are still to come."""
        return self._n - self._made

    @torch.no_grad()
    def __next__(self) -> Int[Tensor, " B"]:
        self._check_whole()
        if not self.left:
            raise StopIteration
        with _between_tokens():
            self.broken = True
            known = self._prompt + self._made
            if self._made:
                logits = self._decoder.step(self._tokens[:, known - 1])
            else:
                logits = self._decoder.prefill(self._tokens[:, :known])
            logits = logits[:, : self._model.config.vocab_size]
            self._tokens[:, known] = sample(logits, self._temperature, self._top_k, self._generator)
            self._made += 1
            self.broken = False
        return self._tokens[:, known].clone()

    def fork(self, seed: int | None = None) -> Self:
        """Another continuation of the same tokens, which shares the weights and filters and nothing that changes.

        seed: for its own draws; without one it would draw the very tokens that this one draws.
        """
        self._check_whole()
        twin = object.__new__(type(self))
        twin._generator = torch.Generator(self._tokens.device)
        twin._generator.set_state(self._generator.get_state()) if seed is None else twin._generator.manual_seed(seed)
        mixer = self._mixer.fork()
        decoder = self._decoder.fork(mixer)
        twin._set_up(self._model, mixer, decoder, self._prompt, self._n, self._temperature, self._top_k)
        twin._tokens.copy_(self._tokens)
        twin._made = self._made
        twin._marks, twin._fingerprint = self._marks, self._fingerprint
        return twin

    def save(self, path: str | os.PathLike) -> None:
        """Put the generation away, without the model, in a safetensors file of about the engine's buffers in size.

        The file is written beside its place and then renamed: killed at any moment, this leaves the old file or the
        new one, and perhaps a folder .saving-* that nobody needs. Raises ValueError for an engine that has no name, a
        path that is no file, a model that parallel.split has split, or whose weights were changed since the generation
        began (through .data, unnoticed before the first save); FileNotFoundError for a folder that does not exist,
        OSError where the file cannot be written: the disk is full, say. The generation itself stays good.
        """
        self._check_whole()
        path = Path(path)
        check_target("path", path)
        kind = self._mixer.plain if isinstance(self._mixer, Checked) else type(self._mixer)
        if kind not in (ENGINES.get(kind.name), ON_CUDA.get(kind.name)):
            raise ValueError(f"only an engine that has a name can be put away, one of {', '.join(ENGINES)}")
        self._check_weights()
        tensors = {f"mixer.{name}": t for name, t in self._mixer.snapshot().items()}
        tensors |= {f"decoder.{name}": t for name, t in self._decoder.snapshot().items()}
        tensors |= {"tokens": self.tokens, "generator": self._generator.get_state()}
        tensors = {name: t.cpu().contiguous() for name, t in tensors.items()}
        about = {
            "engine": kind.name,
            "checked": isinstance(self._mixer, Checked),
            "settings": settings(self._mixer),
            "prompt": self._prompt,
            "n": self._n,
            "temperature": self._temperature,
            "top_k": self._top_k,
            "model": self._fingerprint,
            "torch": str(torch.__version__),
        }
        write(path, about, tensors)

    @classmethod
    def resume(cls, path: str | os.PathLike, model: Hyena) -> Self:
        """The generation in a file, where it stopped.

        Raises FileNotFoundError where there is none, ValueError for a file that is not whole, of another format, or of
        another model or version of torch than is here: each with what to do.
        """
        about, tensors = read(Path(path))
        if about["torch"] != str(torch.__version__):
            raise ValueError(
                f"{path} was saved with torch {shown(about['torch'])} and here is torch {torch.__version__}, which may "
                "round differently and so make other tokens: resume it with that version, or begin anew with its "
                "tokens as the prompt"
            )
        if about["model"] != fingerprint(model):
            raise ValueError(
                f"{path} was made with another model: load that one, in its dtype and with the same weights to the "
                "last bit"
            )
        try:
            return cls._restored(about, tensors, model)
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            # Its checksum fits, so nobody changed it by accident: it was made by hand, or by a faulty program.
            raise ValueError(f"{path} is no generation that this model can go on with: {shown(error)}") from error

    @classmethod
    def _restored(cls, about: dict, tensors: dict[str, Tensor], model: Hyena) -> Self:
        tokens, prompt, n, engine = tensors["tokens"], about["prompt"], about["n"], about["engine"]
        tokens = tokens.to(model.lm_head.weight.device)
        check_request(model, tokens[:, :prompt], n, engine, about["temperature"], about["top_k"], None)
        made = tokens.shape[1] - prompt
        if not 0 <= made <= n:
            raise ValueError(f"{made} tokens were made of {n}")
        if made:  # these must be tokens too; with the prompt they may be one more than the filters hold
            check_tokens("tokens", tokens[:, prompt:], model, model.config.vocab_size)
        check_numbers(tensors)
        check_settings(about["settings"], ENGINES[engine], model.config.l_max)
        short = (2, len(tokens), (model.config.order + 1) * model.config.d_model)
        if any(t.shape != short for t in under("decoder.", tensors).values()):  # before buffers are made of that size
            raise ValueError(f"the short filters' buffers must have shape {short} with {len(tokens)} sequences")
        check_generation(model, prompt, n, engine, len(tokens), **about["settings"])
        run = object.__new__(cls)
        run._marks, run._fingerprint = marks(model), about["model"]
        with torch.no_grad():
            filters = model.filters(max(0, prompt + n - 1))
        mixer = ENGINES[engine](filters, len(tokens), **about["settings"])
        if about.get("checked"):
            mixer = as_checked(mixer)
        run._set_up(model, mixer, Decoder(model, mixer), prompt, n, about["temperature"], about["top_k"])
        run._mixer.restore(under("mixer.", tensors))
        if run._mixer.position != (max(0, tokens.shape[1] - 1) if made else 0):
            raise ValueError(f"the engine stands at position {run._mixer.position}, behind {tokens.shape[1]} tokens")
        run._decoder.restore(under("decoder.", tensors))
        run._generator = torch.Generator(run._tokens.device)
        run._generator.set_state(tensors["generator"])
        run._tokens[:, : tokens.shape[1]] = tokens
        run._made = made
        return run

    def _check_whole(self) -> None:
        if self.broken:
            raise RuntimeError(
                "an error in the middle of a token left this generation unusable: resume the file that was saved last, "
                "or begin anew with its tokens as the prompt"
            )

    def _check_weights(self) -> None:
        """Refuse weights that are not those of the filters, which were made when the generation began."""
        now = fingerprint(self._model)
        if marks(self._model) != self._marks or self._fingerprint not in (None, now):
            raise ValueError(
                "the model's weights were changed since this generation began, and its filters are those of the old "
                "ones: begin anew, with its tokens as the prompt"
            )
        self._fingerprint = now


@contextmanager
def _between_tokens() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done. Only the main thread gets it, so elsewhere there is nothing to hold."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    held = []
    signal.signal(signal.SIGINT, lambda *args: held.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if held:
            handler(*held[0])
