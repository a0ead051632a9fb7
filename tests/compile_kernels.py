"""Compile the Triton kernels for compute capability 9.0 (H100, H200), on any machine; print the name of each."""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from flashref import kernels


def compile_for_gpu(kernel: triton.JITFunction, pointers: dict[str, str], constants: dict[str, int]) -> None:
    names = kernel.arg_names
    signature = {name: pointers.get(name, "constexpr" if name in constants else "i32") for name in names}
    pointers = {name: kind for name, kind in pointers.items() if name in names}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in pointers}
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
    print(kernel.__name__.strip("_"))


if __name__ == "__main__":
    for number in ("*fp32", "*fp64"):
        tile = dict.fromkeys(("x", "rho", "z"), number)
        compile_for_gpu(kernels._tau_direct, tile, {"ROWS": 2, "OUTPUTS": 64})
        step = dict.fromkeys(("x", "z", "rho", "x_t", "z_t"), number)
        compile_for_gpu(kernels._mixer_step, step, {"LAGS": 64, "CHANNELS": 32})
        naive = dict.fromkeys(("x", "z", "taps", "reversed_taps", "x_i", "z_i", "sums"), number) | {"first": "*i64"}
        for kernel in (kernels._eager_step, kernels._lazy_step):
            compile_for_gpu(kernel, naive, {"ROWS": 64, "CHANNELS": 32})
    for block, number, mixers in (("*fp32", "*fp32", 1), ("*bf16", "*fp32", 2), ("*fp64", "*fp64", 3)):
        step = dict.fromkeys(("p", "taps", "bias", "y"), block) | dict.fromkeys(("x", "z", "rho"), number)
        compile_for_gpu(kernels._hyena_step, step, {"MIXERS": mixers, "LAGS": 64, "CHANNELS": 32})
