"""Noise at several resolutions: the decoder, its guide, and the terms that make concepts act."""

import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch.testing import assert_close

from causalvae_pyro import (
    AdditiveNoiseSCM,
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
from causalvae_pyro.distributions import TopDownNormal
from causalvae_pyro.guides import CalibratedGuide, HierarchicalGuide, IterativeGuide, LabelConditionedGuide
from causalvae_pyro.networks import (
    AugmentedEncoder,
    BrightnessDecoder,
    HierarchicalDecoder,
    MLPDecoder,
    MLPEncoder,
    NormalisedEncoder,
    RandomView,
)
from causalvae_pyro.objectives import ClassifierConsistency, GroupSwap
from causalvae_pyro.objectives.divergences import kl
from tests.builders import jitter

GRAPH, SHAPE, N = CausalGraph(["a", "b", "c"], [("a", "b")]), (3, 16, 16), 3
WIDTHS = {"channels": (8, 8), "noise_channels": (3, 2), "blocks": 1}


def make(moved=0.05):
    torch.manual_seed(0)
    scm = AdditiveNoiseSCM(GRAPH, learn_noise=True)
    decoder = HierarchicalDecoder(SHAPE, N, **WIDTHS)
    prior = FixedPrior(N, std=0.3, shift=0.5, scale=0.5)
    model = CausalVAE(scm, prior, decoder, GaussianLikelihood(learn_scale=True), noise_dim=decoder.noise_dim)
    guide = HierarchicalGuide(NormalisedEncoder(SHAPE, 8, channels=8), model)
    jitter(moved, model, guide)
    return model.eval(), guide.eval()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(8, *SHAPE, generator=generator), torch.randint(0, 2, (8, N), generator=generator).float()


def test_the_noise_of_all_levels_is_one_vector():
    decoder = HierarchicalDecoder(SHAPE, N, **WIDTHS)
    assert decoder.noise_shapes == [(3, 4, 4), (2, 8, 8)]
    assert decoder.noise_dim == 3 * 16 + 2 * 64
    noise = torch.randn(2, 5, decoder.noise_dim)
    parts = decoder.split(noise)
    assert_close(torch.cat([part.flatten(1) for part in parts], 1), noise.flatten(0, 1))
    z = torch.randn(2, 5, N, 1)
    assert decoder(z, noise).shape == (2, 5, *SHAPE)
    # The first image is the background, whatever it is decoded from.
    assert_close(decoder(z, noise), decoder.background.expand(2, 5, *SHAPE))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_channels": (1, 1, 1)}, r"^noise_channels: got \[1, 1, 1\]; need at most 2"),
        ({"channels": (8, 9)}, r"^channels: got \[8, 9\]; need multiples of 8"),
        ({"concept_scale": -1.0}, r"^concept_scale: got -1.0; need a number >= 0, or 3 of them"),
        ({"concept_scale": [1.0, 2.0]}, r"^concept_scale: got \[1.0, 2.0\]; need a number >= 0, or 3 of them"),
    ],
)
def test_decoder_errors(options, message):
    with pytest.raises(ValueError, match=message):
        HierarchicalDecoder(SHAPE, N, **{**WIDTHS, **options})


def test_concepts_may_be_scaled():
    decoder = HierarchicalDecoder(SHAPE, N, **WIDTHS, concept_scale=[1.0, 1.0, 3.0])
    plain = HierarchicalDecoder(SHAPE, N, **WIDTHS)
    jitter(0.1, decoder)
    plain.load_state_dict(decoder.state_dict())
    z, noise = torch.randn(4, N, 1), torch.randn(4, plain.noise_dim)
    assert_close(decoder(z, noise), plain(z * torch.tensor([1.0, 1.0, 3.0])[:, None], noise))


def test_the_guide_needs_that_decoder():
    scm = AdditiveNoiseSCM(GRAPH)
    model = CausalVAE(scm, FixedPrior(N), MLPDecoder(SHAPE, N), GaussianLikelihood())
    with pytest.raises(TypeError, match="^model: its decoder is a MLPDecoder; this guide needs a HierarchicalDecoder"):
        HierarchicalGuide(MLPEncoder(SHAPE), model)


