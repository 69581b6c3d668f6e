"""The objectives against closed forms: a linear-Gaussian model, in which everything is known exactly."""

import itertools
import math
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from causalvae_pyro import (
    AdditiveNoiseSCM,
    CausalELBO,
    CausalGraph,
    CausalVAE,
    FixedPrior,
    GaussianLikelihood,
    LinearSCM,
)
from causalvae_pyro.objectives import LabelFit, MechanismFit, warm_up
from causalvae_pyro.objectives.divergences import kl_endogenous, kl_exogenous, kl_linear_gaussian
from causalvae_pyro.priors import LearnedPrior
from causalvae_pyro.scm import CausalTransform
from tests.builders import SPACES, amortized

BATCH, N, DIM, NOISE_DIM, SHAPE = 3, 3, 2, 2, (1, 2, 3)
PIXELS, CONCEPTS = 6, N * DIM
LATENTS = CONCEPTS + NOISE_DIM
PARTICLES = 2 * LATENTS
GRAPH = CausalGraph(["a", "b", "c"], [("a", "b"), ("a", "c"), ("b", "c")])
WEIGHTS = [(1.0, 1.0), (0.3, 1.0), (0.0, 1.0), (1.0, 0.0), (0.7, 2.5)]


class SigmaNormal(dist.Normal):
    """Draws the 2k points ``mean +- sqrt(k) std e_i`` instead of random ones: quadratic functions average exactly.

    One latent vector of k dimensions is spread over two sites, so each class has its own columns of the points.
    """

    def rsample(self, sample_shape=()):
        assert not sample_shape
        points = self.points if self.loc.ndim == self.points.ndim else self.points[next(self.turn) % PARTICLES]
        return self.loc + self.scale * points


def sigma_class(columns, event_shape):
    root = math.sqrt(LATENTS) * torch.eye(LATENTS, dtype=torch.float64)
    points = torch.cat([root, -root])[:, columns].reshape(PARTICLES, 1, *event_shape)
    return type("SigmaNormal", (SigmaNormal,), {"points": points, "turn": itertools.count()})


def with_sigma_points(guide):
    """Makes a guide of the package draw sigma points."""
    posterior = guide.posterior
    classes = {
        "eps": sigma_class(slice(None, CONCEPTS), (N, DIM)),
        "eps_x": sigma_class(slice(CONCEPTS, None), (NOISE_DIM,)),
    }

    def patched(x, labels=None):
        distributions = posterior(x, labels)
        for site, q in distributions.items():
            while not isinstance(q, dist.Normal):
                q = q.base_dist
            q.__class__ = classes[site]
        return distributions

    guide.posterior = patched
    return guide


class LabelledEncoder(nn.Module):
    out_features = 5

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(PIXELS + N, self.out_features)

    def forward(self, x, labels=None):
        labels = torch.zeros(len(x), N).to(x) if labels is None else labels
        return torch.tanh(self.linear(torch.cat([x.flatten(1), labels], -1)))


class LinearDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.z = nn.Parameter(torch.zeros(PIXELS, CONCEPTS))
        self.eps_x = nn.Parameter(torch.zeros(PIXELS, NOISE_DIM))
        self.bias = nn.Parameter(torch.zeros(PIXELS))

    def forward(self, z, eps_x=None):
        mean = z.flatten(-2) @ self.z.mT + self.bias
        return (mean if eps_x is None else mean + eps_x @ self.eps_x.mT).unflatten(-1, SHAPE)


