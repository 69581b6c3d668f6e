"""The pixels' own noise in abduction and prediction."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from causalvae_pyro import CausalGraph, counterfactual
from causalvae_pyro.interventions import FadingNoise, abduct, abduct_pixels, counterfactual_traces, predict
from causalvae_pyro.interventions.pixels import standardised
from causalvae_pyro.likelihoods import (
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    GaussianLikelihood,
    LaplaceLikelihood,
    PixelwiseGaussianLikelihood,
)
from tests.builders import check_one_line, make_pair, raises

GRAPH = CausalGraph(["cause", "effect"], [("cause", "effect")])
SHAPE, N = (1, 4, 4), 5


class Spread(nn.Module):
    """Pixels of any family, whose scale differs from pixel to pixel and follows the decoder's output."""

    pixels = True

    def __init__(self, family):
        super().__init__()
        self.family = family

    def forward(self, output):
        return self.family(output.sigmoid(), 0.05 + 0.3 * output.sigmoid()).to_event(3)


def students(loc, scale):
    return dist.StudentT(5.0, loc, scale)


LIKELIHOODS = {
    "gaussian": lambda: GaussianLikelihood(0.1),
    "laplace": lambda: LaplaceLikelihood(0.1),
    "normal": lambda: Spread(dist.Normal),
    "gumbel": lambda: Spread(dist.Gumbel),
    "student": lambda: Spread(students),
    "pixelwise": lambda: PixelwiseGaussianLikelihood(scale=0.2),
}
every_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS.values(), ids=LIKELIHOODS)


def make(likelihood=None, **options):
    torch.manual_seed(0)
    return make_pair(GRAPH, SHAPE, likelihood=likelihood, moved=0.2, dtype=torch.float64, **options)


@pytest.fixture
def x():
    return torch.rand(N, *SHAPE, dtype=torch.float64)


@pytest.mark.parametrize("num_samples", [None, 3])
@pytest.mark.parametrize("noise_dim", [0, 2])
@every_likelihood
def test_an_intervention_that_changes_nothing_returns_the_image(likelihood, noise_dim, num_samples, x):
    model, guide = make(likelihood(), noise_dim=noise_dim)
    again = counterfactual(model, guide, x, {}, pixel_noise=1.0, num_samples=num_samples, batch_size=2)
    assert_close(again, x.expand_as(again))
    assert (counterfactual(model, guide, x, {}, num_samples=num_samples) - x).abs().mean() > 0.1


@every_likelihood
def test_the_noise_is_the_images_own_in_units_of_the_scale_of_each_world(likelihood, x):
    model, guide = make(likelihood())
    noise, do = abduct(guide, x), {"cause": torch.linspace(-3, 3, N, dtype=torch.float64)}
    with torch.no_grad():
        before, after = (
            model.likelihood(model.decoder(z))
            for z in (model.scm.to_endogenous(noise["eps"]), counterfactual(model, guide, x, do, return_latents=True)[1])
        )
    scales = [torch.as_tensor(getattr(part, "base_dist", part).scale) for part in (before, after)]
    expected = after.mean + scales[1] / scales[0] * (x - before.mean)
    assert_close(counterfactual(model, guide, x, do, pixel_noise=1.0), expected)
    # A share of it lies on the way from the mean.
    assert_close(counterfactual(model, guide, x, do, pixel_noise=0.25), 0.75 * after.mean + 0.25 * expected)


@pytest.mark.parametrize("num_samples", [None, 3])
def test_by_hand_it_is_predicted_from_what_was_abducted(num_samples, x):
    model, guide = make()
    noise = abduct(guide, x, num_samples=num_samples)
    e = abduct_pixels(model, noise, x)
    lead = () if num_samples is None else (num_samples,)
    assert e.shape == (*lead, N, *SHAPE)
    again = predict(model, noise, pixel_noise=e).nodes["x"]["value"]
    assert_close(again, x.expand_as(again))
    assert not e.requires_grad


@pytest.mark.parametrize("num_samples", [None, 3])
@every_likelihood
def test_noise_that_fades_returns_the_image_where_nothing_changes(likelihood, num_samples, x):
    model, guide = make(likelihood())
    again = counterfactual(model, guide, x, {}, pixel_noise=1.0, fade=0.01, num_samples=num_samples, batch_size=2)
    assert_close(again, x.expand_as(again))


def test_noise_fades_around_what_changes():
    before, e = torch.full((1, 3, 12, 12), 0.5), torch.ones(1, 3, 12, 12)
    after = before.clone()
    after[..., 2, 2] += torch.tensor([0.3, 0.0, -0.3])
    kept = FadingNoise(e, before, 0.008).at(after)
    # The mean over the colours is 0.2, over 25 pixels the width itself; in the corner of the image over fewer.
    assert_close(kept[0, :, 4, 4], torch.full((3,), -0.5).exp())
    assert_close(kept[0, :, 0, 0], torch.full((3,), -0.5 * (25 / 9) ** 2).exp())
    assert_close(kept[..., 5:], e[..., 5:])
    assert_close(kept[..., 5:, :], e[..., 5:, :])
    # Draws in front.
    several = FadingNoise(e.expand(4, 1, 3, 12, 12), before.expand(4, 1, 3, 12, 12), 0.008)
    assert_close(several.at(after.expand(4, 1, 3, 12, 12)), kept.expand(4, 1, 3, 12, 12))


