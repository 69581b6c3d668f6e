"""The conditional VAE: its bound, its interventions, and that it learns what labels do not say."""

import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.testing import assert_close

from causalvae_pyro import CausalELBO, FixedPrior, GaussianLikelihood, counterfactual, encode, fit
from causalvae_pyro.baselines import CVAE, CVAEGuide
from causalvae_pyro.networks import MLPDecoder, MLPEncoder

SHAPE, NAMES, BATCH, NOISE = (1, 4, 4), ("a", "b"), 6, 3
BOUND = {"w_eps": 1.0, "w_z": 0.0}


class Linear(nn.Module):
    """x = W (z, eps_x) + offset, no squashing."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, len(NAMES) + NOISE) / 3)
        self.offset = nn.Parameter(torch.randn(16))

    def forward(self, z, eps_x):
        return (torch.cat([z.flatten(-2), eps_x], -1) @ self.weight.T + self.offset).unflatten(-1, SHAPE)


class Flat(nn.Module):
    """Image and labels, side by side."""

    out_features = 16 + len(NAMES)

    def forward(self, x, labels):
        return torch.cat([x.flatten(-3), labels], -1)


def pair(decoder=None, encoder=None):
    prior = FixedPrior(len(NAMES), shift=[1.0, -1.0], scale=[2.0, 0.5])
    decoder = MLPDecoder(SHAPE, len(NAMES), noise_dim=NOISE) if decoder is None else decoder
    model = CVAE(NAMES, prior, decoder, GaussianLikelihood(0.5), noise_dim=NOISE)
    guide = CVAEGuide(MLPEncoder(SHAPE, label_dim=len(NAMES)) if encoder is None else encoder, prior, noise_dim=NOISE)
    return model, guide


def data(count=BATCH):
    return torch.rand(count, *SHAPE), torch.randn(count, len(NAMES))


def test_the_objective_is_the_bound_on_log_p_of_x_given_u():
    model, guide = pair()
    x, u = data()
    torch.manual_seed(3)
    loss = CausalELBO(**BOUND).loss(model, guide, x, u)
    loc, scale = guide.noise_head(guide.encoder(x, u))
    torch.manual_seed(3)
    eps_x = Normal(loc, scale).rsample()
    z = torch.stack([(u[:, 0] - 1) / 2, (u[:, 1] + 1) / 0.5], 1)[..., None]
    fits = model.likelihood(model.decoder(z, eps_x)).log_prob(x)
    divergence = kl_divergence(Normal(loc, scale), Normal(0.0, 1.0)).sum(-1)
    assert_close(loss, (divergence - fits).sum().item(), rtol=1e-5, atol=1e-4)
    torch.manual_seed(3)
    sampled = (Normal(loc, scale).log_prob(eps_x) - Normal(0.0, 1.0).log_prob(eps_x)).sum(-1)
    assert_close(Trace_ELBO().loss(model, guide, x, u), (sampled - fits).sum().item(), rtol=1e-5, atol=1e-4)


def test_at_the_exact_posterior_it_is_the_evidence():
    """With a linear decoder of orthogonal noise directions the posterior is a diagonal Gaussian, linear in x and u."""
    model, guide = pair(Linear(), Flat())
    model.likelihood = _Plain(0.5)
    model, guide = model.double(), guide.double()
    x, u = (t.double() for t in data())
    decoder, head = model.decoder, guide.noise_head
    with torch.no_grad():
        q, _ = torch.linalg.qr(torch.randn(16, NOISE, dtype=torch.float64))
        decoder.weight[:, len(NAMES) :] = q * torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)
        w_z, w_e = decoder.weight.split([len(NAMES), NOISE], 1)
        variance = 1 / (1 + w_e.square().sum(0) / 0.25)
        gain = variance[:, None] * w_e.T / 0.25
        to_z = torch.tensor([[0.5, 0.0], [0.0, 2.0]], dtype=torch.float64)
        shift = torch.tensor([1.0, -1.0], dtype=torch.float64)
        head.loc.weight.copy_(torch.cat([gain, -gain @ w_z @ to_z], 1))
        head.loc.bias.copy_(-gain @ (decoder.offset - w_z @ to_z @ shift))
        head.log_scale.weight.zero_()
        head.log_scale.bias.copy_((variance.sqrt() - head.min_scale).log())
        mean = (u - shift) @ to_z @ w_z.T + decoder.offset
        covariance = w_e @ w_e.T + 0.25 * torch.eye(16, dtype=torch.float64)
        evidence = MultivariateNormal(mean, covariance).log_prob(x.flatten(1)).sum()
    # At the posterior every sample gives it.
    for _ in range(3):
        assert_close(-Trace_ELBO().loss(model, guide, x, u), evidence.item(), rtol=1e-9, atol=1e-9)
    estimates = CausalELBO(**BOUND, num_particles=20_000).loss(model, guide, x, u)
    assert -estimates == pytest.approx(evidence.item(), abs=0.3)


class _Plain(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def forward(self, mean):
        return dist.Normal(mean, self.scale).to_event(3)


def test_interventions_change_the_labels_they_name_and_no_other():
    model, guide = (module.eval() for module in pair())
    x, u = data()
    assert model.graph.names == NAMES
    assert model.graph.edges == ()
    z = encode(model, guide, x, u)
    assert_close(model.prior.to_labels(z), u)
    after, changed = counterfactual(model, guide, x, {"a": 3.0}, u, return_latents=True)
    assert_close(model.prior.to_labels(changed), torch.stack([torch.full((BATCH,), 3.0), u[:, 1]], 1))
    noise, _ = guide.noise_head(guide.encoder(x, u))
    assert_close(after, model.likelihood(model.decoder(changed, noise)).mean)
    same = counterfactual(model, guide, x, {"a": u[:, 0], "b": u[:, 1]}, u)
    assert_close(same, counterfactual(model, guide, x, {}, u))
    traced = poutine.trace(poutine.do(model, data={"b": torch.tensor([0.25])})).get_trace(x, u)
    assert_close(traced.nodes["z"]["value"][:, 1], torch.full((BATCH, 1), 0.25))


def test_it_samples_with_labels_and_without():
    model, _ = pair()
    trace = poutine.trace(model).get_trace(num_samples=2000)
    assert trace.nodes["x"]["value"].shape == (2000, *SHAPE)
    assert trace.nodes["z"]["value"].std().item() == pytest.approx(1, abs=0.1)
    _, u = data()
    assert_close(poutine.trace(model).get_trace(None, u).nodes["z"]["value"], model.prior(u).mean)


@pytest.mark.thorough
def test_it_learns_what_labels_do_not_say():
    """Pixels that the labels set and one that they do not: after training all of them are right, and do() moves its own."""
    torch.manual_seed(0)
    count = 512
    u, own = torch.rand(count, 2), torch.rand(count)
    x = torch.full((count, *SHAPE), 0.5)
    x[:, 0, 0], x[:, 0, 1], x[:, 0, 2] = u[:, :1], u[:, 1:], own[:, None]
    prior = FixedPrior.from_labels(u)
    model = CVAE(NAMES, prior, MLPDecoder(SHAPE, 2, noise_dim=NOISE), GaussianLikelihood(0.1), noise_dim=NOISE)
    guide = CVAEGuide(MLPEncoder(SHAPE, label_dim=2), prior, noise_dim=NOISE)
    options = {"epochs": 60, "lr": 3e-3, "progress": False, "device": "cpu"}
    fit(model, guide, (x, u), objective=CausalELBO(**BOUND), **options)
    model, guide = model.eval(), guide.eval()
    swapped = u[torch.randperm(count), 0]
    after = counterfactual(model, guide, x, {"a": swapped}, u)
    expected = x.clone()
    expected[:, 0, 0] = swapped[:, None]
    assert (after - expected).abs().mean().item() < 0.03
    assert (x - expected).abs().mean().item() > 0.07


@pytest.mark.parametrize("what", ["guide without labels", "missing labels", "no noise"])
def test_errors(what):
    model, guide = pair()
    x, u = data()
    if what == "guide without labels":
        with pytest.raises(ValueError, match="^labels: .*got None"):
            guide(x)
    elif what == "missing labels":
        u[0, 0] = torch.nan
        for program in (model, guide):
            with pytest.raises(ValueError, match=r"^labels: some are missing \(NaN\)"):
                program(x, u)
    else:
        with pytest.raises(ValueError, match="^noise_dim: got 0; must be at least 1"):
            CVAE(NAMES, FixedPrior(2), MLPDecoder(SHAPE, 2), GaussianLikelihood(), noise_dim=0)
