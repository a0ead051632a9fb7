"""Engines by name, and the smallest way to use one."""

from dataclasses import asdict

from jaxtyping import Float
from torch import Tensor

from flashref.bounded import Bounded
from flashref.calibration import choices
from flashref.mixer import Mixer, check_filters
from flashref.naive import Eager, Lazy
from flashref.tiled_cpu import TiledCPU
from flashref.tiled_gpu import TiledGPU

ENGINES = {engine.name: engine for engine in (Lazy, Eager, TiledCPU, TiledGPU, Bounded)}


def check_engine(engine: str) -> None:
    """Refuse a name that is no engine and not "auto"."""
    if engine not in (*ENGINES, "auto"):
        names = ", ".join(f'"{name}"' for name in (*ENGINES, "auto"))
        raise ValueError(f"engine must be one of {names}, got {engine!r}")


def make_mixer(engine: str, filters: Float[Tensor, "M D L"], batch_size: int = 1, base: int | None = None) -> Mixer:
    """An engine for M mixers over D channels and B sequences; filters (M, D, L) on the device where it is to run.

    engine: "lazy", "eager", "tiled_cpu", "tiled_gpu", "bounded" (no long steps, for more work), or "auto"
    (tiled_gpu for filters on a CUDA device, tiled_cpu otherwise). base: the block size of a tiled engine, 64 unless
    told or measured (calibration.py). Raises ValueError or TypeError for what does not fit.
    """
    check_engine(engine)
    if engine == "auto":
        on_gpu = isinstance(filters, Tensor) and filters.is_cuda
        engine = "tiled_gpu" if on_gpu else "tiled_cpu"
    made = ENGINES[engine]
    if not issubclass(made, TiledCPU):
        if base is not None:
            raise ValueError(f"base belongs to the tiled engines only, got base={base} with engine={engine!r}")
        return made(filters, batch_size)
    on_cpu = engine != "tiled_gpu" and isinstance(filters, Tensor) and not filters.is_cuda
    chosen = asdict(choices()) if on_cpu else {}
    return made(filters, batch_size, **(chosen | ({} if base is None else {"base": base})))


class OnlineConvolution:
    """One causal convolution whose input is still arriving: push x_t, get z_t.

    rho: (D, K), the filter; up to K positions can be pushed. The rest is as in make_mixer.
    """

    def __init__(
        self, rho: Float[Tensor, "D K"], engine: str = "tiled_cpu", batch_size: int = 1, base: int | None = None
    ) -> None:
        check_filters("rho", rho, "(D, K)")
        self._mixer = make_mixer(engine, rho[None], batch_size, base)

    @property
    def position(self) -> int:
        """How many positions have been pushed."""
        return self._mixer.position

    def prefill(self, x: Float[Tensor, "B D P"]) -> Float[Tensor, "B D P"]:
        """The outputs on a prompt of P positions, by FFT, before any push."""
        return self._mixer.prefill(0, x)

    def push(self, x_t: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """z_t for the next position, a fresh tensor. Amortised O(log^2 K) per channel for the tiled engines."""
        z_t = self._mixer.step(0, x_t)
        self._mixer.advance()
        return z_t

    def reset(self) -> None:
        """Forget what was pushed."""
        self._mixer.reset()
