"""The published objective, term by term against the equations."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from causalvae_pyro import CausalGraph, LinearSCM, abduct, fit
from causalvae_pyro.baselines import DeterministicNormal, PaperRecipe, SigmoidLabelFit
from causalvae_pyro.datasets import Flow, Pendulum
from causalvae_pyro.evaluation.evaluate import evaluate
from causalvae_pyro.scm import MaskLayer


@pytest.fixture(scope="module")
def data():
    return Pendulum("test", size=16)


def build(data, recipe, shake=0.3):
    torch.manual_seed(0)
    run = recipe.build(data.graph, data.images, data.labels)
    with torch.no_grad():
        for p in run.model.scm.parameters():
            p.add_(shake * torch.randn_like(p))
    run.model.eval()
    run.guide.eval()
    return run, data.images[:5] / 255, data.labels[:5]


def parts(run, x, u):
    """What the equations are about: the guide's mean and scale, the mask layer's pieces, the standardised labels."""
    loc, scale = run.guide.head(run.guide.encoder(x))
    prior = run.model.prior
    target = ((u - prior.shift) / prior.scale)[..., None].expand_as(loc)
    return loc, scale, target


@pytest.mark.parametrize("w", [(1.0, 1.0), (0.3, 2.0)])
def test_the_papers_objective(data, w):
    run, x, u = build(data, PaperRecipe(graph="given", w_eps=w[0], w_z=w[1], w_label_fit=0.5, w_mechanism_fit=2.0))
    objective = PaperRecipe(w_eps=w[0], w_z=w[1], w_label_fit=0.5, w_mechanism_fit=2.0).objective(run)
    torch.manual_seed(1)
    loss = objective.loss(run.model, run.guide, x, u)
    loc, scale, target = parts(run, x, u)
    torch.manual_seed(1)
    q = Normal(loc, scale)
    eps, scm = q.rsample(), run.model.scm
    z = scm.to_endogenous(eps)
    fits = run.model.likelihood(run.model.decoder(z)).log_prob(x).sum()
    kl_eps = kl_divergence(q, Normal(0.0, 1.0)).sum()
    # The mask layer's volume is 1, so q(z) = q(eps).
    kl_z = (q.log_prob(eps) - Normal(target, 1.0).log_prob(z)).sum()
    low, high = data.labels.amin(0), data.labels.amax(0)
    u01 = (u - low) / (high - low)
    l_u = (u01 - torch.sigmoid(u01 @ (scm.weight * data.graph.adjacency))).square().sum()
    l_m = (z - scm.means(z)).square().sum()
    assert_close(loss, (w[0] * kl_eps + w[1] * kl_z - fits + 0.5 * l_u + 2 * l_m).item(), rtol=1e-5, atol=1e-2)


def test_the_codes_objective_decodes_the_mean_and_takes_1_for_the_variance(data):
    recipe = PaperRecipe.authors_code()
    assert recipe == PaperRecipe(w_eps=0.3, sample_eps=False, graph="given")
    run, x, u = build(data, recipe)
    assert isinstance(run.guide.family, DeterministicNormal)
    loss = recipe.objective(run).loss(run.model, run.guide, x, u)
    assert loss == recipe.objective(run).loss(run.model, run.guide, x, u)
    loc, _, target = parts(run, x, u)
    scm = run.model.scm
    z = scm.to_endogenous(loc)
    fits = run.model.likelihood(run.model.decoder(z)).log_prob(x).sum()
    kl_eps, kl_z = loc.square().sum() / 2, (z - target).square().sum() / 2
    low, high = data.labels.amin(0), data.labels.amax(0)
    u01 = (u - low) / (high - low)
    l_u = (u01 - torch.sigmoid(u01 @ scm.adjacency)).square().sum()
    l_m = (z - scm.means(z)).square().sum()
    assert_close(loss, (0.3 * kl_eps + kl_z - fits + l_u + l_m).item(), rtol=1e-5, atol=1e-2)
    assert_close(abduct(run.guide, x, num_samples=3)["eps"], loc.expand(3, *loc.shape))


@pytest.mark.thorough
def test_the_graph_is_found_from_labels_or_given():
    labels = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    labels[:, 1] = 0.9 * labels[:, 0] + 0.3 * labels[:, 1]
    images, graph = torch.rand(400, 3, 16, 16), CausalGraph(["a", "b"], [])
    found = PaperRecipe().build(graph, images, labels)
    assert len(found.graph.edges) == 1
    assert isinstance(found.model.scm, MaskLayer)
    assert found.model.scm.dim == 4
    assert PaperRecipe(graph="given").build(graph, images, labels).graph == graph
    with pytest.raises(ValueError, match="^graph: got 'true'; valid: 'found', 'given'"):
        PaperRecipe(graph="true")


def test_the_likelihood_may_be_the_squared_error(data):
    run, x, _ = build(data, PaperRecipe(graph="given", learn_scale=False))
    likelihood = run.model.likelihood
    assert not any(p.requires_grad for p in likelihood.parameters())
    mean = torch.zeros_like(x)
    gap = likelihood(mean).log_prob(x) - likelihood(mean).log_prob(likelihood(mean).mean)
    assert_close(gap, -(x - likelihood(mean).mean).square().sum((1, 2, 3)) / 2, rtol=1e-4, atol=1e-3)


def test_label_fit_reaches_the_strengths_only():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.scm = LinearSCM(CausalGraph(["a", "b"], [("a", "b")]))

    model, u = Model(), torch.tensor([[2.0, 10.0], [4.0, 20.0]])
    value = SigmoidLabelFit([2.0, 10.0], [4.0, 20.0])(model, None, u)
    assert value.item() == pytest.approx(4 * 0.25)
    value.backward()
    assert model.scm.weight.grad[0, 1] != 0
    assert model.scm.weight.grad.count_nonzero() == 1


@pytest.mark.thorough
@pytest.mark.parametrize("recipe", [PaperRecipe(), PaperRecipe.authors_code()], ids=["paper", "code"])
def test_it_trains_and_is_scored(data, recipe):
    torch.manual_seed(0)
    run = recipe.build(data.graph, data.images, data.labels)
    history = fit(
        run.model,
        run.guide,
        (data.images, data.labels),
        objective=recipe.objective(run),
        epochs=1,
        progress=False,
        device="cpu",
    )
    assert torch.tensor(history["loss"]).isfinite().all()
    scores = evaluate(run, data, limit=40, pairs=False)
    assert torch.tensor(list(scores["cf_score"].values())).isfinite().all()


@pytest.mark.parametrize(("simulator", "levels"), [(Pendulum, [84, 87, 10, 18]), (Flow, [30, 5, 9, 50])])
def test_labels_as_in_the_files_names(simulator, levels):
    labels = simulator.published_labels()
    whole = simulator.file_name_labels(labels)
    assert_close(whole, whole.round(), rtol=0, atol=0)
    assert [len(column.unique()) for column in whole.T] == levels
    # Single precision may turn a whole number's side.
    assert (simulator.file_name_labels(labels.float()) != whole).sum() <= 2
    first = {Pendulum: [-40.0, 60.0, 3.0, 2.0], Flow: [5.0, 1.0, 6.0, 17.0]}[simulator]
    assert whole[0].tolist() == first
    assert simulator.file_name_labels(labels[0]).tolist() == first
