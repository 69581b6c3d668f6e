"""Parts of scenes: squares of known colour, place and size."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.networks.sprites.moving_parts import _is_edge, find_missed_parts, find_moving_parts
from causalvae_pyro.networks.sprites.poses import find_poses
from causalvae_pyro.networks.sprites.segmentation import Part, find_background, find_parts
from tests.networks.sprites.scenes import bead_on_an_arm, before_backgrounds

RED, BLACK, PINK = (0.9, 0.1, 0.1), (0.0, 0.0, 0.0), (0.95, 0.55, 0.55)


def squares(count=60, side=32):
    """A red square, and two black ones of which one is always below the other; their corners."""
    images = torch.ones(count, 3, side, side)
    corners = {}
    for name, colour, rows, size in (("red", RED, (0, 5), 6), ("high", BLACK, (12, 14), 3), ("low", BLACK, (24, 26), 5)):
        corners[name] = torch.stack([torch.randint(*rows, (count,)), torch.randint(0, side - size, (count,))], 1)
        for image, (row, column) in zip(images, corners[name].tolist(), strict=True):
            image[:, row : row + size, column : column + size] = torch.tensor(colour)[:, None, None]
    return images, corners


def test_each_square_is_a_part():
    images, corners = squares()
    parts = find_parts(images, images.median(0).values)
    assert len(parts) == 3
    # The largest first: 36, 25 and 9 pixels.
    for part, (name, size, colour) in zip(parts, (("red", 6, RED), ("low", 5, BLACK), ("high", 3, BLACK)), strict=True):
        assert part.colour == pytest.approx(np.array(colour), abs=0.02)
        assert part.images.tolist() == list(range(60))
        for mask, (row, column) in zip(part.masks, corners[name].tolist(), strict=True):
            assert mask[row : row + size, column : column + size].all()
            assert mask.sum() == size**2
        assert part.pixels == 60 * size**2


def test_edges_specks_and_rare_parts_are_left_out():
    images, corners = squares()
    for image, (row, column) in zip(images, corners["red"].tolist(), strict=True):
        # Half red, half white.
        image[:, row + 6, column : column + 6] = torch.tensor(PINK)[:, None]
    images[:, 2, 20, 16] = images[:, 1, 20, 16] = 0.0
    images[:5, :, 18:22, 2:6] = torch.tensor([0.1, 0.1, 0.9])[:, None, None]
    parts = find_parts(images, torch.ones(3, 32, 32))
    assert [round(float(part.colour[2]), 1) for part in parts] == [0.1, 0.0, 0.0]


def test_parts_of_different_greys():
    """A shadow's grey lies between those of the wall and of what throws it: it used to be taken for an edge, or for the same."""
    images = torch.full((60, 1, 32, 32), 0.9)
    for image in images:
        for row, level in ((4, 0.1), (20, 0.5)):
            column = int(torch.randint(0, 26, ()))
            image[:, row : row + 6, column : column + 6] = level
    parts = find_parts(images, torch.full((1, 32, 32), 0.9))
    assert sorted(float(part.colour[0]) for part in parts) == pytest.approx([0.1, 0.5], abs=0.02)
    assert all(part.pixels == 60 * 36 for part in parts)


@pytest.mark.parametrize("change", [0.0, 0.1])
def test_images_alike_have_no_parts(change):
    images = torch.rand(1, 3, 16, 16).expand(20, -1, -1, -1) * (1 - change * torch.rand(20, 1, 1, 1))
    assert find_parts(images, images.median(0).values) == []


def test_noise_and_few_images():
    for count in (1, 2, 40):
        images = torch.rand(count, 1, 16, 16)
        for part in find_parts(images, torch.full((1, 16, 16), 0.5)):
            assert len(part.masks) == len(part.images)
            assert part.masks.any((1, 2)).all()


def test_the_pendulums_four_things():
    data = Pendulum("train", size=64)
    chosen = torch.arange(100) * len(data) // 100
    images = data.images[chosen].float() / 255
    parts = find_parts(images, find_background(images))
    assert len(parts) == 4
    # Light, bob, rod and shadow, each in all the images.
    assert all(len(part.images) == 100 for part in parts)
    poses = [find_poses(part.masks, 8).values for part in parts]
    shadow = max(poses, key=lambda values: values[:, 1].mean())
    position = data.labels[chosen, data.graph.index("shadow_position")].numpy()
    assert np.corrcoef(shadow[:, 0], position)[0, 1] > 0.999
    # The rod is the one that turns.
    angle = data.labels[chosen, data.graph.index("pendulum")].numpy()
    turning = [values for values in poses if values[:, 4].std() > 0]
    assert len(turning) == 1
    assert abs(np.corrcoef(turning[0][:, 4], angle)[0, 1]) > 0.99


