"""Random tests are not failed for a slow machine, and try the same cases on every run unless they go deep."""

from importlib.util import find_spec

import pytest
import torch
from depth import DEEP, examples
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "flashref",
    deadline=None,
    derandomize=not DEEP,
    print_blob=True,
    max_examples=examples(50),
    suppress_health_check=[HealthCheck.too_slow],
)
# A mutant that is caught needs no smallest example.
settings.register_profile("mutants", settings.get_profile("flashref"), phases=[Phase.explicit, Phase.generate])
settings.load_profile("flashref")

# The tensors here are small: a second thread saves nothing, and a busy machine makes every call wait for it.
torch.set_num_threads(1)

# Triton decides when it is imported, and again when a kernel is defined, whether to compile or to interpret. After that
# the variable goes, so that only the tests that set it again run an engine in the interpreter, which is slow.
if find_spec("triton") and not torch.cuda.is_available():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        import flashref.kernels  # noqa: F401
