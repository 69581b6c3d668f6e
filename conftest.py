"""The docstrings' examples run as tests; they may use these names without importing them."""

import os
from functools import cache

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

import causalvae_pyro
from causalvae_pyro import datasets, discovery, metrics


@pytest.fixture(autouse=True)
def _names(request, doctest_namespace):
    doctest_namespace["torch"] = torch
    for module in (causalvae_pyro, datasets, discovery, metrics):
        doctest_namespace.update({name: getattr(module, name) for name in module.__all__})
    examples = getattr(getattr(request.node, "dtest", None), "examples", ())
    if any(" run." in example.source or "(run." in example.source for example in examples):
        doctest_namespace.update(_run())


@cache
def _run():
    """The run that comes with the package, and test images with their labels."""
    test = datasets.Pendulum("test")
    return {
        "run": causalvae_pyro.load("pendulum"),
        "test": test,
        "images": test.images[:64],
        "labels": test.labels[:64],
        "x": test.images[:8],
    }