def test_water_rises_over_its_lowest_level():
    """Background is what is seen behind things, not what is seen most of the time."""
    count, side = 200, 16
    images = torch.ones(count, 3, side, side)
    levels = torch.arange(count) % 10 + 3
    blue, black = torch.tensor([0.5, 0.8, 1.0]), torch.zeros(3)
    for image, level in zip(images, levels.tolist(), strict=True):
        image[:, side - level :, 4:12] = blue[:, None, None]
    images[:, :, :, 2] = black[:, None]
    # A hole in the wall, now and then.
    images[::10, :, 8, 2] = 1.0
    background = find_background(images)
    expected = torch.ones(3, side, side)
    expected[:, side - 4 :, 4:12] = blue[:, None, None]
    expected[:, :, 2] = black[:, None]
    # A fifth of the images are at most at the second of ten levels.
    assert torch.equal(background, expected)
    (water,) = find_parts(images, background)
    assert water.colour == pytest.approx(blue.numpy(), abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 3, 8, 12), (50, 1, 8, 8)])
def test_the_background_of_noise_is_finite(shape):
    images = torch.rand(shape)
    background = find_background(images)
    assert background.shape == shape[1:]
    assert ((background >= 0) & (background <= 1)).all()


def test_the_background_of_one_image_is_the_image():
    image = torch.rand(1, 3, 8, 8)
    assert torch.allclose(find_background(image), image[0], atol=1e-6)


def test_what_the_concepts_move_before_any_background():
    images, z, masks = before_backgrounds()
    torch.manual_seed(0)
    (disc,) = find_moving_parts(images, z.double().numpy())
    assert disc.colour == pytest.approx(np.array([0.9, 0.05, 0.05]), abs=0.02)
    assert disc.images.tolist() == list(range(len(images)))
    assert np.array_equal(disc.masks, masks.numpy())
    # Found in the images that have all their concepts, by their own numbers.
    z[::4, 1] = torch.nan
    (disc,) = find_moving_parts(images, z.double().numpy())
    assert disc.images.tolist() == [i for i in range(len(images)) if i % 4]
    assert np.array_equal(disc.masks, masks.numpy()[disc.images])


def test_what_follows_no_concept_is_background():
    images, z, masks = before_backgrounds()
    concepts = z.double().numpy()
    other = np.random.default_rng(0).permutation(concepts)
    assert find_moving_parts(images, other) == []
    # It is there, and the same in each image.
    still = torch.where(masks[:1, None], images[:1], before_backgrounds(seed=2)[0])
    assert find_moving_parts(still, concepts) == []
    assert find_moving_parts(images, np.full_like(concepts, np.nan)) == []
    for colours in (1, 3):
        assert find_moving_parts(torch.rand(100, colours, 16, 16), concepts[:100]) == []
    # Too few to tell.
    assert find_moving_parts(images[:30], concepts[:30]) == []


def test_what_grows_is_found_too():
    images, z, _ = before_backgrounds()
    for image, value in zip(images, z[:, 0, 0].tolist(), strict=True):
        image[:, :, :] = torch.where(image[0] > 0.85, image.new_tensor([0.1, 0.5, 0.9])[:, None, None], image)
        image[:, 2 : 6 + round(3 * value), 1:4] = 0.02
    parts = find_moving_parts(images, z.double().numpy())
    assert [part.colour.max() < 0.1 for part in parts].count(True) == 1


def test_what_is_drawn_wrong_and_follows_the_concepts_is_missed():
    """A bead whose middle lies on an arm of its colour is one part, and not one on each side of it."""
    images, z, bead = bead_on_an_arm()
    drawn = torch.where(bead[:, None], 0.8, images)
    nothing, concepts = torch.zeros_like(images), z.double().numpy()
    torch.manual_seed(0)
    (part,) = find_missed_parts(images, drawn, nothing, concepts)
    assert len(part.images) > 190
    assert part.follows.all()
    assert_allclose(part.colour, [0.05], atol=0.02)
    covered = torch.as_tensor(part.masks)
    of_bead = bead[torch.as_tensor(part.images)]
    assert (covered & of_bead).sum() > 0.9 * of_bead.sum()
    # Light explains it, it is drawn right, or nothing says where it is.
    assert not find_missed_parts(images, drawn, images - drawn, concepts)
    assert not find_missed_parts(images, images, nothing, concepts)
    assert not find_missed_parts(images, drawn, nothing, torch.randn_like(z).double().numpy())
    # What lies at the image's edge is no smaller for it.
    edge = torch.zeros_like(images)
    edge[:, :, :4, :5] = 1.0
    edge = torch.where(torch.arange(len(edge))[:, None, None, None] % 2 == 0, edge, edge.roll(6, 3))
    column = torch.where(torch.arange(len(edge)) % 2 == 0, -1.0, 1.0)[:, None, None].double().numpy()
    (part,) = find_missed_parts(edge, nothing, nothing, column)
    assert (part.masks.sum((1, 2)) == 20).all()


