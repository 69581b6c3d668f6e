"""Every test starts with a clean parameter store, a fixed seed and deterministic global settings."""

import os

# Before torch is imported, and for the tests' own processes too: more threads only slow down tensors as small as theirs.
os.environ["OMP_NUM_THREADS"] = "1"

import matplotlib

matplotlib.use("Agg")

import pyro
import pytest
import torch


@pytest.fixture(autouse=True)
def short_growth(monkeypatch):
    """Scenes whose start is hardly trained; tests of the growth itself override this."""
    monkeypatch.setattr("causalvae_pyro.recipes.growth._FIRST", 2)
    monkeypatch.setattr("causalvae_pyro.recipes.growth._MORE", 1)


@pytest.fixture(autouse=True)
def _clean_state():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    pyro.enable_validation(True)
    yield
    assert torch.get_default_dtype() == torch.float32, "a test changed the default dtype"
