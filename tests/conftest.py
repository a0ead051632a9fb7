"""Random tests try the same cases on every run, and are not failed for a slow machine."""

import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "flashref", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("flashref")

# The tensors here are small: a second thread saves nothing, and a busy machine makes every call wait for it.
torch.set_num_threads(1)
