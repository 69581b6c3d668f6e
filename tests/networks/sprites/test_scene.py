"""Layers that change their look, and fields that concepts switch on."""

import pytest
import torch
from torch.testing import assert_close

from causalvae_pyro import CausalGraph, load, reconstruct, save
from causalvae_pyro.checkpoints import Run
from causalvae_pyro.networks import Fields, SceneDecoder, SpriteDecoder
from causalvae_pyro.networks.sprites.base import GAIN
from tests.builders import make_pair


def moved(module, size=0.3):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("pair_fields", [0, 3])
@pytest.mark.parametrize("fields", [0, 4])
def test_fields_end_with_pairs(fields, pair_fields, dim):
    """What a concept does to a pixel depends on one other at a time: third differences vanish, second ones need not."""
    net = moved(Fields((3, 4, 5), 3, dim, fields=fields, pair_fields=pair_fields, hidden=6)).double()
    low, high = torch.randn(2, 3, dim, dtype=torch.double)
    corners = torch.cartesian_prod(*[torch.tensor([0, 1])] * 3)
    z = torch.where(corners[..., None] == 1, high, low)
    values = net(z).reshape(2, 2, 2, 3, 4, 5)
    second = values.diff(dim=0).diff(dim=1)
    assert second.abs().max() > 1e-3
    assert_close(second.diff(dim=2), torch.zeros(1, 1, 1, 3, 4, 5, dtype=torch.double), rtol=0, atol=1e-12)


def test_fields_start_dark():
    assert torch.equal(Fields((1, 4, 4), 2)(torch.randn(5, 2, 1)), torch.zeros(5, 1, 4, 4))


def test_an_effect_is_carried_off_the_curve_along_which_it_is_seen():
    """A lamp before a sky whose light it follows, learned along that curve: better told away from it with smooth pairs."""
    torch.manual_seed(0)
    day = 3 * torch.rand(400) - 1.5
    lamp = -0.8 * day + 0.3 * torch.randn(400)

    def picture(day, lamp):
        glow = (0.5 + 0.25 * lamp).clamp(0, 1)[:, None] * torch.linspace(0.3, 1, 4)
        sky = (0.4 + 0.2 * day)[:, None]
        return (sky + glow * (0.95 - sky)).clamp(0.02, 0.98)[:, None, None, :]

    def error(noise):
        torch.manual_seed(0)
        net = Fields((1, 1, 4), 2, noise=noise)
        z, x = torch.stack([day, lamp], 1)[..., None], picture(day, lamp)
        adam = torch.optim.Adam(net.parameters(), lr=5e-3)
        for _ in range(250):
            adam.zero_grad()
            (net(z).sigmoid() - x).square().mean().backward()
            adam.step()
        with torch.no_grad():
            assert (net(z).sigmoid() - x).square().mean() < 1e-4
            free = lamp[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
            return (net(torch.stack([day, free], 1)[..., None]).sigmoid() - picture(day, free)).square().mean().item()

    assert error(0) < 0.7 * error(2)


@pytest.mark.parametrize("argument", ["fields", "pair_fields", "hidden", "noise"])
def test_fields_refuse_what_cannot_be(argument):
    with pytest.raises(ValueError, match=f"^{argument}: got -1; must be at least [01]$"):
        Fields((1, 4, 4), 2, **{argument: -1})


def test_fields_refuse_more_noise_than_concepts():
    with pytest.raises(ValueError, match="^noise: got 3; must be at most num_concepts, 2$"):
        Fields((1, 4, 4), 2, noise=3)


def test_only_pairs_of_two_concepts_start_smooth():
    """Not those of a concept with itself, nor those with noise."""

    def inputs(make):
        torch.manual_seed(0)
        return make().of_two.into

    usual = inputs(lambda: Fields((1, 2, 2), 3, noise=3))
    pairs = torch.tensor([1, 0.4, 1, 1, 1, 1])[:, None, None]
    assert torch.equal(inputs(lambda: Fields((1, 2, 2), 3, noise=1)), usual * pairs)
    # So does a scene's noise, the last of its fields' concepts.
    torch.manual_seed(0)
    scene = SceneDecoder((1, 2, 2), 2, noise_dim=2, sprites=0)
    small = scene.fields.of_two.into.abs().mean((1, 2)) < 0.6
    assert small.nonzero().flatten().tolist() == [1]


def test_a_fresh_scene_draws_what_sprites_draw():
    sprites = moved(SpriteDecoder((3, 16, 12), 2, sprites=2, canvas=6, hidden=4), 0.1)
    scene = SceneDecoder((3, 16, 12), 2, sprites=2, canvas=6, hidden=4)
    missing = scene.load_state_dict(sprites.state_dict(), strict=False)
    assert not missing.unexpected_keys
    torch.nn.init.zeros_(scene.tints_of_concepts.linear)
    z = torch.randn(7, 2, 1)
    assert_close(scene(z), sprites(z))


def test_tints_are_in_logits_on_the_canvas():
    """One opaque sprite in the middle of a black picture gets brighter, and then vanishes; around it nothing changes."""
    scene = SceneDecoder((1, 16, 16), 2, sprites=1, canvas=8, hidden=4)
    with torch.no_grad():
        scene.background.fill_(-6 / GAIN)
        scene.opacity.fill_(6 / GAIN)
        scene.size.fill_(0.5)
        scene.tints_of_concepts.linear.zero_()
        scene.tints_of_concepts.linear[0, 0, 0, 0] = 1.0
        scene.tints_of_concepts.linear[0, 1, 0, 1] = -12.0
    z = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])[..., None]
    plain, bright, gone = scene(z).sigmoid()[:, 0].detach()
    assert plain[8, 8].item() == pytest.approx(0.5, abs=0.01)
    assert bright[8, 8].item() == pytest.approx(torch.tensor(2.0).sigmoid().item(), abs=0.01)
    assert gone[8, 8] < 0.01
    assert_close(bright[:3], plain[:3])
    sizes = scene.effect_sizes(torch.randn(4000, 2, 1))
    assert sizes.shape == (1, 2, 8)
    assert sizes[0, 0, 6].item() == pytest.approx(0.25, rel=0.1)
    assert sizes[0, 1, 7].item() == pytest.approx(3.0, rel=0.1)


