"""Every causal layer, prior and guide under Pyro's and torch's tools."""

import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import MCMC, NUTS, Predictive, Trace_ELBO
from pyro.infer.inspect import get_model_relations
from torch.func import jacrev
from torch.testing import assert_close

from causalvae_pyro import AdditiveNoiseSCM, CausalGraph, FixedPrior, LinearSCM, abduct, counterfactual, intervene
from causalvae_pyro.interventions import predict, sweep
from causalvae_pyro.priors import LearnedPrior
from causalvae_pyro.scm import AffineFlowSCM, BinaryEffectSCM, CategoricalSCM, MaskLayer, SplineFlowSCM
from tests.builders import SPACES, make_pair

GRAPH, SHAPE, N = CausalGraph(["b", "a", "c"], [("a", "b"), ("b", "c")]), (1, 2, 2), 3
CASES = [
    (scm, prior, space)
    for scm in (LinearSCM, AdditiveNoiseSCM, AffineFlowSCM, SplineFlowSCM, MaskLayer, BinaryEffectSCM, CategoricalSCM)
    for prior in (FixedPrior, LearnedPrior)
    for space in SPACES
]


@pytest.fixture(params=CASES, ids=lambda case: "-".join([case[0].__name__, case[1].__name__, case[2]]))
def pair(request):
    scm, prior, space = request.param
    # Normals so wide that the way from a cause to its effect is smooth.
    binary = {"binary": [("b", -1.0, 1.0)], "width": 0.4} if scm is BinaryEffectSCM else {}
    dim = 1 if binary else 2
    if scm is CategoricalSCM:
        scm = CategoricalSCM(AdditiveNoiseSCM(GRAPH, dim, hidden=16), [2, 0, 0], width=0.2, hidden=16)
    return make_pair(GRAPH, SHAPE, space, scm=scm, prior=prior, dim=dim, noise_dim=2, hidden=16, moved=0.1, layer_options=binary)


@pytest.fixture
def data():
    return torch.rand(N, *SHAPE), torch.randn(N, 3)


def test_trace_and_elbo(pair, data):
    model, guide = pair
    trace = poutine.trace(model).get_trace(*data)
    assert trace.log_prob_sum().isfinite()
    assert torch.isfinite(Trace_ELBO().differentiable_loss(model, guide, *data))


def test_predictive(pair, data):
    model, guide = pair
    for arguments in ((None, data[1]), (None, None, N)):
        draws = Predictive(model, num_samples=2, parallel=True)(*arguments)
        assert draws["z"].shape == (2, N, 3, model.scm.dim)
        assert_close(draws["x_mean"], model.likelihood(model.decoder(draws["z"], draws["eps_x"])).mean)
    assert Predictive(model, guide=guide, num_samples=2)(data[0])["x"].shape == (2, N, *SHAPE)


def test_relations(pair, data):
    found = get_model_relations(pair[0], data, include_deterministic=True)["sample_sample"]
    assert all(set(found[name]) == {"eps", *GRAPH.parents(name)} for name in GRAPH.names)


def test_site_z(pair):
    z, noise = torch.randn(N, 3, pair[0].scm.dim), torch.randn(N, 2)
    trace = poutine.trace(poutine.condition(pair[0], {"z": z, "eps_x": noise})).get_trace(num_samples=N)
    assert_close(trace.nodes["x_mean"]["value"], pair[0].likelihood(pair[0].decoder(z, noise)).mean)


def test_gradients_and_sweeps(pair, data):
    pair = tuple(module.double() for module in pair)
    x, at = data[0].double(), torch.tensor(0.4, dtype=torch.float64)
    step = 1e-5
    images, _ = sweep(*pair, x, {"a": torch.stack([at - step, at, at + step])})
    slope = jacrev(lambda value: counterfactual(*pair, x, {"a": value}))(at)
    assert_close(slope, (images[2] - images[0]) / (2 * step), rtol=1e-3, atol=1e-7)
    assert slope.abs().max() > 0
    samples = abduct(pair[1], x, num_samples=2)
    assert predict(intervene(pair[0], {"a": at}), samples).nodes["z"]["value"].shape == (2, N, 3, pair[0].scm.dim)


@pytest.mark.thorough
def test_nuts(pair, data):
    mcmc = MCMC(NUTS(pair[0], max_tree_depth=3), num_samples=2, warmup_steps=2, disable_progbar=True)
    mcmc.run(*data)
    samples = mcmc.get_samples()
    z = predict(intervene(pair[0], {"a": 0.5}, latent=True), samples).nodes["z"]["value"]
    assert z.shape == (2, N, 3, pair[0].scm.dim)
    assert (z[:, :, 1] == 0.5).all()