def test_the_picture_of_a_brightness_decoder_will_do(data):
    x, labels = data
    scm = AdditiveNoiseSCM(GRAPH)
    decoder = BrightnessDecoder.from_images(x, N, picture=HierarchicalDecoder, **WIDTHS)
    model = CausalVAE(scm, FixedPrior(N, std=0.3), decoder, GaussianLikelihood(learn_scale=True), noise_dim=decoder.noise_dim)
    guide = HierarchicalGuide(NormalisedEncoder(SHAPE, 8, channels=8), model)
    fit(model, guide, (x, labels), epochs=1, batch_size=4, progress=False)
    assert all(p.grad is not None for p in decoder.parameters())
    # The guide's walk down the levels is the decoder's: the same features, so that noise is abducted for this picture.
    noise = abduct(guide, x)["eps_x"]
    decoder.linear.data[0] = 1.0
    assert_close(abduct(guide, x)["eps_x"], noise)
    assert counterfactual(model, guide, x, {"a": labels[:, 0] + 1}).mean() > counterfactual(model, guide, x, {}).mean()


def test_noise_is_abducted_for_the_concepts_that_the_picture_sees(data):
    x, _ = data
    decoder = BrightnessDecoder.from_images(x, N, picture=HierarchicalDecoder, brightness_concepts=[1], **WIDTHS)
    model = CausalVAE(AdditiveNoiseSCM(GRAPH), FixedPrior(N), decoder, GaussianLikelihood(), noise_dim=decoder.noise_dim)
    guide = HierarchicalGuide(NormalisedEncoder(SHAPE, 8, channels=8), model)
    with torch.no_grad():
        for p in [*decoder.parameters(), *guide.parameters()]:
            p.add_(0.1 * torch.randn_like(p))
    z = torch.randn(len(x), N, 1)
    found = guide.noise_posterior(x, z).mean
    for concept in range(N):
        moved = z.clone()
        moved[:, concept] += 1
        assert torch.equal(guide.noise_posterior(x, moved).mean, found) == (concept == 1)


def test_a_sample_is_scored_as_a_copy_of_it(data):
    model, guide = make()
    q = guide.posterior(data[0])["eps_x"]
    assert isinstance(q, TopDownNormal)
    value = q.rsample()
    assert_close(q.log_prob(value), q.log_prob(value.clone()))
    # Each level depends on those above: another value there moves the parameters below.
    other = value.clone()
    other[:, :48] += torch.randn(8, 48)
    below = [q.given(v).base_dist.loc[:, 48:] for v in (value, other)]
    assert (below[0] - below[1]).abs().max() > 1e-4
    assert_close(q.given(value).base_dist.loc[:, :48], q.given(other).base_dist.loc[:, :48])
    assert q.mean.shape == value.shape


def test_the_divergence_is_that_of_samples(data):
    model, guide = make()
    q = guide.posterior(data[0])["eps_x"]
    p = model.standard_normal(model.noise_dim)
    torch.manual_seed(0)
    values = [q.rsample() for _ in range(400)]
    sampled = torch.stack([q.log_prob(value) - p.log_prob(value) for value in values])
    closed = torch.stack([kl(q, p, value) for value in values])
    error = (sampled.var(0) / 400 + closed.var(0) / 400).sqrt()
    assert ((sampled.mean(0) - closed.mean(0)).abs() < 4.5 * error).all()
    # The closed form of each level is what makes it worth while.
    assert (closed.var(0) < sampled.var(0)).all()


@pytest.mark.parametrize("wrapper", [LabelConditionedGuide, IterativeGuide])
def test_wrappers_that_change_the_concepts_abduct_the_noise_that_goes_with_them(data, wrapper):
    model, guide = make()
    x, labels = data
    wrapped = wrapper(guide, model).eval()
    z = encode(model, wrapped, x, labels)
    assert (z - encode(model, guide, x)).abs().max() > 1e-3
    assert_close(abduct(wrapped, x, labels)["eps_x"], guide.noise_posterior(x, z).mean, rtol=1e-4, atol=1e-5)
    # Also through another wrapper.
    outer = CalibratedGuide(wrapped, model, [1.0] * N).eval()
    assert_close(abduct(outer, x, labels)["eps_x"], abduct(wrapped, x, labels)["eps_x"])


