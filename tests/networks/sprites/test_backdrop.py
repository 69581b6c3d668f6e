"""Sprites before a background that is another one in each image: the decoder, its start, and what an intervention leaves."""

import pytest
import torch
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
    fit,
    load,
    reconstruct,
    save,
)
from causalvae_pyro.guides import HierarchicalGuide
from causalvae_pyro.networks import (
    BackdropDecoder,
    HierarchicalDecoder,
    MLPDecoder,
    NormalisedEncoder,
    SceneDecoder,
    SpriteDecoder,
)
from causalvae_pyro.networks.sprites.base import GAIN
from causalvae_pyro.networks.sprites.compositing import OUTSIDE
from causalvae_pyro.networks.sprites.inpainting import fill_in
from causalvae_pyro.training.optimizers import parameter_groups
from tests.builders import jitter, raises
from tests.networks.sprites.scenes import before_backgrounds

SHAPE, N = (3, 16, 16), 2
WIDTHS = {"channels": (8, 8), "noise_channels": (3, 2), "blocks": 1}
GRAPH = CausalGraph(["across", "down"], [("across", "down")])


def make(scene=SpriteDecoder, shape=SHAPE, dim=1, **options):
    backdrop = HierarchicalDecoder(shape, N, dim, **WIDTHS, concept_scale=0.0)
    decoder = BackdropDecoder(scene(shape, N, dim, sprites=2, canvas=6, hidden=4, **options), backdrop)
    jitter(0.1, decoder)
    return decoder


@pytest.mark.parametrize("scene", [SpriteDecoder, SceneDecoder])
def test_layers_over_what_the_noise_draws(scene):
    decoder = make(scene)
    z, noise = torch.randn(4, N, 1), torch.randn(4, decoder.noise_dim)
    image = decoder(z, noise)
    assert image.shape == (4, *SHAPE)
    # The same over a background that is given.
    own = decoder.scene
    for k in range(4):
        with torch.no_grad():
            own.background.copy_(decoder.backdrop(z[k], noise[k]) / GAIN)
        assert_close(image[k], own(z[k]), rtol=1e-4, atol=1e-4)


def test_the_backdrop_is_the_image_where_no_layer_is():
    decoder = make()
    with torch.no_grad():
        decoder.scene.frame.zero_()
        decoder.scene.opacity.fill_(OUTSIDE / GAIN)
    z, noise = torch.randn(4, N, 1), torch.randn(4, decoder.noise_dim)
    assert_close(decoder(z, noise).sigmoid(), decoder.backdrop(z, noise).sigmoid(), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("z_lead", "noise_lead"), [((), ()), ((5,), (5,)), ((4, 5), (5,)), ((5,), (4, 5)), ((4, 1), (1, 5)), ((5,), ())]
)
@pytest.mark.parametrize("dim", [1, 2])
def test_leading_dimensions_of_z_and_noise_broadcast(z_lead, noise_lead, dim):
    decoder = make(dim=dim)
    z, noise = torch.randn(*z_lead, N, dim), torch.randn(*noise_lead, decoder.noise_dim)
    lead = torch.broadcast_shapes(z_lead, noise_lead)
    output = decoder(z, noise)
    assert output.shape == (*lead, *SHAPE)
    assert_close(output, decoder(z.expand(*lead, N, dim), noise.expand(*lead, -1)))


def test_a_scene_is_drawn_over_a_background_that_is_given():
    scene = SpriteDecoder(SHAPE, N, noise_dim=2, sprites=1, canvas=6, hidden=4)
    jitter(0.1, scene)
    z, noise, background = torch.randn(5, N, 1), torch.randn(5, 2), torch.randn(4, 1, *SHAPE)
    image = scene.draw(z, noise, background=background)
    assert image.shape == (4, 5, *SHAPE)
    with torch.no_grad():
        scene.background.copy_(background[2, 0] / GAIN)
    assert_close(image[2], scene(z, noise), rtol=1e-4, atol=1e-4)
    # One background for all.
    assert_close(scene.draw(z, noise, background=background[2, 0]), image[2], rtol=1e-4, atol=1e-4)


