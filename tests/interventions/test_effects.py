"""Causal effects and sampled worlds, against the closed forms of a linear model."""

import math

import pyro
import pytest
import torch
from scipy.stats import t as student
from torch.testing import assert_close

from causalvae_pyro import GaussianLikelihood, LinearSCM, Replace, Scale, Shift, abduct, ate, counterfactual, ite
from causalvae_pyro.interventions import sample_interventional, soft_do, twin_worlds
from causalvae_pyro.interventions.effects import IndividualEffects
from causalvae_pyro.likelihoods import BernoulliLikelihood, ContinuousBernoulliLikelihood, LaplaceLikelihood
from causalvae_pyro.networks import MLPDecoder
from causalvae_pyro.priors import LearnedPrior
from tests.interventions.test_counterfactuals import LEAF, LONE, MID, ROOT, SHAPE, N, check_one_line, every_guide, make, raises

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture
def x():
    return torch.rand(N, *SHAPE, dtype=torch.float64)


def linear(guide=None, **options):
    """A linear model in double precision: root -> mid -> leaf and lone, with label units of each concept's own."""
    pair = make(scm=LinearSCM, **options) if guide is None else make(guide, scm=LinearSCM, **options)
    for module in pair:
        module.double()
    return pair


def effect_of_mid(model):
    """Labels of ``leaf`` per label of ``mid``."""
    return (model.scm.weight[MID, LEAF] * model.prior.scale[LEAF] / model.prior.scale[MID]).item()


def labels_of(pair, x, do=None, **options):
    return pair[0].prior.to_labels(counterfactual(*pair, x, do or {}, return_latents=True, **options)[1])


def brightness(images):
    return images.mean((1, 2, 3))


# Individual effects --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [None, 20])
@every_guide
def test_the_effect_of_one_value_against_another_is_the_path_coefficient(guide, num_samples, x):
    pair = linear(guide)
    effects = ite(*pair, x, {"mid": 7.0}, {"mid": 2.0}, outcome="leaf", num_samples=num_samples)
    expected = torch.full((num_samples or 1, N), 5.0 * effect_of_mid(pair[0]), dtype=torch.float64)
    # The worlds share their noise, so it is the same in every sample, however uncertain the guide.
    assert_close(effects.samples, expected, **TOLERANCE)
    assert_close(effects.mean, expected[0], **TOLERANCE)
    swapped = ite(*pair, x, {"mid": 2.0}, {"mid": 7.0}, outcome="leaf", num_samples=num_samples)
    assert_close(swapped.samples, -expected, **TOLERANCE)
    for concept in ("root", "lone"):
        none = ite(*pair, x, {"mid": 7.0}, {"mid": 2.0}, outcome=concept, num_samples=num_samples)
        assert torch.equal(none.samples, torch.zeros_like(expected))
    if num_samples is None:
        assert effects.std.isnan().all()
    else:
        assert effects.std.max() < 1e-12


@every_guide
def test_effects_against_the_factual_world_at_the_posterior_mean(guide, x):
    pair = linear(guide)
    model, factual = pair[0], labels_of(pair, x)
    slope = effect_of_mid(model)
    values = torch.linspace(-9, 9, N, dtype=torch.float64)
    for treatment, expected in (
        ({"mid": 7.0}, slope * (7.0 - factual[:, MID])),
        ({"mid": values}, slope * (values - factual[:, MID])),
        ({"mid": Shift(values)}, slope * values),
        ({"mid": Scale(3.0)}, slope * 2 * factual[:, MID]),
        ({"mid": lambda natural, parents: parents["root"]}, slope * (factual[:, ROOT] - factual[:, MID])),
        ({"lone": 5.0}, torch.zeros(N, dtype=torch.float64)),
        ({}, torch.zeros(N, dtype=torch.float64)),
    ):
        for options in ({}, {"batch_size": 4}, {"control": {}}):
            effects = ite(*pair, x, treatment, outcome="leaf", **options)
            assert effects.samples.shape == (1, N)
            assert_close(effects.mean, expected.detach(), **TOLERANCE)


