"""A scale for each pixel: its density, what becomes of kept pixel noise, and how it is fitted."""

import math

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from torch.testing import assert_close

from causalvae_pyro import CausalGraph, CausalVAE, GaussianLikelihood, Run, counterfactual, fit, load, save
from causalvae_pyro.interventions import reconstruct
from causalvae_pyro.likelihoods import PixelwiseGaussianLikelihood
from causalvae_pyro.networks import BrightnessDecoder, MLPDecoder
from causalvae_pyro.training import fit_pixel_scales
from tests.builders import check_one_line, make_pair, raises

GRAPH = CausalGraph(["cause", "effect"], [("cause", "effect")])
SHAPE, N = (1, 8, 8), 6


def shaken(likelihood):
    torch.manual_seed(3)
    with torch.no_grad():
        for p in likelihood.network[-1].parameters():
            p.add_(0.3 * torch.randn_like(p))
    return likelihood


def make(**options):
    torch.manual_seed(0)
    likelihood = shaken(PixelwiseGaussianLikelihood(SHAPE[0], **options))
    return make_pair(GRAPH, SHAPE, likelihood=likelihood, moved=0.2, dtype=torch.float64)


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.rand(N, *SHAPE, dtype=torch.float64)


def test_at_first_it_is_the_gaussian_with_one_scale(x):
    output = torch.randn(3, N, *SHAPE, dtype=torch.float64)
    plain, ours = GaussianLikelihood(0.2).double(), PixelwiseGaussianLikelihood(scale=0.2).double()
    assert_close(ours(output).log_prob(x), plain(output).log_prob(x), rtol=1e-5, atol=1e-3)
    assert_close(ours(output).mean, plain(output).mean)
    assert_close(ours.scale, plain.scale)


@pytest.mark.parametrize("relative", [False, True])
def test_the_density_by_hand(relative, x):
    likelihood = shaken(PixelwiseGaussianLikelihood(scale=0.2, min_scale=0.01, relative=relative)).double()
    output = torch.randn(3, N, *SHAPE, dtype=torch.float64)
    mean = output.sigmoid()
    top = mean.amax((-3, -2, -1), keepdim=True) if relative else torch.ones(())
    h = likelihood.network((2 * mean / top - 1).flatten(0, 1)).unflatten(0, (3, N))
    scales = (0.01 + (math.log(0.19) + h).exp()) * top
    found = likelihood(output)
    assert found.event_shape == SHAPE
    assert_close(found.variance.sqrt(), scales)
    assert scales.std() > 0.01
    assert_close(likelihood.scales(mean), scales)
    terms = -0.5 * ((x - mean) / scales) ** 2 - scales.log() - 0.5 * math.log(2 * math.pi)
    assert_close(found.log_prob(x), terms.sum((-3, -2, -1)))


def test_relative_scales_follow_the_brightness():
    likelihood = shaken(PixelwiseGaussianLikelihood(scale=0.2, relative=True))
    mean = torch.rand(N, *SHAPE)
    assert_close(likelihood.scales(0.3 * mean), 0.3 * likelihood.scales(mean))
    # Of a black image they are a number above 0.
    assert (likelihood.scales(0 * mean) > 0).all()


def test_a_change_of_brightness_multiplies_an_image_that_keeps_its_noise(x):
    torch.manual_seed(0)
    decoder = BrightnessDecoder(MLPDecoder(SHAPE, 2), exact=True, brightness_concepts=[1])
    model, guide = make_pair(GRAPH, SHAPE, moved=0.2)
    with torch.no_grad():
        for p in decoder.parameters():
            p.add_(0.3 * torch.randn_like(p))
        decoder.level.fill_(-2.0)  # far from white
    model = CausalVAE(model.scm, model.prior, decoder, shaken(PixelwiseGaussianLikelihood(relative=True)))
    x = 0.2 * x.float()
    images, z = counterfactual(model, guide, x, {"effect": 1.5}, pixel_noise=1.0, return_latents=True)
    before = counterfactual(model, guide, x, {}, return_latents=True)[1]
    ratio = decoder.gain(z) / decoder.gain(before)
    assert (ratio - 1).abs().min() > 0.01
    assert_close(images, ratio[:, None, None, None] * x, rtol=1e-3, atol=1e-5)


