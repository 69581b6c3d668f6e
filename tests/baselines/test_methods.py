"""The baselines of the paper's table: their distributions in closed form, their names, and that each trains and is scored."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from torch.distributions import Normal
from torch.testing import assert_close

from causalvae_pyro import (
    CausalELBO,
    CausalGraph,
    CausalVAE,
    FixedPrior,
    GaussianLikelihood,
    LinearSCM,
    Run,
    encode,
    fit,
)
from causalvae_pyro.baselines import (
    METHODS,
    AlignedPrior,
    IVAEPrior,
    LadderGuide,
    LadderPosterior,
    LowerLevel,
    align,
    ladder_layer,
    relabel,
)
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.evaluation.evaluate import evaluate
from causalvae_pyro.networks import MLPEncoder

BATCH, LOWER, UPPER = 5, 3, 2


def ladder(dim=2):
    """A layer whose upper level moves and widens the lower one."""
    layer = ladder_layer([f"l{i}" for i in range(LOWER)], [f"u{i}" for i in range(UPPER)], dim).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn_like(p))
    shape = BATCH, LOWER, dim
    lower = torch.randn(shape).double(), torch.rand(shape).double() + 0.1
    upper = torch.randn(BATCH, UPPER, dim).double(), torch.rand(BATCH, UPPER, dim).double() + 0.1
    return layer, lower, upper


def given_above(layer, z):
    """Mean and scale of the lower level given the upper one, from two values of the noise."""
    noise = layer.to_exogenous(z)
    zero, one = noise.clone(), noise.clone()
    zero[:, :LOWER], one[:, :LOWER] = 0, 1
    loc = layer.to_endogenous(zero)[:, :LOWER]
    return loc, layer.to_endogenous(one)[:, :LOWER] - loc


def test_the_ladders_posterior_is_the_product_of_what_is_read_and_expected():
    layer, lower, upper = ladder()
    q = LadderPosterior(lower, upper, layer)
    eps = q.rsample()
    z = layer.to_endogenous(eps)
    loc, scale = given_above(layer, z)
    precision = scale**-2 + lower[1] ** -2
    mean = (loc * scale**-2 + lower[0] * lower[1] ** -2) / precision
    expected = Normal(mean, precision**-0.5).log_prob(z[:, :LOWER]).sum((1, 2))
    expected = expected + Normal(*upper).log_prob(z[:, LOWER:]).sum((1, 2))
    # A density of z becomes one of eps by the layer's volume.
    assert_close(q.log_prob(eps), expected + layer.log_abs_det_jacobian(eps, z))


def test_the_ladders_samples_follow_its_density():
    """Stein: under the density itself its score has mean 0, and its product with what it is the score of minus the identity."""
    layer, lower, upper = ladder()
    q = LadderPosterior(lower, upper, layer)
    count = 4000
    eps = q.expand((BATCH,)).rsample((count,)).detach().requires_grad_()
    (score,) = torch.autograd.grad(q.log_prob(eps).sum(), eps)
    assert score.mean(0).abs().max() < 6 * (score.std(0) / count**0.5).max()
    products = (score * (eps - q.mean)).detach()
    assert ((products.mean(0) + 1).abs() < 6 * products.std(0) / count**0.5).all()
    z = layer.to_endogenous(eps.detach().flatten(0, 1)).unflatten(0, (count, BATCH))[:, :, LOWER:]
    assert_close(z.mean(0), upper[0], atol=0.1, rtol=0)
    assert_close(z.std(0), upper[1], atol=0.1, rtol=0)


@pytest.mark.parametrize(("read", "expected"), [(1e6, "prior"), (1e-4, "image")])
def test_an_upper_level_counts_where_the_lower_one_cannot_be_read(read, expected):
    layer, (loc, _), upper = ladder()
    q = LadderPosterior((loc, torch.full_like(loc, read)), upper, layer)
    lower = q.mean[:, :LOWER]
    if expected == "prior":
        assert_close(lower, torch.zeros_like(lower), atol=1e-6, rtol=0)
    else:
        assert_close(layer.to_endogenous(q.mean)[:, :LOWER], loc, atol=1e-4, rtol=0)


def test_the_ladders_decoder_sees_the_lower_level():
    seen = []

    class Spy(nn.Module):
        def forward(self, z):
            seen.append(z)
            return z

    z = torch.randn(BATCH, LOWER + UPPER, 1)
    LowerLevel(Spy(), LOWER)(z)
    assert_close(seen[0], z[:, :LOWER])
    with pytest.raises(ValueError, match="^num_lower: got 5; must leave a latent of 5"):
        LadderGuide(MLPEncoder((1, 4, 4)), ladder_layer(["a"], ["b", "c", "d", "e"]), 5)


def test_the_joint_prior_sees_all_labels():
    u = torch.randn(50, 3) * torch.tensor([1.0, 10.0, 0.1]) + 4
    prior = IVAEPrior.from_labels(u, 2, 3)
    p = prior(u)
    assert p.batch_shape == (50,)
    assert p.event_shape == (2, 3)
    moved = u.clone()
    moved[:, 2] += 0.1
    assert ((prior(moved).mean - p.mean).abs() > 1e-6).all()
    assert_close(prior(u[None]).mean[0], p.mean)
    assert prior(1e3 * u).stddev.min() >= 0.01
    with pytest.raises(ValueError, match=r"^scale: got \[1.0, 0.0\]; must be positive"):
        IVAEPrior([0.0, 0.0], [1.0, 0.0], 2)
    with pytest.raises(ValueError, match="^min_std: got 0; must be > 0"):
        IVAEPrior([0.0], [1.0], 2, min_std=0)
    with pytest.raises(ValueError, match=r"^labels: expected shape \[..., 3\], got \[50, 2\]"):
        prior(u[:, :2])


class Lines:
    """Two of three latents are labels, turned around and rescaled; images show the latents."""

    slopes, offsets = torch.tensor([-2.0, 0.5]), torch.tensor([1.0, -3.0])

    def __init__(self, count=60):
        self.graph = CausalGraph(["a", "b"], [])
        self.labels = torch.randn(count, 2, generator=torch.Generator().manual_seed(1))
        self.images = self.draw(self.labels)

    def latents(self, labels):
        z = torch.zeros(len(labels), 3)
        z[:, 2], z[:, 0] = (self.offsets + self.slopes * labels).T
        return z

    def draw(self, labels):
        return (0.5 + 0.02 * self.latents(labels))[:, None, None].expand(-1, 1, 3, 3)

    def counterfactual(self, labels, do):
        new = labels.clone()
        for column, name in enumerate(self.graph.names):
            if name in do:
                new[:, column] = torch.as_tensor(do[name])
        return new, self.draw(new)


class Columns(nn.Module):
    """A guide that reads latents exactly."""

    def forward(self, x, labels=None, num_samples=None):
        with pyro.plate("data", len(x)):
            return pyro.sample("eps", dist.Normal(((x[:, 0, 0] - 0.5) / 0.02)[..., None], 1e-3).to_event(2))


class Paint(nn.Module):
    def forward(self, z):
        return (0.5 + 0.02 * z[..., 0])[..., None, None, :].expand(*z.shape[:-2], 1, 3, 3)


def lines():
    scm = LinearSCM(CausalGraph(["l", "m", "o"], [("l", "o")]))
    scm.weight.data.fill_(0.0)
    model = CausalVAE(scm, FixedPrior(3), Paint(), GaussianLikelihood(bounded=False))
    return Run(model, Columns())


def test_align_finds_permutation_sign_and_units():
    data = Lines()
    named = align(lines(), data.images, data.labels, data.graph.names)
    assert named.graph.names == ("b", "m", "a")
    assert named.graph.edges == (("b", "a"),)
    assert_close(
        named.model.prior.to_labels(encode(named.model, named.guide, data.images))[:, [2, 0]], data.labels, atol=1e-4, rtol=1e-4
    )
    scores = evaluate(named, data)
    assert min(scores["r2"].values()) > 0.9999
    assert min(scores["cf_score"].values()) > 0.9999


def test_relabel_changes_units_only():
    data = Lines()
    named = align(lines(), data.images, data.labels, data.graph.names)
    other = torch.stack([7 * data.latents(data.labels)[:, 0] - 1, data.labels[:, 0] * 0, -data.labels[:, 0]], 1)
    other[:, 1] = torch.arange(len(other))
    changed = relabel(named, data.images, other)
    assert changed.graph == named.graph
    assert changed.model.scm is named.model.scm
    z = encode(changed.model, changed.guide, data.images)
    assert_close(z, encode(named.model, named.guide, data.images))
    assert_close(changed.model.prior.to_labels(z)[:, [0, 2]], other[:, [0, 2]], atol=1e-3, rtol=1e-4)
    assert_close(changed.model.prior(other).mean[:, [0, 2]], z[:, [0, 2]], atol=1e-3, rtol=1e-4)


def test_a_latent_that_says_little_is_read_as_the_mean_and_set_to_what_is_expected():
    prior = AlignedPrior(1, torch.tensor([[2.0, 0.5]]), torch.tensor([[7.0, 0.1]]), torch.tensor([3.0]), dim=2)
    p = prior(torch.tensor([[4.0]]))
    assert_close(p.mean, torch.full((1, 1, 2), 4.0))
    assert_close(p.stddev, torch.full((1, 1, 2), 3.0))
    assert_close(prior.to_labels(torch.tensor([[[1.0, 3.0]]])), torch.tensor([[7.2]]))


def test_align_errors():
    data = Lines()
    with pytest.raises(ValueError, match="^labels: got 4 for 3 latents"):
        align(lines(), data.images, torch.randn(60, 4), ("a", "b", "c", "d"))
    with pytest.raises(ValueError, match=r"^names: got \['a', 'm'\]; some are those of other latents"):
        align(lines(), data.images, data.labels, ("a", "m"))


@pytest.mark.thorough
@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_and_is_scored(name):
    method, data = METHODS[name], Pendulum("test", size=16)
    torch.manual_seed(0)
    run = method.build(data.graph, data.images, data.labels)
    labels = data.labels if method.labels else None
    history = fit(
        run.model, run.guide, (data.images, labels), objective=method.objective(run), epochs=1, progress=False, device="cpu"
    )
    assert torch.tensor(history["loss"]).isfinite().all()
    named = method.finish(run, data.images, data.labels, data.graph.names)
    scores = evaluate(named, data, limit=60, pairs=False)
    assert set(scores["cf_score"]) == set(data.graph.names)
    assert torch.tensor(list(scores["r2"].values())).isfinite().all()
    assert 0 <= scores["representation"]["tic_mean"] <= scores["representation"]["mic_mean"] <= 1
    assert method.named == (named is run)


@pytest.mark.parametrize("name", ["beta_vae", "causal_vae_unsup", "ladder_vae"])
def test_the_bound_of_unsupervised_methods_is_pyros(name):
    """Weights (1, 0) with sampled or closed divergences: on average the same as Trace_ELBO, which knows none of them."""
    method, data = METHODS[name], Pendulum("test", size=16)
    torch.manual_seed(0)
    run = method.build(data.graph, data.images, data.labels)
    x = data.images[:4]
    ours = CausalELBO(1.0, 0.0, num_particles=300).loss(run.model, run.guide, x)
    pyros = Trace_ELBO(num_particles=300, vectorize_particles=True, max_plate_nesting=1).loss(run.model, run.guide, x)
    assert ours == pytest.approx(pyros, rel=2e-2)


def test_exogenous_guides_read_no_labels():
    run = METHODS["ivae"].build(Pendulum("test", size=16).graph, torch.rand(30, 3, 16, 16), torch.randn(30, 4))
    assert run.guide.scm is None
    x = torch.rand(3, 3, 16, 16)
    assert_close(encode(run.model, run.guide, x, torch.randn(3, 4)), encode(run.model, run.guide, x))
