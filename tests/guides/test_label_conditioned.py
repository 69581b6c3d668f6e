"""Abduction with known labels."""

import pyro.poutine as poutine
import pytest
import torch
from torch.testing import assert_close

from causalvae_pyro import (
    AdditiveNoiseSCM,
    CausalGraph,
    abduct,
    counterfactual,
    encode,
    intervene,
)
from causalvae_pyro.guides import IterativeGuide, LabelConditionedGuide
from causalvae_pyro.scm import SplineFlowSCM
from tests.builders import make_pair

SHAPE, GRAPH = (1, 8, 8), CausalGraph(["a", "b"], [("a", "b")])


def pair(layer=AdditiveNoiseSCM, iterative=False, noise_dim=3, std=0.01):
    units = {"std": std, "shift": [1.0, -2.0], "scale": [2.0, 0.5]}
    model, guide = make_pair(
        GRAPH, SHAPE, "endogenous", scm=layer, prior_options=units, noise_dim=noise_dim, hidden=256, features=128
    )
    return model, (IterativeGuide(guide, model) if iterative else guide).eval()


@pytest.fixture
def data():
    torch.manual_seed(0)
    return torch.rand(5, *SHAPE), torch.randn(5, 2)


@pytest.mark.parametrize("layer", [AdditiveNoiseSCM, SplineFlowSCM])
@pytest.mark.parametrize("iterative", [False, True])
def test_known_labels_are_what_is_read(layer, iterative, data):
    x, labels = data
    model, guide = pair(layer, iterative)
    known = LabelConditionedGuide(guide, model)
    z = encode(model, known, x, labels)
    assert_close(model.prior.to_labels(z), labels, atol=1e-4, rtol=1e-4)
    assert_close(abduct(known, x, labels)["eps_x"], abduct(guide, x)["eps_x"])
    samples = abduct(known, x, labels, num_samples=2000)["eps"]
    spread = model.scm.to_endogenous(samples).std(0)
    assert_close(spread, torch.full_like(spread, 0.01), rtol=0.1, atol=0)


def test_without_labels_it_is_the_trained_guide(data):
    x, labels = data
    model, guide = pair()
    known = LabelConditionedGuide(guide, model)
    assert_close(abduct(known, x), abduct(guide, x))
    assert_close(abduct(known, x, torch.full_like(labels, torch.nan)), abduct(guide, x))


def test_single_labels_may_be_missing(data):
    x, labels = data
    model, guide = pair()
    labels[:2, 1] = torch.nan
    z = encode(model, LabelConditionedGuide(guide, model), x, labels)
    assert_close(z[:2, 1], encode(model, guide, x)[:2, 1])
    assert_close(z[2:], model.prior(labels[2:]).mean)
    assert_close(z[:, 0], model.prior(labels.nan_to_num()).mean[:, 0])


def test_counterfactuals(data):
    x, labels = data
    model, guide = pair()
    images, z = counterfactual(model, LabelConditionedGuide(guide, model), x, {"a": 3.0}, labels, return_latents=True)
    eps = model.scm.to_exogenous(model.prior(labels).mean)
    world = poutine.trace(poutine.condition(intervene(model, {"a": 3.0}), {"eps": eps})).get_trace(num_samples=5)
    assert_close(z, world.nodes["z"]["value"])
    assert_close(z[:, 0], torch.ones(5, 1))
    assert images.shape == x.shape
