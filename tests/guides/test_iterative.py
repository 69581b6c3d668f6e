"""A guide that corrects its reading by what it reads from the drawing of it."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from causalvae_pyro import (
    AdditiveNoiseSCM,
    AmortizedGuide,
    CausalGraph,
    CausalVAE,
    FixedPrior,
    GaussianLikelihood,
    Run,
    abduct,
    counterfactual,
    encode,
    fit,
    load,
    reconstruct,
    save,
)
from causalvae_pyro.guides import BlockDiagonalNormal, DiagonalNormal, Family, FullRankNormal, IterativeGuide
from causalvae_pyro.networks import MLPDecoder, MLPEncoder

SHAPE, N = (1, 4, 4), 3
GRAPH = CausalGraph(["a", "b", "c"], [("a", "b"), ("b", "c")])


class Pixels(nn.Module):
    """A picture of the concepts: each is a pixel's logit. The noise is the next one's."""

    def forward(self, z, eps_x=None):
        logits = torch.zeros(*z.shape[:-2], 16)
        logits[..., :N] = z[..., 0]
        if eps_x is not None:
            logits[..., N : N + 1] = eps_x
        return logits.unflatten(-1, SHAPE)


class Reader(nn.Module):
    """Reads the concepts with an error, and its own noise pixel."""

    out_features = N + 1

    def __init__(self, bend=0.0, shift=0.0):
        super().__init__()
        self.bend, self.shift = bend, shift

    def forward(self, x, labels=None):
        z = torch.logit(x.flatten(-3)[..., : N + 1])
        return z + self.shift + self.bend * torch.sin(z)


def make_pair(refinements=1, noise_dim=0, decoder=None, family=DiagonalNormal(), **error):  # noqa: B008
    scm = AdditiveNoiseSCM(GRAPH, learn_noise=True)
    model = CausalVAE(scm, FixedPrior(N), decoder or Pixels(), GaussianLikelihood(), noise_dim=noise_dim)
    once = AmortizedGuide(Reader(**error), scm, family=family, noise_dim=noise_dim)
    guide = IterativeGuide(once, model, refinements=refinements)
    with torch.no_grad():
        once.head.loc.weight.copy_(torch.eye(N, N + 1))
        once.head.loc.bias.zero_()
        if noise_dim:
            once.noise_head.loc.weight.copy_(torch.eye(N + 1)[N:])
            once.noise_head.loc.bias.zero_()
    return model.eval(), guide.eval()


def scenes(count=20):
    z = torch.randn(count, N, 1)
    return z, Pixels()(z).sigmoid()


class Laplace(Family):
    def distribution(self, loc, scale):
        return dist.Laplace(loc, scale).to_event(2)


@pytest.mark.parametrize("family", [DiagonalNormal, FullRankNormal, Laplace])
def test_an_error_that_is_the_same_everywhere_is_corrected_at_once(family):
    z, x = scenes()
    for steps, error in ((0, 0.3), (1, 0.0), (4, 0.0)):
        model, guide = make_pair(steps, family=family(), shift=0.3)
        assert_close(encode(model, guide, x), z + error, rtol=0, atol=1e-4)


def test_any_error_is_corrected_in_the_end():
    z, x = scenes(50)
    errors = []
    for steps in (0, 1, 2, 10):
        model, guide = make_pair(steps, bend=0.4, shift=0.1)
        errors.append((encode(model, guide, x) - z).abs().max().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.3
    assert errors[-1] < 1e-3


def test_nothing_changes_however_often_nothing_is_done():
    _, x = scenes()
    drift = {}
    for steps in (0, 1):
        model, guide = make_pair(steps, shift=0.2)
        again = x
        for _ in range(5):
            again = reconstruct(model, guide, again)
        drift[steps] = (again - x).abs().max().item()
    assert drift[0] > 0.1
    assert drift[1] < 1e-5


def test_counterfactuals_start_from_what_is_refined():
    z, x = scenes()
    model, guide = make_pair(1, shift=0.3)
    images = counterfactual(model, guide, x, {"c": 0.7}, latent=True)
    z[:, 2] = 0.7
    assert_close(images, Pixels()(z).sigmoid(), rtol=0, atol=1e-5)


def test_the_images_own_noise_is_drawn_along():
    z, x = scenes()
    x = x.clone()
    x[:, 0, 0, 3] = 0.9
    model, guide = make_pair(2, noise_dim=1, shift=0.3)
    noise = abduct(guide, x)
    assert_close(model.scm.to_endogenous(noise["eps"]), z, rtol=0, atol=1e-4)
    # Read once, with its error.
    assert_close(noise["eps_x"], torch.full((20, 1), 0.9).logit() + 0.3, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("family", "std"), [(DiagonalNormal, 0.1), (BlockDiagonalNormal, 0.1), (Laplace, 0.1 * 2**0.5)])
def test_samples_spread_as_the_posterior_does(family, std):
    z, x = scenes(1)
    model, guide = make_pair(1, family=family(), shift=0.3)
    eps = abduct(guide, x, num_samples=2000)["eps"]
    read = model.scm.to_endogenous(eps)
    assert_close(read.mean(0), z, rtol=0, atol=0.02)
    assert_close(read.std(0), torch.full_like(z, std), rtol=0.1, atol=0)


def test_training_sees_the_encoder_alone():
    _, x = scenes()
    model, guide = make_pair(3, bend=0.4)
    plain = guide.guide
    assert_close(guide.train().posterior(x)["eps"].base_dist.mean, plain.posterior(x)["eps"].base_dist.mean)
    assert (abduct(guide, x)["eps"] - abduct(plain, x)["eps"]).abs().max() > 0.05


def test_it_trains_and_a_decoder_can_be_exchanged():
    _, x = scenes(40)
    labels = torch.randn(40, N)
    model = CausalVAE(AdditiveNoiseSCM(GRAPH), FixedPrior(N), MLPDecoder(SHAPE, N, hidden=8), GaussianLikelihood())
    guide = IterativeGuide(AmortizedGuide(MLPEncoder(SHAPE, 8, hidden=8), model.scm), model)
    fit(model, guide, (x, labels), epochs=1, batch_size=20, progress=False)
    before = encode(model, guide, x)
    model.decoder = MLPDecoder(SHAPE, N, hidden=8)
    assert (encode(model, guide, x) - before).abs().max() > 1e-4


@pytest.mark.parametrize("noise_dim", [0, 2])
def test_a_saved_pair_reads_the_same(tmp_path, noise_dim):
    _, x = scenes()
    model = CausalVAE(
        AdditiveNoiseSCM(GRAPH), FixedPrior(N), MLPDecoder(SHAPE, N, hidden=8, noise_dim=noise_dim), GaussianLikelihood(),
        noise_dim=noise_dim,
    )  # fmt: skip
    once = AmortizedGuide(MLPEncoder(SHAPE, 8, hidden=8), model.scm, noise_dim=noise_dim)
    guide = IterativeGuide(once, model, refinements=2)
    run = Run(model.eval(), guide.eval())
    save(run, tmp_path)
    again = load(tmp_path)
    assert isinstance(again.guide, IterativeGuide)
    assert again.guide.refinements == 2
    assert_close(encode(again.model, again.guide, x), encode(run.model, run.guide, x), rtol=0, atol=0)
    with torch.no_grad():
        again.model.decoder.apply(lambda m: [p.mul_(2) for p in m.parameters(recurse=False)])
    # It reads what its own model draws.
    assert (encode(again.model, again.guide, x) - encode(run.model, run.guide, x)).abs().max() > 1e-5


def test_it_can_be_differentiated():
    _, x = scenes(8)
    model, guide = make_pair(1)
    z = guide.posterior(x.requires_grad_())["eps"].base_dist.mean
    z.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_refinements_are_counted():
    model, guide = make_pair()
    with pytest.raises(ValueError, match="^refinements: got -1; must be at least 0"):
        IterativeGuide(guide.guide, model, refinements=-1)
