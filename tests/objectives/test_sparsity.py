"""The sparsity penalty on effects: its closed form, what it reaches, and that it chooses between concepts that say the same."""

import math
from types import SimpleNamespace

import pyro.poutine as poutine
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from causalvae_pyro import CausalELBO, CausalGraph, GaussianLikelihood, LinearSCM, fit
from causalvae_pyro.networks import SpriteDecoder
from causalvae_pyro.objectives import EffectSparsity, LabelFit
from tests.builders import make_pair

N, SIZE, SHAPE = 3, 6, (1, 8, 8)


class Scaled(nn.Module):
    """Each concept has the effect ``weight_kj`` times its standard deviation."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.as_tensor(weight))

    def effect_sizes(self, z):
        assert z.ndim == 3
        return self.weight.abs() * z.std(0, correction=0)[:, 0]


def traced(z):
    return SimpleNamespace(nodes={"z": {"value": z}})


def value_of(decoder, z, **options):
    return EffectSparsity(**options)(SimpleNamespace(decoder=decoder), traced(z), None)


def make():
    decoder = SpriteDecoder(SHAPE, N, noise_dim=1, sprites=2, canvas=4, hidden=4)
    graph = CausalGraph(["a", "b", "c"], [("a", "b")])
    return make_pair(graph, SHAPE, "endogenous", scm=LinearSCM, decoder=decoder, noise_dim=1, hidden=8)


@pytest.mark.parametrize("scale", [0.05, 0.3])
def test_value(scale):
    weight = [[0.0, 0.1, 2.0], [0.5, 0.0, 1.0]]
    # Of standard deviation 1.
    z = torch.tensor([-1.0, 1.0]).repeat(SIZE // 2)[:, None, None].expand(SIZE, N, 1)
    expected = SIZE * sum(scale * math.log(1 + w / scale) for row in weight for w in row)
    assert value_of(Scaled(weight), z, scale=scale).item() == pytest.approx(expected, rel=1e-5)


def test_value_from_the_effects_of_sprites():
    decoder = SpriteDecoder(SHAPE, N, 2, sprites=2, canvas=4)
    torch.nn.init.normal_(decoder.effects_of_concepts.linear, std=0.1)
    z = torch.randn(SIZE, N, 2)
    effects = decoder.effects(z)
    sizes = (effects - effects.mean(1, keepdim=True)).square().mean(1).sqrt()
    assert_close(value_of(decoder, z, scale=0.1), SIZE * (0.1 * (1 + sizes / 0.1).log()).sum(), rtol=1e-3, atol=0)


def test_small_effects_are_priced_linearly_and_large_ones_hardly():
    z = torch.randn(100, 1, 1)
    tiny, small, large, huge = (value_of(Scaled([[w]]), z).item() for w in (1e-4, 2e-4, 10.0, 20.0))
    assert small == pytest.approx(2 * tiny, rel=0.01)
    assert huge < 1.2 * large


def test_the_price_falls_as_the_likelihood_does():
    z, decoder = torch.randn(SIZE, N, 1), Scaled([[0.5, 0.2, 0.1]])
    likelihood = GaussianLikelihood(0.2, learn_scale=True)
    price = EffectSparsity(sharpness=0.05)(SimpleNamespace(decoder=decoder, likelihood=likelihood), traced(z), None)
    assert price.item() == pytest.approx(value_of(decoder, z).item() / 16, rel=1e-5)
    price.backward()
    assert decoder.weight.grad.any()
    # A likelihood that learns is not paid for being blurred.
    assert likelihood.log_scale.grad is None


def test_it_is_summed_over_the_batch_and_averaged_over_particles():
    decoder = SpriteDecoder(SHAPE, N, sprites=2, canvas=4)
    z = torch.randn(SIZE, N, 1)
    value = value_of(decoder, z)
    assert_close(value_of(decoder, z.repeat(3, 1, 1)), 3 * value, rtol=1e-3, atol=0)
    for lead in ((5,), (2, 4)):
        assert_close(value_of(decoder, z.expand(*lead, -1, -1, -1)), value, rtol=1e-3, atol=0)
    # Particles differ, and their spread counts as images' does.
    particles = torch.randn(5, SIZE, N, 1)
    assert_close(value_of(decoder, particles), value_of(decoder, particles.reshape(-1, N, 1)) / 5, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "^weight: got -1"),
        ({"weight": math.nan}, "^weight: got nan"),
        ({"scale": 0.0}, "^scale: got 0"),
        ({"scale": -0.1}, "^scale: got -0.1"),
        ({"sharpness": 0.0}, "^sharpness: got 0.0; must be > 0"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        EffectSparsity(**options)


def test_the_gradient_reaches_the_effects_only():
    model, guide = make()
    x, labels = torch.rand(SIZE, *SHAPE), torch.randn(SIZE, N)
    guide_trace = poutine.trace(guide).get_trace(x, labels)
    trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(x, labels)
    assert trace.nodes["z"]["value"].requires_grad
    EffectSparsity()(model, trace, labels).backward()
    linear = model.decoder.effects_of_concepts.linear.grad
    assert (linear.abs().sum((2, 3)) > 0).all()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    assert all(name.startswith("decoder.effects_of_concepts.") for name in reached)
    assert all(p.grad is None for p in guide.parameters())


@pytest.mark.parametrize("options", [{}, {"num_particles": 3}, {"num_particles": 3, "vectorize_particles": False}], ids=str)
def test_in_the_objective(options):
    model, guide = make()
    x, labels = torch.rand(SIZE, *SHAPE), torch.randn(SIZE, N)

    def loss(weight, progress):
        objective = CausalELBO(terms=[EffectSparsity(weight)], **options)
        objective.progress = progress
        torch.manual_seed(0)
        return objective.loss(model, guide, x, labels), objective.last_terms["effect_sparsity"].item()

    seen = []
    values = []

    def price(progress):
        seen.append(progress)
        return 40 * progress

    plain, nothing = loss(0.0, 1.0)
    assert nothing == 0
    for progress in (0.0, 0.25, 1.0):
        priced, value = loss(price, progress)
        assert priced - plain == pytest.approx(40 * progress * value, rel=1e-3, abs=1e-3)
        values.append(value)
    assert seen == [0.0, 0.25, 1.0]
    # Reported without its weight, and where that is zero not computed.
    assert values[0] == 0
    assert values[1] == pytest.approx(values[2])
    assert values[2] > 0
    assert loss(10.0, 0.0)[1] == pytest.approx(values[2])


def test_fit_reports_it():
    model, guide = make()
    objective = CausalELBO(terms=[LabelFit(), EffectSparsity(lambda progress: 10.0 * progress)])
    data = torch.rand(SIZE, *SHAPE), torch.randn(SIZE, N)
    history = fit(model, guide, data, objective=objective, epochs=2, batch_size=SIZE, device="cpu", progress=False)
    assert [row["effect_sparsity"] > 0 for row in history.rows] == [False, True]


def needed(weight):
    """Effects that count, after training on two squares: one follows concepts 0 and 1, which are the same, the other 2."""
    torch.manual_seed(0)
    z = torch.rand(128, N, 1) * 2 - 1
    z[:, 1] = z[:, 0]
    images = torch.zeros(128, 3, 12, 12)
    for image, (a, _, b) in zip(images, z[..., 0].tolist(), strict=True):
        column, row = round(4 + 4 * a), round(4 + 4 * b)
        image[0, 1:4, column : column + 4] = 1.0
        image[2, row : row + 4, 9:12] = 1.0
    decoder = SpriteDecoder.from_images(images, N, sprites=2, canvas=6, hidden=4)
    term = EffectSparsity(weight)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=0.01)
    for _ in range(300):
        loss = (decoder(z).sigmoid() - images).square().sum() / (2 * 0.1**2)
        loss = loss + term.weight * term(SimpleNamespace(decoder=decoder), traced(z), None)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        sizes = decoder.effect_sizes(z).norm(dim=-1)
        error = (decoder(z).sigmoid() - images).square().mean() / images.var(0).mean()
    return int((sizes > 0.05 * sizes.max()).sum()), error.item()


@pytest.mark.thorough
def test_of_concepts_that_say_the_same_one_draws():
    without, with_price = needed(0.0), needed(30.0)
    assert with_price[0] < without[0]
    # Each of the two squares needs one.
    assert with_price[0] >= 2
    # It is not bought with a worse picture.
    assert max(without[1], with_price[1]) < 0.3