def test_no_layer_at_all():
    scene = moved(SceneDecoder((3, 5, 6), 2, 2, sprites=0))
    z = torch.randn(4, 2, 2)
    assert_close(scene(z), GAIN * scene.background + scene.fields(z))
    assert scene(z.expand(3, 4, 2, 2)).shape == (3, 4, 3, 5, 6)
    assert scene.effect_sizes(z).shape == (0, 2, 10)
    with pytest.raises(ValueError, match="^sprites: got -1; must be at least 0$"):
        SceneDecoder((3, 5, 6), 2, sprites=-1)


@pytest.mark.parametrize(("fields", "pair_fields"), [(0, 0), (3, 2)])
def test_sizes_of_fields(fields, pair_fields):
    """They are the standard deviations of what each concept, and each pair, adds to the logits where concepts are independent."""
    scene = moved(SceneDecoder((1, 4, 4), 3, sprites=0, fields=fields, pair_fields=pair_fields), 0.5)
    torch.nn.init.zeros_(scene.background)
    z = torch.randn(40, 1, 1).expand(-1, 3, 1) + 0.1 * torch.randn(40, 3, 1)
    free = torch.stack([z[:, j].roll(13 * j, 0) for j in range(3)], 1)
    found = scene.field_sizes(z)
    assert found.shape == (3 + 6, 16)
    pictures = scene.fields.pictures.clone()
    rows = [[j, *range(3 + j * fields, 3 + (j + 1) * fields)] for j in range(3)]
    start = 3 * (1 + fields)
    rows += [[start + k, *range(start + 6 + k * pair_fields, start + 6 + (k + 1) * pair_fields)] for k in range(6)]
    for size, row in zip(found, rows, strict=True):
        with torch.no_grad():
            scene.fields.pictures.zero_()
            scene.fields.pictures[row] = pictures[row]
            alone = scene.fields(free).flatten(1)
        assert_close(size, (alone.var(0, correction=0) + 1e-8).sqrt() / 4, rtol=1e-3, atol=1e-4)


