"""Checks of what stands around an online convolution: an engine for a model, generation, and the product of two series."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from flashref.check_online import causal_sum
from flashref.config import HyenaConfig
from flashref.feedback import attempt, fail, fresh, number, rows, some
from flashref.hyena import Hyena
from flashref.mixer import Mixer
from flashref.sandbox import Complaint
from flashref.work import counted


def check_engine(cls: type[Mixer], seed: int | None = None) -> None:
    """cls must be a flashref.Mixer: cls(filters (M, D, L), batch_size), then prefill, step and advance as its docstring says.

    Tried for several M, D, B, L and prompts of none, some and half of the positions, twice each with reset() between. Each
    mixer's input is made from the one before it, and the first one's from the last output, as in a model.
    """
    rng = np.random.default_rng(seed := fresh(seed))
    name = getattr(cls, "__name__", "it")
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
                wrong = ~(np.abs(zs[m, b] - want) <= 1e-8 * max(1, np.abs(want).max()))
                if wrong.any():
                    d, t = min(np.argwhere(wrong), key=lambda place: place[1])
                    again = ", in the second generation, after reset()" if i else ""
                    where = (
                        "in the prompt's own outputs" if t < P else f"{t - P} positions after the prompt" if P else ""
                    )
                    fail(f"{name} is wrong with M, D, B, L = {M}, {D}, {B}, {L} and a prompt of {P} (seed {seed}){again}: mixer {m}, "
                         f"sequence {b}, channel {d}, position {t} {where}: {want[d, t]:.6f} expected, got {zs[m, b, d, t]:.6f}.")  # fmt: skip
    print(f"Right: {len(shapes) + 1} sizes with and without a prompt, each twice.")


def check_generate(f: Callable[[Hyena, Tensor, int], Int[Tensor, " P+n"]], seed: int | None = None) -> None:
    """f(model, prompt (P,), n) must return the prompt and the n tokens that the model finds likeliest, one by one: (P+n,).

    Tried on small models with weights of their own in float64, of orders 2 and 3, against the model's forward pass.
    """
    seed = fresh(seed)
    for i, (order, P, n) in enumerate([(2, 1, 1), (2, 4, 20), (3, 7, 13), (2, 1, 63)]):
        torch.random.manual_seed(seed + i)
        config = HyenaConfig(d_model=8, n_layer=2, d_inner=16, vocab_size=11, l_max=64, order=order)
        model = Hyena(config).double()
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
            fail(f"{getattr(f, '__name__', 'it')}: a model of order {order}, a prompt of {P}, n = {n}, seed {seed}: token {t} is "
                 f"{got[t]}, and {want[t]} is the likeliest. Expected: {some(want[max(0, t - 2) :], 8)}; got {some(got[max(0, t - 2) :], 8)}.")  # fmt: skip
    print("Right: the tokens of the model's own forward pass, for orders 2 and 3.")


class Product(Protocol):
    """What check_product is for: made with D and L; push(x_t, rho_t), (D,) each, gives z_t (D,), up to L times."""

    def __init__(self, D: int, L: int) -> None: ...

    def push(self, x_t: Tensor, rho_t: Tensor) -> Tensor: ...


def check_product(cls: type[Product], seed: int | None = None) -> None:
    """cls(D, L), then push(x_t, rho_t) L times: z_t = sum_{j<=t} x_j * rho_{t-j}, where rho_t, too, is known only at step t.

    First single ones: x_a and rho_b alone must give a 1 at a+b. Then random numbers, both made from the outputs so far.
    """
    rng = np.random.default_rng(seed := fresh(seed))
    name = getattr(cls, "__name__", "it")
    L = 9

    def job() -> np.ndarray:
        eye = np.eye(L)[:, None]
        return np.array([[_multiply(cls, eye[a], eye[b])[2][0] for b in range(L)] for a in range(L)])

    found = attempt(cls, job)
    for a, b in np.ndindex(L, L):
        want = np.zeros(L)
        want[a + b : a + b + 1] = 1
        if np.abs(found[a, b] - want).max() > 1e-6:
            got = [number(round(v, 4)) for v in found[a, b]]
            taken = (
                f"the pair is taken {number(round(found[a, b][a + b], 4))} times there"
                if a + b < L
                else "that lies beyond L"
            )
            fail(f"{name}: with a single 1 at x_{a} and a single 1 at rho_{b}, only z_{a + b} may be 1; {taken}. "
                 f"z_0 .. z_{L - 1} are {', '.join(got)}.")  # fmt: skip
    for L in (1, 2, 3, 5, 8, 16, 31, int(rng.integers(40, 100)), 128):
        D = int(rng.integers(1, 4))
        noise = rng.standard_normal((2, D, L))
        x, rho, z = attempt(cls, lambda noise=noise: _multiply(cls, *noise, feedback=True))
        want = causal_sum(x, rho)
        wrong = ~(np.abs(z - want) <= 1e-8 * max(1, np.abs(want).max()))
        if wrong.any():
            d, t = min(np.argwhere(wrong), key=lambda place: place[1])
            fail(f"{name} takes single pairs right, and is wrong at random numbers with D = {D}, L = {L}, seed {seed}: channel "
                 f"{d}, z_{t} = {want[d, t]:.6f} expected, got {z[d, t]:.6f}.")  # fmt: skip
    print("Right: every pair of x and rho, and random series made from the outputs.")


def check_product_work(cls: type[Product], share: float = 0.6, L: int = 4096) -> None:
    """cls may do at most ``share`` of the L(L+1)/2 multiply-adds a channel that the plain product takes; counted."""
    x, rho = torch.randn(2, L, 1, dtype=torch.float64)
    name = getattr(cls, "__name__", "it")

    def job() -> tuple[float, int]:
        with counted() as work:
            series = cls(1, L)
            for x_t, rho_t in zip(x.unbind(), rho.unbind(), strict=True):
                series.push(x_t, rho_t)
        return work.multiply_adds, work.left

    done, left = attempt(cls, job, seconds=90)
    if left:
        fail(
            f"{name} takes its numbers out of torch ({left} times), where its work cannot be counted: use torch throughout."
        )
    plain = L * (L + 1) // 2
    said = f"at L = {L} {name} does {number(round(done))} multiply-adds a channel, the plain product {number(plain)}"
    if done > share * plain:
        fail(f"{said}: at most {share:g} of that are allowed.")
    print(f"Right: {said}.")


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


def _multiply(cls: type[Product], x: np.ndarray, rho: np.ndarray, feedback: bool = False) -> tuple[np.ndarray, ...]:
    """Push two series (D, L); with feedback the last output is added to the next x and rho. Returns x, rho and z."""
    D, L = x.shape
    series, x, rho, z = cls(D, L), x.copy(), rho.copy(), np.zeros((D, L))
    for t in range(L):
        if feedback and t:
            x[:, t] += np.tanh(z[:, t - 1])
            rho[:, t] += np.cos(z[:, t - 1])
        pair = [torch.from_numpy(row[:, t].copy()) for row in (x, rho)]
        z[:, t] = rows(series.push(*pair), (D,), f"push number {t} of L = {L}")
        for row in pair:
            row.fill_(1e6)  # the caller may write into it afterwards
    return x, rho, z