def test_kept_noise_fades_where_the_new_image_is_sure(x):
    model, guide = make()
    do = {"cause": 2.0}
    after, kept = (counterfactual(model, guide, x, do, pixel_noise=share) for share in (0.0, 1.0))
    before = reconstruct(model, guide, x)
    scales = model.likelihood.scales
    assert_close(kept, after + scales(after) * (x - before) / scales(before))
    assert (scales(after) / scales(before)).std() > 0.01
    assert_close(counterfactual(model, guide, x, {}, pixel_noise=1.0), x)


def test_pyro_sees_an_ordinary_site(x):
    model, guide = make()
    pyro.set_rng_seed(0)
    trace = poutine.trace(poutine.do(model, data={"cause": torch.zeros(N, 1, dtype=torch.float64)})).get_trace(x)
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].shape == (N,)
    with pyro.get_param_store().scope():
        loss = Trace_ELBO().differentiable_loss(model, guide, x, torch.rand(N, 2, dtype=torch.float64))
        loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.likelihood.parameters())
    draws = model.likelihood(torch.zeros(SHAPE, dtype=torch.float64)).expand((20000,)).sample()
    scales = model.likelihood.scales(torch.full(SHAPE, 0.5, dtype=torch.float64))
    assert_close(draws.std(0), scales, rtol=0.05, atol=0)


def test_it_is_trained_and_saved(tmp_path, x):
    model, guide = make(relative=True, hidden=5, min_scale=0.02)
    model.float(), guide.float()
    before = [p.clone() for p in model.likelihood.parameters()]
    fit(model, guide, (x.float(), torch.rand(N, 2)), epochs=1, batch_size=3, device="cpu", progress=False)
    assert all(not torch.equal(p, q) for p, q in zip(model.likelihood.parameters(), before, strict=True))
    save(Run(model, guide), tmp_path)
    output = torch.randn(2, *SHAPE)
    assert_close(load(tmp_path).model.likelihood(output).stddev, model.likelihood(output).stddev)


class Pattern(nn.Module):
    """A square whose brightness is the first concept's, on dark ground."""

    def forward(self, z):
        square = torch.zeros(SHAPE)
        square[:, 2:6, 2:6] = 1.0
        return 5 * square * (0.3 + z[..., :1, :, None].sigmoid()) - 3


def test_the_scales_are_those_of_the_residuals():
    """Noise of 0.02 on the ground and of 0.2 on the square."""
    torch.manual_seed(0)
    pair, guide = make_pair(GRAPH, SHAPE, moved=0.2)
    model = CausalVAE(pair.scm, pair.prior, Pattern(), PixelwiseGaussianLikelihood(scale=0.1, min_scale=0.005))
    with torch.no_grad():
        for p in guide.parameters():  # it sees nothing: the noise added stays unexplained
            p.zero_()
    mean = reconstruct(model, guide, torch.rand(400, *SHAPE))
    square = mean > 0.3
    assert square.float().mean() == 0.25
    images = (mean + torch.where(square, 0.2, 0.02) * torch.randn_like(mean)).clamp(0, 1)
    others = {name: p.clone() for name, p in model.named_parameters() if not name.startswith("likelihood")}
    history = fit_pixel_scales(model, guide, images, epochs=10, batch_size=20)
    assert len(history) == 10
    assert history[-1] < history[0] - 20
    found = model.likelihood.scales(mean)
    for region in (square, ~square):
        expected = (images - mean)[region].square().mean().sqrt()
        assert_close(found[region].mean(), expected, rtol=0.15, atol=0)
    assert all(torch.equal(p, others[name]) for name, p in model.named_parameters() if name in others)


def test_fitting_the_scales_is_reproducible(x):
    found = []
    for pixels in (x, x, (255 * x).round().byte()):
        model, guide = make()
        fit_pixel_scales(model, guide, pixels, epochs=2, batch_size=4, seed=5)
        found.append(model.likelihood.scales(x))
    assert torch.equal(found[0], found[1])
    assert_close(found[0], found[2], atol=1e-2, rtol=0)


def test_errors(x):
    model, guide = make_pair(GRAPH, SHAPE, dtype=torch.float64)
    with raises("model", "GaussianLikelihood", "PixelwiseGaussianLikelihood") as error:
        fit_pixel_scales(model, guide, x)
    check_one_line(error)
    with raises("epochs", "0"):
        fit_pixel_scales(*make(), x, epochs=0)
    with raises("hidden", "0"):
        PixelwiseGaussianLikelihood(hidden=0)
    with raises("channels", "0"):
        PixelwiseGaussianLikelihood(0)
    with raises("scale", "min_scale=0.3"):
        PixelwiseGaussianLikelihood(min_scale=0.3)