class LabelDependentPrior(nn.Module):
    """Mean and standard deviation both follow the label."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(N, DIM))
        self.growth = nn.Parameter(torch.zeros(N, DIM))

    def forward(self, labels):
        return dist.Normal(labels[..., None] * self.slope, (labels[..., None] * self.growth).exp()).to_event(2)


PRIORS = {
    "fixed": lambda: FixedPrior(N, DIM, std=[0.5, 1.0, 2.0], shift=0.3, scale=[1.0, 2.0, 0.7]),
    "label-dependent": LabelDependentPrior,
}


def make(guide="exogenous", prior="fixed", scm=None, noise_dim=NOISE_DIM, model_class=CausalVAE):
    """Model, guide and data, all in float64, with every parameter drawn at random."""
    scm = LinearSCM(GRAPH, DIM, learn_noise=True) if scm is None else scm
    likelihood = GaussianLikelihood(0.5, learn_scale=True, bounded=False)
    model = model_class(scm, PRIORS[prior](), LinearDecoder(), likelihood, noise_dim=noise_dim).double()
    guide = amortized(guide, LabelledEncoder(), scm, noise_dim=noise_dim).double()
    for parameter in itertools.chain(model.parameters(), guide.parameters()):
        parameter.data.normal_(std=0.4)
    x, labels = torch.randn(BATCH, *SHAPE, dtype=torch.float64), torch.randn(BATCH, N, dtype=torch.float64)
    return model, guide, x, labels


def dense_kl(m, S, m0, S0):
    """KL(N(m, S) || N(m0, S0)) with full covariance matrices."""
    trace = torch.linalg.solve(S0, S).diagonal(dim1=-2, dim2=-1).sum(-1)
    quadratic = ((m0 - m) * torch.linalg.solve(S0, (m0 - m)[..., None])[..., 0]).sum(-1)
    return 0.5 * (trace + quadratic - m.shape[-1] + torch.logdet(S0) - torch.logdet(S))


class Exact:
    """Every quantity of the linear-Gaussian model in vectors over ``n * d`` dimensions, written out by hand."""

    def __init__(self, model, guide, x, labels):
        scm, eye = model.scm, torch.eye(N, dtype=torch.float64)
        strengths = scm.weight * torch.tensor([[0.0, 1, 1], [0, 0, 1], [0, 0, 0]], dtype=torch.float64)
        noise = 0.01 + 0.99 * scm.log_noise.exp()
        self.residual = torch.kron(eye - strengths.T, torch.eye(DIM).double())
        mix = torch.linalg.inv(self.residual) @ torch.diag(noise.repeat_interleave(DIM))
        features = guide.encoder(x, labels)
        h, S = (t.flatten(1) for t in guide.head(features))
        S = torch.diag_embed(S.square())
        unmix = torch.linalg.inv(mix)
        if guide.scm is not None:
            self.z, self.eps = (h, S), (h @ unmix.T, unmix @ S @ unmix.T)
        else:
            self.eps, self.z = (h, S), (h @ mix.T, mix @ S @ mix.T)
        loc, scale = guide.noise_head(features)
        self.eps_x = loc, torch.diag_embed(scale.square())
        p = model.prior(labels).base_dist
        self.prior_z = p.loc.flatten(1), torch.diag_embed(p.scale.square().flatten(1))
        self.prior_eps = torch.zeros(BATCH, CONCEPTS).double(), torch.eye(CONCEPTS).double().expand(BATCH, -1, -1)
        self.scm_z = self.prior_eps[0], (mix @ mix.T).expand(BATCH, -1, -1)
        self.prior_eps_x = torch.zeros(BATCH, NOISE_DIM).double(), torch.eye(NOISE_DIM).double().expand(BATCH, -1, -1)
        self.x, self.decoder, self.tau = x.flatten(1), model.decoder, 1e-3 + model.likelihood.log_scale.exp()

    def reconstruction(self):
        W, V = self.decoder.z, self.decoder.eps_x
        mean = self.z[0] @ W.T + self.eps_x[0] @ V.T + self.decoder.bias
        variance = (W @ self.z[1] @ W.T + V @ self.eps_x[1] @ V.T).diagonal(dim1=-2, dim2=-1)
        return (-0.5 * (2 * math.pi * self.tau**2).log() - ((self.x - mean) ** 2 + variance) / (2 * self.tau**2)).sum()

    def kl_eps(self):
        return dense_kl(*self.eps, *self.prior_eps).sum()

    def kl_z(self):
        return dense_kl(*self.z, *self.prior_z).sum()

    def kl_eps_x(self):
        return dense_kl(*self.eps_x, *self.prior_eps_x).sum()

    def entropy_z(self):
        return 0.5 * torch.logdet(2 * math.pi * math.e * self.z[1]).sum()

    def bound(self, w_eps, w_z):
        return self.reconstruction() - w_eps * self.kl_eps() - w_z * self.kl_z() - self.kl_eps_x()

    def evidence_and_gap(self, prior):
        """``log p(x)`` for ``z ~ prior``, and the KL divergence of the guide from the exact posterior."""

        def join(z, eps_x):
            upper = torch.cat([z[1], torch.zeros(BATCH, CONCEPTS, NOISE_DIM).double()], -1)
            lower = torch.cat([torch.zeros(BATCH, NOISE_DIM, CONCEPTS).double(), eps_x[1]], -1)
            return torch.cat([z[0], eps_x[0]], -1), torch.cat([upper, lower], -2)

        (m, S), q = join(prior, self.prior_eps_x), join(self.z, self.eps_x)
        W = torch.cat([self.decoder.z, self.decoder.eps_x], -1)
        mean = m @ W.T + self.decoder.bias
        evidence = MultivariateNormal(mean, W @ S @ W.T + self.tau**2 * torch.eye(PIXELS).double()).log_prob(self.x)
        S_post = torch.linalg.inv(torch.linalg.inv(S) + W.T @ W / self.tau**2)
        m_post = m + (S_post @ ((self.x - mean) @ W)[..., None])[..., 0] / self.tau**2
        return evidence.sum(), dense_kl(*q, m_post, S_post).sum()


def assert_same_with_gradients(actual, expected, modules, tolerance=1e-10):
    parameters = [p for module in modules for p in module.parameters()]
    assert abs(actual - expected) <= tolerance * max(1.0, abs(expected.item()))
    options = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
    gradients = (torch.autograd.grad(value, parameters, **options) for value in (actual, expected))
    for found, wanted in zip(*gradients, strict=True):
        assert (found - wanted).abs().max() <= tolerance * max(1.0, wanted.abs().max())


# The golden test -----------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("guide", SPACES)
def test_bound_equals_its_closed_form(guide, prior, weights):
    model, guide, x, labels = make(guide, prior)
    with_sigma_points(guide)
    expected = -Exact(model, guide, x, labels).bound(*weights)
    for vectorize in (True, False):
        objective = CausalELBO(*weights, num_particles=PARTICLES, vectorize_particles=vectorize)
        loss = objective.differentiable_loss(model, guide, x, labels)
        assert_same_with_gradients(loss, expected, (model, guide))


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("guide", SPACES)
def test_terms_equal_their_closed_forms(guide, prior):
    model, guide, x, labels = make(guide, prior)
    objective = CausalELBO(1.0, 1.0, num_particles=PARTICLES)
    objective.differentiable_loss(model, with_sigma_points(guide), x, labels)
    exact = Exact(model, guide, x, labels)
    assert set(objective.last_terms) == {"reconstruction", "kl_eps", "kl_z", "kl_eps_x"}
    for name, value in objective.last_terms.items():
        torch.testing.assert_close(value, getattr(exact, name)().detach(), rtol=1e-11, atol=1e-10)
        assert not value.requires_grad


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("guide", SPACES)
def test_plain_elbo_is_the_joint_bound(guide, prior, elbo):
    model, guide, x, labels = make(guide, prior)
    exact = Exact(model, guide, x, labels)
    # ELBO_paper = ELBO_joint + H(q(z)) + log|det|'s part, which H(q(z)) holds: cross entropies with an entropy of eps.
    log_det = torch.logdet(exact.z[1]) - torch.logdet(exact.eps[1])
    joint = exact.bound(1.0, 1.0) - exact.entropy_z()
    expected = exact.reconstruction() - exact.kl_eps() - exact.kl_eps_x() - (exact.kl_z() + exact.entropy_z())
    torch.testing.assert_close(joint, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(log_det, (2 * DIM * model.scm.noise_scale.log().sum()).expand(BATCH))
    loss = elbo(num_particles=PARTICLES, vectorize_particles=True, max_plate_nesting=1).differentiable_loss(
        model, with_sigma_points(guide), x, labels
    )
    assert_same_with_gradients(loss, -joint, (model, guide))


@pytest.mark.parametrize("guide", SPACES)
def test_objectives_bound_the_exact_evidence(guide):
    model, guide, x, labels = make(guide, "label-dependent")
    with_sigma_points(guide)
    exact = Exact(model, guide, x, labels)

    def bound(*weights):
        return -CausalELBO(*weights, num_particles=PARTICLES).loss(model, guide, x, labels)

    conditional, unconditional = exact.evidence_and_gap(exact.prior_z), exact.evidence_and_gap(exact.scm_z)
    # Each proper bound lies below its evidence by exactly the guide's distance from the posterior.
    for found, (evidence, gap) in ((bound(0.0, 1.0), conditional), (bound(1.0, 0.0), unconditional)):
        assert gap > 0
        assert found == pytest.approx((evidence - gap).item(), rel=1e-10)
    assert bound(1.0, 1.0) < min(bound(0.0, 1.0), bound(1.0, 0.0))


# Divergences ---------------------------------------------------------------------------------------------------------


def gaussians():
    q = dist.Normal(torch.randn(BATCH, N, DIM).double(), torch.rand(BATCH, N, DIM).double() + 0.3).to_event(2)
    p = dist.Normal(torch.randn(BATCH, N, DIM).double(), torch.rand(BATCH, N, DIM).double() + 0.3).to_event(2)
    return q, p


@pytest.mark.parametrize("acyclic", [True, False])
def test_kl_linear_gaussian(acyclic):
    q, p = gaussians()
    matrix = torch.randn(N, N).double()
    matrix = torch.linalg.inv(torch.eye(N).double() - matrix.tril(-1)) if acyclic else matrix
    big = torch.kron(matrix.contiguous(), torch.eye(DIM).double())
    covariance = big @ torch.diag_embed(q.variance.flatten(1)) @ big.T
    pushed = MultivariateNormal(q.mean.flatten(1) @ big.T, covariance)
    target = MultivariateNormal(p.mean.flatten(1), torch.diag_embed(p.variance.flatten(1)))
    torch.testing.assert_close(kl_linear_gaussian(q, matrix, p), kl_divergence(pushed, target), rtol=1e-10, atol=1e-10)


def nonlinear_scm():
    scm = AdditiveNoiseSCM(GRAPH, DIM, hidden=8, learn_noise=True).double()
    for parameter in scm.parameters():
        parameter.data.normal_(std=0.5)
    return scm


def within_monte_carlo_error(samples, expected):
    error = samples.std(0) / len(samples) ** 0.5
    assert ((samples.mean(0) - expected).abs() <= 4 * error).all()
    assert (error < 0.03 * expected.abs()).all()


def test_endogenous_guide_has_a_closed_kl_z_for_every_scm():
    scm = nonlinear_scm()
    base, p = gaussians()
    q = dist.TransformedDistribution(base, [CausalTransform(scm).inv])
    eps = q.sample((20_000,))
    z = scm.to_endogenous(eps)
    closed = kl_endogenous(q, p, scm, eps, z)
    torch.testing.assert_close(closed, kl_divergence(base, p))
    within_monte_carlo_error(q.log_prob(eps) - scm.log_abs_det_jacobian(eps, z) - p.log_prob(z), closed)
    # Sampled the other way round: KL_eps of this guide has no closed form.
    prior = dist.Normal(0.0, 1.0).expand([N, DIM]).to_event(2)
    expected = base.log_prob(z) + scm.log_abs_det_jacobian(eps, z) - prior.log_prob(eps)
    torch.testing.assert_close(kl_exogenous(q, prior, scm, eps), expected)


def test_exogenous_guide_samples_kl_z_of_a_nonlinear_scm():
    scm = nonlinear_scm()
    q, p = gaussians()
    eps = q.sample()
    z = scm.to_endogenous(eps)
    jacobians = [torch.autograd.functional.jacobian(scm.to_endogenous, e).reshape(CONCEPTS, CONCEPTS) for e in eps]
    log_det = torch.stack([torch.linalg.slogdet(j).logabsdet for j in jacobians])
    expected = q.log_prob(eps) - log_det - p.log_prob(z)
    torch.testing.assert_close(kl_endogenous(q, p, scm, eps, z), expected)


def test_sampled_kl_z_of_an_exogenous_guide_is_unbiased():
    # With its hidden layers silent the mask layer is linear across concepts, and the closed form applies.
    scm, linear = nonlinear_scm(), LinearSCM(GRAPH, DIM, learn_noise=True).double()
    linear.weight.data.normal_()
    linear.log_noise.data = scm.log_noise.data
    scm.output.data.zero_()
    scm.output_bias.data.zero_()
    scm.weight.data.fill_(1.0)
    scm.skip.data = torch.einsum("ji,de->ijde", linear.weight.data, torch.eye(DIM).double()).reshape(N, N * DIM, DIM)
    q, p = gaussians()
    eps = q.sample((20_000,))
    z = scm.to_endogenous(eps)
    torch.testing.assert_close(z, linear.to_endogenous(eps))
    within_monte_carlo_error(kl_endogenous(q, p, scm, eps, z), kl_linear_gaussian(q, linear.matrix(), p))


# Sites, handlers, interface ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", SPACES)
def test_without_labels_there_is_no_kl_z(guide):
    model, guide, x, _ = make(guide, noise_dim=0)
    objective = CausalELBO(0.5, 1.0)
    loss = objective.differentiable_loss(model, guide, x, None)
    assert set(objective.last_terms) == {"reconstruction", "kl_eps"}
    assert loss.item() == pytest.approx((0.5 * objective.last_terms["kl_eps"] - objective.last_terms["reconstruction"]).item())


class PartlyLabelled(CausalVAE):
    """Scores ``z`` only where a label is finite in every column: semi-supervision by a handler."""

    def forward(self, x=None, labels=None, num_samples=None):
        observed = torch.isfinite(labels).all(-1)
        with pyro.plate("data", len(x)):
            eps = pyro.sample("eps", self.standard_normal(N, DIM))
            z = self.scm(eps)
            eps_x = pyro.sample("eps_x", self.standard_normal(NOISE_DIM))
            with poutine.mask(mask=observed):
                pyro.sample("z", self.prior(torch.where(observed[:, None], labels, 0.0)), obs=z)
            return pyro.sample("x", self.likelihood(self.decoder(z, eps_x)), obs=x)


class MaskingPrior(FixedPrior):
    """The same by the distribution's own mask, where a label is -9."""

    def forward(self, labels):
        return super().forward(labels).mask((labels != -9).all(-1))