def test_concepts_change_the_layers_and_noise_what_is_behind_them():
    decoder = make()
    z, noise = torch.randn(4, N, 1), torch.randn(4, decoder.noise_dim)
    assert torch.equal(decoder.backdrop(z, noise), decoder.backdrop(z + 1, noise))
    assert (decoder(z, noise) - decoder(z + 1, noise)).abs().max() > 1e-2
    assert (decoder(z, noise) - decoder(z, -noise)).abs().max() > 1e-2
    assert torch.equal(decoder.effects(z), decoder.scene.effects(z))
    assert torch.equal(decoder.effect_sizes(z), decoder.scene.effect_sizes(z))
    with pytest.raises(ValueError, match=r"^eps_x: .*needs eps_x, got None"):
        decoder(z)


def test_what_learns_and_how_fast():
    decoder = make()
    decoder(torch.randn(8, N, 1), torch.randn(8, decoder.noise_dim)).square().sum().backward()
    for name, parameter in decoder.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all()
    assert [name for name, p in decoder.named_parameters() if not p.requires_grad] == ["scene.background"]
    groups = parameter_groups([decoder], list(decoder.parameters()), 1e-3)
    rate = {p: group["lr"] for group in groups for p in group["params"]}
    assert rate[decoder.scene.base] == pytest.approx(4e-3)
    assert rate[decoder.backdrop.background] == pytest.approx(1e-3)


def test_half_precision():
    decoder = make()
    z, noise = torch.randn(4, N, 1), torch.randn(4, decoder.noise_dim)
    with torch.autocast("cpu", torch.bfloat16):
        half = decoder(z, noise)
    # The layers are placed in full precision; what is behind them is as exact as its decoder.
    assert half.dtype == torch.float32
    assert_close(half.sigmoid(), decoder(z, noise).sigmoid(), rtol=0, atol=2e-2)


@pytest.mark.parametrize(
    ("scene", "backdrop", "kind", "message"),
    [
        (lambda: MLPDecoder(SHAPE, N), None, TypeError, "^scene: got a MLPDecoder; must be a SpriteDecoder$"),
        (None, lambda: MLPDecoder(SHAPE, N), TypeError, "^backdrop: got a MLPDecoder; must be a HierarchicalDecoder$"),
        (lambda: SpriteDecoder(SHAPE, N, noise_dim=2), None, ValueError, "^scene: got noise_dim=2; must be 0"),
        (
            None,
            lambda: HierarchicalDecoder(SHAPE, N, **WIDTHS),
            ValueError,
            "^backdrop: got one that concepts change; .*concept_scale=0$",
        ),
        (
            lambda: SpriteDecoder((3, 16, 32), N),
            None,
            ValueError,
            r"^backdrop: got image_shape=\(3, 16, 16\); the scene has \(3, 16, 32\)$",
        ),
        (lambda: SpriteDecoder(SHAPE, 3), None, ValueError, "^backdrop: got num_concepts=2; the scene has 3$"),
        (lambda: SpriteDecoder(SHAPE, N, 2), None, ValueError, "^backdrop: got dim=1; the scene has 2$"),
    ],
)
def test_errors(scene, backdrop, kind, message):
    scene = scene or (lambda: SpriteDecoder(SHAPE, N))
    backdrop = backdrop or (lambda: HierarchicalDecoder(SHAPE, N, **WIDTHS, concept_scale=0.0))
    with pytest.raises(kind, match=message):
        BackdropDecoder(scene(), backdrop())


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_it_starts_on_what_the_concepts_move(kind):
    images, z, masks = before_backgrounds()
    given = images if kind == torch.float32 else (images * 255).round().to(torch.uint8)
    torch.manual_seed(0)
    decoder = BackdropDecoder.from_images(given, N, concepts=z, canvas=12, **WIDTHS)
    assert decoder.scene.sprites == 1
    assert decoder.scene.opacity.shape[-1] == 12
    # Over the mean image, which the noise has not changed yet, the disc is where it is in each image.
    drawn = decoder(z, torch.randn(len(z), decoder.noise_dim)).sigmoid()
    inside, outside = masks.flatten(1), ~masks.flatten(1)
    error = (drawn - images).square().mean(1).flatten(1)
    start = (images.mean(0) - images).square().mean(1).flatten(1)
    assert error[inside].mean() < 0.2 * start[inside].mean()
    assert error[outside].mean() < 1.2 * start[outside].mean()
    assert_close(decoder.backdrop(z, torch.randn(len(z), decoder.noise_dim))[0].sigmoid(), images.mean(0), rtol=0, atol=5e-3)


