"""The sprite decoder against warped images, against plain loops over pixels, and on scenes of moving squares."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from causalvae_pyro import (
    CausalGraph,
    LinearSCM,
    Run,
    counterfactual,
    load,
    reconstruct,
    save,
)
from causalvae_pyro.networks import SpriteDecoder
from causalvae_pyro.networks.sprites.base import GAIN
from tests.builders import make_pair

LEADS = [(), (5,), (2, 3)]
SHAPES = [(1, 16, 16), (3, 5, 8), (4, 9, 6)]
OUTSIDE = -8.0
X, Y, WIDTH, HEIGHT, ROTATION = range(5)


def name(value):
    return "x".join(map(str, value)) or "none"


def randomised(decoder, scale=1.0):
    """Random sprites anywhere, and effects with their networks."""
    with torch.no_grad():
        for part in (decoder.opacity, decoder.texture, decoder.colour, decoder.background, decoder.frame):
            part.copy_(2 * torch.randn_like(part) / GAIN)
        decoder.level.copy_(torch.randn_like(decoder.level) / GAIN)
        decoder.base.copy_(0.2 * torch.randn_like(decoder.base))
        decoder.size.copy_(0.5 + 0.5 * torch.rand_like(decoder.size))
        for part in (decoder.effects_of_concepts, decoder.effects_of_noise):
            if part is not None:
                part.linear.copy_(0.2 * scale * torch.randn_like(part.linear))
                part.second.copy_(0.3 * scale * torch.randn_like(part.second))
    return decoder


def one_sprite(shape=(3, 16, 16), canvas=8, num_concepts=1):
    """In float64, of size 1 in the middle of a flat background, and moved by no concept so far."""
    decoder = randomised(SpriteDecoder(shape, num_concepts, sprites=1, canvas=canvas).double(), 0.0)
    with torch.no_grad():
        decoder.background.copy_(torch.linspace(-1, 1, shape[0])[:, None, None].expand(shape) / GAIN)
        decoder.base.zero_()
        decoder.frame.zero_()
        decoder.size.fill_(1.0)
        decoder.base[..., WIDTH : HEIGHT + 1] = change_for(1.0)
    return decoder


def change_for(size):
    """What the softplus turns into ``size``, for a sprite of size 1."""
    return math.log(math.expm1(4 * size)) / 4 - 1


def draw(decoder, *z):
    with torch.no_grad():
        return decoder(torch.tensor(z, dtype=torch.float64).reshape(1, -1, 1))[0].sigmoid()


def effect(decoder, concept, number, value):
    with torch.no_grad():
        decoder.effects_of_concepts.linear[:, concept, :, number] = value


# Shapes and arguments


@pytest.mark.parametrize("noise_dim", [0, 2])
@pytest.mark.parametrize("lead", LEADS, ids=name)
@pytest.mark.parametrize("shape", SHAPES, ids=name)
def test_shapes(shape, lead, noise_dim):
    decoder = randomised(SpriteDecoder(shape, 3, 2, noise_dim=noise_dim, sprites=2, canvas=6, hidden=4))
    inputs = (torch.randn(*lead, 3, 2), torch.randn(*lead, noise_dim))[: 2 if noise_dim else 1]
    output = decoder(*inputs)
    assert output.shape == (*lead, *shape)
    flat = [value.reshape(math.prod(lead), *value.shape[len(lead) :]) for value in inputs]
    rows = [decoder(*(value[i] for value in flat)) for i in range(math.prod(lead))]
    assert_close(output.reshape(-1, *shape).sigmoid(), torch.stack(rows).sigmoid(), rtol=0, atol=1e-3)
    assert math.prod(lead) == 1 or torch.stack(rows).sigmoid().std(0).max() > 0.01


@pytest.mark.parametrize(("z_lead", "noise_lead"), [((4, 5), (5,)), ((5,), (4, 5)), ((4, 1), (1, 5)), ((5,), ())], ids=str)
def test_leading_dimensions_of_z_and_noise_broadcast(z_lead, noise_lead):
    decoder = randomised(SpriteDecoder((1, 8, 8), 3, noise_dim=2, sprites=2, canvas=4, hidden=4))
    z, eps_x = torch.randn(*z_lead, 3, 1), torch.randn(*noise_lead, 2)
    lead = torch.broadcast_shapes(z_lead, noise_lead)
    output = decoder(z, eps_x)
    assert output.shape == (*lead, 1, 8, 8)
    assert_close(output, decoder(z.expand(*lead, 3, 1), eps_x.expand(*lead, 2)))


def test_it_needs_its_noise():
    with pytest.raises(ValueError, match=r"^eps_x: .*noise_dim=2.*got None"):
        SpriteDecoder((1, 8, 8), 3, noise_dim=2)(torch.zeros(2, 3, 1))


def test_it_sees_every_concept_and_the_noise():
    z, eps_x = torch.randn(4, 3, 2, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    # Before any training.
    decoder = SpriteDecoder((1, 16, 16), 3, 2, noise_dim=2)
    with torch.no_grad():
        decoder.background.fill_(0.1)
    decoder(z, eps_x).square().sum().backward()
    assert (z.grad != 0).all()
    assert (eps_x.grad != 0).all()


def test_every_parameter_learns():
    decoder = randomised(SpriteDecoder((3, 16, 16), 2, noise_dim=1, sprites=2, canvas=6, hidden=4))
    decoder(torch.randn(8, 2, 1), torch.randn(8, 1)).square().sum().backward()
    grads = {name: parameter.grad for name, parameter in decoder.named_parameters()}
    assert all(g is not None and torch.isfinite(g).all() and (g != 0).any() for g in grads.values())


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 8, 8), {"sprites": 0}, "^sprites: got 0"),
        ((1, 8, 8), {"hidden": 0}, "^hidden: got 0"),
        ((1, 8, 8), {"canvas": 1}, "^canvas: got 1"),
        ((2, 8, 8), {}, r"^image_shape: got \(2, 8, 8\)"),
        ((1, 8), {}, r"^image_shape: got \(1, 8\)"),
        ((3, 8, 0), {}, r"^image_shape: got \(3, 8, 0\)"),
    ],
)
def test_errors_name_the_argument(shape, options, message):
    with pytest.raises(ValueError, match=message):
        SpriteDecoder(shape, 3, **options)


# Geometry


@pytest.mark.parametrize("steps", [1, 3, -2])
@pytest.mark.parametrize("axis", [X, Y])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 24, 32)], ids=name)
def test_a_concept_moves_a_sprite_by_pixels(shape, axis, steps):
    decoder = one_sprite(shape)
    with torch.no_grad():
        # Small, so that it stays within the image; turned, so that no axis is special.
        decoder.base[..., WIDTH : HEIGHT + 1] = change_for(0.5)
        decoder.base[..., ROTATION] = 0.3
    still = draw(decoder, 1.0)
    effect(decoder, 0, axis, 2 / shape[2 if axis == X else 1])
    # What rolls over the edge is as flat as what rolls in.
    assert (still - still[:, :1, :1]).abs().max() > 0.1
    assert_close(draw(decoder, float(steps)), still.roll(steps, 2 if axis == X else 1), rtol=0, atol=1e-5)


def slopes(opacity):
    """Along x and y, ``[..., 2, S, S]``, by differences over two pixels, of a canvas in the middle of nothing."""
    around = torch.nn.functional.pad(opacity, (1, 1, 1, 1), value=OUTSIDE)
    along_x, along_y = (around.roll(-1, d) - around.roll(1, d) for d in (-1, -2))
    # Two pixels are 4 / S half sides.
    return torch.stack([d[..., 1:-1, 1:-1] for d in (along_x, along_y)], -3) * opacity.shape[-1] / 4


def stretched(decoder, fx, fy):
    """The sprite in the middle, one of its pixels on ``fy x fx`` of the image's, by torch's own interpolation."""
    _, height, width = decoder.image_shape
    opacity, colour = decoder.opacity * GAIN, (decoder.texture + decoder.colour[..., None, None]) * GAIN
    layers = torch.cat([slopes(opacity[:, 0]), colour, opacity], 1).detach()
    margin = 8
    pad = torch.zeros(1, layers.shape[1], *(side + 2 * margin for side in layers.shape[2:]), dtype=layers.dtype)
    pad[:, -1] = OUTSIDE
    pad[..., margin:-margin, margin:-margin] = layers
    big = torch.nn.functional.interpolate(pad, scale_factor=(fy, fx), mode="bilinear")[0]
    top, left = (big.shape[1] - height) // 2, (big.shape[2] - width) // 2
    big = big[:, top : top + height, left : left + width]
    # Twice is its usual size. What is not on its level keeps its distance from it in pixels.
    usual, here = ((big[0] * a).square() + (big[1] * b).square() for a, b in ((1, 1), (2 / fx, 2 / fy)))
    level = decoder.level.item() * GAIN
    weight = (level + (big[-1] - level) * ((usual + 100) / (here + 100)).sqrt()).sigmoid()
    return weight * big[2:-1].sigmoid() + (1 - weight) * (decoder.background.detach() * GAIN).sigmoid()


@pytest.mark.parametrize(("fx", "fy"), [(1, 1), (2, 2), (4, 4), (4, 2), (1, 4)])
def test_size_stretches(fx, fy):
    decoder = one_sprite()
    # The sprite has 8 pixels a side and the image 16.
    effect(decoder, 0, WIDTH, change_for(fx / 2) - change_for(1))
    effect(decoder, 0, HEIGHT, change_for(fy / 2) - change_for(1))
    assert_close(draw(decoder, 1.0), stretched(decoder, fx, fy), rtol=0, atol=1e-6)


@pytest.mark.parametrize("quarters", [1, 2, -1])
def test_rotation_turns(quarters):
    decoder = one_sprite()
    still = draw(decoder, 0.0)
    effect(decoder, 0, ROTATION, math.pi / 2)
    turned = draw(decoder, float(quarters))
    # Clockwise, as y points down.
    assert_close(turned, still.rot90(-quarters, (1, 2)), rtol=0, atol=1e-5)
    assert (turned - still.rot90(1 - quarters, (1, 2))).abs().max() > 0.1


def test_a_sprite_turns_about_its_own_centre_and_along_its_own_axes():
    decoder = one_sprite((3, 32, 32))
    with torch.no_grad():
        decoder.base[..., WIDTH] = change_for(0.25)
        decoder.base[..., HEIGHT] = change_for(0.5)
    upright = draw(decoder, 0.0)
    with torch.no_grad():
        decoder.base[..., ROTATION] = math.pi / 2
        decoder.base[..., X] = 4 * 2 / 32
    assert_close(draw(decoder, 0.0), upright.rot90(-1, (1, 2)).roll(4, 2), rtol=0, atol=1e-5)


def test_layers_meet_in_a_softmax():
    decoder = SpriteDecoder((1, 4, 4), 1, sprites=2, canvas=4)
    colours, opacities = [0.2, 0.7], [1.0, -0.5]
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.zero_()
        for k in range(2):
            decoder.colour[k] = math.log(colours[k] / (1 - colours[k])) / GAIN
            decoder.opacity[k] = opacities[k] / GAIN
    weights = [math.exp(a) for a in (0, *opacities)]
    # The background is grey. Where size is 1 and change is 0, a sprite covers the image.
    expected = sum(w * c for w, c in zip(weights, (0.5, *colours), strict=True)) / sum(weights)
    assert_close(decoder(torch.zeros(1, 1))[0, 1:3, 1:3].sigmoid(), torch.full((2, 2), expected))


def test_the_background_can_hide_what_moves():
    decoder = one_sprite()
    seen = draw(decoder, 0.0)
    with torch.no_grad():
        decoder.frame[:, :, 10:] = 50 / GAIN
        decoder.frame[:, :, :3] = -50 / GAIN
    framed, background = draw(decoder, 0.0), (decoder.background.detach() * GAIN).sigmoid()
    assert_close(framed[:, :, 10:], background[:, :, 10:])
    assert_close(framed[:, :, 3:10], seen[:, :, 3:10])
    assert (framed[:, :, :3] - background[:, :, :3]).abs().max() > (seen - background)[:, :, :3].abs().max()


def test_it_learns_the_edge_of_the_picture():
    """Something that moves behind the margin on the right."""
    side, margin = 16, 5
    z = 2 * torch.rand(256, 1, 1) - 1
    images = torch.full((256, 1, side, side), 0.3)
    for image, value in zip(images, z[:, 0, 0].tolist(), strict=True):
        column = round(6 + 6 * value)
        image[:, 6:10, column : min(column + 4, side - margin)] = 0.9
    decoder = SpriteDecoder.from_images(images, 1, sprites=1, canvas=8, concepts=z)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=0.01)
    for step in range(150):
        rows = slice(step % 4 * 64, step % 4 * 64 + 64)
        loss = 100 * (decoder(z[rows]).sigmoid() - images[rows]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    frame = decoder.frame.detach()[0, 6:10] * GAIN
    assert frame[:, side - margin : side - margin + 3].mean() > 1
    assert frame[:, 2 : side - margin - 1].mean() < 0.5


def test_colours_at_the_ends_of_the_range_are_finite():
    decoder = SpriteDecoder((1, 8, 8), 1, sprites=1, canvas=4)
    for sign in (-1, 1):
        with torch.no_grad():
            decoder.background.fill_(sign * 20.0)
            decoder.colour.fill_(sign * 20.0)
        output = decoder(torch.zeros(2, 1, 1))
        output.sum().backward()
        assert torch.isfinite(output).all()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in decoder.parameters())


def test_a_sprite_can_shrink_to_nothing():
    decoder = one_sprite()
    effect(decoder, 0, WIDTH, -0.5)
    with torch.no_grad():
        background = invisible(one_sprite())(torch.zeros(1, 1, 1).double())[0].sigmoid()
    difference = [(draw(decoder, z) - background).abs().sum().item() for z in (0.0, 1.0, 4.0, 8.0)]
    assert difference == sorted(difference, reverse=True)
    assert difference[-1] < 0.05 * difference[0]
    z = torch.full((1, 1, 1), 8.0).double()
    decoder(z).sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in decoder.parameters())


def sampled(canvas, x, y, outside):
    """Bilinear at ``x, y`` in [-1, 1] from a list of rows, the centres of whose pixels lie half a pixel within the edge."""
    rows, columns = len(canvas), len(canvas[0])
    u, v = ((x + 1) * columns - 1) / 2, ((y + 1) * rows - 1) / 2
    total = 0.0
    for i, j in itertools.product((math.floor(v), math.floor(v) + 1), (math.floor(u), math.floor(u) + 1)):
        value = canvas[i][j] if 0 <= i < rows and 0 <= j < columns else outside
        total += (1 - abs(v - i)) * (1 - abs(u - j)) * value
    return total


def logistic(value):
    return 1 / (1 + math.exp(-value))


def pixel(decoder, placements, row, column):
    """One pixel's colours by plain arithmetic."""
    colours, height, width = decoder.image_shape
    px, py = (2 * column + 1) / width - 1, (2 * row + 1) / height - 1
    weights, shades = (
        [math.exp(GAIN * decoder.frame[0, row, column].item())],
        [[logistic(GAIN * b[row][column]) for b in decoder.background.tolist()]],
    )
    for k, (tx, ty, dx, dy, turn, shear) in enumerate(placements):
        sx, sy = (
            s * math.log1p(math.exp(4 * (1 + d / s))) / 4 for s, d in zip(decoder.size[k, 0].tolist(), (dx, dy), strict=True)
        )
        # Turned back, then shrunk.
        ox, oy = px - tx, py - ty
        bx, by = math.cos(turn) * ox + math.sin(turn) * oy, math.cos(turn) * oy - math.sin(turn) * ox
        qx, qy = bx / sx + shear * by, by / sy
        opacity = sampled((GAIN * decoder.opacity[k, 0]).tolist(), qx, qy, OUTSIDE)
        gx, gy = (sampled(part.tolist(), qx, qy, 0.0) for part in slopes(GAIN * decoder.opacity[k, 0]))
        usual = math.hypot(gx / decoder.size[k, 0, 0].item(), gy / decoder.size[k, 0, 1].item())
        # By the chain rule from the canvas to the picture. Turning back does not change its length.
        here = math.hypot(gx / sx, gx * shear + gy / sy)
        level = GAIN * decoder.level[k].item()
        opacity = level + (opacity - level) * math.sqrt((usual**2 + 100) / (here**2 + 100))
        canvas = GAIN * (decoder.texture[k] + decoder.colour[k, :, None, None])
        weights.append(math.exp(opacity))
        shades.append([logistic(sampled(channel.tolist(), qx, qy, 0.0)) for channel in canvas])
    return [sum(w * s[c] for w, s in zip(weights, shades, strict=True)) / sum(weights) for c in range(colours)]