class BlindEncoder(LabelledEncoder):
    def forward(self, x, labels=None):
        return super().forward(x, None)


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("way", ["handler", "distribution"])
@pytest.mark.parametrize("guide", SPACES)
def test_masked_labels_mask_kl_z(guide, way, vectorize):
    model, guide, x, labels = make(guide, model_class=PartlyLabelled if way == "handler" else CausalVAE)
    guide.encoder.__class__ = BlindEncoder
    with_sigma_points(guide)
    exact = Exact(model, guide, x, labels)
    kl_z = dense_kl(*exact.z, *exact.prior_z)[1:].sum()
    labels[0, 1] = math.nan if way == "handler" else -9
    if way == "distribution":
        model.prior.__class__ = MaskingPrior
    objective = CausalELBO(0.3, 1.0, num_particles=PARTICLES, vectorize_particles=vectorize)
    loss = objective.differentiable_loss(model, guide, x, labels)
    assert objective.last_terms["kl_z"].item() == pytest.approx(kl_z.item(), rel=1e-10)
    assert_same_with_gradients(loss, kl_z - exact.bound(0.3, 0.0), (model, guide))


@pytest.mark.parametrize("guide", SPACES)
def test_handlers_around_model_and_guide_count(guide):
    model, guide, x, labels = make(guide)
    with_sigma_points(guide)
    objective = CausalELBO(0.3, 1.0, num_particles=PARTICLES)
    plain = objective.loss(model, guide, x, labels)
    handled = poutine.scale(model, scale=0.5), poutine.scale(guide, scale=0.5)
    assert objective.loss(*handled, x, labels) == pytest.approx(0.5 * plain, rel=1e-12)