def test_images_whose_labels_are_missing_do_not_count():
    images, z, _ = before_backgrounds()
    z[::3] = torch.nan
    torch.manual_seed(0)
    assert BackdropDecoder.from_images(images, N, concepts=z, **WIDTHS).scene.sprites == 1
    # Most may be missing: the others are looked at.
    many, concepts, _ = before_backgrounds(800)
    concepts[60:] = torch.nan
    assert BackdropDecoder.from_images(many, N, concepts=concepts, **WIDTHS).scene.sprites == 1
    concepts[39:] = torch.nan
    with pytest.raises(ValueError, match="^concepts: 39 images have all of them; .* at least 40$"):
        BackdropDecoder.from_images(many, N, concepts=concepts, **WIDTHS)


def test_nothing_to_start_on():
    images, z, _ = before_backgrounds()
    with pytest.raises(ValueError, match="^images: nothing of one colour .*; use a HierarchicalDecoder .*hierarchical"):
        BackdropDecoder.from_images(images, N, concepts=z[torch.randperm(len(z))], **WIDTHS)
    with raises("concepts", "expected shape", "got"):
        BackdropDecoder.from_images(images, N, concepts=z[1:], **WIDTHS)


def placed():
    """A decoder whose first layer is opaque and moves with the first concept, and whose second is nowhere."""
    decoder = make()
    with torch.no_grad():
        for p in decoder.scene.effects_of_concepts.parameters():
            p.zero_()
        decoder.scene.frame.zero_()
        decoder.scene.opacity[0].fill_(8 / GAIN)
        decoder.scene.opacity[1].fill_(OUTSIDE / GAIN)
        decoder.scene.base.zero_()
        decoder.scene.effects_of_concepts.linear[0, 0, 0, 0] = 0.5
        decoder.scene.size.fill_(0.3)
    return decoder


def test_the_noise_does_not_see_what_a_layer_covers():
    decoder = placed()
    x, z = torch.rand(2, *SHAPE), torch.tensor([[[-1.0], [0.0]], [[1.0], [0.0]]])
    seen = decoder.uncovered(x, z)
    hidden = (seen != x).any(1)
    # A layer of about 0.3 of the width, to the left in the first image and to the right in the second.
    assert 0.05 < hidden.float().mean() < 0.5
    assert hidden[0, :, :8].sum() > 5 * hidden[0, :, 8:].sum()
    assert hidden[1, :, 8:].sum() > 5 * hidden[1, :, :8].sum()
    # Whatever stands there makes no difference, and nothing else is changed.
    other = torch.where(hidden[:, None], torch.rand_like(x), x)
    assert torch.equal(decoder.uncovered(other, z), seen)
    assert torch.equal(seen.where(~hidden[:, None], 0), x.where(~hidden[:, None], 0))
    # Nor does it for the noise that the guide reads.
    model = CausalVAE(AdditiveNoiseSCM(GRAPH), FixedPrior(N), decoder, GaussianLikelihood(), noise_dim=decoder.noise_dim)
    guide = HierarchicalGuide(NormalisedEncoder(SHAPE, 8), model)
    assert torch.equal(guide.noise_posterior(x, z).mean, guide.noise_posterior(other, z).mean)
    elsewhere = torch.where(hidden[:, None], x, torch.rand_like(x))
    assert not torch.equal(guide.noise_posterior(x, z).mean, guide.noise_posterior(elsewhere, z).mean)
    # Samples of the concepts hide each their own pixels.
    many = guide.noise_posterior(x, torch.stack([z, -z])).mean
    assert_close(many[0], guide.noise_posterior(x, z).mean)
    assert_close(many[1], guide.noise_posterior(x, -z).mean)


