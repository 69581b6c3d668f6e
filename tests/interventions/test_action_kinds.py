"""Interventions beside numbers and functions: distributions, some of the images only, and what is refused."""

import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from torch.testing import assert_close

from causalvae_pyro import Scale, abduct, counterfactual, intervene
from causalvae_pyro.interventions import predict, sample_interventional, soft_do
from causalvae_pyro.priors import LearnedPrior
from tests.builders import SPACES, check_one_line, raises
from tests.interventions.test_counterfactuals import MID, SHAPE, N, make


@pytest.fixture
def x():
    return torch.rand(N, *SHAPE)


@pytest.mark.parametrize("latent", [False, True])
def test_a_distribution_is_drawn_from(latent, x):
    model, _ = make(dim=2)
    world = sample_interventional(model, {"mid": dist.Normal(2.0, 0.5)}, 4000, latent=latent)
    values = world.z[:, MID, 0] if latent else model.prior.to_labels(world.z)[:, MID]
    assert_close(values.mean(), torch.tensor(2.0), rtol=0, atol=0.05)
    assert_close(values.std(), torch.tensor(0.5), rtol=0, atol=0.05)


def test_of_one_distribution_per_image_each_is_its_own(x):
    pair = make()
    means = torch.arange(float(N))
    z = counterfactual(*pair, x, {"mid": dist.Normal(means, 1e-3)}, return_latents=True)[1]
    assert_close(pair[0].prior.to_labels(z)[:, MID], means, rtol=0, atol=0.02)
    torch.manual_seed(0)
    scale = torch.tensor(0.5, requires_grad=True)
    images = counterfactual(*pair, x, {"mid": dist.Normal(means, scale)}, grad=True)
    assert torch.autograd.grad(images.sum(), scale)[0] != 0, "draws are reparameterised"
    # Without the images' number: one draw for all.
    kept = predict(intervene(pair[0], {"mid": dist.Normal(0.0, 1.0)}), abduct(pair[1], x))
    assert (kept.nodes["z"]["value"][:, MID] == kept.nodes["z"]["value"][0, MID]).all()


@pytest.mark.parametrize("options", [{}, {"num_samples": 3}, {"batch_size": 2}], ids=str)
@pytest.mark.parametrize("latent", [False, True])
@pytest.mark.parametrize("space", SPACES)
def test_nan_leaves_the_image_to_its_mechanism(space, latent, options, x):
    pair = make(space, prior=LearnedPrior)
    some = torch.tensor([1.0, torch.nan, -1.0, torch.nan, 0.5, 2.0])
    settings = {"mid": some[:, None] if latent else some, "root": 0.3}
    torch.manual_seed(0)
    images, z = counterfactual(*pair, x, settings, latent=latent, return_latents=True, **options)
    for full, rows in (({"mid": some.nan_to_num()[:, None] if latent else some.nan_to_num()}, ~some.isnan()), ({}, some.isnan())):
        torch.manual_seed(0)
        expected = counterfactual(*pair, x, full | {"root": 0.3}, latent=latent, return_latents=True, **options)
        lead = (slice(None), rows) if options.get("num_samples") else rows
        assert_close(images[lead], expected[0][lead], rtol=1e-5, atol=1e-6)
        assert_close(z[lead], expected[1][lead], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), torch.full((N,), float("nan")), torch.tensor([0.0, float("inf")] * 3)], ids=str)
def test_other_values_that_are_not_finite_are_refused(bad, x):
    with raises(r"do\['mid'\]", "not finite") as error:
        counterfactual(*make(), x, {"mid": bad})
    check_one_line(error)


@pytest.mark.parametrize("latent", [False, True])
def test_what_is_no_parent_is_named(latent, x):
    pair = make()
    with raises(r"do\['leaf'\]", "reads 'root'", r"no parent of it; its parents: \['mid'\]"):
        counterfactual(*pair, x, {"leaf": lambda natural, parents: parents["root"]}, latent=latent)
    with raises(r"do\['leaf'\]", "reads 'root'"):
        soft_do(pair[0], {"leaf": lambda natural, parents: parents["root"]})(num_samples=2)
    counterfactual(*pair, x, {"leaf": lambda natural, parents: parents["mid"], "mid": Scale(2.0)}, latent=latent)


def test_condition_with_a_number():
    model, _ = make(dim=2)
    eps = torch.randn(3, 4, 2)
    kept = poutine.condition(model, data={"eps": eps})
    done = poutine.trace(poutine.do(kept, data={"mid": 2.0})).get_trace(num_samples=3)
    with pytest.warns(UserWarning, match="^condition: the concept 'mid'"):
        trace = poutine.trace(poutine.condition(kept, data={"mid": 2.0})).get_trace(num_samples=3)
    z = trace.nodes["z"]["value"]
    assert (z[:, MID] == 2).all()
    assert torch.equal(z, done.nodes["z"]["value"])
