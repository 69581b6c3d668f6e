"""Guides where the posterior is known: a linear-Gaussian model in which it is correlated, and one in which it is curved."""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence
from torch.testing import assert_close

from causalvae_pyro import (
    CausalELBO,
    CausalGraph,
    CausalVAE,
    FixedPrior,
    GaussianLikelihood,
    LinearSCM,
)
from causalvae_pyro.distributions import BlockNormal
from causalvae_pyro.guides import BlockDiagonalNormal, DiagonalNormal, FullRankNormal, NormalizingFlow
from tests.builders import SPACES, amortized

BATCH, N, DIM, SHAPE, PIXELS = 3, 3, 2, (1, 2, 4), 8
SIZE = N * DIM
GRAPH = CausalGraph(["a", "b", "c"], [("a", "b"), ("a", "c"), ("b", "c")])


def guides(*families):
    pairs = list(itertools.product(SPACES, families))
    return pytest.mark.parametrize(("space", "family"), pairs, ids=[f"{space}-{family.__name__}" for space, family in pairs])


# Draws the 2k points +- sqrt(k) e_i instead of random ones: quadratic functions average exactly.
ROOT = math.sqrt(SIZE) * torch.eye(SIZE).double()
POINTS = torch.cat([ROOT, -ROOT])[:, None]  # [particles, 1, n d]


class SigmaBlock(BlockNormal):
    def rsample(self, sample_shape=()):
        return self.loc + (self.factor @ POINTS[..., None, :, None])[..., 0]


class SigmaNormal(dist.Normal):
    def rsample(self, sample_shape=()):
        return self.loc + self.scale * POINTS.unflatten(-1, (N, DIM))


class OneHot(nn.Module):
    """Every image has parameters of its own."""

    out_features = BATCH

    def forward(self, x, labels=None):
        return torch.eye(BATCH, dtype=x.dtype)


class LinearDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(PIXELS, SIZE))
        self.bias = nn.Parameter(torch.randn(PIXELS))

    def forward(self, z):
        return (z.flatten(-2) @ self.weight.mT + self.bias).unflatten(-1, SHAPE)


def make(space, family, edges=True, size=0.4):
    scm = LinearSCM(GRAPH, DIM, learn_noise=True)
    prior = FixedPrior(N, DIM, std=[0.5, 1.0, 2.0], shift=0.3, scale=[1.0, 2.0, 0.7])
    model = CausalVAE(scm, prior, LinearDecoder(), GaussianLikelihood(0.5, learn_scale=True, bounded=False)).double()
    guide = amortized(space, OneHot(), scm, family=family()).double()
    for parameter in itertools.chain(scm.parameters(), guide.parameters()):
        parameter.data += size * torch.randn_like(parameter)
    if not edges:
        scm.weight.data.zero_()
    return model, guide, torch.randn(BATCH, *SHAPE).double(), torch.randn(BATCH, N).double()


def with_sigma_points(guide):
    distribution = guide.family.distribution

    def patched(*parameters):
        q = distribution(*parameters)
        if isinstance(q, BlockNormal):
            q.__class__ = SigmaBlock
        else:
            q.base_dist.__class__ = SigmaNormal
        return q

    guide.family.distribution = patched
    return guide


class Exact:
    """The model in vectors over ``n d`` dimensions: prior, posterior and evidence for ``x`` alone or given labels."""

    def __init__(self, model, x, labels=None):
        scm = model.scm
        strengths = scm.weight * GRAPH.adjacency.double()
        mix = torch.linalg.inv(torch.eye(N).double() - strengths.T) @ torch.diag(0.01 + 0.99 * scm.log_noise.exp())
        self.mix = torch.kron(mix, torch.eye(DIM).double())
        if labels is None:
            self.mean, self.covariance = torch.zeros(BATCH, SIZE).double(), self.mix @ self.mix.T
        else:
            p = model.prior(labels).base_dist
            self.mean, self.covariance = p.loc.flatten(1), torch.diag(p.scale[0].flatten().square())
        self.tau = 1e-3 + model.likelihood.log_scale.exp()
        self.weight, self.bias, self.x = model.decoder.weight, model.decoder.bias, x.flatten(1)

    def prior(self):
        return MultivariateNormal(self.mean, self.covariance)

    def evidence(self):
        noise = self.tau**2 * torch.eye(PIXELS).double()
        predicted = self.mean @ self.weight.T + self.bias
        return MultivariateNormal(predicted, self.weight @ self.covariance @ self.weight.T + noise).log_prob(self.x)

    def posterior(self):
        covariance = torch.linalg.inv(torch.linalg.inv(self.covariance) + self.weight.T @ self.weight / self.tau**2)
        error = self.x - self.mean @ self.weight.T - self.bias
        return MultivariateNormal(self.mean + error @ self.weight @ covariance / self.tau**2, covariance)

    def reconstruction(self, q):
        mean = q.mean @ self.weight.T + self.bias
        variance = (self.weight @ q.covariance_matrix @ self.weight.T).diagonal(dim1=-2, dim2=-1)
        return (-0.5 * (2 * math.pi * self.tau**2).log() - ((self.x - mean) ** 2 + variance) / (2 * self.tau**2)).sum(-1)


