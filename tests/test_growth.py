"""Scenes that grow what their start has missed."""

import pytest
import torch
from torch.testing import assert_close

from causalvae_pyro.networks import SceneDecoder, SpriteDecoder
from causalvae_pyro.recipes import Recipe, growth
from causalvae_pyro.recipes.growth import _left, _without_idle, grow_scene, grow_sprites
from causalvae_pyro.recipes.trial import try_decoders
from tests.conftest import GROWTH
from tests.networks.sprites.scenes import bead_on_an_arm, before_a_texture


@pytest.fixture(autouse=True)
def _as_long_as_it_is(monkeypatch):
    for name, steps in GROWTH.items():
        monkeypatch.setattr(growth, name, steps)


def error(decoder, images, z):
    with torch.no_grad():
        return (decoder(z).sigmoid() - images).square().mean().item()


def test_what_touches_another_of_its_colour_is_found_and_slides():
    images, z, _ = bead_on_an_arm()
    torch.manual_seed(0)
    started = SceneDecoder.from_images(images, 2, concepts=z)
    decoder = grow_scene(images, 2, concepts=z)
    variance = (images - images.mean(0)).square().mean().item()
    assert error(started, images, z) / variance > 0.4
    assert error(decoder, images, z) / variance < 0.1
    assert decoder.unexplained_at_start == pytest.approx(error(decoder, images, z) / variance, abs=0.03)
    # Parts are told from layers; every parameter learns from here on.
    assert decoder.parts_at_start == decoder.sprites
    assert all(p.requires_grad for p in decoder.parameters())
    # At the ends of both concepts too, where the sum of what each does would be wrong.
    corner = (z.squeeze(-1).abs().sum(1) > 1.5).nonzero().squeeze(1)
    assert error(decoder, images[corner], z[corner]) / variance < 0.2
    # Some layer slides with the second concept.
    assert decoder.effect_sizes(z)[:, 1, -2:].max() > 0.05


def test_layers_that_make_no_difference_go():
    images, z, _ = before_a_texture()
    torch.manual_seed(0)
    decoder = grow_scene(images, 2, concepts=z)
    assert decoder.sprites == 2
    left = _left(decoder, images, z)
    more = SceneDecoder(decoder.image_shape, 2, sprites=4, slides=True)
    more.take_layers(decoder, [0, 1], 1)
    with torch.no_grad():
        more.opacity[[0, 3]] = -1.0
    fewer = _without_idle(more, images, z, left)
    assert fewer.sprites == 2
    assert torch.equal(fewer.colour, decoder.colour)
    assert _left(fewer, images, z) == pytest.approx(left, rel=1e-3)


@pytest.mark.parametrize("seen", [0.0, 1.0])
def test_sprites_grow_what_their_start_has_missed(seen, monkeypatch):
    """A cloud that is nearly as bright as the sky, beside a dark square; both move."""
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.rand(200, 2, generator=generator) - 1
    images = torch.full((200, 3, 24, 24), 0.7)
    for image, (dark, pale) in zip(images, ((z + 1) * 9).round().int().tolist(), strict=True):
        image[:, 3:8, pale : pale + 5] = 0.86
        image[:, 14:20, dark : dark + 6] = 0.1
    monkeypatch.setattr("causalvae_pyro.recipes.growth._SEEN", seen)
    torch.manual_seed(0)
    decoder = grow_sprites(images, 2, concepts=z[..., None])
    assert type(decoder) is SpriteDecoder
    if seen:
        # What is seen well enough is not trained.
        assert (decoder.sprites, decoder.steps_at_start) == (1, 0)
        return
    assert (decoder.sprites, decoder.parts_at_start) == (2, 2)
    assert decoder.steps_at_start >= 230
    assert decoder.unexplained_at_start < 0.1
    moved = decoder.effect_sizes(z[..., None])[..., 0].argmax(1)
    assert sorted(moved.tolist()) == [0, 1]


def test_sprites_keep_what_they_cannot_draw_otherwise():
    """What brightens where it is has no fields here: its layers are of use, and a start is not made worse."""
    z = 2 * torch.rand(200, 1, generator=torch.Generator().manual_seed(0)) - 1
    texture = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    decoder = grow_sprites(texture * (0.5 + 0.5 * z[:, :, None, None]), 1, concepts=z[..., None])
    assert decoder.steps_at_start >= 150
    assert decoder.unexplained_at_start < 0.5
    # Where training makes it no better it is not trained.
    torch.manual_seed(0)
    decoder = grow_sprites(0.5 + 0.4 * z[:, :, None, None] * (texture > 0.4), 1, concepts=z[..., None])
    assert (decoder.sprites > 1, decoder.steps_at_start) == (True, 0)


