"""Whoever keeps the state of the random numbers keeps that of every generator."""

import random
from contextlib import suppress

import numpy as np
import pytest
import torch

from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.evaluation import train_predictor
from causalvae_pyro.utils.random_state import kept_rng_state

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])]


def numbers(device):
    return [torch.rand(2).tolist(), torch.rand(2, device=device).tolist(), random.random(), np.random.random()]  # noqa: NPY002


@pytest.mark.parametrize("device", DEVICES)
def test_all_generators_go_on_as_if_nothing_had_been_drawn(device):
    with kept_rng_state(device):
        expected = numbers(device)
    with suppress(KeyError), kept_rng_state(device):
        numbers(device)
        raise KeyError
    assert numbers(device) == expected


@pytest.mark.parametrize("device", DEVICES)
def test_training_a_predictor_leaves_them_alone(device):
    data = Pendulum("test", size=16)
    with kept_rng_state(device):
        expected = numbers(device)
    train_predictor(data.images[:64], data.labels[:64], steps=4, device=device)
    assert numbers(device) == expected
