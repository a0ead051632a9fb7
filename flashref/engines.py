"""Engines by name, and the smallest way to use one."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from flashref.bounded import Bounded
from flashref.budget import check_mixer, engine_name
from flashref.calibration import settings
from flashref.epoched import Epoched
from flashref.memory_formulas import FORMULAS
from flashref.mixer import Mixer, check_filters, check_form
from flashref.naive import Eager, Lazy
from flashref.naive_gpu import EagerGPU, LazyGPU
from flashref.tiled_cpu import TiledCPU
from flashref.tiled_gpu import TiledGPU, has_kernels
from flashref.tiling import check_count

ON_CUDA = {"lazy": LazyGPU, "eager": EagerGPU}  # the same, in a form that a CUDA graph can record
ENGINES = {engine.name: engine for engine in (Lazy, Eager, TiledCPU, TiledGPU, Bounded, Epoched)}

Engine = str | Callable[[Tensor, int], Mixer]  # a name, or what makes a mixer of filters (M, D, L) and a batch size


def check_engine(engine: Engine) -> None:
    """Refuse a name that is no engine and not "auto"; what can be called is believed until it is."""
    if not callable(engine) and engine not in (*ENGINES, "auto"):
        names = ", ".join(f'"{name}"' for name in (*ENGINES, "auto"))
        raise ValueError(f"engine must be one of {names}, got {engine!r}")


def make_mixer(engine: Engine, filters: Float[Tensor, "M D L"], batch_size: int = 1, base: int | None = None) -> Mixer:
    """An engine for M mixers over D channels and B sequences; filters (M, D, L) on the device where it is to run.

    engine: "lazy", "eager", "tiled_cpu", "tiled_gpu", "bounded" (no long steps, for more work), "epoched" (FutureFill's
    schedule), or "auto" (tiled_gpu for filters on a CUDA device, tiled_cpu otherwise). Or a callable that makes a Mixer
    of filters and batch size: a class of your own, partial(Distilled, state_size=8) from alternatives.py, or
    checked("auto") from finite.py, which stops at an infinity or a NaN. base: the block size of a tiled engine, 64
    unless told or measured (calibration.py); for "epoched" the length of an epoch.

    Raises ValueError or TypeError for what does not fit together. Raises MemoryError, before anything is allocated, if
    memory has no room for a generation without a prompt (memory.py); what a callable's engine needs is not known, but
    for checked(...) with a name.
    """
    check_engine(engine)
    name = engine_name(engine)
    if name is not None and ENGINES[_named(name, filters)] in FORMULAS:
        check_form("filters", filters, "(M, D, L)")
        check_count("batch_size", batch_size, 1)
        check_mixer(ENGINES[_named(name, filters)], filters, batch_size, base)
    return make_unasked(engine, filters, batch_size, base)


def make_unasked(engine: Engine, filters: Float[Tensor, "M D L"], batch_size: int, base: int | None = None) -> Mixer:
    """make_mixer without a look at what is free, for generations, which have asked for all of it at once."""
    made = engine if callable(engine) else ENGINES[_named(engine, filters)]
    if not callable(engine) and isinstance(filters, Tensor) and filters.is_cuda and has_kernels(filters.device):
        made = ON_CUDA.get(engine, made)  # without kernels they would wait for the GPU, which no graph can record
    if callable(engine) or not issubclass(made, TiledCPU):
        if base is not None:
            raise ValueError(f"base belongs to the tiled engines only, got base={base} with engine={engine!r}")
        return _checked(made(filters, batch_size), filters, batch_size)
    on_cpu = isinstance(filters, Tensor) and not filters.is_cuda
    return made(filters, batch_size, **settings(_named(engine, filters), base, on_cpu))


def _named(engine: str, filters: Tensor) -> str:
    """The engine's own name, where "auto" is chosen by the filters' device."""
    if engine != "auto":
        return engine
    return "tiled_gpu" if isinstance(filters, Tensor) and filters.is_cuda else "tiled_cpu"


def _checked(mixer: Mixer, filters: Tensor, batch_size: int) -> Mixer:
    """Refuse what an engine of the caller's made, unless it is a fresh mixer for these filters."""
    if not isinstance(mixer, Mixer):
        raise TypeError(f"engine must make a flashref.Mixer of filters and batch size, it made {type(mixer).__name__}")
    got, want = (*mixer.filters.shape, mixer.batch_size, mixer.position), (*filters.shape, batch_size, 0)
    if got != want:
        raise ValueError(f"engine must make a mixer with M, D, L, batch size and position {want}, got {got}")
    return mixer


class OnlineConvolution:
    """One causal convolution whose input is still arriving: push x_t, get z_t.

    rho: (D, K), the filter; up to K positions can be pushed. The rest is as in make_mixer.
    """

    def __init__(
        self, rho: Float[Tensor, "D K"], engine: Engine = "tiled_cpu", batch_size: int = 1, base: int | None = None
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