@pytest.mark.parametrize("noise_dim", [0, 2])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 12)], ids=name)
def test_forward_equals_loops_over_pixels(shape, noise_dim):
    decoder = randomised(SpriteDecoder(shape, 3, 2, noise_dim=noise_dim, sprites=2, canvas=5, hidden=4).double())
    z, eps_x = torch.randn(3, 3, 2).double(), torch.randn(3, noise_dim).double()
    _, height, width = shape
    with torch.no_grad():
        images = decoder(z, eps_x if noise_dim else None).sigmoid()
        placements = decoder.base + decoder.effects(z).sum(2)
        if noise_dim:
            placements = placements + decoder.effects_of_noise(eps_x[:, None])[:, :, 0]
        pixels = [
            pixel(decoder, placements[:, i].tolist(), row, column)
            for i, row, column in itertools.product(range(3), range(height), range(width))
        ]
    expected = torch.tensor(pixels, dtype=torch.float64).reshape(3, height, width, -1).movedim(-1, 1)
    assert_close(images, expected, rtol=0, atol=1e-5)
    assert expected.std(0).max() > 0.05


# Effects


def test_effects_are_functions_of_their_own_concept():
    decoder = randomised(SpriteDecoder((1, 8, 8), 4, 2, sprites=3, canvas=4))
    z = torch.randn(6, 4, 2)
    before = decoder.effects(z)
    assert before.shape == (3, 6, 4, 6)
    for j in range(4):
        changed = z.clone()
        changed[:, j] = torch.randn(6, 2)
        after = decoder.effects(changed)
        others = [i for i in range(4) if i != j]
        assert torch.equal(after[:, :, others], before[:, :, others])
        assert (after[:, :, j] != before[:, :, j]).all()
    # Nor does one image's effect depend on the other images.
    assert_close(decoder.effects(z[2:3])[:, 0], before[:, 2])


