"""What the model draws where it is given labels and no images."""

import math

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Predictive
from torch.testing import assert_close

from causalvae_pyro import AdditiveNoiseSCM, CausalGraph, FixedPrior, LinearSCM
from causalvae_pyro.scm import NoiseGivenLabels, SplineFlowSCM
from tests.builders import jitter, make_pair

# Against the index order: root -> mid -> leaf.
GRAPH = CausalGraph(["leaf", "root", "mid"], [("root", "mid"), ("mid", "leaf")])
LEAF, ROOT, MID = range(3)
SHAPE = (1, 4, 4)
LABELS = torch.tensor([[2.0, -1.0, 0.5]])
DRAWS = 20000


def make(scm=LinearSCM, dim=1, std=0.5, prior=FixedPrior):
    return make_pair(
        GRAPH, SHAPE, scm=scm, dim=dim, prior=prior, moved=0.5, prior_options={"std": std}, layer_options={"learn_noise": True}
    )[0]


def draw(model, labels, count=DRAWS):
    with torch.no_grad():
        return poutine.trace(model).get_trace(None, labels.expand(count, 3)).nodes


def product(model, labels, known=(0, 1, 2), std=0.5):
    """Mean and covariance of ``p(eps) p(z | u)`` for one dimension, from the joint's precision, entry by entry."""
    c = model.scm.matrix().detach().double()
    precision, pull = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for i in known:
        precision += torch.outer(c[i], c[i]) / std**2
        pull += c[i] * labels[0, i] / std**2
    covariance = torch.linalg.inv(precision)
    return covariance @ pull, covariance


@pytest.mark.parametrize("known", [(0, 1, 2), (ROOT, LEAF), (MID,), ()], ids=str)
def test_linear_layers_draw_the_product_of_both_experts(known):
    model = make(dim=2)
    labels = torch.full((1, 3), torch.nan)
    labels[:, list(known)] = LABELS[:, list(known)]
    eps = draw(model, labels)["eps"]["value"].double()
    mean, covariance = product(model, LABELS, known)
    for k in range(2):
        assert_close(eps[..., k].mean(0), mean, rtol=0, atol=0.03)
        assert_close(eps[..., k].T.cov(), covariance, rtol=0, atol=0.04)
    assert abs(torch.corrcoef(eps[:, 0].T)[0, 1]) < 0.03, "dimensions are independent"


def test_the_draws_are_those_of_the_joint():
    """Importance weighting of ``N(0, I)`` by ``p(z | u)`` arrives at the same mean: the closed form is the joint's."""
    model = make(std=1.0)
    eps = torch.randn(200000, 3, 1)
    z = model.scm.to_endogenous(eps).detach()
    weights = model.prior(LABELS).log_prob(z).softmax(0)
    assert_close(draw(model, LABELS)["eps"]["value"].mean(0), (weights[:, None, None] * eps).sum(0), rtol=0, atol=0.04)


@pytest.mark.parametrize("scm", [AdditiveNoiseSCM, SplineFlowSCM], ids=lambda s: s.__name__)
def test_other_layers_draw_concepts_from_the_prior(scm):
    model = make_pair(GRAPH, SHAPE, scm=scm(GRAPH), prior=FixedPrior(3, std=0.3), moved=0.3)[0]
    z = draw(model, LABELS, 4000)["z"]["value"][..., 0]
    assert_close(z.mean(0), LABELS[0], rtol=0, atol=0.03)
    assert_close(z.std(0), torch.full((3,), 0.3), rtol=0, atol=0.02)


def test_so_do_other_priors():
    class Laplace(FixedPrior):
        def forward(self, labels):
            return dist.Laplace(self.lambda1(labels), 0.2).to_event(2)

    z = draw(make(prior=Laplace), LABELS, 4000)["z"]["value"][..., 0]
    assert_close(z.mean(0), LABELS[0], rtol=0, atol=0.03)
    assert_close(z.std(0), torch.full((3,), 0.2 * math.sqrt(2)), rtol=0, atol=0.03)


def test_a_concept_without_a_label_follows_its_mechanism():
    scm = AdditiveNoiseSCM(GRAPH)
    jitter(0.5, scm)
    model = make_pair(GRAPH, SHAPE, scm=scm, prior=FixedPrior(3, std=1e-3))[0]
    labels = torch.tensor([[torch.nan, 2.0, torch.nan]])
    nodes = draw(model, labels, 4000)
    eps, z = (nodes[name]["value"] for name in ("eps", "z"))
    assert_close(z[:, ROOT], torch.full((4000, 1), 2.0), rtol=0, atol=0.01)
    # The noise of both is their own, and what they are is what follows from the cause.
    for index in (MID, LEAF):
        assert_close(eps[:, index].mean(), torch.tensor(0.0), rtol=0, atol=0.06)
        assert_close(eps[:, index].std(), torch.tensor(1.0), rtol=0, atol=0.06)
    assert_close(scm.to_endogenous(eps), z)


def test_images_whose_labels_a_prior_masks_are_drawn_without_them():
    class Masked(FixedPrior):
        def forward(self, labels):
            return super().forward(labels).mask((labels != -9).all(-1))

    model = make_pair(GRAPH, SHAPE, scm=LinearSCM(GRAPH), prior=Masked(3, std=0.01))[0]
    labels = LABELS.repeat(4000, 1)
    labels[::2] = -9
    z = draw(model, labels, 4000)["z"]["value"][..., 0]
    assert_close(z[1::2].mean(0), LABELS[0], rtol=0, atol=0.01)
    assert_close(z[::2].mean(0), torch.zeros(3), rtol=0, atol=0.1)


def test_predictive_draws_images_that_follow_the_labels():
    model = make(std=0.01)
    labels = torch.randn(6, 3)
    for parallel in (False, True):
        draws = Predictive(model, num_samples=5, parallel=parallel)(None, labels)
        assert_close(model.prior.to_labels(draws["z"]), labels.expand(5, 6, 3), rtol=0, atol=0.06)
        assert_close(draws["x_mean"], model.likelihood(model.decoder(draws["z"])).mean)
    # Under an intervention they are images of such scenes, changed.
    changed = Predictive(poutine.do(model, {"root": 3.0}), num_samples=5)(None, labels)
    assert (changed["z"][:, :, ROOT] == 3).all()


def test_the_density_is_that_of_the_noise():
    """An image may come as an argument or by ``condition``: the joint is the same."""
    model = make()
    x, labels = torch.rand(3, *SHAPE), torch.randn(3, 3)
    eps = torch.randn(3, 3, 1)
    given = poutine.trace(poutine.condition(model, {"eps": eps})).get_trace(x, labels)
    conditioned = poutine.trace(poutine.condition(model, {"eps": eps, "x": x})).get_trace(None, labels)
    assert_close(given.log_prob_sum(), conditioned.log_prob_sum())
    assert not isinstance(given.nodes["eps"]["fn"], NoiseGivenLabels), "nothing changes where images are given"
    with pyro.plate("more", 2, dim=-2):
        assert poutine.trace(model).get_trace(None, labels).nodes["eps"]["value"].shape == (2, 3, 3, 1)