def test_the_posteriors_uncertainty_in_closed_form(x):
    pair = linear()
    model, q = pair
    with torch.no_grad():
        q.head.log_scale.bias.copy_(torch.linspace(-1.0, 0.0, 4))
        loc, scale = q.head(q.encoder(x))
        s, w = model.scm.noise_scale, model.scm.weight
        mid_mean = w[ROOT, MID] * s[ROOT] * loc[:, ROOT, 0] + s[MID] * loc[:, MID, 0]
        mid_sd = ((w[ROOT, MID] * s[ROOT] * scale[:, ROOT, 0]) ** 2 + (s[MID] * scale[:, MID, 0]) ** 2).sqrt()
        factor = 2 * w[MID, LEAF] * model.prior.scale[LEAF]
    effects = ite(*pair, x, {"mid": Scale(3.0)}, outcome="leaf", num_samples=8000, latent=True, batch_size=8000)
    assert effects.samples.shape == (8000, N)
    assert_close(effects.std, factor.abs() * mid_sd, rtol=0.04, atol=0)
    error = factor.abs() * mid_sd / math.sqrt(8000)
    assert ((effects.mean - factor * mid_mean).abs() < 5 * error).all()
    # Images' noises are independent of each other.
    assert torch.corrcoef(effects.samples.T).fill_diagonal_(0).abs().max() < 0.06
    # The average over images, sample by sample.
    average = effects.average()
    assert_close(average.samples, effects.samples.mean(1), **TOLERANCE)
    assert_close(average.samples.std(), (factor.abs() * mid_sd).square().sum().sqrt() / N, rtol=0.04, atol=0)


def test_effects_on_a_function_of_the_images(x):
    pair = linear(noise_dim=2)
    treatment, control = {"mid": Shift(3.0)}, {"lone": 1.0}
    effects = ite(*pair, x, treatment, control, outcome=brightness, batch_size=4)
    expected = brightness(counterfactual(*pair, x, treatment)) - brightness(counterfactual(*pair, x, control))
    assert_close(effects.mean, expected, **TOLERANCE)
    assert expected.abs().min() > 1e-5
    pyro.set_rng_seed(1)
    effects = ite(*pair, x, treatment, outcome=brightness, num_samples=3)
    pyro.set_rng_seed(1)
    treated = counterfactual(*pair, x, treatment, num_samples=3)
    pyro.set_rng_seed(1)
    untreated = counterfactual(*pair, x, {}, num_samples=3)
    assert_close(effects.samples, (treated - untreated).mean((2, 3, 4)), **TOLERANCE)
    # A yes or no counts as 1 or 0.
    shares = ite(*pair, x, treatment, outcome=lambda images: brightness(images) > 0.5)
    assert set(shares.mean.tolist()) <= {-1.0, 0.0, 1.0}
    assert not effects.samples.requires_grad


@pytest.mark.parametrize("label_dim", [0, 4])
def test_labels_reach_the_encoder(label_dim, x):
    pair = linear(label_dim=label_dim)
    labels = torch.randn(N, 4, dtype=torch.float64) if label_dim else None
    effects = ite(*pair, x, {"mid": 7.0}, labels=labels, outcome="leaf", batch_size=4)
    expected = labels_of(pair, x, {"mid": 7.0}, labels=labels) - labels_of(pair, x, labels=labels)
    assert_close(effects.mean, expected[:, LEAF], **TOLERANCE)
    average = ate(*pair, x, {"mid": 7.0}, labels=labels, outcome="leaf")
    assert_close(average.value, expected[:, LEAF].mean().item(), **TOLERANCE)


def test_outcomes_of_a_learned_prior_are_read_on_its_grid(x):
    pair = make(prior=LearnedPrior)
    effects = ite(*pair, x.float(), {"leaf": 6.0}, {"leaf": 5.0}, outcome="leaf")
    assert_close(effects.mean, torch.ones(N), rtol=0, atol=0.01)


