"""Gradients through counterfactuals, in every way that one asks for them."""

import pyro.poutine as poutine
import pytest
import torch
from torch.func import jacfwd, jacrev
from torch.testing import assert_close

from causalvae_pyro import AdditiveNoiseSCM, CausalGraph, LinearSCM, Scale, Shift, abduct, counterfactual, encode, intervene, ite
from causalvae_pyro.interventions import predict
from causalvae_pyro.priors import LearnedPrior
from tests.builders import SPACES, jitter, make_pair

# Torch compiles its own forward-mode rules on first use.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

GRAPH = CausalGraph(["a", "b", "c"], [("a", "b"), ("b", "c")])
SHAPE, N = (1, 4, 4), 3


def make(space="endogenous", scm=AdditiveNoiseSCM, prior=LearnedPrior):
    layer = scm(GRAPH)
    jitter(0.3, layer)
    model, guide = make_pair(GRAPH, SHAPE, space, scm=layer, prior=prior, noise_dim=2, prior_options={"scale": 3.0})
    jitter(0.2, model.prior)
    return model.double(), guide.double()


def images():
    return torch.rand(N, *SHAPE, dtype=torch.float64)


def value(number=0.7):
    return torch.tensor(number, dtype=torch.float64)


def slope(function, at, step=1e-5):
    return (function(at + step) - function(at - step)) / (2 * step)


INTERVENTIONS = {
    "hard": (lambda v: {"a": v}, {}),
    "hard, per image": (lambda v: {"a": v * torch.ones(N, dtype=torch.float64)}, {}),
    "hard, latent": (lambda v: {"a": v}, {"latent": True}),
    "shift": (lambda v: {"a": Shift(v)}, {"latent": True}),
    "scale": (lambda v: {"b": Scale(v, around=1.0)}, {"latent": True}),
    "a function": (lambda v: {"b": lambda natural, parents: natural * v}, {"latent": True, "grad": True}),
    "samples": (lambda v: {"a": v}, {"num_samples": 2}),
}


@pytest.mark.parametrize("kind", INTERVENTIONS)
@pytest.mark.parametrize("space", SPACES)
def test_with_respect_to_the_value(space, kind):
    model, guide = make(space)
    do, options = INTERVENTIONS[kind]
    x = images()

    def function(v):
        torch.manual_seed(0)
        return counterfactual(model, guide, x, do(v), **options)

    with torch.no_grad():
        expected = slope(
            lambda v: counterfactual(model, guide, x, do(v), **options) if not options.get("num_samples") else function(v),
            value(),
        )
    assert expected.abs().max() > 1e-4
    # What follows from the number as it is given: forward and reverse mode, and backward.
    grad = {"grad": True} if kind == "a function" else {}
    assert_close(jacfwd(function, randomness="same")(value()), expected, rtol=1e-4, atol=1e-8)
    at = value().requires_grad_()
    result = function(at)
    assert result.requires_grad, grad
    rows = torch.stack([torch.autograd.grad(part, at, retain_graph=True)[0] for part in result.flatten()])
    assert_close(rows.reshape(expected.shape), expected, rtol=1e-4, atol=1e-8)
    if kind != "samples":
        assert_close(jacrev(function)(value()), expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("space", SPACES)
def test_with_respect_to_the_image(space):
    model, guide = make(space)
    x = images().requires_grad_()
    for result in (
        counterfactual(model, guide, x, {"a": 1.0}),
        encode(model, guide, x),
        abduct(guide, x)["eps"],
        ite(model, guide, x, {"a": 1.0}, outcome=lambda pictures: pictures.mean((1, 2, 3))).samples,
    ):
        assert (torch.autograd.grad(result.sum(), x)[0].flatten(1) != 0).any(1).all()


def test_handlers_keep_it():
    model, guide = make(scm=LinearSCM)
    noise = abduct(guide, images())
    for do, options in (({"a": 1.0}, {}), ({"a": 1.0}, {"latent": True})):
        at = value().requires_grad_()
        world = intervene(model, {"a": at * do["a"]}, **options)
        by_hand = poutine.trace(poutine.condition(world, noise)).get_trace(num_samples=N).nodes["z"]["value"]
        predicted = predict(world, noise, grad=True).nodes["z"]["value"]
        for z in (by_hand, predicted):
            (found,) = torch.autograd.grad(z[:, 1].sum(), at, retain_graph=True)
            slope_of_a = 1.0 if options else slope(lambda v: model.latent({"a": v})["a"], value()).item()
            assert found.item() == pytest.approx(N * model.scm.adjacency[0, 1].item() * slope_of_a, rel=1e-5)


def test_none_is_recorded_where_none_is_asked_for():
    model, guide = make()
    x, at = images(), value().requires_grad_()
    assert not counterfactual(model, guide, x, {"a": 0.7}).requires_grad
    assert not counterfactual(model, guide, x, {"a": at}, grad=False).requires_grad
    assert not model.latent({"a": 0.7})["a"].requires_grad
    with torch.no_grad():
        assert not counterfactual(model, guide, x, {"a": at}).requires_grad
        assert counterfactual(model, guide, x, {"a": 0.7}, grad=True).requires_grad, "also the model's weights have one then"
    # Recording changes no value.
    assert torch.equal(counterfactual(model, guide, x, {"a": at}), counterfactual(model, guide, x, {"a": 0.7}))


def test_the_intervention_that_gives_an_outcome_is_found():
    """By the gradient alone: which a makes c = 2?"""
    model, guide = make(scm=LinearSCM)
    x, at = images(), torch.zeros(N, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([at], max_iter=50, line_search_fn="strong_wolfe")

    def outcome():
        return counterfactual(model, guide, x, {"a": at}, return_latents=True)[1][:, 2, 0]

    def loss():
        optimizer.zero_grad()
        error = (outcome() - 2).square().sum()
        error.backward()
        return error

    optimizer.step(loss)
    assert_close(outcome().detach(), torch.full((N,), 2.0, dtype=torch.float64), rtol=0, atol=1e-3)
