"""The default pairs: what they are made of, and what a few steps of the sprites' objective do."""

import pytest
import torch

from causalvae_pyro import ConvDecoder, ConvEncoder, fit
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.evaluation.evaluate import evaluate
from causalvae_pyro.guides import IterativeGuide
from causalvae_pyro.networks import SpatialEncoder, SpriteDecoder
from causalvae_pyro.recipes import Recipe


@pytest.fixture(scope="module")
def data():
    return Pendulum("train", size=32)


def build(data, labels=None, **options):
    torch.manual_seed(0)
    recipe = Recipe(**options)
    return recipe, recipe.build(data.graph, data.images, data.labels if labels is None else labels)


def test_parts(data):
    _, run = build(data)
    assert type(run.model.decoder) is ConvDecoder
    assert type(run.guide.encoder) is ConvEncoder
    recipe, run = build(data, decoder="sprites", encoder="spatial", sparsity_weight=7.0)
    assert type(run.model.decoder) is SpriteDecoder
    assert isinstance(run.guide, IterativeGuide)
    assert type(run.guide.guide.encoder) is SpatialEncoder
    assert run.config["recipe"]["decoder"] == "sprites"
    objective = recipe.objective(run)
    assert objective.teacher_forcing == 1.0
    assert [term.name for term in objective.terms] == ["label_fit", "effect_sparsity", "sleep"]
    price = objective.terms[1].weight
    assert [price(0.0), price(0.5), price(1.0)] == pytest.approx([7.0, 7.0 * 20**0.5, 140.0])
    # Less than a grey level of 8 bits is no difference.
    assert run.model.likelihood.min_scale == pytest.approx(1 / 255)
    assert objective.terms[2].guide is run.guide


def test_what_the_labels_do_not_say(data):
    recipe, run = build(data, noise_dim=3)
    assert run.model.noise_dim == run.model.decoder.noise_dim == run.guide.noise_dim == 3
    assert type(run.guide.noise_encoder) is SpatialEncoder
    chosen = slice(0, 128)
    objective = recipe.objective(run)
    history = fit(run.model, run.guide, (data.images[chosen], data.labels[chosen]), objective=objective, epochs=1, progress=False)
    assert history["kl_eps_x"][0] > 0
    assert [objective.w_eps_x(p) for p in (0.0, 0.05, 1.0)] == [0.0, 0.5, 1.0]
    for bad in (-1, 2):
        with pytest.raises(ValueError, match="^noise_dim: got"):
            Recipe(decoder="sprites", noise_dim=bad)


@pytest.mark.parametrize(("name", "value"), [("sparsity_weight", -5.0), ("sparsity_weight_growth", 0.0)])
def test_prices_that_are_none(name, value):
    with pytest.raises(ValueError, match=f"^{name}: got {value}; must be >"):
        Recipe(decoder="sprites", **{name: value})


def test_the_likelihood_starts_at_the_error_of_drawing_nothing(data):
    for images in (data.images, data.images.float() / 255):
        torch.manual_seed(0)
        run = Recipe(decoder="sprites").build(data.graph, images, data.labels)
        x = data.images.float() / 255
        expected = (x - x.median(0).values).square().mean().sqrt().item()
        assert run.model.likelihood.scale.item() == pytest.approx(expected, rel=0.1)
    # A picture that never changes has no error at all.
    still = data.images[:1].expand(64, -1, -1, -1)
    labels = data.labels[torch.arange(64) * len(data) // 64]
    run = Recipe(decoder="sprites").build(data.graph, still, labels)
    assert run.model.likelihood.scale.item() == pytest.approx(0.01)


def test_missing_labels(data):
    labels = data.labels.clone()
    labels[::2] = torch.nan
    labels[1::4, 0] = torch.nan
    recipe, run = build(data, labels, decoder="sprites")
    assert all(p.isfinite().all() for p in run.model.parameters())
    chosen = slice(0, 256)
    history = fit(
        run.model, run.guide, (data.images[chosen], labels[chosen]), objective=recipe.objective(run), epochs=1, progress=False
    )
    assert torch.tensor(history["loss"]).isfinite().all()


@pytest.mark.parametrize("argument", ["decoder", "encoder"])
def test_errors_name_the_argument(argument):
    with pytest.raises(ValueError, match=f"^{argument}: got 'mlp'; valid: 'conv', "):
        Recipe(**{argument: "mlp"})
    with pytest.raises(ValueError, match="^refinements: got -1; must be at least 0"):
        Recipe(refinements=-1)


@pytest.mark.slow
def test_sprites_draw_effects_that_do_not_follow_their_causes():
    data, test = Pendulum("train", size=64), Pendulum("test", size=64)
    recipe, run = build(data, decoder="sprites")
    fit(run.model, run.guide, (data.images, data.labels), objective=recipe.objective(run), epochs=12, progress=False)
    scores = evaluate(run, test, limit=200, pairs=False)
    assert min(scores["cf_score"].values()) > 0.8
    assert min(scores["cf_r2"].values()) > 0.9


@pytest.mark.parametrize("decoder", ["conv", "sprites"])
@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float64])
def test_labels_of_any_kind(kind, decoder, data):
    step = len(data) // 48
    images, labels = data.images[::step], data.labels[::step] > data.labels.median(0).values

    def train(labels):
        torch.manual_seed(0)
        recipe = Recipe(decoder=decoder)
        run = recipe.build(data.graph, images, labels)
        objective = recipe.objective(run)
        return fit(
            run.model, run.guide, (images, labels), objective=objective, epochs=1, progress=False, device="cpu", batch_size=16
        )

    assert train(labels.to(kind)).rows[0]["loss"] == train(labels.float()).rows[0]["loss"]
