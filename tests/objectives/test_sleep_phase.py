"""The sleep phase and concepts from the prior, against what they are by definition."""

import pyro
import pyro.poutine as poutine
import pytest
import torch
from torch.testing import assert_close

from causalvae_pyro import (
    AdditiveNoiseSCM,
    CausalELBO,
    CausalGraph,
    GaussianLikelihood,
    fit,
)
from causalvae_pyro.guides import DiagonalNormal, FullRankNormal, NormalizingFlow
from causalvae_pyro.objectives import LabelFit, SleepPhase
from causalvae_pyro.objectives.teacher_forcing import TeacherForcingMessenger
from causalvae_pyro.training import Callback
from causalvae_pyro.utils.missing_labels import masked_prior
from tests.builders import make_pair

SHAPE = (1, 8, 8)
DIAGONAL, FULL_RANK, FLOW = ("endogenous", DiagonalNormal), ("exogenous", FullRankNormal), ("exogenous", NormalizingFlow)
GUIDES = [DIAGONAL, ("exogenous", DiagonalNormal), FULL_RANK, FLOW]


def make(guide=DIAGONAL, noise_dim=0):
    graph = CausalGraph(["a", "b", "c"], [("a", "c"), ("b", "c")])
    scm = AdditiveNoiseSCM(graph, hidden=8, learn_noise=True)
    with torch.no_grad():
        scm.output.normal_(0, 0.3)
    space, family = guide
    options = {"scm": scm, "family": family(), "noise_dim": noise_dim, "likelihood": GaussianLikelihood(0.2), "features": 16}
    return make_pair(graph, SHAPE, space, prior_options={"std": 0.1}, **options)


def batch(count=40, missing=False):
    x, labels = torch.rand(count, *SHAPE), torch.randn(count, 3)
    if missing:
        labels[::4] = torch.nan
        labels[1::4, 2] = torch.nan
    return x, labels


def traces(objective, model, guide, x, labels):
    return next(iter(objective._get_traces(model, guide, (x, labels), {})))


@pytest.mark.parametrize("noise_dim", [0, 2])
@pytest.mark.parametrize("kind", GUIDES)
@pytest.mark.parametrize("particles", [1, 3])
def test_concepts_come_from_the_prior(kind, particles, noise_dim):
    model, guide = make(kind, noise_dim)
    x, labels = batch(500)
    objective = CausalELBO(teacher_forcing=1.0, num_particles=particles)
    model_trace, guide_trace = traces(objective, model, guide, x, labels)
    z = model_trace.nodes["z"]["value"]
    standard = (z - labels[..., None]) / 0.1
    assert standard.std().item() == pytest.approx(1, abs=0.07)
    own = guide_trace.nodes["eps"]["infer"]["guide_sample"]
    assert own.shape == z.shape
    assert (model.scm.to_endogenous(own) - labels[..., None]).abs().mean() > 0.3


def test_a_share_of_the_images():
    model, guide = make()
    x, labels = batch(2000)
    _, guide_trace = traces(CausalELBO(teacher_forcing=0.3), model, guide, x, labels)
    site = guide_trace.nodes["eps"]
    replaced = (site["value"] != site["infer"]["guide_sample"]).any(-1).any(-1)
    assert replaced.float().mean().item() == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize("kind", [DIAGONAL, FULL_RANK, FLOW])
def test_divergences_stay_the_guides(kind):
    model, guide = make(kind)
    x, labels = batch()
    values = []
    for share in (0.0, 1.0):
        objective = CausalELBO(1.0, 1.0, teacher_forcing=share, num_particles=1)
        totals = []
        for seed in range(80 if kind is FLOW else 1):
            pyro.set_rng_seed(seed)
            objective.loss(model, guide, x, labels)
            totals.append(torch.stack([objective.last_terms["kl_eps"], objective.last_terms["kl_z"]]))
        values.append(torch.stack(totals).mean(0))
    assert_close(*values, rtol=0.15 if kind is FLOW else 1e-4, atol=1e-3)


def test_the_reconstruction_is_that_of_the_priors_concepts():
    model, guide = make()
    x, labels = batch(300)
    objective = CausalELBO(teacher_forcing=1.0)
    objective.loss(model, guide, x, labels)
    with torch.no_grad():
        expected = model.likelihood(model.decoder(model.prior(labels).sample())).log_prob(x).sum()
    assert objective.last_terms["reconstruction"].item() == pytest.approx(expected.item(), rel=0.05)
    # With it neither the guide nor the causal layer hears of the reconstruction.
    objective = CausalELBO(0.0, 0.0, teacher_forcing=1.0, terms=[LabelFit(0.0)])
    with TeacherForcingMessenger(model.scm, model.prior(labels), 1.0):
        trace = poutine.trace(guide).get_trace(x, labels)
    replayed = poutine.trace(poutine.replay(model, trace=trace)).get_trace(x, labels)
    replayed.compute_log_prob()
    replayed.nodes["x"]["log_prob"].sum().backward()
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in guide.parameters())
    assert all(p.grad is None or p.grad.abs().max() < 1e-2 for p in model.scm.parameters())
    assert any(p.grad.abs().max() > 1 for p in model.decoder.parameters())


def test_missing_labels_stay_the_guides():
    model, guide = make()
    x, labels = batch(missing=True)
    model_trace, guide_trace = traces(CausalELBO(teacher_forcing=1.0), model, guide, x, labels)
    own = model.scm.to_endogenous(guide_trace.nodes["eps"]["infer"]["guide_sample"])[..., 0]
    z = model_trace.nodes["z"]["value"][..., 0]
    known = ~labels.isnan()
    assert_close(z[~known], own[~known], rtol=0, atol=1e-4)
    assert (z - labels)[known].abs().max() < 0.6