def test_effects_are_linear_plus_something_bounded():
    decoder = randomised(SpriteDecoder((1, 8, 8), 2, sprites=1, canvas=4).double())
    near, far, farther = (decoder.effects(torch.full((1, 2, 1), value).double()) for value in (0.0, 1e6, 2e6))
    slope = (farther - far) / 1e6
    assert_close(slope, decoder.effects_of_concepts.linear.detach().reshape(slope.shape), rtol=1e-3, atol=1e-4)
    assert ((far - 1e6 * slope - near).abs() > 0.01).any()
    # At first there is only the linear part.
    fresh = SpriteDecoder((1, 8, 8), 2, sprites=1, canvas=4)
    one, two = fresh.effects(torch.ones(1, 2, 1)), fresh.effects(2 * torch.ones(1, 2, 1))
    assert_close(two, 2 * one)
    assert one.abs().max() < 0.2


def test_the_sum_of_the_effects_places_a_sprite():
    decoder = one_sprite((3, 32, 32), num_concepts=3)
    with torch.no_grad():
        decoder.base[..., WIDTH : HEIGHT + 1] = change_for(0.4)
    still = draw(decoder, 0.0, 0.0, 0.0)
    effect(decoder, 0, X, 2 / 32)
    effect(decoder, 1, X, 4 / 32)
    effect(decoder, 2, Y, -2 / 32)
    assert_close(draw(decoder, 1.0, 1.0, 2.0), still.roll((3, -2), (2, 1)), rtol=0, atol=1e-5)
    # One concept can make up for another.
    assert_close(draw(decoder, 2.0, -1.0, 0.0), still, rtol=0, atol=1e-5)


