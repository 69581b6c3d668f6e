"""Every test starts with a clean parameter store, a fixed seed and deterministic global settings."""

import os

# Before torch is imported, and for the tests' own processes too: more threads only slow down tensors as small as theirs.
os.environ["OMP_NUM_THREADS"] = "1"

import matplotlib

matplotlib.use("Agg")

import pyro
import pytest
import torch

from causalvae_pyro.recipes import growth

#: Steps of a start's training, as they are.
GROWTH = {name: getattr(growth, name) for name in ("_FIRST", "_MORE")}


@pytest.fixture(autouse=True, scope="session")
def _short_growth():
    """Starts are hardly trained, in runs that tests share too; tests of the growth itself take it back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growth, "_FIRST", 2)
        patch.setattr(growth, "_MORE", 1)
        yield


@pytest.fixture(autouse=True)
def _clean_state():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    pyro.enable_validation(True)
    yield
    assert torch.get_default_dtype() == torch.float32, "a test changed the default dtype"