@pytest.mark.parametrize("arguments", [{}, {"num_particles": 3}, {"num_particles": 3, "vectorize_particles": False}])
@pytest.mark.parametrize("guide", SPACES)
def test_interface_of_pyro_elbos(guide, arguments):
    model, guide, x, labels = make(guide)
    objective = CausalELBO(0.3, 1.0, terms=[MechanismFit(0.2)], **arguments)
    modules = [p for module in (model, guide) for p in module.parameters()]

    def seeded(method):
        pyro.set_rng_seed(3)
        return method(model, guide, x, labels)

    expected = seeded(objective.differentiable_loss)
    gradients = torch.autograd.grad(expected, modules, allow_unused=True)
    assert seeded(objective.loss) == expected.item()
    assert all(p.grad is None for p in modules)
    assert seeded(objective.loss_and_grads) == expected.item()
    for parameter, gradient in zip(modules, gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)


def test_svi_trains_with_it():
    model, guide, x, labels = make("endogenous")
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), CausalELBO())
    pyro.set_rng_seed(5)
    before = svi.evaluate_loss(x, labels)
    pyro.set_rng_seed(5)
    assert svi.step(x, labels) == before
    pyro.set_rng_seed(5)
    assert svi.evaluate_loss(x, labels) < before


def test_particles_average():
    # Three particles in a loop see the same random numbers as three single-particle evaluations.
    model, guide, x, labels = make("exogenous")
    pyro.set_rng_seed(7)
    loop = CausalELBO(1.0, 1.0, terms=[MechanismFit(0.2)], num_particles=3, vectorize_particles=False)
    together = loop.loss(model, guide, x, labels)
    pyro.set_rng_seed(7)
    single = CausalELBO(1.0, 1.0, terms=[MechanismFit(0.2)])
    assert together == pytest.approx(sum(single.loss(model, guide, x, labels) for _ in range(3)) / 3, rel=1e-12)