# Average effects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.95, 0.5])
def test_the_average_effect_and_its_interval_in_closed_form(level, x):
    pair = linear()
    effect = effect_of_mid(pair[0]) * 2 * labels_of(pair, x)[:, MID]
    average = ate(*pair, x, {"mid": Scale(3.0)}, outcome="leaf", level=level)
    value, error = effect.mean().item(), effect.std().item() / math.sqrt(N)
    half = student.ppf((1 + level) / 2, N - 1) * error
    assert_close(average.value, value, **TOLERANCE)
    assert_close(average.standard_error, error, **TOLERANCE)
    assert_close(average.interval, (value - half, value + half), **TOLERANCE)
    assert average.samples.shape == (1,)
    assert half > 1e-5
    constant = ate(*pair, x, {"mid": Shift(2.0)}, outcome="leaf")
    assert_close(constant.interval, (2 * effect_of_mid(pair[0]),) * 2, **TOLERANCE)


def test_the_interval_covers_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(1000):
        low, high = IndividualEffects(torch.randn(3, 8, generator=generator) + 2.0).average(0.8).interval
        hits += low < 2.0 < high
    assert 760 < hits < 840


def test_the_average_of_one_image_has_no_interval(x):
    average = ate(*linear(), x[:1], {"mid": 7.0}, outcome="leaf", num_samples=4)
    assert average.samples.shape == (4,)
    assert_close(average.value, average.samples.mean().item(), **TOLERANCE)
    assert math.isnan(average.standard_error)
    assert all(math.isnan(end) for end in average.interval)


# Sampled worlds ------------------------------------------------------------------------------------------------------

COUNT = 20000


def check_moments(z, mean, covariance):
    """Of ``z [COUNT, 4]``, within five standard errors."""
    variance = covariance.diagonal()
    assert ((z.mean(0) - mean).abs() <= 5 * (variance / COUNT).sqrt() + 1e-12).all()
    error = ((covariance.square() + variance[:, None] * variance) / COUNT).sqrt()
    assert ((torch.cov(z.T) - covariance).abs() <= 5 * error + 1e-12).all()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["nothing", "hard", "shift", "scale", "replaced", "several"])
def test_interventional_samples_have_the_closed_forms_moments(kind):
    model, _ = linear()
    matrix = model.scm.weight.detach() * model.scm.mask  # [cause, effect]
    scale = model.scm.noise_scale.detach().clone()
    offset = torch.zeros(4, dtype=torch.float64)
    do = {
        "nothing": {},
        "hard": {"mid": 7.0},
        "shift": {"mid": Shift(4.0)},
        "scale": {"mid": Scale(-2.0, around=3.0)},  # 3 is the label whose z is 0
        "replaced": {"mid": Replace(lambda parents, noise: 5 + 2 * parents["root"] + 0.4 * noise)},
        "several": {"root": Shift(1.0), "leaf": -3.0, "lone": Scale(0.5)},
    }[kind]
    if kind == "hard":
        matrix[:, MID], scale[MID], offset[MID] = 0, 0, (7 - 3) / 4
    elif kind == "shift":
        offset[MID] = 4 / 4
    elif kind == "scale":
        matrix[:, MID], scale[MID] = matrix[:, MID] * -2, scale[MID] * -2
    elif kind == "replaced":  # label = 5 + 2 (0.5 z_root - 2) + 0.4 eps, z = (label - 3) / 4
        matrix[ROOT, MID], scale[MID], offset[MID] = 0.25, 0.1, -0.5
    elif kind == "several":
        offset[ROOT] = 1 / 0.5
        matrix[:, LEAF], scale[LEAF], offset[LEAF] = 0, 0, (-3 - 1) / 2
        scale[LONE] *= 0.5
    mix = torch.linalg.inv(torch.eye(4, dtype=torch.float64) - matrix.T)
    world = sample_interventional(model, do, COUNT, batch_size=8192)
    assert world.x.shape == world.x_mean.shape == (COUNT, *SHAPE)
    assert world.z.shape == (COUNT, 4, 1)
    check_moments(world.z[..., 0], mix @ offset, mix @ torch.diag(scale.square()) @ mix.T)
    # The images are those of the concepts, and x has the likelihood's noise on top.
    expected = model.likelihood(model.decoder(world.z))
    assert_close(world.x_mean, expected.mean, **TOLERANCE)
    residual = world.x - world.x_mean
    assert_close(residual.std(), expected.stddev.mean(), rtol=0.01, atol=0)
    assert_close(residual[:8192].std(), residual[8192:].std(), rtol=0.02, atol=0)


