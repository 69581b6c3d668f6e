"""Missing labels: the bound of images with all, some or none of their labels against closed forms, and what may not change."""

import math

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from causalvae_pyro import AdditiveNoiseSCM, CausalELBO, CausalVAE, FixedPrior
from causalvae_pyro.distributions import BlockNormal
from causalvae_pyro.guides import DiagonalNormal, FullRankNormal
from causalvae_pyro.networks import MLPEncoder
from causalvae_pyro.objectives import LabelFit
from causalvae_pyro.priors import LearnedPrior
from causalvae_pyro.recipes import Recipe, fit_mechanisms
from causalvae_pyro.scm import AffineFlowSCM, MaskLayer, SplineFlowSCM
from causalvae_pyro.utils.missing_labels import MaskedPrior, any_missing, declare_missing, keep_labels, masked_prior
from tests.builders import SPACES, amortized
from tests.objectives.test_elbo import (
    BATCH,
    CONCEPTS,
    DIM,
    GRAPH,
    NOISE_DIM,
    PARTICLES,
    PRIORS,
    SHAPE,
    BlindEncoder,
    Exact,
    N,
    assert_same_with_gradients,
    make,
    with_sigma_points,
)

NAN = math.nan
# One image of each kind: with all its labels, with some, with none.
PATTERNS = {
    "cause missing": [[1, 1, 1], [0, 1, 1], [0, 0, 0]],
    "middle missing": [[1, 1, 1], [1, 0, 1], [0, 0, 0]],
    "effect missing": [[1, 1, 1], [1, 1, 0], [0, 0, 0]],
    "one known": [[0, 1, 0], [1, 0, 0], [0, 0, 1]],
    "none known": [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
}
every_pattern = pytest.mark.parametrize("pattern", PATTERNS)
every_guide = pytest.mark.parametrize("guide", SPACES)


def hide(labels, known):
    return torch.where(known, labels, NAN)


def semi(guide, prior="fixed", pattern="cause missing", **options):
    """Model, guide, images, labels of which some are missing, and all of them."""
    model, guide, x, labels = make(guide, prior, **options)
    # The encoders of the closed forms read labels; a missing one must not reach them.
    guide.encoder.__class__ = BlindEncoder
    return model, guide, x, hide(labels, torch.tensor(PATTERNS[pattern]).bool()), labels


class ExactMissing(Exact):
    """The terms of images with missing labels, written out with selection matrices."""

    def __init__(self, model, guide, x, labels, known):
        super().__init__(model, guide, x, labels)
        self.known = known.repeat_interleave(DIM, -1).double()

    def label_likelihood(self):
        """``E sum_(i in O) log p(z_i | u_i)``, each image's."""
        (m, S), (loc, C) = self.z, self.prior_z
        variance, width = S.diagonal(dim1=-2, dim2=-1), C.diagonal(dim1=-2, dim2=-1)
        log_prob = -0.5 * ((2 * math.pi * width).log() + ((m - loc) ** 2 + variance) / width)
        return (self.known * log_prob).sum(-1)

    def kl_z(self):
        (m, S), (loc, _), (_, C) = self.z, self.prior_z, self.scm_z
        # c = A z + b: the concepts where labels are missing, else what the labels say.
        A = torch.diag_embed(1 - self.known)
        b = self.known * loc.detach()
        mean, covariance = (A @ m[..., None])[..., 0] + b, A @ S @ A
        P = torch.linalg.inv(C)
        trace = (P * covariance).sum((-2, -1))
        log_scm = -0.5 * (torch.logdet(2 * math.pi * C) + trace + (mean * (P @ mean[..., None])[..., 0]).sum(-1))
        entropy = 0.5 * torch.logdet(2 * math.pi * math.e * S)
        # Where all labels are known, LabelFit has log p_scm(c).
        complete = self.known.all(-1)
        return (-entropy - self.label_likelihood() - torch.where(complete, 0.0, log_scm)).sum()

    def label_fit(self):
        loc = self.prior_z[0].detach()
        log_prob = MultivariateNormal(torch.zeros(CONCEPTS).double(), self.scm_z[1]).log_prob(loc)
        return -(self.known.all(-1) * log_prob).sum()


# The golden test -----------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("weights", [(0.0, 1.0), (1.0, 1.0), (0.3, 2.5)], ids=str)
@every_pattern
@pytest.mark.parametrize("prior", PRIORS)
@every_guide
def test_bound_equals_its_closed_form(guide, prior, pattern, weights):
    model, guide, x, labels, all_labels = semi(guide, prior, pattern)
    with_sigma_points(guide)
    exact = ExactMissing(model, guide, x, all_labels, ~labels.isnan())
    expected = exact.label_fit() - exact.bound(*weights)
    for vectorize in (True, False):
        options = {"num_particles": PARTICLES, "vectorize_particles": vectorize}
        objective = CausalELBO(*weights, terms=[LabelFit()], **options)
        loss = objective.differentiable_loss(model, guide, x, labels)
        assert_same_with_gradients(loss, expected, (model, guide))
        assert objective.last_terms["kl_z"].item() == pytest.approx(exact.kl_z().item(), rel=1e-10)
        assert objective.last_terms["label_fit"].item() == pytest.approx(exact.label_fit().item(), rel=1e-10)


def given_labels(exact):
    """``p(z | u_O)`` and ``log p_scm(c_O)``: a known concept is its label with noise, the others are conditioned on these."""
    (loc, width), C = exact.prior_z, exact.scm_z[1]
    means, covariances, log_prob = [], [], 0.0
    for i in range(BATCH):
        known = exact.known[i].bool()
        K, M = torch.diag(exact.known[i])[known], torch.diag(1 - exact.known[i])[~known]
        gain = M @ C[i] @ K.T @ torch.linalg.inv(K @ C[i] @ K.T)
        means.append(K.T @ K @ loc[i] + M.T @ gain @ K @ loc[i])
        covariances.append(K.T @ K @ width[i] + M.T @ (M @ C[i] @ M.T - gain @ K @ C[i] @ M.T) @ M)
        if known.any():
            log_prob += MultivariateNormal(torch.zeros(len(K)).double(), K @ C[i] @ K.T).log_prob(K @ loc[i]).item()
    return (torch.stack(means), torch.stack(covariances)), log_prob


@every_pattern
@every_guide
def test_the_default_bounds_the_images_and_their_known_labels(guide, pattern):
    model, guide, x, labels, all_labels = semi(guide, pattern=pattern)
    exact = ExactMissing(model, guide, x, all_labels, ~labels.isnan())
    prior, log_prob = given_labels(exact)
    evidence, gap = exact.evidence_and_gap(prior)
    with_sigma_points(guide)
    bound = -CausalELBO(terms=[LabelFit()], num_particles=PARTICLES).loss(model, guide, x, labels)
    # Below log p(x, u_O) by exactly the guide's distance from the posterior.
    assert gap > 0
    assert bound == pytest.approx(log_prob + (evidence - gap).item(), rel=1e-10)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@every_pattern
@pytest.mark.parametrize("prior", PRIORS)
@every_guide
def test_plain_elbo_scores_the_known_labels(guide, prior, pattern, elbo):
    model, guide, x, labels, all_labels = semi(guide, prior, pattern)
    exact = ExactMissing(model, guide, x, all_labels, ~labels.isnan())
    expected = exact.reconstruction() - exact.kl_eps() - exact.kl_eps_x() + exact.label_likelihood().sum()
    options = {"num_particles": PARTICLES, "vectorize_particles": True, "max_plate_nesting": 1}
    loss = elbo(**options).differentiable_loss(model, with_sigma_points(guide), x, labels)
    assert_same_with_gradients(loss, -expected, (model, guide))


# Sampled divergences -------------------------------------------------------------------------------------------------


def nonlinear(kind):
    scm = kind(GRAPH, DIM, hidden=8).double()
    for parameter in scm.parameters():
        parameter.data.normal_(std=0.4)
    return scm


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [AdditiveNoiseSCM, AffineFlowSCM, SplineFlowSCM, MaskLayer], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("space", "family"), [("exogenous", DiagonalNormal), ("endogenous", DiagonalNormal), ("endogenous", FullRankNormal)]
)
def test_the_divergence_with_every_causal_layer(kind, space, family):
    model, _, x, labels, _ = semi("endogenous", pattern="middle missing", scm=nonlinear(kind))
    encoder = MLPEncoder(SHAPE, 5, hidden=8)
    guide = amortized(space, encoder, model.scm, family=family(), noise_dim=NOISE_DIM).double()
    known, scm = ~labels.isnan(), model.scm
    traces = []

    class Peek(CausalELBO):
        def _divergences(self, model, model_trace, guide_trace):
            traces.append((model_trace, guide_trace))
            return super()._divergences(model, model_trace, guide_trace)

    draws = 4000
    objective = Peek(num_particles=draws)
    objective.loss(model, guide, x, labels)
    ((trace, guide_trace),) = traces
    with torch.no_grad():
        q, eps, z = guide_trace.nodes["eps"]["fn"], guide_trace.nodes["eps"]["value"], trace.nodes["z"]["value"]
        log_q = q.log_prob(eps) - scm.log_abs_det_jacobian(eps, z)
        p = model.prior(labels.nan_to_num()).base_dist
        log_labels = torch.where(known[..., None], p.log_prob(z), 0.0).sum((-2, -1))
        completed = torch.where(known[..., None], p.mean, z)
        noise = scm.to_exogenous(completed)
        log_scm = dist.Normal(0.0, 1.0).log_prob(noise).sum((-2, -1)) - scm.log_abs_det_jacobian(noise, completed)
        log_scm[..., 0] = 0.0
        samples = (log_q - log_labels - log_scm).sum(-1)
    error = samples.std() / draws**0.5
    # In closed form where there is one, else over the same samples.
    assert (objective.last_terms["kl_z"] - samples.mean()).abs() < 4 * error
    if kind in (SplineFlowSCM, MaskLayer):
        return
    # No label at all: the divergence from the causal layer's own distribution of the concepts.
    fresh = CausalELBO(1.0, 1.0, num_particles=draws)
    fresh.loss(model, guide, x, torch.full_like(labels, NAN))
    both = fresh.last_terms
    assert both["kl_z"].item() == pytest.approx(both["kl_eps"].item(), rel=0.1)