def in_guides_units(guide, exact, q):
    """A distribution of ``z`` as one of what the guide's Gaussian is over."""
    if guide.scm is not None:
        return q
    unmix = torch.linalg.inv(exact.mix)
    return MultivariateNormal(q.mean @ unmix.T, unmix @ q.covariance_matrix @ unmix.T)


def guides_z(guide, exact, x):
    """The guide's Gaussian as torch's multivariate normal over ``z``."""
    q = guide.family.distribution(*guide.head(guide.encoder(x)))
    covariance = q.covariance_matrix if isinstance(q, BlockNormal) else torch.diag_embed(q.variance.flatten(1))
    mean = q.mean.flatten(1)
    if guide.scm is not None:
        return MultivariateNormal(mean, covariance)
    return MultivariateNormal(mean @ exact.mix.T, exact.mix @ covariance @ exact.mix.T)


def set_to(guide, q):
    """Gives the guide the mean and, as far as its family goes, the covariance of ``q``, one and the same for all images."""
    head, factor = guide.head, torch.linalg.cholesky(q.covariance_matrix[0])
    with torch.no_grad():
        for linear in (head.loc, head.log_scale, head.lower):
            linear.weight.zero_()
            linear.bias.zero_()
        head.loc.weight.copy_(q.mean.T)
        head.log_scale.bias.copy_((factor.diagonal() - guide.head.min_scale).log())
        unit = factor / factor.diagonal()[:, None]
        block = SIZE if isinstance(guide.family, FullRankNormal) else DIM
        rows = [unit[s + i, s + j] for s in range(0, SIZE, block) for i in range(block) for j in range(i)]
        head.lower.bias.copy_(torch.stack(rows))


def objective(*weights):
    return CausalELBO(*weights, num_particles=len(POINTS))


# The linear-Gaussian model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.3, 1.0), (0.0, 1.0), (1.0, 0.0)], ids=str)
@guides(FullRankNormal, BlockDiagonalNormal)
def test_bound_equals_its_closed_form(space, family, weights):
    model, guide, x, labels = make(space, family)
    loss = objective(*weights).differentiable_loss(model, with_sigma_points(guide), x, labels)
    alone, given = Exact(model, x), Exact(model, x, labels)
    q = guides_z(guide, alone, x)
    terms = alone.reconstruction(q) - weights[0] * kl_divergence(q, alone.prior()) - weights[1] * kl_divergence(q, given.prior())
    assert_close(loss, -terms.sum(), rtol=1e-10, atol=1e-10)
    for exact, own in ((alone, (1.0, 0.0)), (given, (0.0, 1.0))):
        if weights == own:
            # A proper bound falls short of the evidence by the guide's distance from the posterior.
            assert_close(loss, (kl_divergence(q, exact.posterior()) - exact.evidence()).sum(), rtol=1e-10, atol=1e-10)
    parameters = [p for module in (model, guide) for p in module.parameters()]
    options = {"allow_unused": True, "materialize_grads": True}
    found, wanted = (torch.autograd.grad(value, parameters, **options) for value in (loss, -terms.sum()))
    for gradient, other in zip(found, wanted, strict=True):
        assert_close(gradient, other, rtol=1e-9, atol=1e-9)


@guides(FullRankNormal)
def test_full_rank_reaches_the_evidence(space, family):
    model, guide, x, labels = make(space, family)
    alone, given = Exact(model, x), Exact(model, x, labels)
    set_to(guide, in_guides_units(guide, alone, alone.posterior()))
    # At the exact posterior every single sample gives the evidence.
    for _ in range(3):
        assert_close(-Trace_ELBO().loss(model, guide, x), alone.evidence().sum().item(), rtol=1e-10, atol=1e-10)
    with_sigma_points(guide)
    assert_close(-objective(1.0, 0.0).loss(model, guide, x), alone.evidence().sum().item(), rtol=1e-10, atol=1e-10)
    set_to(guide, in_guides_units(guide, given, given.posterior()))
    assert_close(-objective(0.0, 1.0).loss(model, guide, x, labels), given.evidence().sum().item(), rtol=1e-10, atol=1e-10)


