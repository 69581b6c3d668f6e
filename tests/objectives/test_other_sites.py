"""What a model has beside the sites of CausalVAE counts in the objective, or is refused."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroSample
from torch.testing import assert_close

from causalvae_pyro import CausalELBO, CausalGraph, CausalVAE, GaussianLikelihood, encode, fit
from tests.builders import SPACES, check_one_line, make_pair, raises

GRAPH = CausalGraph(["a", "b"], [("a", "b")])
SHAPE, BATCH = (1, 4, 4), 6


class Extended(CausalVAE):
    """The model with a penalty on ``z``, and with another measurement of it."""

    penalty, sensor = 0.0, None

    def forward(self, x=None, labels=None, num_samples=None):
        z = self.concepts(x, labels, num_samples)
        if self.penalty:
            pyro.factor("penalty", -self.penalty * z.square().sum())
        if self.sensor is not None:
            with pyro.plate("readings", len(self.sensor)):
                pyro.sample("sensor", dist.Normal(z[..., 0, 0], 0.5), obs=self.sensor)
        return z

    def concepts(self, *args):
        with pyro.poutine.trace() as tracer:
            super().forward(*args)
        return tracer.trace.nodes["z"]["value"]


def make(space="endogenous"):
    model, guide = make_pair(GRAPH, SHAPE, space, moved=0.2)
    return Extended(model.scm, model.prior, model.decoder, model.likelihood), guide


def data():
    return torch.rand(BATCH, *SHAPE), torch.randn(BATCH, 2)


def loss(objective, model, guide, *arguments):
    pyro.set_rng_seed(1)
    return objective.differentiable_loss(model, guide, *arguments)


@pytest.mark.parametrize("options", [{}, {"num_particles": 3}, {"num_particles": 3, "vectorize_particles": False}], ids=str)
@pytest.mark.parametrize("weights", [(0, 1), (1, 1), (1, 0)], ids=str)
@pytest.mark.parametrize("space", SPACES)
def test_they_change_the_objective_as_they_change_pyros(space, weights, options):
    model, guide = make(space)
    x, labels = data()
    ours = CausalELBO(*weights, **options)
    pyros = Trace_ELBO(options.get("num_particles", 1), 1, vectorize_particles=ours.vectorize_particles)
    before = [loss(objective, model, guide, x, labels) for objective in (ours, pyros)]
    assert "observed" not in ours.last_terms
    model.penalty, model.sensor = 1000.0, torch.randn(BATCH)
    after = [loss(objective, model, guide, x, labels) for objective in (ours, pyros)]
    differences = [new - old for new, old in zip(after, before, strict=True)]
    assert differences[0] > 100
    assert_close(*differences, rtol=1e-4, atol=1e-2)
    assert_close(ours.last_terms["observed"], differences[0], rtol=1e-4, atol=1e-2)


def test_they_are_trained_on():
    """A penalty on the concepts draws them to zero, against their labels."""
    model, guide = make()
    x, _ = data()
    labels = torch.ones(BATCH, 2)
    model.penalty = 1e4
    history = fit(model, guide, (x, labels), epochs=60, batch_size=BATCH, lr=0.02, progress=False, device="cpu")
    assert history["observed"][-1] < 0.05 * history["observed"][0]
    assert encode(model, guide, x).abs().max() < 0.2


def random_scale():
    class Likelihood(PyroModule):
        def __init__(self):
            super().__init__()
            self.scale = PyroSample(dist.LogNormal(0.0, 1.0))

        def forward(self, output):
            return GaussianLikelihood()(output + 0 * self.scale)

    return Likelihood()


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
def test_latent_sites_that_are_none_of_ours_are_refused_by_name():
    model, guide = make_pair(GRAPH, SHAPE, likelihood=random_scale())
    x, labels = data()
    for call in (
        lambda: SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), CausalELBO()).step(x, labels),
        lambda: fit(model, guide, (x, labels), epochs=1, batch_size=BATCH, progress=False, device="cpu"),
    ):
        with raises("model", r"likelihood\.scale", "Trace_ELBO") as error:
            call()
        check_one_line(error)