def test_effect_sizes():
    decoder = randomised(SpriteDecoder((1, 8, 8), 4, 2, sprites=3, canvas=4).double())
    z = torch.randn(50, 4, 2).double()
    sizes, effects = decoder.effect_sizes(z), decoder.effects(z)
    assert sizes.shape == (3, 4, 6)
    for k, j, a in itertools.product(range(3), range(4), range(6)):
        assert sizes[k, j, a].item() == pytest.approx(np.std(effects[k, :, j, a].detach().numpy()), rel=1e-5)


def test_effect_sizes_of_what_does_nothing():
    decoder = SpriteDecoder((1, 8, 8), 3, sprites=2, canvas=4)
    effect(decoder, 0, slice(None), 0.01)
    effect(decoder, 1, slice(None), 0.0)
    z = torch.randn(20, 3, 1)
    # A concept that does not vary, whatever it does.
    z[:, 2] = 5.0
    assert (decoder.effect_sizes(z[:0]) == torch.zeros(2, 3, 6)).all()
    sizes = decoder.effect_sizes(z)
    assert (sizes[:, 0].norm(dim=-1) > 5e-3).all()
    assert (sizes[:, 1:] < 1e-3).all()
    sizes.sum().backward()
    grads = [p.grad for p in decoder.effects_of_concepts.parameters()]
    assert all(torch.isfinite(g).all() for g in grads)
    assert (grads[0][:, 0] != 0).any()