def test_the_share_that_no_layer_covers_is_what_shows_of_white_rather_than_black():
    for scene in (placed().scene, SceneDecoder(SHAPE, N, sprites=2)):
        with torch.no_grad():
            scene.frame.normal_(std=0.05)
            z, white = torch.randn(3, 2, N, 1), torch.full(SHAPE, 12.0)
            shown = scene.draw(z, background=white).sigmoid() - scene.draw(z, background=-white).sigmoid()
            share = scene.uncovered_share(z)
        assert share.shape == (3, 2, *SHAPE[1:])
        assert share.std() > 0.1
        assert_close(share[:, :, None].expand_as(shown), shown, atol=2e-5, rtol=0)
    none = SceneDecoder(SHAPE, N, sprites=0)
    assert torch.equal(none.uncovered_share(torch.randn(4, N, 1)), torch.ones(4, *SHAPE[1:]))


def test_a_half_transparent_layer_hides_too():
    decoder, x, z = placed(), torch.rand(2, *SHAPE), torch.zeros(2, N, 1)
    opaque = (decoder.uncovered(x, z) != x).any(1)
    with torch.no_grad():
        decoder.scene.opacity[0].zero_()
    half = (decoder.uncovered(x, z) != x).any(1)
    # But for its soft rim.
    assert (half & opaque).sum() == half.sum() > 0.5 * opaque.sum()


def test_hidden_pixels_are_filled_in_from_around_them():
    side = torch.linspace(0, 1, 24)
    images = (side[:, None] + 2 * side[None, :])[None, None].repeat(2, 3, 1, 1)
    hidden = torch.zeros(2, 1, 24, 24)
    hidden[0, :, 9:14, 6:11] = 1
    hidden[1, :, :, :3] = 1
    filled = fill_in(images, hidden)
    known = (hidden == 0).expand_as(images)
    assert torch.equal(filled[known], images[known])
    # A slope of 3 over 24 pixels: within a few pixels of the right place.
    assert (filled - images)[0].abs().max() < 0.35
    assert (filled - images)[1].abs().max() < 0.5
    constant = torch.full((1, 3, 7, 10), 0.3)
    assert_close(fill_in(constant, (torch.rand(1, 1, 7, 10) < 0.8).float()), constant)
    assert not fill_in(constant, torch.ones(1, 1, 7, 10)).any()


@pytest.fixture(scope="module")
def trained():
    """On discs before backgrounds, for a few seconds."""
    images, z, masks = before_backgrounds(400)
    torch.manual_seed(0)
    decoder = BackdropDecoder.from_images(images, N, concepts=z, canvas=12, **WIDTHS)
    scm = AdditiveNoiseSCM(GRAPH, learn_noise=True)
    likelihood = GaussianLikelihood(0.2, learn_scale=True)
    model = CausalVAE(scm, FixedPrior(N, std=0.05), decoder, likelihood, noise_dim=decoder.noise_dim)
    guide = HierarchicalGuide(NormalisedEncoder(SHAPE, 16, channels=8), model)
    fit(model, guide, (images, z[..., 0]), epochs=2, batch_size=20, progress=False, device="cpu")
    return model.eval(), guide.eval(), images, z, masks


def test_an_intervention_moves_the_layer_and_leaves_the_backdrop(trained):
    model, guide, images, z, _ = trained
    x, place = images[:32], z[:32, 0, 0]
    noise = abduct(guide, x)["eps_x"]
    assert noise.shape == (32, model.decoder.noise_dim)
    behind = model.decoder.backdrop(z[:32], noise).sigmoid()
    pictures = {do: counterfactual(model, guide, x, {"across": do}) for do in (-1.0, 1.0)}
    for picture in pictures.values():
        # Where no layer is, the picture is the backdrop of the image itself: the upper and lower edge are beyond its reach.
        assert_close(picture[:, :, [0, -1]], behind[:, :, [0, -1]], rtol=0, atol=0.02)
    left, right = ((p - behind).square().sum((1, 2)) for p in pictures.values())
    columns = torch.arange(16.0)
    centres = [(part * columns).sum(1) / part.sum(1) for part in (left, right)]
    # From a fifth of the image to four fifths.
    assert ((centres[1] - centres[0]) > 5).all()
    assert place.std() > 0.3


def test_saved_and_loaded(trained, tmp_path):
    model, guide, images, *_ = trained
    save(Run(model, guide, {}), tmp_path)
    again = load(tmp_path)
    assert type(again.model.decoder) is BackdropDecoder
    assert not again.model.decoder.scene.background.requires_grad
    assert_close(reconstruct(again.model, again.guide, images[:4]), reconstruct(model, guide, images[:4]))