@every_guide
def test_without_labels_the_divergence_is_closed_where_that_of_eps_is(guide):
    model, guide, x, labels, _ = semi(guide, pattern="none known")
    objective = CausalELBO(1.0, 1.0)
    objective.loss(model, guide, x, labels)
    assert objective.last_terms["kl_z"].item() == objective.last_terms["kl_eps"].item()


# Priors --------------------------------------------------------------------------------------------------------------


class LaplacePrior(nn.Module):
    """One's own, of positive labels only, that has never heard of missing ones."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.ones(N, DIM).double())

    def forward(self, labels):
        assert torch.isfinite(labels).all()
        return dist.Laplace(labels.log()[..., None] * self.slope, 0.5).to_event(2)


class BlocksPrior(nn.Module):
    """Correlated dimensions within each concept."""

    def __init__(self):
        super().__init__()
        self.tril = nn.Parameter(torch.tensor([[0.5, 0.0], [0.3, 0.7]]).double())

    def forward(self, labels):
        return dist.MultivariateNormal(labels[..., None].expand(-1, -1, DIM), scale_tril=self.tril).to_event(1)


class IVAEPrior(nn.Module):
    def forward(self, labels):
        tril = 0.5 * torch.eye(CONCEPTS).double() + 0.1 * torch.ones(CONCEPTS, CONCEPTS).double().tril(-1)
        return BlockNormal(labels[..., None].expand(-1, -1, DIM), tril.expand(len(labels), 1, CONCEPTS, CONCEPTS))


OWN = {
    "fixed": lambda: FixedPrior(N, DIM, std=0.3, shift=2.0).double(),
    "learned": lambda: LearnedPrior(N, DIM, std=0.7).double(),
    "Laplace": LaplacePrior,
    "blocks": BlocksPrior,
}


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("kind", OWN)
def test_every_prior_scores_the_known_labels_only(kind, particles):
    model, guide, x, _, labels = semi("exogenous")
    model.prior, labels = OWN[kind](), labels.exp()
    hidden = labels.clone()
    # Nothing but row 1 tells the model what a label of the last concept looks like.
    hidden[0], hidden[2, 1:], hidden[1, 1] = NAN, NAN, NAN
    with pyro.plate("particles", particles, dim=-2):
        trace = poutine.trace(model).get_trace(x, hidden)
    trace.compute_log_prob()
    z, known = trace.nodes["z"]["value"], ~hidden.isnan()
    per_concept = model.prior(labels).base_dist.log_prob(z)
    per_concept = per_concept if kind == "blocks" else per_concept.sum(-1)
    expected = torch.where(known, per_concept, 0.0).sum(-1)
    assert_close(trace.nodes["z"]["log_prob"].expand_as(expected), expected, rtol=1e-12, atol=1e-12)
    assert (expected[..., 0] == 0).all()
    assert (expected[..., 1:] != 0).all()


@pytest.mark.parametrize("objective", [lambda: CausalELBO(0.3, terms=[LabelFit()]), Trace_ELBO], ids=["causal", "plain"])
@pytest.mark.parametrize("kind", OWN)
@every_guide
def test_gradients_are_finite(guide, kind, objective):
    model, guide, x, _, labels = semi(guide)
    model.prior, labels = OWN[kind](), labels.exp()
    hidden = labels.clone()
    hidden[0], hidden[2, 1:] = NAN, NAN
    with torch.autograd.set_detect_anomaly(True):
        objective().differentiable_loss(model, guide, x, hidden).backward()
    for module in (model, guide):
        for name, parameter in module.named_parameters():
            assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    assert all((p.grad != 0).any() for p in model.prior.parameters() if kind in ("Laplace", "blocks"))


def test_concepts_that_depend_on_each_other_are_refused():
    model, guide, x, labels, all_labels = semi("exogenous")
    model.prior = IVAEPrior()
    CausalELBO().loss(model, guide, x, all_labels)
    with pytest.raises(ValueError, match=r"^prior: with missing labels concepts must be independent, .* got BlockNormal\b"):
        CausalELBO().loss(model, guide, x, labels)


def test_where_no_image_has_a_label_the_prior_sees_0():
    seen = []

    class Prior(FixedPrior):
        def forward(self, labels):
            seen.append(labels)
            return super().forward(labels)

    labels = torch.tensor([[NAN, 1.0, NAN], [NAN, NAN, 2.0], [NAN, 3.0, 4.0]])
    scored = masked_prior(Prior(N), labels)
    assert seen[0].nan_to_num(-9).tolist() == [[0, 1, 2], [0, 1, 2], [0, 3, 4]]
    assert scored.known.tolist() == (~labels.isnan()).tolist()
    assert scored.expand([5, 3]).known.shape == (5, 3, N)


# Without missing labels nothing changes ------------------------------------------------------------------------------


class Before(CausalVAE):
    """The model as it is without missing labels, written out."""

    def forward(self, x=None, labels=None, num_samples=None):
        with pyro.plate("data", len(x)):
            eps = pyro.sample("eps", self.standard_normal(N, DIM))
            z = self.scm(eps)
            pyro.sample("z", self.prior(labels), obs=z)
            eps_x = pyro.sample("eps_x", self.standard_normal(NOISE_DIM))
            return pyro.sample("x", self.likelihood(self.decoder(z, eps_x)), obs=x)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("objective", [lambda: CausalELBO(0.3, terms=[LabelFit()]), Trace_ELBO], ids=["causal", "plain"])
@every_guide
def test_known_labels_change_nothing_to_the_bit(guide, objective, masked):
    results = []
    for model_class in (CausalVAE, Before):
        pyro.set_rng_seed(1)
        pyro.clear_param_store()
        model, q, x, _, labels = semi(guide, "label-dependent", model_class=model_class)
        pyro.set_rng_seed(2)
        # With masks that hide nothing, as for a batch of complete images of a data set that has others.
        with declare_missing(masked and model_class is CausalVAE):
            loss = objective().differentiable_loss(model, q, x, labels)
        loss.backward()
        results.append([loss, *(p.grad for module in (model, q) for p in module.parameters() if p.grad is not None)])
    for ours, before in zip(*results, strict=True):
        assert torch.equal(ours, before)


def test_a_declaration_saves_the_look(monkeypatch):
    model, guide, x, labels, all_labels = semi("endogenous")
    assert any_missing(labels)
    assert not any_missing(all_labels)
    assert not isinstance(masked_prior(model.prior, all_labels), MaskedPrior)

    def look(tensor):
        raise AssertionError("a look at a tensor: a device sync")

    objective = CausalELBO(terms=[LabelFit()])
    with pyro.validation_enabled(False):
        for given, missing in ((all_labels, False), (labels, True)):
            with monkeypatch.context() as patch, declare_missing(missing):
                patch.setattr(torch.Tensor, "__bool__", look)
                patch.setattr(torch.Tensor, "item", look)
                objective.differentiable_loss(model, guide, x, given).backward()
    with monkeypatch.context() as patch, declare_missing(False):
        patch.setattr(torch.Tensor, "isnan", look)
        objective.differentiable_loss(model, guide, x, all_labels)
    # Back to looking.
    assert any_missing(labels)


# Labels and recipes --------------------------------------------------------------------------------------------------


def test_keep_labels():
    labels = torch.arange(300.0).reshape(100, 3)
    kept = keep_labels(labels, 0.1, seed=3)
    rows = ~kept.isnan().any(1)
    assert rows.sum() == 10
    assert torch.equal(kept[rows], labels[rows])
    assert kept[~rows].isnan().all()
    assert torch.equal(keep_labels(labels, 0.1, seed=3).isnan(), kept.isnan())
    assert not torch.equal(keep_labels(labels, 0.1, seed=4).isnan(), kept.isnan())
    assert (~keep_labels(labels, 1e-9).isnan()).all(1).sum() == 2
    assert torch.equal(keep_labels(labels, 1.0), labels)
    assert keep_labels(labels.long(), 0.1).dtype == torch.float32
    assert keep_labels(labels.double(), 0.1).dtype == torch.float64


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, NAN])
def test_keep_labels_wants_a_share(share):
    with pytest.raises(ValueError, match=rf"^share: got {share}; must lie in \(0, 1\]$"):
        keep_labels(torch.zeros(3, 2), share)


@pytest.mark.parametrize("prior", [FixedPrior, LearnedPrior], ids=lambda p: p.__name__)
def test_from_labels_standardises_by_the_known_ones(prior):
    labels = torch.randn(50, N).double() * torch.tensor([1.0, 5.0, 0.1]) + 3
    hidden = labels.clone()
    hidden[10:30, 0] = hidden[45:, 2] = NAN
    made = prior.from_labels(hidden)
    rows = [torch.cat([labels[:10, 0], labels[30:, 0]]), labels[:, 1], labels[:45, 2]]
    assert_close(made.shift, torch.stack([row.mean() for row in rows]).float())
    assert_close(made.scale, torch.stack([row.std() for row in rows]).float())
    assert torch.equal(made.shift[1], prior.from_labels(labels).shift[1])
    hidden[1:, 1] = NAN
    with pytest.raises(ValueError, match=r"^labels: got 1 in column 1; standardising them takes at least 2$"):
        prior.from_labels(hidden)
    hidden[:, 1] = torch.tensor([7.7, NAN]).repeat(25)
    with pytest.raises(ValueError, match=r"^labels: all 25 in column 1, .* are equal \(7.7\); a concept has to vary$"):
        prior.from_labels(hidden)


@pytest.mark.thorough
def test_fit_mechanisms_is_maximum_likelihood_on_complete_images():
    labels = torch.randn(400, N)
    labels[:, 1] += 2 * labels[:, 0]
    labels[:, 2] = labels[:, 0] - labels[:, 1] + 0.5 * labels[:, 2]
    hidden = labels.clone()
    hidden[::4, 1] = NAN
    model, *_ = make()
    model.float()
    model.prior = FixedPrior(N, DIM)
    before = {name: p.clone() for name, p in model.named_parameters()}
    fit_mechanisms(model, hidden, steps=2000)
    u = hidden[~hidden.isnan().any(1)]
    for i, parents in ((0, []), (1, [0]), (2, [0, 1])):
        slopes = torch.linalg.lstsq(u[:, parents], u[:, [i]]).solution if parents else torch.zeros(0, 1)
        assert_close(model.scm.weight[parents, i].detach(), slopes[:, 0], rtol=1e-3, atol=1e-3)
        residual = (u[:, [i]] - u[:, parents] @ slopes).square().mean().sqrt()
        assert_close(model.scm.noise_scale[i].detach(), residual, rtol=1e-3, atol=1e-3)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"scm.weight", "scm.log_noise"}
    assert not list(pyro.get_param_store())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: got 0; must be at least 1"),
        ({"lr": 0.0}, "lr: got 0.0; must be > 0"),
        ({"rows": 1}, "labels: 1 images have all of them; mechanisms take at least 2"),
    ],
    ids=str,
)
def test_fit_mechanisms_with_bad_arguments(options, message):
    model, *_ = make()
    labels = torch.randn(4, N)
    labels[options.pop("rows", 4) :, 0] = NAN
    with pytest.raises(ValueError, match=f"^{message}$"):
        fit_mechanisms(model, labels, **options)


def test_labelled_repeats():
    labels = keep_labels(torch.zeros(5847, 4), 0.01)
    assert Recipe().labelled_repeats(labels) == 20
    assert Recipe(labelled_share=0.5).labelled_repeats(labels) == round(5789 / 58)
    assert Recipe(labelled_share=0.0).labelled_repeats(labels) == Recipe().labelled_repeats(torch.zeros(10, 4)) == 1
    labels[:] = NAN
    with pytest.raises(ValueError, match=r"^labels: all of them are missing$"):
        Recipe().labelled_repeats(labels)
    for share in (-0.1, 1.0, NAN):
        with pytest.raises(ValueError, match=rf"^labelled_share: got {share}; must lie in \[0, 1\)$"):
            Recipe(labelled_share=share)