@pytest.mark.thorough
@guides(DiagonalNormal, FullRankNormal)
def test_training_closes_the_gap_that_a_diagonal_gaussian_has_to_leave(space, family):
    model, guide, x, _ = make(space, family, size=0.2)
    with_sigma_points(guide)
    exact, parameters = Exact(model, x), list(guide.parameters())
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=300, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = objective(1.0, 0.0).differentiable_loss(model, guide, x)
        loss.backward()
        return loss

    optimiser.step(closure)
    gap = exact.evidence().sum().item() + objective(1.0, 0.0).loss(model, guide, x)
    posterior = in_guides_units(guide, exact, exact.posterior())
    # The best diagonal Gaussian has the posterior's mean and the inverse of its precision's diagonal for variances.
    precision = posterior.precision_matrix[0].detach()
    known = BATCH * 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)).item()
    assert known > 1
    assert gap == pytest.approx(known if family is DiagonalNormal else 0.0, abs=1e-5)


@guides(DiagonalNormal, BlockDiagonalNormal)
def test_blocks_are_exact_where_the_posterior_falls_into_them(space, family):
    # Concepts without edges, each one drawn on pixels of its own: only a concept's dimensions are correlated.
    model, guide, x, labels = make(space, family, edges=False)
    model.decoder.weight.data *= torch.block_diag(*[torch.ones(3, 2)] * N)[:PIXELS].double()
    alone, given = Exact(model, x), Exact(model, x, labels)
    with_sigma_points(guide)
    for exact, weights in ((alone, (1.0, 0.0)), (given, (0.0, 1.0))):
        posterior = in_guides_units(guide, exact, exact.posterior())
        if family is BlockDiagonalNormal:
            set_to(guide, posterior)
        else:
            guide.head.log_scale.weight.data.zero_()
            guide.head.loc.bias.data.zero_()
            guide.head.loc.weight.data = posterior.mean.T.detach()
            best = posterior.precision_matrix[0].diagonal().rsqrt()
            guide.head.log_scale.bias.data = (best - guide.head.min_scale).log().detach()
        gap = exact.evidence().sum().item() + objective(*weights).loss(model, guide, x, labels)
        assert gap == pytest.approx(0.0, abs=1e-9) if family is BlockDiagonalNormal else gap > 0.1


# A curved posterior --------------------------------------------------------------------------------------------------


class Bend(nn.Module):
    """``x = z_a^2 + z_b``: what is left of ``z`` given ``x`` lies along a parabola."""

    def forward(self, z):
        return (z[..., 0, :].square() + z[..., 1, :])[..., None, None]


@pytest.mark.thorough
@guides(DiagonalNormal, FullRankNormal, NormalizingFlow)
def test_a_flow_follows_a_curved_posterior(space, family):
    scm = LinearSCM(CausalGraph(["a", "b"], [("a", "b")]))
    scm.weight.data[0, 1] = 0.5
    model = CausalVAE(scm, FixedPrior(2, 1), Bend(), GaussianLikelihood(0.1, learn_scale=False, bounded=False))
    guide = amortized(space, OneHot(), scm, family=family(), init_scale=0.3)
    x = torch.tensor([-0.5, 0.0, 0.5])[:, None, None, None]
    optimiser = torch.optim.Adam(guide.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, 300)
    train = CausalELBO(1.0, 0.0, num_particles=32)
    for _ in range(300):
        optimiser.zero_grad()
        loss = train.differentiable_loss(model, guide, x)
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in guide.parameters() if p.grad is not None)
        optimiser.step()
        schedule.step()
    # z_b is Gaussian given z_a, whose density remains to be integrated.
    grid = torch.linspace(-8, 8, 4001).double()
    given = dist.Normal(grid.square() + 0.5 * grid, math.sqrt(1 + 0.1**2)).log_prob(x[:, 0, 0].double())
    evidence = torch.trapezoid((given + dist.Normal(0.0, 1.0).log_prob(grid)).exp(), grid).log().sum().item()
    gap = (evidence + CausalELBO(1.0, 0.0, num_particles=4000).loss(model, guide, x)) / BATCH
    assert (-0.02 < gap < 0.12) if family is NormalizingFlow else gap > 0.5