def test_interventional_samples_are_new_each_time_and_repeat_with_the_seed():
    model, _ = make(noise_dim=2)
    do = {"mid": Shift(1.0)}
    first, other = sample_interventional(model, do, 5), sample_interventional(model, do, 5)
    assert all((a != b).any() for a, b in zip(first, other, strict=True))
    pyro.set_rng_seed(3)
    first = sample_interventional(model, do, 5)
    pyro.set_rng_seed(3)
    assert all(torch.equal(a, b) for a, b in zip(first, sample_interventional(model, do, 5), strict=True))
    batched = sample_interventional(model, do, 6, batch_size=2)
    assert len({tuple(row.tolist()) for row in batched.z[..., 0]}) == 6
    assert not batched.x.requires_grad
    assert list(pyro.get_param_store().keys()) == []


@pytest.mark.parametrize("batch_size", [1, 4, 256])
def test_values_per_draw(batch_size):
    model, _ = make()
    values = torch.arange(6) * 10.0
    options = {"batch_size": batch_size}
    z = sample_interventional(model, {"mid": values}, 6, **options).z
    assert_close(z[:, MID, 0], (values - 3) / 4)
    twins = twin_worlds(model, {"mid": Shift(values)}, 6, **options)
    assert_close((twins.counterfactual.z - twins.factual.z)[:, MID, 0], values / 4)


LIKELIHOODS = [GaussianLikelihood, LaplaceLikelihood, ContinuousBernoulliLikelihood, BernoulliLikelihood]


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("do", [{}, {"root": Shift(0.0), "leaf": Scale(1.0)}], ids=["empty", "no change"])
def test_twin_worlds_share_all_noise(do, likelihood):
    model, _ = make(noise_dim=2)
    model.likelihood = likelihood()
    factual, other = twin_worlds(model, do, 11, batch_size=4)
    assert factual.x.shape == (11, *SHAPE)
    assert factual.z.shape == (11, 4, 1)
    for a, b in zip(factual, other, strict=True):
        assert torch.equal(a, b)
    # Noise it is, and another for each pair.
    assert (factual.x != factual.x_mean).any((1, 2, 3)).all()
    assert len({tuple(row.tolist()) for row in factual.z[..., 0]}) == 11
    residual = factual.x - factual.x_mean
    assert len({tuple(row.flatten().tolist()) for row in residual}) == 11
    assert list(pyro.get_param_store().keys()) == []


@pytest.mark.parametrize("likelihood", LIKELIHOODS[:2], ids=lambda c: c.__name__)
def test_twin_worlds_differ_where_the_intervention_acts(likelihood):
    model, _ = linear(noise_dim=2)
    model.likelihood = likelihood().double()
    do = {"mid": lambda natural, parents: natural + 2.0 + 0 * torch.rand(())}  # random numbers of its own shift nothing
    factual, other = twin_worlds(model, do, 9, batch_size=4)
    kept = [ROOT, LONE]
    assert torch.equal(factual.z[:, kept], other.z[:, kept])
    labels, changed = (model.prior.to_labels(world.z) for world in (factual, other))
    assert_close(changed[:, MID], labels[:, MID] + 2, **TOLERANCE)
    assert_close(changed[:, LEAF], labels[:, LEAF] + 2 * effect_of_mid(model), **TOLERANCE)
    assert (factual.x_mean != other.x_mean).any((1, 2, 3)).all()
    noise = factual.x - factual.x_mean
    assert_close(other.x - other.x_mean, noise, **TOLERANCE)
    # Each batch has noise of its own, and drawing it leaves the other random numbers as they are.
    assert (noise[:4] - noise[4:8]).abs().mean() > 0.05
    pyro.set_rng_seed(3)
    z = twin_worlds(model, do, 9, batch_size=4).factual.z
    model.decoder = MLPDecoder((3, 5, 5), 4, noise_dim=2, hidden=16).double()
    pyro.set_rng_seed(3)
    assert torch.equal(twin_worlds(model, do, 9, batch_size=4).factual.z, z)