def test_what_is_small_is_found_next_to_what_moves():
    """A tongue of six to fourteen pixels, a 500th of the image, below a disc; its length follows a concept of its own."""
    images, z, masks = before_backgrounds(side=72)
    length = torch.randint(3, 8, (len(z),), generator=torch.Generator().manual_seed(0))
    z = torch.cat([z, (length[:, None, None] - 5) / 2], 1)
    tongues = torch.zeros_like(masks)
    for image, mask, tongue, long in zip(images, masks, tongues, length.tolist(), strict=True):
        below, middle = int(mask.any(1).nonzero().max()) + 1, int(mask.any(0).nonzero().float().mean())
        tongue[below + 1 : below + 1 + long, middle : middle + 2] = True
        image[:, tongue] = torch.tensor([1.0, 0.6, 0.0])[:, None]
        # Blurred between both.
        image[:, below, middle : middle + 2] = torch.tensor([0.95, 0.33, 0.02])[:, None]
    concepts = z.double().numpy()
    torch.manual_seed(0)
    disc, tongue = find_moving_parts(images, concepts)
    assert np.array_equal(disc.masks, masks.numpy())
    assert tongue.follows[2]
    assert not disc.follows[2]
    assert len(tongue.images) > 0.8 * len(images)
    assert np.array_equal(tongue.masks, tongues.numpy()[tongue.images])
    # Among all pixels it is too few, and what follows only what it is next to is its edge.
    concepts[:, 2] = np.random.default_rng(0).permutation(concepts[:, 2])
    assert len(find_moving_parts(images, concepts)) == 1


def test_a_blurred_edge_between_two_parts_is_none():
    """Yellow in red, with a ring between them that is half of each: both follow the concepts, and so does the ring."""
    images, z, masks = before_backgrounds(side=32)
    y, x = (torch.stack([(mask.nonzero()[:, axis].float().mean()) for mask in masks]) for axis in (0, 1))
    line = torch.arange(32.0)
    away = (line - x[:, None, None]).square() + (line[:, None] - y[:, None, None]).square()
    yellow, ring = away < 2.9**2, (away < 3.7**2) & (away >= 2.9**2)
    images = torch.where(yellow[:, None], torch.tensor([0.95, 0.9, 0.05])[:, None, None], images)
    for colour, count in (((0.925, 0.475, 0.05), 2), ((0.05, 0.05, 0.05), 3)):
        drawn = torch.where(ring[:, None], torch.tensor(colour)[:, None, None], images)
        torch.manual_seed(0)
        parts = find_moving_parts(drawn, z.double().numpy())
        # A ring of a colour of its own is a part.
        assert len(parts) == count


def test_what_follows_a_concept_of_its_own_is_no_edge():
    """Orange between red and yellow, along both: a slider, or their blurred edge."""
    masks = np.zeros((3, 50, 8, 8), bool)
    masks[0, :, :3], masks[1, :, 4:], masks[2, :, 3, 2:6] = True, True, True
    colours = ([1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.5, 0.0])
    follows = ([True, False], [True, False], [True, False])
    red, yellow, orange = (
        Part(np.array(c), np.arange(50), m, np.array(f)) for c, m, f in zip(colours, masks, follows, strict=True)
    )
    assert _is_edge(orange, [red, yellow, orange])
    assert not _is_edge(replace(orange, follows=np.array([True, True])), [red, yellow, orange])
    # It lies along one of them only, or is between no two.
    away = replace(red, masks=np.roll(red.masks, -2, 1))
    assert not _is_edge(orange, [away, yellow, orange])
    assert not _is_edge(orange, [yellow, orange])
    assert not _is_edge(replace(orange, colour=np.array([0.0, 0.0, 1.0])), [red, yellow, orange])