def test_noise_that_fades_lies_between_none_and_all(x):
    model, guide = make()
    do = {"cause": torch.linspace(-3, 3, N, dtype=torch.float64)}
    none, all_of_it = (counterfactual(model, guide, x, do, pixel_noise=share) for share in (0.0, 1.0))
    assert_close(counterfactual(model, guide, x, do, pixel_noise=1.0, fade=1e6), all_of_it)
    faded = counterfactual(model, guide, x, do, pixel_noise=1.0, fade=1e-9)
    assert_close(faded[[0, 1, 3, 4]], none[[0, 1, 3, 4]])
    between = counterfactual(model, guide, x, do, pixel_noise=1.0, fade=0.1)
    change = (none - counterfactual(model, guide, x, {})).abs().mean(1, keepdim=True)
    around = torch.nn.functional.avg_pool2d(change, 5, 1, 2, count_include_pad=False)
    assert_close(between, none + (-((around / 0.1) ** 2) / 2).exp() * (all_of_it - none))


def test_standardised_draws_of_a_location_scale_family_do_not_depend_on_the_parameters():
    standard = torch.distributions.Gumbel(torch.zeros(1000), torch.ones(1000)).sample()
    for loc, scale in ((0.0, 1.0), (5.0, 0.1)):
        family = dist.Gumbel(torch.tensor(loc), torch.tensor(scale)).expand([1000]).to_event(1)
        e = standardised(family, loc + scale * standard)
        assert_close(e, standard - torch.distributions.Gumbel(0.0, 1.0).mean, rtol=1e-4, atol=1e-4)


def test_the_mean_stays_the_default(x):
    model, guide = make()
    for _, (trace,) in counterfactual_traces(model, guide, x, [{"cause": 1.0}]):
        assert torch.equal(trace.nodes["x"]["value"], trace.nodes["x_mean"]["value"])
        assert torch.equal(trace.nodes["x"]["value"], counterfactual(model, guide, x, {"cause": 1.0}))
    for _, (trace,) in counterfactual_traces(model, guide, x, [{"cause": 1.0}], pixel_noise=0.5):
        assert not torch.equal(trace.nodes["x"]["value"], trace.nodes["x_mean"]["value"])


def test_bytes_are_images_too(x):
    model, guide = make()
    x = (255 * x).to(torch.uint8)
    assert_close(counterfactual(model, guide, x, {}, pixel_noise=1.0), x.double() / 255)


def test_gradients_go_through_it(x):
    model, guide = make()
    x.requires_grad_(True)
    images = counterfactual(model, guide, x, {}, pixel_noise=1.0)
    (slope,) = torch.autograd.grad(images.sum(), x)
    assert_close(slope, torch.ones_like(x))


def log_normal(loc, scale):
    return dist.LogNormal(loc, scale)


@pytest.mark.parametrize(
    ("likelihood", "name"),
    [
        (BernoulliLikelihood(), "Bernoulli"),
        (ContinuousBernoulliLikelihood(), "ContinuousBernoulli"),
        (Spread(log_normal), "LogNormal"),
    ],
    ids=["bernoulli", "continuous_bernoulli", "log_normal"],
)
def test_error_of_a_likelihood_without_location_and_scale(likelihood, name, x):
    model, guide = make(likelihood)
    with raises("pixel_noise", name, "Normal") as error:
        counterfactual(model, guide, x, {}, pixel_noise=1.0)
    check_one_line(error)
    counterfactual(model, guide, x, {})


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), "abduct", None])
def test_errors_of_the_share(share, x):
    with raises("pixel_noise", r"\[0, 1\]") as error:
        counterfactual(*make(), x, {}, pixel_noise=share)
    check_one_line(error)


@pytest.mark.parametrize(("share", "fade"), [(1.0, 0.0), (1.0, -1.0), (1.0, float("nan")), (1.0, "slowly"), (0.0, 0.1)])
def test_errors_of_the_width(share, fade, x):
    with raises("fade", str(fade), "None") as error:
        counterfactual(*make(), x, {}, pixel_noise=share, fade=fade)
    check_one_line(error)


def test_noise_under_a_mask(x):
    class Masked(nn.Module):
        pixels = True

        def forward(self, output):
            return dist.Normal(output.sigmoid(), 0.1).mask(torch.ones(SHAPE, dtype=torch.bool)).to_event(3)

    model, guide = make(Masked())
    assert_close(counterfactual(model, guide, x, {}, pixel_noise=1.0), x)


def test_noise_of_vectors_does_not_fade():
    likelihood = GaussianLikelihood(1.0, learn_scale=True, bounded=False, event_dim=1)
    model, guide = make_pair(GRAPH, (5,), likelihood=likelihood)
    x = torch.randn(3, 5)
    assert_close(counterfactual(model, guide, x, {}, pixel_noise=1.0), x)
    with raises("fade", r"got 0.1 for x of shape \[3, 5\]", "None") as error:
        counterfactual(model, guide, x, {}, pixel_noise=1.0, fade=0.1)
    check_one_line(error)