def test_labels_that_are_not_given():
    model, guide = make()
    x, _ = batch()
    _, guide_trace = traces(CausalELBO(1.0, 0.0, teacher_forcing=1.0), model, guide, x, None)
    assert "guide_sample" not in guide_trace.nodes["eps"]["infer"]


def test_the_handler_leaves_the_model_alone():
    model, _ = make()
    _, labels = batch()
    given = torch.randn(40, 3, 1)
    with TeacherForcingMessenger(model.scm, masked_prior(model.prior, labels), 1.0):
        trace = poutine.trace(poutine.condition(model, data={"eps": given})).get_trace(None, labels)
    assert torch.equal(trace.nodes["eps"]["value"], given)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_shares_out_of_range(share):
    with pytest.raises(ValueError, match=f"^teacher_forcing: got {share}"):
        CausalELBO(teacher_forcing=share)


def term_of(model, guide, x, labels, **options):
    model_trace, _ = traces(CausalELBO(), model, guide, x, labels)
    return SleepPhase(guide, **options)(model, model_trace, labels)


@pytest.mark.parametrize("noise_dim", [0, 2])
@pytest.mark.parametrize("kind", GUIDES)
def test_only_the_guide_learns(kind, noise_dim):
    model, guide = make(kind, noise_dim)
    value = term_of(model, guide, *batch())
    value.backward()
    assert value.isfinite()
    assert any(p.grad is not None and (p.grad != 0).any() for p in guide.encoder.parameters())
    assert all(p.grad is None for p in model.decoder.parameters())


@pytest.mark.parametrize("noisy", [False, True])
def test_it_is_the_divergence_from_the_drawn_labels(noisy, monkeypatch):
    model, guide = make()
    seen = {}

    def record(images, labels):
        seen.update(images=images, labels=labels)
        return original(images, labels)

    original = guide.forward
    monkeypatch.setattr(guide, "forward", record)
    x, labels = batch()
    value = term_of(model, guide, x, labels, noisy=noisy)
    q = guide.posterior(seen["images"])["eps"].base_dist
    expected = torch.distributions.kl_divergence(q, model.prior(seen["labels"])).sum()
    assert_close(value, expected, rtol=1e-4, atol=1e-3)
    # Each label is one that the batch has, and most images have some of another's.
    for j in range(3):
        assert set(seen["labels"][:, j].tolist()) <= set(labels[:, j].tolist())
    kept = (seen["labels"] == labels).float().mean().item()
    assert 0.3 < kept < 0.75
    # Images of the likelihood, with its noise or without; what is left is that of the conditional prior.
    drawn = model.likelihood(model.decoder(seen["labels"][..., None])).mean
    assert (seen["images"] - drawn).std().item() == pytest.approx(0.2 if noisy else 0.0, abs=0.05)


def test_the_noise_need_not_be_read(monkeypatch):
    """Without it the term is the concepts' divergence."""
    model, guide = make(noise_dim=2)
    x, labels = batch()
    trace, _ = traces(CausalELBO(), model, guide, x, labels)
    seen, original = [], guide.forward

    def record(images, labels):
        seen.append(images)
        return original(images, labels)

    monkeypatch.setattr(guide, "forward", record)
    values = []
    for noise in (True, False):
        pyro.set_rng_seed(0)
        values.append(SleepPhase(guide, noise=noise)(model, trace, labels))
    assert torch.equal(*seen)
    log_q = guide.posterior(seen[0])["eps_x"].log_prob(trace.nodes["eps_x"]["value"]).sum()
    assert log_q.abs() > 1
    assert_close(values[0], values[1] - log_q, rtol=1e-4, atol=1e-3)


def test_images_without_their_labels_do_not_sleep():
    model, guide = make()
    x, labels = batch(missing=True)
    assert term_of(model, guide, x, labels).isfinite()
    assert term_of(model, guide, x, torch.full_like(labels, torch.nan)) == 0
    model_trace, _ = traces(CausalELBO(1.0, 0.0), model, guide, x, None)
    assert SleepPhase(guide)(model, model_trace, None) == 0


def test_weights():
    weight = SleepPhase(None).weight
    assert [weight(p) for p in (0.0, 0.1, 0.15, 0.2, 1.0)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert SleepPhase(None, weight=2.0).weight == 2.0
    with pytest.raises(ValueError, match=r"^weight: got -1"):
        SleepPhase(None, weight=-1.0)


def test_modules_with_a_learning_rate_of_their_own():
    model, guide = make()
    model.decoder.lr_factor = 4.0
    rates = {}

    class Look(Callback):
        def on_epoch_end(self, state):
            for group in state.optimizer.param_groups:
                rates.update(dict.fromkeys(group["params"], (group["lr"], group["betas"])))

    fit(model, guide, batch(), epochs=1, batch_size=8, schedule=None, lr=1e-3, callbacks=[Look()], progress=False)
    assert {rates[p] for p in model.decoder.parameters()} == {(4e-3, (0.9, 0.99))}
    others = [p for p in [*guide.parameters(), *model.scm.parameters()] if p in rates]
    assert {rates[p] for p in others} == {(1e-3, (0.9, 0.999))}
    assert len(rates) == len([*model.parameters(), *guide.parameters()])
