"""Checks of what stands around an online convolution: an engine for all mixers of a model, and generation."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from flashref.checks.feedback import attempt, fail, fresh, name_of, rows
from flashref.checks.online import causal_sum, first_wrong
from flashref.checks.sandbox import Complaint
from flashref.config import HyenaConfig
from flashref.hyena import Hyena
from flashref.mixer import Mixer


def check_engine(cls: type[Mixer], seed: int | None = None) -> None:
    """cls must be a flashref.Mixer: cls(filters (M, D, L), batch_size), then prefill, step, advance as it documents.

    Tried for several M, D, B, L and prompts of none, some and all positions, twice each with reset() between. Each
    mixer's input is made from the one before it, and the first one's from the last output, as in a model.
    """
    rng = np.random.default_rng(seed := fresh(seed))
    name = name_of(cls)
    if not (isinstance(cls, type) and issubclass(cls, Mixer)):
        fail(f"{name} must be a class derived from flashref.Mixer.")
    shapes = [
        (1, 1, 1, 1, 0),
        (1, 1, 1, 8, 0),
        (2, 3, 2, 16, 0),
        (2, 1, 1, 13, 3),
        (3, 2, 2, 64, 32),
        (1, 2, 1, 37, 37),
    ]
    for M, D, B, L, P in [*shapes, (2, 2, 2, int(rng.integers(20, 90)), int(rng.integers(1, 19)))]:
        filters = rng.standard_normal((M, D, L)) / L
        noise, prompt = rng.standard_normal((2, L, B, D)), rng.standard_normal((2, B, D, P))

        def job(filters=filters, noise=noise, prompt=prompt, B=B) -> list[tuple[np.ndarray, np.ndarray]]:
            mixer = cls(torch.from_numpy(filters.copy()), B)
            runs = []
            for i in range(2):
                runs.append(_run(mixer, noise[i], prompt[i]))
                mixer.reset()
            return runs

        for i, (xs, zs) in enumerate(attempt(cls, job)):
            for m, b in np.ndindex(M, B):
                want = causal_sum(xs[m, b], filters[m])
                if place := first_wrong(zs[m, b], want):
                    again = ", in the second generation, after reset()" if i else ""
                    where = "in the prompt" if place[1] < P else f"{place[1] - P} after the prompt" if P else ""
                    fail(
                        f"{name} is wrong with M, D, B, L = {M}, {D}, {B}, {L}, a prompt of {P}, seed {seed}{again}: "
                        f"mixer {m}, sequence {b}, channel {place[0]}, position {place[1]} {where}: {want[place]:.6f} "
                        f"expected, got {zs[m, b][place]:.6f}."
                    )
    print(f"Right: {len(shapes) + 1} sizes with and without a prompt, each twice.")


def check_generate(f: Callable[[Hyena, Tensor, int], Int[Tensor, " P+n"]], seed: int | None = None) -> None:
    """f(model, prompt (P,), n) must return the prompt and n tokens, each the likeliest to the model: (P+n,).

    Tried on small models with weights of their own in float64, of orders 2 and 3, against the model's forward pass.
    """
    seed = fresh(seed)
    for i, (order, P, n) in enumerate([(2, 1, 1), (2, 4, 20), (3, 7, 13), (2, 1, 63)]):
        torch.random.manual_seed(seed + i)
        config = HyenaConfig(d_model=8, n_layer=2, d_inner=16, vocab_size=11, l_max=64, order=order)
        model = Hyena(config).double()
        _enliven(model)
        prompt = torch.randint(11, (P,))

        def job(model: Hyena = model, prompt: Tensor = prompt, n: int = n) -> list[int]:
            tokens = f(model, prompt, n)
            if not isinstance(tokens, Tensor) or tokens.is_floating_point() or tokens.shape != (len(prompt) + n,):
                what = f"{tokens.dtype} {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else type(tokens).__name__
                raise Complaint(f"It must return integers of shape (P+n,) = ({len(prompt) + n},), got {what}.")
            return tokens.tolist()

        got, want = attempt(f, job), prompt.tolist()
        with torch.no_grad():
            for _ in range(n):
                want.append(int(model(torch.tensor([want]))[0, -1, :11].argmax()))
        if got != want:
            t = next(t for t in range(P + n) if got[t] != want[t])
            near = slice(max(0, t - 2), t + 6)
            fail(
                f"{name_of(f)}: for a model of order {order}, a prompt of {P} and n = {n}, seed {seed}, token {t} is "
                f"{got[t]}, and {want[t]} is the likeliest. From token {near.start} on {want[near]} are expected, got "
                f"{got[near]}."
            )
    print("Right: the tokens of the model's own forward pass, for orders 2 and 3.")


def _enliven(model: Hyena) -> None:
    """Weights so large that a token depends on all before it; as initialised, a model only repeats the last one."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding) and "filter_fn" not in name:
            nn.init.normal_(module.weight)


def _run(mixer: Mixer, noise: np.ndarray, prompt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One generation: the inputs and outputs of every mixer, (M, B, D, L)."""
    (M, D, L), (B, _, P) = mixer.filters.shape, prompt.shape
    xs, zs = np.zeros((2, M, B, D, L))
    z = torch.from_numpy(prompt.copy())
    for m in range(M if P else 0):
        xs[m, ..., :P] = z.numpy()
        z = mixer.prefill(m, z)
        zs[m, ..., :P] = rows(z, (B, D, P), f"prefill({m}, x)")
        z = torch.tanh(z)
    z = torch.zeros(B, D, dtype=torch.float64)
    for t in range(P, L):
        z = torch.tanh(z) + torch.from_numpy(noise[t])
        for m in range(M):
            xs[m, ..., t] = z.numpy()
            z = mixer.step(m, z)
            zs[m, ..., t] = rows(z, (B, D), f"step({m}, x_t) at position {t}")
            z = torch.tanh(z)
        mixer.advance()
    return xs, zs