def test_unknown_sites_of_the_guide_raise():
    model, guide, x, labels = make("exogenous")

    def other(x, labels=None):
        guide(x, labels)
        pyro.sample("eps_y", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})

    with pytest.raises(ValueError, match=r"guide: .*samples \['eps_y'\]"):
        CausalELBO().loss(model, other, x, labels)


@pytest.mark.parametrize("value", [-0.1, math.nan])
@pytest.mark.parametrize("argument", ["w_eps", "w_z", "w_eps_x"])
def test_weights_must_not_be_negative(argument, value):
    with pytest.raises(ValueError, match=f"^{argument}: got "):
        CausalELBO(**{argument: value})


def traced(z):
    """As much of a model's trace as the terms look at."""
    return SimpleNamespace(nodes={"z": {"value": z}})


def test_weights_may_follow_the_progress_of_training():
    model, guide, x, labels = make("exogenous")
    fixed = {w: CausalELBO(w, 2 * w) for w in (0.0, 0.5)}
    moving = CausalELBO(lambda progress: progress, lambda progress: 2 * progress)

    def seeded(objective):
        pyro.set_rng_seed(3)
        return objective.loss(model, guide, x, labels)

    assert moving.progress == 1
    moving.progress = 0.5
    assert seeded(moving) == pytest.approx(seeded(fixed[0.5]), rel=1e-12)
    # A weight of 0 for now leaves the divergence in the record.
    moving.progress = 0.0
    seeded(moving)
    assert moving.last_terms.keys() >= {"reconstruction", "kl_eps", "kl_z"}