def test_sprites_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="^images: "):
        grow_sprites(255 * torch.rand(50, 1, 8, 8), 2, concepts=torch.randn(50, 2, 1))
    for grow in (grow_sprites, grow_scene):
        with pytest.raises(ValueError, match=r"^concepts: expected shape \[50, 2, 1\], got \[40, 2, 1\]"):
            grow(torch.rand(50, 1, 8, 8), 2, concepts=torch.randn(40, 2, 1))
    with torch.inference_mode():
        decoder = grow_sprites(torch.rand(50, 1, 8, 8), 2, concepts=torch.randn(50, 2, 1))
    assert not any(p.is_inference() for p in decoder.parameters())


def test_a_training_that_diverges_is_left_out(monkeypatch):
    images, z, _ = before_a_texture()

    def diverge(decoder, *_, **__):
        with torch.no_grad():
            decoder.colour.fill_(torch.nan)

    monkeypatch.setattr("causalvae_pyro.recipes.growth.train_decoder", diverge)
    torch.manual_seed(0)
    decoder = grow_scene(images, 2, concepts=z)
    assert decoder.sprites == 2
    assert all(p.isfinite().all() for p in decoder.parameters())


def test_few_known_concepts_train_nothing():
    images, z, _ = before_a_texture(60)
    z = torch.where(torch.arange(60)[:, None, None] < 30, z, torch.nan)
    torch.manual_seed(0)
    decoder = grow_scene(images, 2, concepts=z)
    torch.manual_seed(0)
    started = SceneDecoder.started(images, 2, concepts=z, slides=True)[0]
    assert decoder.steps_at_start == 0
    assert all(torch.equal(a, b) for a, b in zip(decoder.state_dict().values(), started.state_dict().values(), strict=True))


def test_noise_has_displacements_and_no_layers():
    images, z, _ = bead_on_an_arm(60)
    decoder = grow_scene(images, 2, concepts=z, noise_dim=2)
    assert (decoder.sprites, decoder.noise_dim) == (0, 2)
    # From the mean image, for concepts and noise alike.
    assert_close(decoder(z, torch.randn(60, 2)).sigmoid(), images.mean(0).expand_as(images), atol=0.02, rtol=0)
    assert decoder.displacement.displacements(torch.randn(5, 4, 1)).shape == (5, *images.shape[2:], 2)


def test_missing_labels_do_not_count():
    images, z, _ = bead_on_an_arm(300)
    z = torch.where(torch.arange(300)[:, None, None] % 3 == 0, torch.nan, z)
    torch.manual_seed(0)
    with torch.inference_mode():
        decoder = grow_scene((images * 255).to(torch.uint8), 2, concepts=z.clone().requires_grad_())
    assert all(p.isfinite().all() for p in decoder.parameters())
    known = ~z.isnan().flatten(1).any(1)
    assert error(decoder, images[known], z[known]) < 0.2 * (images - images.mean(0)).square().mean().item()


def test_a_trial_gives_all_as_many_steps(monkeypatch):
    steps = {}

    def count(decoder, *_, **options):
        steps.setdefault(decoder, []).append(options["steps"])

    monkeypatch.setattr("causalvae_pyro.recipes.trial.train_decoder", count)
    one, other = (SceneDecoder((1, 8, 8), 2, sprites=0) for _ in range(2))
    one.steps_at_start = 230
    third = SceneDecoder((1, 8, 8), 2, sprites=0)
    images, z = torch.rand(10, 1, 8, 8), torch.rand(10, 2, 1)
    try_decoders({"one": one, "other": other}, images, z, torch.arange(10) < 4, steps=100)
    assert steps == {one: [100], other: [230, 100]}
    steps.clear()
    try_decoders({"other": other, "third": third}, images, z, torch.arange(10) < 4, steps=100)
    assert steps == {other: [100], third: [100]}


def test_the_recipe_grows_scenes():
    images, z, _ = bead_on_an_arm(side=32)
    torch.manual_seed(0)
    run = Recipe(decoder="scene").build({"a": [], "b": []}, images, z.squeeze(-1))
    assert run.model.decoder.steps_at_start >= 150
    assert run.config["start"] == {
        "parts": run.model.decoder.sprites,
        "unexplained": run.model.decoder.unexplained_at_start,
    }
    assert run.config["start"]["unexplained"] < 0.15