def glow(count=200, side=16):
    """Everything brightens; and a square that travels."""
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(count, 2, generator=generator)
    x = (0.2 + 0.5 * z[:, :1, None, None]).expand(-1, 3, side, side).clone()
    squares = torch.full((count, 3, side, side), 0.9)
    for picture, place in zip(squares, (12 * z[:, 1]).int().tolist(), strict=True):
        picture[0, 6:10, place : place + 4] = 0.1
    return x, squares, ((z - 0.5) * 3.5)[..., None]


def test_parts_only_where_they_explain():
    brightening, squares, z = glow()
    torch.manual_seed(0)
    assert SceneDecoder.from_images(brightening, 2, concepts=z).sprites == 0
    assert SceneDecoder.from_images(squares, 2, concepts=z).sprites == 1
    assert SceneDecoder.from_images((squares * 255).to(torch.uint8), 2, concepts=z, sprites=3).sprites == 3
    # Who says nothing of concepts gets what is seen.
    assert SceneDecoder.from_images(squares, 2).sprites == 1
    z[::2] = torch.nan
    assert SceneDecoder.from_images(squares, 2, concepts=z).sprites == 1


def test_checkpoint(tmp_path):
    graph = CausalGraph(["a", "b"], [("a", "b")])
    model, guide = make_pair(graph, (1, 16, 16))
    model.decoder = moved(SceneDecoder((1, 16, 16), 2, sprites=2, canvas=4, fields=3, pair_fields=0), 0.1)
    x = torch.rand(3, 1, 16, 16)
    save(Run(model, guide, {}), tmp_path)
    again = load(tmp_path)
    assert_close(reconstruct(again.model, again.guide, x), reconstruct(model, guide, x))


def test_slides_are_along_the_layers_own_axes():
    """A layer that is turned by r and slides by u lies where one does that was moved by R(r) u."""
    slid = SceneDecoder((1, 24, 24), 2, sprites=1, canvas=8, hidden=4, slides=True).double()
    moved_there = SceneDecoder((1, 24, 24), 2, sprites=1, canvas=8, hidden=4).double()
    moved_there.load_state_dict({k: v for k, v in slid.state_dict().items() if "slide" not in k})
    angle = torch.tensor(0.7).double()
    with torch.no_grad():
        for decoder in (slid, moved_there):
            decoder.opacity[0, 0, :, :4] = -0.5
            decoder.size.fill_(0.4)
            decoder.base[0, 0, 4] = angle
            decoder.effects_of_concepts.linear.zero_()
        slid.slides_of_concepts.linear.zero_()
        slid.slide[0, 0] = torch.tensor([0.1, -0.2])
        slid.slides_of_concepts.linear[0, 1, 0] = torch.tensor([0.0, 0.3])
        z = torch.tensor([[[0.5], [1.0]]]).double()
        along, across = 0.1, -0.2 + 0.3
        moved_there.base[0, 0, :2] = torch.stack(
            [angle.cos() * along - angle.sin() * across, angle.sin() * along + angle.cos() * across]
        )
    assert_close(slid(z), moved_there(z))
    # Only the slide of the second concept has a size.
    sizes = slid.effect_sizes(torch.randn(50, 2, 1).double())
    assert sizes.shape == (1, 2, 6 + 2 + 2)
    assert (sizes > 0.01).nonzero().tolist() == [[0, 1, 9]]


@pytest.mark.parametrize("slides", [False, True])
def test_layers_taken_over(slides):
    torch.manual_seed(0)
    options = {"canvas": 4, "hidden": 3, "slides": slides}
    other = moved(SceneDecoder((3, 8, 8), 2, sprites=3, **options))
    z = torch.randn(5, 2, 1)
    shuffled = SceneDecoder((3, 8, 8), 2, sprites=3, **options)
    shuffled.take_layers(other, [2, 0, 1])
    assert_close(shuffled(z).sigmoid(), other(z).sigmoid())
    fewer = SceneDecoder((3, 8, 8), 2, sprites=2, **options)
    fewer.take_layers(other, [2, 0])
    assert torch.equal(fewer.effects(z), other.effects(z)[[2, 0]])
    assert torch.equal(fewer.fields(z), other.fields(z))
    more = SceneDecoder((3, 8, 8), 2, sprites=4, **options)
    own = more.colour[2:].clone()
    more.take_layers(other, [1, 2])
    assert torch.equal(more.colour, torch.cat([other.colour[1:], own]))