def test_concepts_come_first():
    model, guide, x, labels = make()
    objective = CausalELBO(concepts_first=0.3)
    objective.progress = 0.29
    pyro.set_rng_seed(0)
    objective.loss_and_grads(model, guide, x, labels)
    # Whatever the guide makes of the noise, the decoder sees 0, and nothing is asked of the guide.
    own = {name: p for name, p in guide.named_parameters() if "noise" in name}
    assert own
    assert all(p.grad is None or not p.grad.any() for p in own.values())
    seen = []
    decode = model.decoder.forward
    model.decoder.forward = lambda z, eps_x: seen.append(eps_x) or decode(z, eps_x)
    objective.loss(model, guide, x, labels)
    objective.progress = 0.3
    objective.loss(model, guide, x, labels)
    assert not seen[0].any()
    assert seen[1].any()
    pyro.set_rng_seed(1)
    value = objective.loss(model, guide, x, labels)
    pyro.set_rng_seed(1)
    assert value == CausalELBO().loss(model, guide, x, labels)
    with pytest.raises(ValueError, match=r"^concepts_first: got 1; must lie in \[0, 1\)"):
        CausalELBO(concepts_first=1)


# Extra terms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learn_noise", [True, False])
@pytest.mark.parametrize("kind", [LinearSCM, AdditiveNoiseSCM])
def test_label_fit(kind, learn_noise):
    scm = kind(GRAPH, DIM, learn_noise=learn_noise).double()
    for parameter in scm.parameters():
        parameter.data.normal_(std=0.4)
    model, _, _, labels = make(scm=scm)
    model.prior = LearnedPrior(N, DIM, std=0.7).double()
    value = LabelFit()(model, traced(torch.zeros(())), labels)
    value.backward()
    target = model.prior.lambda1(labels).detach()
    scale = scm.noise_scale[:, None].detach()
    expected = -dist.Normal(scm.means(target), scale).log_prob(target).sum()
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    for parameter in scm.parameters():
        assert parameter.grad is not None
    assert all(p.grad is None for p in model.prior.parameters())
    assert LabelFit()(model, traced(torch.zeros(())), None) == 0