def test_abduction_and_counterfactuals(data):
    model, guide = make()
    x, labels = data
    noise = abduct(guide, x)
    assert noise["eps_x"].shape == (8, model.noise_dim)
    assert abduct(guide, x, num_samples=4)["eps_x"].shape == (4, 8, model.noise_dim)
    assert_close(counterfactual(model, guide, x, {}), reconstruct(model, guide, x))
    images, z = counterfactual(model, guide, (255 * x).byte(), {"a": labels[:, 0]}, num_samples=3, return_latents=True)
    assert images.shape == (3, 8, *SHAPE)
    # c is no descendant of a.
    factual = counterfactual(model, guide, x, {}, return_latents=True)[1]
    changed = counterfactual(model, guide, x, {"a": 1 - labels[:, 0]}, return_latents=True)[1]
    assert torch.equal(factual[:, 2], changed[:, 2])
    assert (factual[:, 1] - changed[:, 1]).abs().max() > 0
    assert_close(encode(model, guide, x), factual, rtol=1e-5, atol=1e-5)


def test_it_trains_saves_and_loads(data, tmp_path):
    model, guide = make(moved=0.0)
    model.train()
    guide.train()
    history = fit(model, guide, data, epochs=12, batch_size=4, lr=5e-3, progress=False, device="cpu")
    assert history["loss"][-1] < history["loss"][0]
    save(Run(model, guide), tmp_path)
    again = load(tmp_path)
    assert_close(counterfactual(again.model, again.guide, data[0], {"a": 1.0}), counterfactual(model, guide, data[0], {"a": 1.0}))
    # The decoder is the model's alone.
    assert not any("levels" in name for name, _ in guide.named_parameters())


def test_plain_svi_trains_it(data):
    model, guide = make(moved=0.0)
    svi = SVI(model.train(), guide.train(), Adam({"lr": 5e-3}), Trace_ELBO())
    losses = [svi.step(*data) for _ in range(25)]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_swapped_noise_of_a_group_is_scored_against_the_other_image(data):
    model, guide = make()
    x, labels = data
    guided = poutine.trace(guide).get_trace(x)
    trace = poutine.trace(poutine.replay(model, guided)).get_trace(x, labels)
    z, noise = trace.nodes["z"]["value"], trace.nodes["eps_x"]["value"]
    partner = torch.tensor([1, 0, 3, 2, 5, 4, 7, 6])
    expected = -model.likelihood(model.decoder(z, noise[partner])).log_prob(x).sum()
    assert_close(GroupSwap()(model, trace, labels), expected)
    with pytest.raises(ValueError, match="^size: 8 images are not groups of 3"):
        GroupSwap(3)(model, trace, labels)


def test_classifiers_teach_the_decoder_alone(data):
    model, guide = make()
    classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, N))
    term = ClassifierConsistency([classifier], augmentations=[RandomView()], weight=1.0)
    x, labels = data
    guided = poutine.trace(guide).get_trace(x)
    trace = poutine.trace(poutine.replay(model, guided)).get_trace(x, labels)
    term(model, trace, labels).backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.decoder.parameters())
    for module in (guide, model.scm, classifier):
        assert all(p.grad is None or p.grad.abs().max() == 0 for p in module.parameters())
    with pytest.raises(ValueError, match="^classifiers: got 1 and 0 augmentations"):
        ClassifierConsistency([classifier], augmentations=[])


def test_an_augmented_encoder_reads_concepts(data):
    model, _ = make()
    guide = HierarchicalGuide(AugmentedEncoder(NormalisedEncoder(SHAPE, 8, channels=8), RandomView(grain=0.1)), model)
    fit(model, guide, data, epochs=1, batch_size=4, progress=False, device="cpu")
    assert encode(model, guide, data[0]).isfinite().all()