# Where it starts

GROUND, SHADE = torch.tensor([0.2, 0.6, 0.3]), torch.tensor([0.9, 0.1, 0.4])


def scenes(count=120, side=32, half=3, row=-0.25):
    """Squares of ``2 half`` pixels at random along a row, and their centres, in [-1, 1]."""
    images = GROUND[:, None, None].repeat(count, 1, side, side)
    columns = torch.randint(half, side - half + 1, (count,))
    line = int((row + 1) * side / 2)
    for image, column in zip(images, columns.tolist(), strict=True):
        image[:, line - half : line + half, column - half : column + half] = SHADE[:, None, None]
    return images, 2 * columns / side - 1


def invisible(decoder):
    with torch.no_grad():
        decoder.opacity.fill_(-100 / GAIN)
    return decoder


def test_the_background_is_what_lies_behind():
    images, _ = scenes(300, 32, 4)
    # Something that covers the same place in most of the images.
    images[::5, :, 20:24, 4:9] = SHADE[:, None, None]
    images[1::5, :, 20:24, 4:9] = SHADE[:, None, None]
    images[2::5, :, 20:24, 4:9] = SHADE[:, None, None]
    decoder = invisible(SpriteDecoder.from_images(images, 3, 2, sprites=2, canvas=4, noise_dim=1))
    assert (decoder.image_shape, decoder.num_concepts, decoder.dim, decoder.noise_dim) == ((3, 32, 32), 3, 2, 1)
    drawn = decoder(torch.randn(2, 3, 2), torch.randn(2, 1)).sigmoid()
    assert_close(drawn, GROUND[:, None, None].expand(2, 3, 32, 32), rtol=0, atol=1e-3)
    assert decoder.background.requires_grad


