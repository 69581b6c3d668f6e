"""Parameters with a distribution of their own: drawn once for all images, trained, and carried through counterfactuals."""

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from pyro.nn.module import to_pyro_module_
from torch import nn
from torch.testing import assert_close

from causalvae_pyro import CausalELBO, CausalGraph, FixedPrior, LinearSCM, abduct, counterfactual, fit, intervene
from causalvae_pyro.interventions import predict
from causalvae_pyro.networks import MLPDecoder
from tests.builders import SPACES, check_one_line, make_pair, raises

GRAPH = CausalGraph(["a", "b"], [("a", "b")])
SHAPE, BATCH = (1, 2, 2), 5


def data():
    return torch.rand(BATCH, *SHAPE), torch.randn(BATCH, 2)


def random_decoder():
    decoder = MLPDecoder(SHAPE, 2, hidden=3)
    to_pyro_module_(decoder)
    decoder.layers[0].weight = PyroSample(dist.Normal(torch.zeros(3, 2), 1.0).to_event(2))
    return {"decoder": decoder}


def random_layer():
    scm = LinearSCM(GRAPH)
    to_pyro_module_(scm)
    scm.weight = PyroSample(dist.Normal(torch.zeros(2, 2), 1.0).to_event(2))
    return {"scm": scm}


class NoisyLikelihood(PyroModule):
    def __init__(self):
        super().__init__()
        self.scale = PyroSample(dist.LogNormal(-1.0, 0.5))

    def forward(self, output):
        return dist.Normal(output, self.scale.reshape(self.scale.shape + (1, 1, 1))).to_event(3)


class HierarchicalPrior(nn.Module):
    def forward(self, labels):
        tau = pyro.sample("tau", dist.LogNormal(-1.0, 0.5))
        return dist.Normal(labels[..., None], tau.reshape(tau.shape + (1, 1))).to_event(2)


KINDS = {
    "decoder": (random_decoder, "decoder.layers.0.weight", (3, 2)),
    "layer": (random_layer, "scm.weight", (2, 2)),
    "likelihood": (lambda: {"likelihood": NoisyLikelihood()}, "likelihood.scale", ()),
    "prior": (lambda: {"prior": HierarchicalPrior()}, "tau", ()),
}


def make(kind):
    parts, site, shape = KINDS[kind]
    model, guide = make_pair(GRAPH, SHAPE, **parts(), hidden=3)
    return model, guide, site if site == "tau" else f"{model._pyro_name}.{site}", shape


class Both(PyroModule):
    """The amortised guide for ``eps`` and Pyro's own for everything that the images share."""

    def __init__(self, model, guide):
        super().__init__()
        self.amortized = guide
        self.shared = AutoNormal(poutine.block(model, hide=["eps", "z", "x", "x_mean", *GRAPH.names]))

    def forward(self, x, labels=None, num_samples=None):
        self.shared(x, labels)
        return self.amortized(x, labels)


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_drawn_once(kind):
    model, _, name, shape = make(kind)
    site = poutine.trace(model).get_trace(*data()).nodes[name]
    assert (tuple(site["value"].shape), site["cond_indep_stack"]) == (shape, ())


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_trained_with_the_amortised_guide(kind):
    model, guide, name, _ = make(kind)
    both = Both(model, guide)
    x, labels = data()
    svi = SVI(model, both, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    losses = [svi.step(x, labels) for _ in range(120)]
    assert sum(losses[-20:]) < sum(losses[:20])
    spread = poutine.trace(both).get_trace(x, labels).nodes
    assert not spread[name]["cond_indep_stack"]
    loc = [p for n, p in both.shared.named_parameters() if "loc" in n]
    assert loc
    assert any((p != 0).any() for p in loc)
    with raises("model", name.replace(".", r"\."), "Trace_ELBO"), pytest.warns(UserWarning, match="Found vars in model"):
        CausalELBO().loss(model, guide, x, labels)


def test_so_does_fit():
    model, guide, _, _ = make("decoder")
    both, (x, labels) = Both(model, guide), data()
    both(x, labels)  # Pyro's automatic guides have their parameters from the first call on
    history = fit(
        model, both, (x, labels), objective=Trace_ELBO(), epochs=60, batch_size=5, lr=0.02, progress=False, device="cpu"
    )
    assert sum(history["loss"][-10:]) < sum(history["loss"][:10])


@pytest.mark.parametrize("kind", ["decoder", "layer", "likelihood"])
def test_counterfactuals_carry_their_uncertainty(kind):
    model, guide, name, shape = make(kind)
    both, (x, labels) = Both(model, guide), data()
    both(x, labels)
    with torch.no_grad():
        for parameter in guide.head.log_scale.parameters():
            parameter.fill_(-20.0)  # eps is as good as known
    noise = abduct(both, x, num_samples=4)
    assert noise["eps"].shape == (4, BATCH, 2, 1)
    assert noise[name].shape == (4, *shape)
    pyro.set_rng_seed(0)
    images, z = counterfactual(model, both, x, {"a": 1.0}, num_samples=4, return_latents=True)
    assert images.shape == (4, BATCH, *SHAPE)
    spread = {"decoder": images.std(0), "layer": z[..., 1, 0].std(0), "likelihood": torch.ones(())}[kind]
    assert (spread > 2e-4).all(), "more than the noise of eps, 1e-4, makes"
    # Each of them is that of one set of weights.
    world = intervene(model, {"a": 1.0})
    trace = predict(world, noise)
    assert trace.nodes["x_mean"]["value"].shape == (4, BATCH, *SHAPE)
    for k in range(4):
        one = predict(world, {site: value[k] for site, value in noise.items()})
        assert_close(trace.nodes["x_mean"]["value"][k], one.nodes["x_mean"]["value"])
    assert counterfactual(model, both, x, {"a": 1.0}).shape == (BATCH, *SHAPE)


def test_samples_of_nuts_are_predicted_from():
    model, *_ = make("layer")
    x, labels = data()
    mcmc = MCMC(NUTS(model, jit_compile=False), num_samples=3, warmup_steps=3, disable_progbar=True)
    mcmc.run(x, labels)
    z = predict(intervene(model, {"a": 1.0}, latent=True), mcmc.get_samples()).nodes["z"]["value"]
    assert z.shape == (3, BATCH, 2, 1)
    assert (z[:, :, 0] == 1).all()


def test_a_guide_over_z_cannot_map_through_a_random_layer():
    model, guide = make_pair(GRAPH, SHAPE, "endogenous", **random_layer())
    with raises("scm", r"\['weight'\]", "over eps") as error:
        guide(data()[0])
    check_one_line(error)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("events", [0, 1])
def test_a_prior_without_to_event_is_refused(events, space):
    class Loose(FixedPrior):
        def forward(self, labels):
            return dist.Normal(self.lambda1(labels), 0.1).to_event(events)

    model, guide = make_pair(GRAPH, SHAPE, space, prior=Loose)
    x, labels = data()
    for call in (
        lambda: Trace_ELBO().loss(model, guide, x, labels),
        lambda: CausalELBO().loss(model, guide, x, labels),
        lambda: fit(model, guide, (x, labels), epochs=1, batch_size=5, progress=False, device="cpu"),
    ):
        with raises("prior", r"got event shape \(.*\); must be \(2, 1\)", r"to_event\(2\)"):
            call()