def test_mechanism_fit():
    model, *_ = make()
    model.scm.weight.data = torch.tensor([[0.0, 2.0, 1.0], [9.0, 0.0, -1.0], [9.0, 9.0, 0.0]]).double()
    # b = 2 a and c = a - b; a root's mechanism is zero.
    z = torch.tensor([[[1.0, 0.0], [2.5, 0.0], [-1.0, 3.0]]]).double()
    expected = 1.0**2 + 0.5**2 + (-1.0 - (1.0 - 2.5)) ** 2 + 3.0**2
    assert MechanismFit()(model, traced(z), None).item() == pytest.approx(expected)
    # Summed over the batch, averaged over particles.
    assert MechanismFit()(model, traced(z.expand(5, 4, -1, -1)), None).item() == pytest.approx(4 * expected)


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("term", [LabelFit(0.7), MechanismFit(0.3)], ids=lambda term: term.name)
def test_terms_enter_the_loss_with_their_weight(term, vectorize):
    model, guide, x, labels = make("exogenous")
    with_sigma_points(guide)
    options = {"num_particles": PARTICLES, "vectorize_particles": vectorize}
    objective = CausalELBO(0.3, 1.0, terms=[term], **options)
    difference = objective.loss(model, guide, x, labels) - CausalELBO(0.3, 1.0, **options).loss(model, guide, x, labels)
    value = objective.last_terms[term.name].item()
    assert difference == pytest.approx(term.weight * value, rel=1e-9)
    exact = Exact(model, guide, x, labels)
    mean, covariance = exact.z[0] @ exact.residual.T, exact.residual @ exact.z[1] @ exact.residual.T
    quadratic = mean.square().sum() + covariance.diagonal(dim1=-2, dim2=-1).sum()
    expected = quadratic if term.name == "mechanism_fit" else LabelFit()(model, traced(exact.x), labels)
    assert value == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize("share", [0.0, 1.5, -0.1, float("nan")])
def test_warm_up_takes_a_share(share):
    with pytest.raises(ValueError, match="^share: got"):
        warm_up(share)
