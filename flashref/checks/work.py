"""Work, counted: the multiply-adds that PyTorch is asked for while some code runs, whoever calls it and how."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import log2, prod

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# One multiply-add, at most, for each number of the result.
POINTWISE = {"mul", "mul_", "div", "div_", "addcmul", "addcmul_", "addcdiv", "addcdiv_", "lerp", "lerp_", "pow"}
# Ways out of torch, where nothing can be counted.
EXITS = ("numpy", "tolist", "__array__", "__dlpack__")


@dataclass
class Work:
    """multiply_adds: of all calls. A real FFT of n points costs 5/4 n log2 n, as in notebook 03, a complex one twice.

    transforms: how many FFTs of each length. calls: in how many calls of torch they were made. left: how often numbers
    went out of torch, where nothing is counted.
    """

    multiply_adds: float = 0.0
    transforms: dict[int, int] = field(default_factory=dict)
    left: int = 0
    calls: int = 0
    leaves = "takes its numbers out of torch, where its work cannot be counted: use torch throughout."

    def per(self, channels: int) -> "Work":
        """The same for one channel of so many."""
        transforms = {n: times / channels for n, times in self.transforms.items()}
        return Work(self.multiply_adds / channels, transforms, self.left, self.calls)


class _Counter(TorchDispatchMode):
    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would load its compiler to keep it out of here, which takes seconds in every child

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function._schema.name.partition("::")[2]
        self.work.multiply_adds += self._cost(name, args, result)
        return result

    def _cost(self, name: str, args: tuple, result: object) -> float:
        if name in POINTWISE:
            complex_ones = sum(isinstance(a, Tensor) and a.is_complex() for a in args)
            return result.numel() * (4 if complex_ones > 1 else 2 if complex_ones else 1)
        if name in ("mm", "bmm", "mv", "dot", "vdot"):
            return (
                args[0].numel()
                * (args[1].shape[-1] if name in ("mm", "bmm") else 1)
                * (4 if args[0].is_complex() else 1)
            )
        if name in ("addmm", "addmm_", "baddbmm", "baddbmm_", "addmv", "addmv_"):
            return args[1].numel() * (args[2].shape[-1] if "mm" in name else 1)
        if name in ("convolution", "_convolution", "mkldnn_convolution"):
            return result.numel() * prod(args[1].shape[1:])
        if name == "_local_scalar_dense":  # .item(), float(...): each number that Python multiplies comes out this way
            return 1.0
        if name in ("_fft_r2c", "_fft_c2c", "_fft_c2r"):
            n = args[3] if name == "_fft_c2r" else args[0].shape[args[1][-1]]
            count = (result if name == "_fft_c2r" else args[0]).numel() // max(n, 1)
            self.work.calls += 1
            self.work.transforms[n] = self.work.transforms.get(n, 0) + count
            return count * (2.5 if name == "_fft_c2c" else 1.25) * n * log2(max(n, 2))
        return 0.0


@contextmanager
def counted() -> Iterator[Work]:
    """Count what torch does inside the with block. It works at the level of torch's own kernels, below any Python."""
    work = Work()
    kept = {name: getattr(Tensor, name) for name in EXITS}

    def leaving(name: str):
        def leave(self, *args, **kwargs):
            work.left += 1
            return kept[name](self, *args, **kwargs)

        return leave

    try:
        for name in EXITS:
            setattr(Tensor, name, leaving(name))
        with _Counter(work):
            yield work
    finally:
        for name in EXITS:
            if kept[name] is getattr(torch._C.TensorBase, name, None):
                delattr(Tensor, name)  # it was inherited
            else:
                setattr(Tensor, name, kept[name])
