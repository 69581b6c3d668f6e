"""The docstrings' examples run as tests; they may use these names without importing them."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

import causalvae_pyro
from causalvae_pyro import datasets, discovery, metrics


@pytest.fixture(autouse=True)
def _names(doctest_namespace):
    doctest_namespace["torch"] = torch
    for module in (causalvae_pyro, datasets, discovery, metrics):
        doctest_namespace.update({name: getattr(module, name) for name in module.__all__})
