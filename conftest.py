"""What holds for the tests and for the notebooks that nbval runs."""

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """Start a notebook's kernel as on a machine without a GPU: its committed outputs were made that way."""
    with pytest.MonkeyPatch.context() as patch:
        if item.path.suffix == ".ipynb":
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
        return (yield)