def test_a_sprite_starts_where_something_moves():
    half, side = 4, 32
    images, centres = scenes(300, side, half)
    decoder = SpriteDecoder.from_images(images, 2, sprites=1, canvas=16)
    assert_close((GAIN * decoder.colour[0]).sigmoid(), SHADE, rtol=0, atol=0.02)
    assert decoder.base[0, 0, X].item() == pytest.approx(centres.mean().item(), abs=0.05)
    assert decoder.base[0, 0, Y].item() == pytest.approx(-0.25, abs=0.01)
    assert (decoder.base[0, 0, WIDTH:] == 0).all()
    # The square and some margin, not the stretch that it moves along.
    assert all(1.5 <= size / (2 * half / side) <= 2.5 for size in decoder.size[0, 0].tolist())
    # And so it can be seen there.
    drawn = decoder(torch.zeros(2, 1)).sigmoid()
    column = int((decoder.base[0, 0, X].item() + 1) * side / 2)
    assert (drawn[:, 12, column] - SHADE).abs().max() < 0.2
    assert (drawn[:, 28, column] - GROUND).abs().max() < 0.01


def test_every_moving_part_gets_a_sprite():
    left, right = torch.tensor([0.9, 0.9, 0.1]), torch.tensor([0.1, 0.1, 0.9])
    images = torch.zeros(100, 3, 16, 32)
    for image in images:
        for colour, (a, b), row in ((left, (0, 12), 4), (right, (16, 28), 10)):
            column = int(torch.randint(a, b, ()))
            image[:, row : row + 3, column : column + 3] = colour[:, None, None]
    decoder = SpriteDecoder.from_images(images, 2, sprites=2, canvas=4)
    order = decoder.base[:, 0, X].argsort()
    assert_close((GAIN * decoder.colour[order]).sigmoid(), torch.stack([left, right]), rtol=0, atol=0.02)
    assert decoder.base[order, 0, X].tolist() == pytest.approx([-0.56, 0.44], abs=0.1)
    assert decoder.base[order, 0, Y].tolist() == pytest.approx([-0.31, 0.44], abs=0.03)


def test_it_follows_its_part_from_the_start():
    images, centres = scenes(300, 32, 4)
    z = torch.randn(300, 2, 2)
    z[:, 1, 0] = 3 * centres + 0.5
    torch.manual_seed(0)
    plain = SpriteDecoder.from_images(images, 2, 2, canvas=4)
    torch.manual_seed(0)
    following = SpriteDecoder.from_images(images, 2, 2, canvas=4, concepts=z)
    # One part is seen, and so there is one sprite.
    assert plain.sprites == following.sprites == 1
    added = (following.effects_of_concepts.linear - plain.effects_of_concepts.linear).detach()[0]
    assert added[1, 0, X].item() == pytest.approx(1 / 3, abs=0.01)
    assert added[1, 1, X].item() == pytest.approx(0, abs=0.01)
    added[1, :, X] = 0
    assert (added == 0).all()
    # Images without concepts do not count.
    z[::3, 0] = torch.nan
    torch.manual_seed(0)
    fewer = SpriteDecoder.from_images(images, 2, 2, canvas=4, concepts=z)
    assert fewer.effects_of_concepts.linear.isfinite().all()
    assert (fewer.effects_of_concepts.linear - plain.effects_of_concepts.linear)[0, 1, 0, X].item() == pytest.approx(
        1 / 3, abs=0.01
    )
    torch.manual_seed(0)
    none = SpriteDecoder.from_images(images, 2, 2, canvas=4, concepts=torch.full_like(z, torch.nan))
    assert torch.equal(none.effects_of_concepts.linear, plain.effects_of_concepts.linear)
    with pytest.raises(ValueError, match=r"^concepts: expected shape \[300, 2, 2\], got \[300, 2, 1\]"):
        plain.initialise(images, z[..., :1])


def test_nothing_seen_takes_the_default_number():
    assert SpriteDecoder.from_images(torch.rand(1, 1, 8, 8).expand(20, -1, -1, -1), 2).sprites == 6


def test_chance_comes_from_torch_alone():
    images, _ = scenes()
    before, python = np.random.get_state(), random.getstate()  # noqa: NPY002

    def starts(seed, data=images):
        torch.manual_seed(seed)
        return SpriteDecoder.from_images(data, 2, sprites=3, canvas=4).state_dict()

    first, again = starts(0), starts(0)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert len({tuple(starts(seed)["effects_of_concepts.linear"][0, :, 0, 0].tolist()) for seed in range(5)}) > 1
    after = np.random.get_state()  # noqa: NPY002
    assert python == random.getstate()
    assert before[2:] == after[2:]
    assert np.array_equal(before[1], after[1])
    # In bytes they are the same images.
    stored = (images * 255).round().byte()
    ours, theirs = starts(1, stored), starts(1, stored.float() / 255)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert ours["background"].abs().max() < 0.2