def test_the_factual_twin_is_a_sample_of_the_model_and_random_numbers_go_on():
    model, _ = linear()
    with torch.no_grad():
        matrix = model.scm.matrix()
        factual = twin_worlds(model, {"mid": 7.0}, COUNT, batch_size=8192).factual
        check_moments(factual.z[..., 0], torch.zeros(4, dtype=torch.float64), matrix @ matrix.T)
        assert_close(
            (factual.x - factual.x_mean).std(), model.likelihood(model.decoder(factual.z)).stddev.mean(), rtol=0.01, atol=0
        )
    pyro.set_rng_seed(3)
    first = twin_worlds(model, {"mid": 7.0}, 5)
    after = torch.rand(3)
    again = twin_worlds(model, {"mid": 7.0}, 5)
    assert (first.factual.z != again.factual.z).all()
    pyro.set_rng_seed(3)
    repeat = twin_worlds(model, {"mid": 7.0}, 5)
    assert all(torch.equal(a, b) for pair in zip(first, repeat, strict=True) for a, b in zip(*pair, strict=True))
    assert torch.equal(torch.rand(3), after)


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ("middle", ["unknown concept 'middle'", "'leaf', 'root', 'lone', 'mid'"]),
        (3, ["got 3"]),
        (None, ["got None"]),
        (lambda images: images.mean(), [r"\(6,\)", r"\(\)"]),
        (lambda images: images.mean((2, 3)), [r"\(6,\)", r"\(6, 1\)"]),
        (lambda images: 1.0, [r"\(6,\)", "float"]),
        (lambda images: brightness(images) / 0, ["not finite"]),
    ],
)
def test_errors_of_the_outcome(outcome, words, x):
    pair = linear()
    for function in (ite, ate):
        with raises("outcome", *words) as error:
            function(*pair, x, {"mid": 7.0}, outcome=outcome)
        check_one_line(error)


def test_errors_of_the_interventions(x):
    pair = linear()
    for function in (ite, ate):
        for worlds in ([{"middle": 1.0}], [{"mid": 1.0}, {"middle": Shift(1.0)}]):
            with raises("do", "unknown concept 'middle'"):
                function(*pair, x, *worlds, outcome="leaf")
        with raises(r"do\['mid'\]\.by", r"\(6,\)"):
            function(*pair, x, {"mid": Shift(torch.zeros(5))}, outcome="leaf")
        with raises("num_samples", "got 0"):
            function(*pair, x, {"mid": 1.0}, outcome="leaf", num_samples=0)
        with raises("batch_size", "got 0"):
            function(*pair, x, {"mid": 1.0}, outcome="leaf", batch_size=0)
    for level in (0, 1, 95):
        with raises("level", f"got {level}"):
            ate(*pair, x, {"mid": 1.0}, outcome="leaf", level=level)
        with raises("level", f"got {level}"):
            IndividualEffects(torch.zeros(1, 3)).average(level)


def test_errors_of_the_samplers():
    model, _ = make()
    for sample in (sample_interventional, twin_worlds):
        with raises("do", "unknown concept 'middle'"):
            sample(model, {"middle": 1.0}, 5)
        with raises(r"do\['mid'\]", r"\(5,\)", r"\(6,\)"):
            sample(model, {"mid": torch.zeros(6)}, 5)
        for number in (0, -1):
            with raises("num_samples", f"got {number}") as error:
                sample(model, {"mid": 1.0}, number)
            check_one_line(error)
        with raises("batch_size", "got 0"):
            sample(model, {}, 5, batch_size=0)
        with raises("model", "wrapped by a handler"):
            sample(soft_do(model, {"mid": Shift(1.0)}), {}, 5)


def test_error_of_a_prior_that_reads_no_labels(x):
    model, q = make("endogenous")
    model.prior = torch.nn.Identity()
    with raises("outcome", "Identity has no to_labels", "function of images") as error:
        ite(model, q, x.float(), {"mid": 1.0}, outcome="leaf", latent=True)
    check_one_line(error)
    effects = ite(model, q, x.float(), {"mid": 1.0}, outcome=brightness, latent=True)
    assert effects.mean.shape == (N,)
    assert abduct(q, x.float())["eps"].shape == (N, 4, 1)
