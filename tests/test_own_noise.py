"""A few numbers in which images differ: told from much noise, and drawn by the fields of a scene."""

import pytest
import torch
from torch.testing import assert_close

from causalvae_pyro import CausalGraph, abduct, counterfactual, fit, load, reconstruct, save
from causalvae_pyro.checkpoints import Run
from causalvae_pyro.metrics import linear_noise_share
from causalvae_pyro.networks import SceneDecoder
from causalvae_pyro.recipes import Recipe, choose_recipe

GRAPH = CausalGraph(["a", "b"], [("a", "b")])


def tinted(count=400, side=16, directions=2, seed=0):
    """Two labels brighten one half of the picture each, and noise of a few numbers colours patterns of its own.

    Returns:
        Images ``[N, 1, side, side]`` in [0, 1], labels ``[N, 2]`` and what the images are without the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(count, 2, generator=generator)
    noise = torch.randn(count, directions, generator=generator)
    patterns = torch.randn(directions, 1, side, side, generator=generator) / directions**0.5
    half = (torch.arange(side) < side // 2).float().expand(side, side)
    plain = 0.3 * (u[:, 0, None, None] * half + u[:, 1, None, None] * (1 - half))[:, None]
    own = 0.5 * torch.einsum("nk,kchw->nchw", noise, patterns)
    return (plain + own).sigmoid(), u, plain.sigmoid()


def test_few_directions_are_told_from_many():
    images, labels, plain = tinted()
    assert linear_noise_share(images, labels, 4) > 0.9
    assert linear_noise_share(images, labels, 1) < 0.8
    assert linear_noise_share((images * 255).to(torch.uint8), labels, 4) == pytest.approx(
        linear_noise_share(images, labels, 4), abs=0.02
    )
    many, labels, _ = tinted(directions=200)
    assert linear_noise_share(many, labels, 4) < 0.3
    assert linear_noise_share(torch.full((80, 1, 16, 16), 0.5), torch.randn(80, 2), 4) == 0


def test_rows_in_the_order_of_a_label_and_missing_ones():
    images, labels, _ = tinted()
    share = linear_noise_share(images, labels, 4)
    order = labels[:, 0].argsort()
    assert linear_noise_share(images[order], labels[order], 4) == pytest.approx(share, abs=0.03)
    labels[::3, 1] = torch.nan
    # What has no label is not looked at.
    images[::3] = torch.rand_like(images[::3])
    assert linear_noise_share(images, labels, 4) == pytest.approx(share, abs=0.03)


def test_larger_images_are_made_smaller():
    images, labels, _ = tinted(side=16)
    large = images.repeat_interleave(4, 2).repeat_interleave(4, 3)
    small = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert linear_noise_share(large, labels, 4) == pytest.approx(linear_noise_share(small, labels, 4), abs=1e-4)


def test_what_it_cannot_be_asked():
    images, labels, _ = tinted(30)
    with pytest.raises(ValueError, match="^directions: got 0; must be at least 1$"):
        linear_noise_share(images, labels, 0)
    with pytest.raises(ValueError, match="^labels: 30 images have all of them; 16 directions take at least 64$"):
        linear_noise_share(images, labels)
    # Fewer pixels than directions, and one side far longer than the other.
    assert linear_noise_share(torch.rand(80, 1, 3, 3), torch.randn(80, 2)) > 0.99
    assert linear_noise_share(torch.rand(80, 1, 8, 256), torch.randn(80, 2)) < 0.5


@pytest.mark.parametrize("dim", [1, 2])
def test_noise_switches_on_fields_as_a_concept_does(dim):
    torch.manual_seed(0)
    decoder = SceneDecoder((1, 8, 8), 2, dim, noise_dim=2 * dim, sprites=0)
    as_concepts = SceneDecoder((1, 8, 8), 4, dim, sprites=0)
    with torch.no_grad():
        for p in decoder.fields.parameters():
            p.add_(0.2 * torch.randn_like(p))
    as_concepts.fields.load_state_dict(decoder.fields.state_dict())
    z, noise = torch.randn(5, 2, dim), torch.randn(5, 2 * dim)
    assert_close(decoder(z, noise), as_concepts(torch.cat([z, noise.reshape(5, 2, dim)], 1)))
    assert decoder.field_sizes(z).shape == (4 + 10, 64)
    with pytest.raises(ValueError, match="^noise_dim: got 3; must be a multiple of dim, 2$"):
        SceneDecoder((1, 8, 8), 2, 2, noise_dim=3)


def test_the_data_choose_noise_in_one_vector():
    images, labels, _ = tinted()
    recipe, line = choose_recipe(images, labels)
    assert (recipe.decoder, recipe.noise_dim) == ("scene", 8)
    assert "16 directions" in line
    assert choose_recipe(images, labels, noise_dim=0, mirror=False, views=())[0].decoder == "hierarchical"
    assert line.endswith("noise of the image's own in one vector (decoder 'scene', noise_dim 8)")
    many, labels, _ = tinted(directions=200)
    assert choose_recipe(many, labels, mirror=False, views=())[0].decoder == "hierarchical"


@pytest.mark.parametrize(("share", "decoder"), [(0.84, "scene"), (0.77, "hierarchical")])
def test_a_flower_has_it_and_photographs_of_faces_have_not(share, decoder, monkeypatch):
    monkeypatch.setattr("causalvae_pyro.recipes.choice.linear_noise_share", lambda images, labels, directions: share)
    images, labels, _ = tinted()
    assert choose_recipe(images, labels, candidates=["scene"], mirror=False, views=())[0].decoder == decoder


@pytest.mark.parametrize(("count", "decoder"), [(8, "scene"), (9, "hierarchical")])
def test_noise_in_one_vector_beside_so_many_labels(count, decoder):
    images, labels, _ = tinted()
    labels = torch.cat([labels, torch.randn(len(labels), count - 2, generator=torch.Generator().manual_seed(1))], 1)
    # Nothing is tried with one candidate.
    assert choose_recipe(images, labels, candidates=["scene"], mirror=False, views=())[0].decoder == decoder


def test_the_own_noise_is_kept_and_the_concepts_are_set(tmp_path):
    """A short training: under do the image keeps its own pattern, better than the mean image of the new labels has it."""
    images, labels, _ = tinted(600)
    torch.manual_seed(0)
    recipe = Recipe(decoder="scene", noise_dim=4, prior_std=0.05)
    run = recipe.build(GRAPH, images, labels)
    assert run.model.decoder.sprites == 0
    # It starts from the mean image.
    start = run.model.decoder(torch.zeros(1, 2, 1), torch.zeros(1, 4)).sigmoid()
    assert_close(start[0], images.mean(0), rtol=0, atol=0.01)
    fit(run.model, run.guide, (images, labels), objective=recipe.objective(run), epochs=25, batch_size=32, seed=0, progress=False)
    x, u = images[:100], labels[:100]
    said = reconstruct(run.model, run.guide, x)
    assert (said - x).square().mean() < 0.2 * (x - images.mean(0)).square().mean()
    do = {"b": torch.full((100,), 1.5)}
    # b's half is as bright as 1.5 says; the pattern stays.
    own = torch.logit(x) - 0.3 * torch.where(torch.arange(16) < 8, u[:, 0, None, None, None], u[:, 1, None, None, None])
    true = (own + 0.3 * torch.where(torch.arange(16) < 8, u[:, 0, None, None, None], torch.tensor(1.5))).sigmoid()
    found = counterfactual(run.model, run.guide, x, do)
    assert (found - true).square().mean() < 0.35 * (x - true).square().mean()
    assert abduct(run.guide, x)["eps_x"].shape == (100, 4)
    save(Run(run.model, run.guide, run.config), tmp_path)
    again = load(tmp_path)
    assert_close(counterfactual(again.model, again.guide, x, do), found)
