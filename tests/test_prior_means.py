"""Where a label lies, for priors that are no diagonal Gaussians."""

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.distributions import ReshapeTransform
from torch.testing import assert_close

from causalvae_pyro import CausalGraph, CausalVAE, GaussianLikelihood, LinearSCM, counterfactual, fit
from causalvae_pyro.networks import MLPDecoder
from tests.builders import check_one_line, make_pair, raises

GRAPH = CausalGraph(["a", "b"], [("a", "b")])


def correlated(labels):
    """A prior without ``.mean``, with a full covariance."""
    normal = dist.MultivariateNormal(labels, 0.1 * torch.eye(2) + 0.05)
    return dist.TransformedDistribution(normal, [ReshapeTransform((2,), (2, 1))])


class Nameless(dist.TorchDistribution):
    arg_constraints, support, has_rsample = {}, dist.constraints.independent(dist.constraints.real, 2), True

    def __init__(self, labels):
        self.normal = dist.Normal(labels[..., None], 1.0).to_event(2)
        super().__init__(self.normal.batch_shape, self.normal.event_shape, validate_args=False)

    def rsample(self, sample_shape=()):
        return self.normal.rsample(sample_shape)

    def log_prob(self, value):
        return self.normal.log_prob(value)

    def expand(self, batch_shape, _instance=None):
        return self


@pytest.mark.parametrize("space", ["endogenous", "exogenous"])
def test_a_prior_of_any_shape_trains_and_answers(space):
    _, guide = pair = make_pair(GRAPH, (1, 4, 4), space, scm=LinearSCM)
    scm = pair[0].scm
    model = CausalVAE(scm, correlated, MLPDecoder((1, 4, 4), 2), GaussianLikelihood())
    x, labels = torch.rand(8, 1, 4, 4), torch.randn(8, 2)
    assert torch.isfinite(Trace_ELBO().differentiable_loss(model, guide, x, labels))
    history = fit(model, guide, (x, labels), epochs=2, batch_size=4, progress=False, device="cpu")
    assert history["kl_z"][-1] > 0
    _, z = counterfactual(model, guide, x, {"a": 1.5}, return_latents=True)
    assert_close(z[:, 0, 0], torch.full((8,), 1.5))


def test_a_prior_without_a_mean_is_told_what_is_needed():
    _, guide = pair = make_pair(GRAPH, (1, 4, 4), "endogenous", scm=LinearSCM)
    model = CausalVAE(pair[0].scm, Nameless, MLPDecoder((1, 4, 4), 2), GaussianLikelihood())
    x = torch.rand(8, 1, 4, 4)
    Trace_ELBO().differentiable_loss(model, guide, x, torch.randn(8, 2))
    with raises("prior", "a Nameless, has no mean", r"\.mean") as error:
        counterfactual(model, guide, x, {"a": 1.5})
    check_one_line(error)
