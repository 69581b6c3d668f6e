"""The guide with the exact posterior of the noise: closed forms, wrappers, training, the recipe."""

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch.func import jacrev
from torch.testing import assert_close

from causalvae_pyro import (
    AdditiveNoiseSCM,
    CausalELBO,
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
from causalvae_pyro.guides import BilinearGuide, CalibratedGuide, IterativeGuide, LabelConditionedGuide
from causalvae_pyro.likelihoods import LaplaceLikelihood
from causalvae_pyro.networks import AugmentedEncoder, BilinearDecoder, EvidenceEncoder, MLPDecoder, MLPEncoder, RandomView
from causalvae_pyro.objectives import GroupSwap, LabelFit
from causalvae_pyro.objectives.divergences import kl
from causalvae_pyro.recipes import Recipe, choose_recipe
from causalvae_pyro.recipes.bilinear import generalises
from causalvae_pyro.recipes.mirroring import left_right_matters, mirrored_labels
from tests.builders import jitter, raises
from tests.networks.test_bilinear import persons

GRAPH, SHAPE, N = CausalGraph(["a", "b", "c"], [("a", "b")]), (1, 8, 6), 3


def make(moved=0.05, dtype=torch.float64, scale=0.3, **options):
    torch.manual_seed(0)
    decoder = BilinearDecoder(SHAPE, N, anchors=6, rank=3, cells=2)
    likelihood = GaussianLikelihood(scale, learn_scale=True, bounded=False)
    scm = AdditiveNoiseSCM(GRAPH, learn_noise=True)
    model = CausalVAE(scm, FixedPrior(N, std=0.3, shift=0.5, scale=0.5), decoder, likelihood, noise_dim=decoder.noise_dim)
    guide = BilinearGuide(MLPEncoder(SHAPE, 8, hidden=8), model, **options)
    jitter(moved, model, guide)
    return model.to(dtype).eval(), guide.to(dtype).eval()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(6, *SHAPE, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 2, (6, N), generator=generator).double()


def evidence(model, x, z):
    """``log p(x | z)`` from the covariance of all pixels."""
    columns = torch.eye(model.noise_dim).to(z)
    mean = model.decoder.mean_image(z).flatten(1)
    factor = (model.decoder(z[:, None], columns.expand(len(z), -1, -1)).flatten(2) - mean[:, None]).mT
    noise = model.likelihood.scale.square() * torch.eye(mean.shape[1]).to(z)
    return torch.distributions.MultivariateNormal(mean, factor @ factor.mT + noise).log_prob(x.flatten(1))


def test_the_posterior_is_exact(data):
    model, guide = make()
    x, z = data[0], torch.randn(6, N, 1).double()
    q, prior = guide.noise_posterior(x, z), model.standard_normal(model.noise_dim)
    for value in (q.mean, q.rsample(), torch.randn(6, model.noise_dim).double()):
        joint = model.likelihood(model.decoder(z, value)).log_prob(x) + prior.log_prob(value)
        assert_close(joint - q.log_prob(value), evidence(model, x, z))


def test_so_the_bound_is_without_noise_and_exact(data):
    model, guide = make()
    x, _ = data
    for seed in range(3):
        pyro.set_rng_seed(seed)
        guided = poutine.trace(guide).get_trace(x)
        trace = poutine.trace(poutine.replay(model, guided)).get_trace(x)
        guided.compute_log_prob()
        trace.compute_log_prob()
        found = trace.nodes["x"]["log_prob"] + trace.nodes["eps_x"]["log_prob"] - guided.nodes["eps_x"]["log_prob"]
        assert_close(found, evidence(model, x, trace.nodes["z"]["value"]))


def test_the_divergence_has_a_closed_form(data):
    model, guide = make()
    q, p = guide.posterior(data[0])["eps_x"], model.standard_normal(model.noise_dim)
    full = torch.distributions.MultivariateNormal(torch.zeros(model.noise_dim).double(), torch.eye(model.noise_dim).double())
    expected = torch.distributions.kl_divergence(torch.distributions.MultivariateNormal(q.loc, scale_tril=q.scale_tril), full)
    assert_close(kl(q, p, q.rsample()), expected)
    assert_close(kl(q, p, q.rsample()), kl(q, p, q.mean))


def test_the_gradient_by_way_of_the_posterior_is_zero(data):
    """What training leaves out is nothing but noise."""
    model, guide = make()
    x = data[0]
    z = torch.randn(6, N, 1).double().requires_grad_()
    parameters = [z, *model.decoder.parameters(), *model.likelihood.parameters()]
    expected = torch.autograd.grad(evidence(model, x, z).sum(), parameters)
    q = guide.train().noise_posterior(x, z)
    assert not q.loc.requires_grad
    samples = q.sample((20000,))
    found = torch.autograd.grad(model.likelihood(model.decoder(z, samples)).log_prob(x).mean(0).sum(), parameters)
    for got, exact in zip(found, expected, strict=True):
        assert_close(got, exact, rtol=0.02, atol=0.02 * exact.abs().max().item())


def test_a_larger_variance_trusts_the_image_less(data):
    model, guide = make()
    x, z = data[0], torch.zeros(6, N, 1).double()
    q = guide.noise_posterior(x, z)
    same = make(variance=model.likelihood.scale.item() ** 2)[1].noise_posterior(x, z)
    wide = make(variance=4.0)[1].noise_posterior(x, z)
    assert_close(same.mean, q.mean)
    assert (wide.mean.norm(dim=-1) < q.mean.norm(dim=-1)).all()
    assert (wide.stddev > q.stddev).all()
    half = make(reduction=2)[1].noise_posterior(x, z)
    assert half.mean.shape == q.mean.shape
    # Averages over blocks say a little less.
    assert (half.stddev.mean(-1) > q.stddev.mean(-1)).all()


def test_sites_shapes_and_particles(data):
    model, guide = make()
    x = data[0]
    with poutine.trace() as tracer, pyro.plate("particles", 3, dim=-2):
        guide(x)
    for site, shape in (("eps", (N, 1)), ("eps_x", (model.noise_dim,))):
        node = tracer.trace.nodes[site]
        assert node["value"].shape == (3, 6, *shape)
        assert node["fn"].log_prob(node["value"]).shape == (3, 6)
    assert tracer.trace.nodes["eps_x"]["value"].std(0).min() > 0
    with raises("x", "got an empty batch"):
        guide(x[:0])


def test_it_conditions_and_counterfactuals(data):
    model, guide = make()
    x, labels = data
    z, noise = torch.randn(6, N, 1).double(), torch.randn(6, model.noise_dim).double()
    trace = poutine.trace(poutine.condition(model, {"z": z, "eps_x": noise})).get_trace(num_samples=6)
    assert_close(trace.nodes["x_mean"]["value"], model.decoder(z, noise))
    assert abduct(guide, x, num_samples=4)["eps_x"].shape == (4, 6, model.noise_dim)
    assert_close(counterfactual(model, guide, x, {}), reconstruct(model, guide, x))
    images, latent = counterfactual(model, guide, x, {"a": labels[:, 0]}, num_samples=3, return_latents=True)
    assert images.shape == (3, 6, *SHAPE)
    factual = counterfactual(model, guide, x, {}, return_latents=True)[1]
    # c is no descendant of a.
    assert_close(latent.mean(0)[:, 2], factual[:, 2], rtol=0, atol=1.0)
    changed = counterfactual(model, guide, x, {"a": 1 - labels[:, 0]}, return_latents=True)[1]
    assert torch.equal(factual[:, 2], changed[:, 2])
    assert (factual[:, 1] - changed[:, 1]).abs().max() > 0


def test_gradients_reach_the_intervention_and_the_image(data):
    model, guide = make()
    x, at, step = data[0], torch.tensor(0.4).double(), 1e-5
    slope = jacrev(lambda value: counterfactual(model, guide, x, {"a": value}))(at)
    high, low = (counterfactual(model, guide, x, {"a": at + side * step}) for side in (1, -1))
    assert_close(slope, (high - low) / (2 * step), rtol=1e-4, atol=1e-7)
    x = x.clone().requires_grad_()
    counterfactual(model, guide, x, {"a": at}).sum().backward()
    assert x.grad.abs().min() > 0


@pytest.mark.parametrize("wrapper", [LabelConditionedGuide, IterativeGuide])
def test_wrappers_that_change_the_concepts_abduct_the_noise_that_goes_with_them(data, wrapper):
    model, guide = make()
    x, labels = data
    wrapped = wrapper(guide, model).eval()
    z = encode(model, wrapped, x, labels)
    assert (z - encode(model, guide, x)).abs().max() > 1e-3
    assert_close(abduct(wrapped, x, labels)["eps_x"], guide.noise_posterior(x, z).mean, rtol=1e-4, atol=1e-5)
    outer = CalibratedGuide(wrapped, model, [1.0] * N).eval()
    assert_close(abduct(outer, x, labels)["eps_x"], abduct(wrapped, x, labels)["eps_x"])


@pytest.mark.parametrize(
    "objective", [None, CausalELBO(teacher_forcing=1.0, terms=[LabelFit(), GroupSwap()])], ids=["plain", "swap"]
)
def test_it_trains_saves_and_loads(data, tmp_path, objective):
    model, guide = make(moved=0.0, dtype=torch.float32)
    x, labels = (part.float() for part in data)
    options = {} if objective is None else {"objective": objective, "groups": torch.tensor([0, 0, 1, 1, 2, 2])}
    history = fit(
        model.train(), guide.train(), (x, labels), epochs=25, batch_size=6, lr=5e-3, progress=False, device="cpu", **options
    )
    assert history["loss"][-1] < history["loss"][0]
    save(Run(model, guide), tmp_path)
    again = load(tmp_path)
    assert_close(counterfactual(again.model, again.guide, x, {"a": 1.0}), counterfactual(model, guide, x, {"a": 1.0}))
    # The decoder is the model's alone.
    assert not any("basis" in name for name, _ in guide.named_parameters())


def test_plain_svi_trains_it(data):
    model, guide = make(moved=0.0)
    svi = SVI(model.train(), guide.train(), Adam({"lr": 5e-3}), Trace_ELBO())
    losses = [svi.step(*data) for _ in range(25)]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_errors():
    model, _ = make()
    encoder = MLPEncoder(SHAPE, 8)
    for value in (0.0, -1.0, float("nan")):
        with raises("variance", "must be > 0, or None"):
            BilinearGuide(encoder, model, variance=value)
    with raises("reduction", "got 3; must divide both sides of images 8 x 6"):
        BilinearGuide(encoder, model, reduction=3)
    plain = CausalVAE(AdditiveNoiseSCM(GRAPH), FixedPrior(N), MLPDecoder(SHAPE, N), GaussianLikelihood())
    with pytest.raises(TypeError, match="^model: its decoder is a MLPDecoder; this guide needs a BilinearDecoder"):
        BilinearGuide(encoder, plain)
    for likelihood, said in ((GaussianLikelihood(), "bounded=True"), (LaplaceLikelihood(), "a LaplaceLikelihood")):
        model.likelihood = likelihood
        with pytest.raises(TypeError, match=f"^model: its likelihood is {said}; this guide needs a GaussianLikelihood"):
            BilinearGuide(encoder, model)


# The recipe


def many(count=12, side=16):
    """The persons under their lights several times over, with small noise: enough images for the choice."""
    x, z, groups = persons(count, side)
    x, z, groups = x.repeat(4, 1, 1, 1), z.repeat(4, 1, 1), groups.repeat(4)
    generator = torch.Generator().manual_seed(2)
    return (x + 0.01 * torch.randn(x.shape, generator=generator)).clamp(0, 1), 30 * z.flatten(1), groups


def test_the_data_choose_it():
    x, labels, groups = many()
    assert generalises(x, labels, groups)
    recipe, line = choose_recipe(x, labels, groups=groups)
    assert (recipe.decoder, recipe.grouped) == ("bilinear", True)
    assert line.endswith("those of a group held out: linear in the noise (decoder 'bilinear')")
    # Images whose noise is their own.
    assert not generalises(torch.rand(x.shape, generator=torch.Generator().manual_seed(0)), labels, groups)
    # Of so few none is held out.
    few = groups < 7
    assert not generalises(x[few], labels[few], groups[few])
    assert choose_recipe(x, labels, groups=groups, decoder="hierarchical")[0].decoder == "hierarchical"
    assert choose_recipe(x, labels, groups=groups, decoder="bilinear")[0].grouped


def test_the_pair_of_the_recipe(tmp_path):
    x, labels, groups = many()
    labels[0] = torch.nan
    recipe = Recipe(decoder="bilinear", grouped=True, mirror=False)
    run = recipe.build({"light": []}, x, labels, groups=groups)
    encoder = run.guide.encoder
    assert isinstance(encoder, AugmentedEncoder)
    assert isinstance(encoder.encoder, EvidenceEncoder)
    assert isinstance(encoder.augmentation, RandomView)
    objective = recipe.objective(run)
    assert [term.name for term in objective.terms] == ["label_fit"]
    fit(run.model, run.guide, (x, labels), objective=objective, groups=groups, epochs=1, batch_size=32, progress=False)
    # Persons that it has not seen.
    unseen, light, person = persons(15, 16)
    new = person >= 12
    unseen, light, person = unseen[new], 30 * light[new].flatten(1), person[new]
    read = run.model.prior.to_labels(encode(run.model, run.guide, unseen))
    # The lights are 60 degrees apart at most, 24 on average.
    assert (read - light).abs().mean() < 8
    same = (person[:, None] == person).float().argsort(descending=True, stable=True)[:, 1:2].flatten()
    found = counterfactual(run.model, run.guide, unseen, {"light": light[same, 0]})
    mean = run.model.decoder.mean_image(run.model.prior(light[same]).mean)
    assert (found - unseen[same]).square().mean() < 0.6 * (mean - unseen[same]).square().mean()
    save(run, tmp_path)
    again = load(tmp_path)
    assert_close(
        counterfactual(again.model, again.guide, unseen, {"light": 30.0}),
        counterfactual(run.model, run.guide, unseen, {"light": 30.0}),
    )
    with raises("groups", "got None; decoder 'bilinear' takes the group of each image"):
        recipe.build({"light": []}, x, labels)
    with raises("grouped", "got False; with decoder 'bilinear' it must be True"):
        Recipe(decoder="bilinear")
    auto = Recipe(decoder="auto").build({"light": []}, x, labels, groups=groups)
    assert isinstance(auto.model.decoder, BilinearDecoder)


def test_signs_that_mirror_images_change():
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(400, 2, generator=generator) * 20 - torch.tensor([10.0, 0.0])
    ramp = torch.linspace(-1, 1, 12)
    x = 0.5 + 0.03 * labels[:, :1, None, None] * ramp + 0.01 * (labels[:, 1:, None, None] - 10) * ramp[:, None]
    assert left_right_matters(x, labels) == [0]
    found = mirrored_labels(x, labels)
    assert_close(found[:, 0], -labels[:, 0])
    assert torch.equal(found[:, 1], labels[:, 1])
    # About another middle.
    found = mirrored_labels(x, labels + 50)
    assert_close(found[:, 0], 50 - labels[:, 0], rtol=0, atol=0.5)
    # Marks on one side only: what the mirror image shows is none of these.
    marks = torch.zeros(400, 1, 12, 12)
    marks[:, :, :4, :4] = labels[:, :1, None, None].abs() / 10
    assert mirrored_labels(marks, labels.abs()) is None
