"""The unchanged model under ChiRho's handlers, where ChiRho is installed."""

import itertools

import pyro.poutine as poutine
import pytest
import torch
from torch.testing import assert_close

from causalvae_pyro import CausalGraph, GaussianLikelihood, Shift, abduct, counterfactual
from causalvae_pyro.interventions import soft_do
from causalvae_pyro.likelihoods import LaplaceLikelihood
from tests.builders import SPACES, make_pair
from tests.interventions.test_counterfactuals import LEAF, MID, SHAPE, N, make

pytest.importorskip("chirho")

from chirho.counterfactual.handlers import MultiWorldCounterfactual, TwinWorldCounterfactual
from chirho.indexed.ops import IndexSet, gather
from chirho.interventional.handlers import do
from chirho.observational.handlers import condition

# Above the data's plate.
WORLDS = {"first_available_dim": -2}


@pytest.fixture(params=SPACES)
def case(request):
    pair = make(request.param, dim=2, noise_dim=2)
    x = torch.rand(N, *SHAPE)
    return pair, x, poutine.condition(pair[0], data=abduct(pair[1], x))


def latents_and_images(trace):
    return trace.nodes["z"]["value"], trace.nodes["x_mean"]["value"]


def expected(pair, x, values):
    images, z = counterfactual(*pair, x, values, latent=True, return_latents=True)
    return z, images


VALUES = {"mid": torch.tensor([0.5, -1.0]), "lone": torch.tensor([2.0, 0.0])}


def per_image(names=VALUES):
    return {name: VALUES[name].expand(N, 2) for name in names}


@torch.no_grad()
def test_do_in_one_world(case):
    pair, x, model = case
    with poutine.trace() as tracer:
        do(model, per_image())(num_samples=N)
    for ours, theirs in zip(expected(pair, x, VALUES), latents_and_images(tracer.trace), strict=True):
        assert torch.equal(ours, theirs)


@torch.no_grad()
def test_every_combination_of_interventions_is_its_counterfactual(case):
    pair, x, model = case
    worlds = {}
    with MultiWorldCounterfactual(**WORLDS), poutine.trace() as tracer:
        do(model, per_image())(num_samples=N)
        z, images = latents_and_images(tracer.trace)
        assert z.shape == (2, 2, N, 4, 2)
        for mid, lone in itertools.product((0, 1), (0, 1)):
            world = IndexSet(mid={mid}, lone={lone})
            worlds[mid, lone] = gather(z, world, event_dim=2), gather(images, world, event_dim=3)
    for (mid, lone), theirs in worlds.items():
        values = {name: VALUES[name] for name, chosen in (("mid", mid), ("lone", lone)) if chosen}
        for ours, value in zip(expected(pair, x, values), theirs, strict=True):
            assert_close(value.reshape(ours.shape), ours, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_twin_worlds(case):
    pair, x, model = case
    with TwinWorldCounterfactual(**WORLDS), poutine.trace() as tracer:
        do(model, per_image())(num_samples=N)
    for index, values in enumerate(({}, VALUES)):
        for ours, both in zip(expected(pair, x, values), latents_and_images(tracer.trace), strict=True):
            assert_close(both[index], ours, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_soft_interventions_act_in_every_world(case):
    pair, x, model = case
    with MultiWorldCounterfactual(**WORLDS), poutine.trace() as tracer:
        do(soft_do(model, {"leaf": lambda natural, parents: natural + 3 * parents["mid"]}), per_image(["mid"]))(num_samples=N)
    z, _ = latents_and_images(tracer.trace)
    for index, values in enumerate(({}, {"mid": VALUES["mid"]})):
        natural, _ = expected(pair, x, values)
        natural[:, LEAF] += 3 * natural[:, MID]
        assert_close(z[index], natural, rtol=1e-5, atol=1e-5)
    # ChiRho's own functions of the natural value are the same as this package's.
    with TwinWorldCounterfactual(**WORLDS), poutine.trace() as tracer:
        do(model, {"root": lambda natural: natural + 0.5})(num_samples=N)
    shifted = counterfactual(*pair, x, {"root": Shift(0.5)}, latent=True, return_latents=True)[1]
    assert_close(latents_and_images(tracer.trace)[0][1], shifted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("likelihood", [GaussianLikelihood(), LaplaceLikelihood(), GaussianLikelihood(event_dim=1)], ids=str)
def test_an_image_is_seen_in_the_factual_world(likelihood):
    shape = SHAPE if likelihood.event_dim == 3 else (5,)
    model, _ = make_pair(CausalGraph(["a", "b"], [("a", "b")]), shape, likelihood=likelihood)
    x = torch.rand(N, *shape)
    with MultiWorldCounterfactual(**WORLDS), torch.no_grad():
        both = do(condition(model, data={"x": x}), {"a": torch.ones(N, 1)})(num_samples=N)
        factual, counterfactual = (gather(both, IndexSet(a={i}), event_dim=len(shape)).reshape(x.shape) for i in (0, 1))
    assert torch.equal(factual, x)
    assert (counterfactual != x).any()