def test_images_that_do_not_differ():
    images = torch.rand(1, 3, 8, 8).expand(20, -1, -1, -1)
    fresh = SpriteDecoder((3, 8, 8), 2, sprites=2, canvas=4)
    decoder = SpriteDecoder.from_images(images, 2, sprites=2, canvas=4)
    assert all(torch.equal(getattr(decoder, key), getattr(fresh, key)) for key in ("base", "size", "colour"))
    drawn = invisible(decoder)(torch.zeros(2, 1)).sigmoid()
    assert_close(drawn, images[0].clamp(4e-3, 1 - 4e-3), rtol=0, atol=1e-3)


def test_black_and_white_are_finite():
    images = torch.zeros(40, 1, 8, 8)
    images[..., 4:] = 1
    images[::4, :, :4, :4] = 1
    decoder = SpriteDecoder.from_images(images, 2, sprites=1, canvas=4)
    assert all(torch.isfinite(value).all() for value in decoder.state_dict().values())


@pytest.mark.parametrize("shape", [(10, 3, 16, 16), (10, 1, 8, 16), (1, 16, 16)], ids=name)
def test_images_of_another_shape(shape):
    with pytest.raises(ValueError, match=rf"^images: expected .*\[N, .*\], got \[{shape[0]}, "):
        SpriteDecoder((1, 16, 16), 2).initialise_background(torch.zeros(shape))


def test_it_starts_with_the_shape_of_its_part():
    side, count = 32, 200
    images = GROUND[:, None, None].repeat(count, 1, side, side)
    # An L that is moved and stretched, by whole pixels.
    for image in images:
        f, g, row, column = (int(torch.randint(*span, ())) for span in ((1, 4), (1, 4), (0, 14), (0, 14)))
        shape = torch.tensor([[True, False], [True, False], [True, True]]).repeat_interleave(2 * f, 0).repeat_interleave(2 * g, 1)
        image[:, row : row + 6 * f, column : column + 4 * g][:, shape] = SHADE[:, None]
    decoder = SpriteDecoder.from_images(images, 2, sprites=1, canvas=16)
    opacity = decoder.opacity[0, 0] > 0
    rows, columns = (opacity.any(d).nonzero()[:, 0] for d in (1, 0))
    box = opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = box.shape
    assert box[:, : width // 3].all()
    assert box[-height // 4 :].all()
    assert not box[: height // 2, -width // 3 :].any()


def test_it_starts_turned_as_its_part_is():
    side, count = 32, 200
    angle = 1.6 * torch.rand(count) - 0.8
    images = GROUND[:, None, None].repeat(count, 1, side, side)
    y, x = torch.meshgrid(*2 * [(2 * torch.arange(side) + 1) / side - 1], indexing="ij")
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    z = 2 * torch.rand(count, 2, 1) - 1
    z[:, 0, 0] = 2 * angle
    y = y - 0.3 * z[:, 1:]
    bar = ((cos * x + sin * y).abs() < 0.6) & ((cos * y - sin * x).abs() < 0.08)
    images = torch.where(bar[:, None], SHADE[:, None, None], images)
    decoder = SpriteDecoder.from_images(images, 2, sprites=1, canvas=16, concepts=z)
    effects = decoder.effects_of_concepts.linear.detach()[0, :, 0]
    assert effects[0, ROTATION].item() == pytest.approx(0.5, abs=0.02)
    assert effects[1, Y].item() == pytest.approx(0.3, abs=0.02)
    assert effects[:, [X, WIDTH, HEIGHT]].abs().max() < 0.01
    # Where the concepts are zero, whatever their mean is.
    assert decoder.base[0, 0, ROTATION].item() == pytest.approx(0.0, abs=0.02)
    with torch.no_grad():
        error = (decoder(z).sigmoid() - images).square().mean()
    assert error < 0.4 * (images - GROUND[:, None, None]).square().mean()


@pytest.mark.parametrize("level", [0.0, 4.0])
def test_edges_stay_sharp_and_lines_as_wide(level):
    """A band across the canvas, stretched to four times its size across."""
    decoder = SpriteDecoder((1, 64, 64), 1, sprites=1, canvas=33).double()
    away = (2 * torch.arange(33) + 1).double() / 33 - 1
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.zero_()
        decoder.colour.fill_(10 / GAIN)
        decoder.background.fill_(-10 / GAIN)
        # Twelve logits at its middle or, for a line, four.
        decoder.opacity[:] = ((level or 12) - 60 * away.abs()).clamp(min=OUTSIDE + 1) / GAIN
        decoder.level.fill_(level / GAIN)
        decoder.size.fill_(0.25)
        decoder.base[..., HEIGHT] = 10.0
    effect(decoder, 0, WIDTH, 1.0)
    profiles = [draw(decoder, z)[0, 32] for z in (0.0, 0.75)]
    widths = [profile.sum().item() for profile in profiles]
    edges = [(profile * (1 - profile)).sum().item() for profile in profiles]
    assert edges[1] == pytest.approx(edges[0], rel=0.1)
    # At the very middle of a line, which has no slope, it is stretched.
    assert widths[1] / widths[0] == pytest.approx(1.15 if level else 4, rel=0.1)


# As a part of a model


def test_it_learns_what_moves_what():
    z = torch.rand(256, 2, 1) * 2 - 1
    images = torch.full((256, 1, 16, 16), 0.3)
    for image, value in zip(images, z[:, 0, 0].tolist(), strict=True):
        column = round(6 + 6 * value)
        image[:, 5:9, column : column + 4] = 0.9
    decoder = SpriteDecoder.from_images(images, 2, sprites=1, canvas=8, hidden=8)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=0.01)
    for step in range(250):
        rows = slice(step % 4 * 64, step % 4 * 64 + 64)
        loss = 100 * (decoder(z[rows]).sigmoid() - images[rows]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        error = (decoder(z).sigmoid() - images).square().mean()
        median = (images.median(0).values - images).square().mean()
        # The best that any picture that does not move can do.
        mean = (images.mean(0) - images).square().mean()
        sizes = decoder.effect_sizes(z).norm(dim=-1)
    assert error < 0.05 * median
    assert error < 0.06 * mean
    assert sizes[0, 0] > 5 * sizes[0, 1]


def make_run(dtype=torch.float32):
    graph = CausalGraph(["a", "b", "c"], [("a", "c"), ("b", "c")])
    decoder = randomised(SpriteDecoder((3, 12, 20), 3, noise_dim=2, sprites=2, canvas=6, hidden=4))
    options = {"scm": LinearSCM, "decoder": decoder, "noise_dim": 2, "features": 16, "dtype": dtype}
    model, guide = make_pair(graph, (3, 12, 20), "endogenous", **options)
    return Run(model.eval(), guide.eval())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_saved_model_draws_the_same_images(dtype, tmp_path):
    run = make_run(dtype)
    assert "decoder.size" in run.model.state_dict()
    x = torch.rand(4, 3, 12, 20, dtype=dtype)

    def answers(run):
        return reconstruct(run.model, run.guide, x), counterfactual(run.model, run.guide, x, {"a": 0.7})

    expected = answers(run)
    save(run, tmp_path)
    restored = load(tmp_path)
    for ours, theirs in zip(answers(restored), expected, strict=True):
        assert ours.dtype == dtype
        assert torch.equal(ours, theirs)
    assert torch.equal(restored.model.decoder.size, run.model.decoder.size)
    assert not torch.equal(answers(make_run(dtype))[0], expected[0])
    assert not torch.equal(expected[0], expected[1])


def test_double_precision():
    single = randomised(SpriteDecoder((3, 8, 8), 3, noise_dim=2, sprites=2, canvas=6))
    double = SpriteDecoder((3, 8, 8), 3, noise_dim=2, sprites=2, canvas=6).double()
    double.load_state_dict(single.state_dict())
    z, eps_x = torch.randn(4, 3, 1), torch.randn(4, 2)
    output = double(z.double(), eps_x.double())
    assert output.dtype == torch.float64
    assert double.effect_sizes(z.double()).dtype == torch.float64
    assert_close(output.float().sigmoid(), single(z, eps_x).sigmoid(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("images", [torch.float32, torch.float64], ids=str)
def test_double_precision_from_the_start(images):
    data, _ = scenes(count=40)
    torch.manual_seed(0)
    single = SpriteDecoder.from_images(data, 2, sprites=2, canvas=4)
    torch.manual_seed(0)
    double = SpriteDecoder((3, 32, 32), 2, sprites=2, canvas=4).double()
    double.initialise_background(data.to(images))
    for key, value in single.state_dict().items():
        if not key.startswith("effects"):
            assert_close(double.state_dict()[key].float(), value, rtol=0, atol=1e-4)


@pytest.mark.parametrize("change", [-25.0, 25.0])
def test_extreme_sizes_stay_finite(change):
    decoder = SpriteDecoder((1, 8, 8), 2)
    with torch.no_grad():
        decoder.base[..., 2:4] = change
    image = decoder(torch.zeros(2, 2, 1))
    image.sum().backward()
    assert image.isfinite().all()
    assert all(p.grad.isfinite().all() for p in decoder.parameters())
