"""Poses of shapes whose place, size and rotation are known, and what they follow."""

import numpy as np
import pytest

from causalvae_pyro.networks.sprites.pose_effects import effects_on_poses, sparse_regression, usual_poses
from causalvae_pyro.networks.sprites.poses import find_poses

SIDE = 64
GRID = np.stack(np.meshgrid(*2 * [(2 * np.arange(SIDE) + 1) / SIDE - 1], indexing="xy"), -1)
# Half the canvas over half the length of a uniform line.
MARGIN = 3.5 / np.sqrt(3)


def boxes(centres, halves, angles):
    """Rectangles, ``[M, SIDE, SIDE]``."""
    away = GRID - centres[:, None, None]
    cos, sin = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
    x, y = cos * away[..., 0] + sin * away[..., 1], -sin * away[..., 0] + cos * away[..., 1]
    return (abs(x) <= halves[:, 0, None, None]) & (abs(y) <= halves[:, 1, None, None])


def test_upright_boxes():
    rng = np.random.default_rng(0)
    # Edges between pixels.
    corners = rng.integers(8, 24, size=(40, 2))
    sizes = rng.integers(4, 30, size=(40, 2))
    centres, halves = (2 * corners + sizes) / SIDE - 1, sizes / SIDE
    poses = find_poses(boxes(centres, halves - 1e-9, np.zeros(40)), 32)
    expected = np.concatenate([centres, MARGIN * halves, np.zeros((40, 1))], 1)
    assert poses.values == pytest.approx(expected, abs=1e-9)
    # The same box in all images.
    inside = abs((2 * np.arange(32) + 1) / 32 - 1) < 1 / MARGIN
    assert (poses.shape[np.ix_(inside, inside)] > 0.5).all()
    assert (poses.shape[np.ix_(~inside, ~inside)] < 0.5).all()
    assert poses.blur < 0.2


@pytest.mark.parametrize("around", [0.0, 1.0, np.pi / 2, -1.3])
def test_turned_boxes(around):
    rng = np.random.default_rng(0)
    angles = around + rng.uniform(-0.9, 0.9, 60)
    centres = rng.uniform(-0.3, 0.3, (60, 2))
    halves = np.tile([0.5, 0.1], (60, 1))
    poses = find_poses(boxes(centres, halves, angles), 32)
    assert poses.values[:, :2] == pytest.approx(centres, abs=0.02)
    assert poses.values[:, 2:4] == pytest.approx(MARGIN * halves, abs=0.05)
    # An axis has no direction, but all of them have the same.
    turned = poses.values[:, 4] - angles
    assert turned == pytest.approx(np.full(60, round(turned.mean() / np.pi) * np.pi), abs=0.06)


@pytest.mark.parametrize("turns", [0.3, 0.8, 2.0])
def test_hands_turn_about_a_point_as_far_as_their_concept_says(turns):
    """A clock's hand, whose axis is the same after half a turn: it used to have no rotation that follows anything."""
    rng = np.random.default_rng(0)
    z = rng.uniform(-1, 1, (200, 3, 1))
    angles = 0.7 + np.pi * turns * z[:, 1, 0]
    centres = np.array([0.2, -0.1]) + 0.3 * np.stack([np.cos(angles), np.sin(angles)], 1)
    poses = find_poses(boxes(centres, np.tile([0.3, 0.04], (200, 1)), angles), 64, z)
    assert poses.values[:, :2] == pytest.approx(np.tile([0.2, -0.1], (200, 1)), abs=0.06)
    turned = poses.values[:, 4] - angles
    assert turned == pytest.approx(np.full(200, round(turned.mean() / np.pi) * np.pi), abs=0.1)
    assert sparse_regression(z, poses.values[:, 4])[:, 0] == pytest.approx([0, np.pi * turns, 0], abs=0.05)
    # The hand is on one side of the canvas' middle.
    halves = sorted([poses.shape[:, :32].sum(), poses.shape[:, 32:].sum()])
    assert halves[0] < 0.05 * halves[1]


@pytest.mark.parametrize("spoilt", [0, 5])
def test_a_wind_sock_grows_from_the_point_that_it_turns_about(spoilt):
    """Its middle used to be told to follow rotation and length, by sums: where it lies is their product.

    In a few images it is before something of its colour, and its mask is half of the image.
    """
    rng = np.random.default_rng(0)
    z = rng.uniform(-1, 1, (200, 2, 1))
    angles, half = 0.9 * z[:, 0, 0], 0.25 + 0.1 * z[:, 1, 0]
    centres = np.array([-0.5, 0.1]) + half[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    masks = boxes(centres, np.stack([half, np.full(200, 0.06)], 1), angles)
    masks[:spoilt, :, 20:] = True
    poses = find_poses(masks, 32, z)
    assert poses.values[spoilt:, :2] == pytest.approx(np.tile([-0.5, 0.1], (200 - spoilt, 1)), abs=0.05)
    usual = usual_poses(z, poses.values)
    assert not usual[:spoilt].any()
    assert usual[spoilt:].mean() > 0.98
    effects = effects_on_poses(z[usual], poses.values[usual])[:, 0]
    expected = np.zeros((2, 5))
    # Of a canvas that reaches to both sides of the point.
    expected[0, 4], expected[1, 2] = 0.9, (1 + MARGIN) * 0.1
    assert effects == pytest.approx(expected, abs=0.03)


def test_what_many_poses_do_is_usual():
    rng = np.random.default_rng(0)
    z = rng.uniform(-1, 1, (200, 2, 1))
    values = 0.2 * z[:, :1, 0] + 0.01 * rng.normal(size=(200, 5))
    assert usual_poses(z, values).all()
    values[:6] += 0.5
    assert usual_poses(z, values).tolist() == [False] * 6 + [True] * 194
    values[6:30] += 0.5
    assert usual_poses(z, values).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_what_rises_from_a_floor_leaves_the_floor(axis):
    """A flame below a balloon that follows it: nearly all that its middle does is told by the balloon's height alone."""
    rng = np.random.default_rng(0)
    flame = rng.uniform(-1, 1, 200)
    height = flame + rng.uniform(-0.4, 0.4, 200)
    z = np.stack([flame, height], 1)[..., None]
    floor, top = 0.3 * height, 0.3 * height + 0.1 + 0.06 * flame
    values = np.zeros((200, 5))
    values[:, axis], values[:, 2 + axis] = (floor + top) / 2, MARGIN * (top - floor) / 2
    values += 0.004 * rng.normal(size=(200, 5)) * (np.arange(5) < 4)
    effects = effects_on_poses(z, values)[:, 0]
    expected = np.zeros((2, 5))
    expected[:, axis], expected[0, 2 + axis] = [0.03, 0.3], MARGIN * 0.03
    assert effects == pytest.approx(expected, abs=0.005)


def test_what_is_told_of_the_size_is_kept():
    """Two concepts place it and a third makes it larger: edges, which have two concepts at most, would lose that."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 3, 1))
    values = np.zeros((300, 5))
    values[:, 0] = 0.5 * z[:, 0, 0] + 0.12 * z[:, 1, 0]
    values[:, 2] = 0.3 + 0.1 * z[:, 2, 0]
    values[:, :4] += 0.002 * rng.normal(size=(300, 4))
    effects = effects_on_poses(z, values)[:, 0]
    assert effects[:, 2] == pytest.approx([0, 0, 0.1], abs=0.01)
    # Along the axes of what turns there is no floor.
    values[:, 1], values[:, 3] = 0.05 * z[:, 0, 0] + 0.02 * z[:, 1, 0], 0.2 + 0.04 * z[:, 1, 0]
    assert effects_on_poses(z, values)[1, 0, 1] == pytest.approx(0.02, abs=0.005)
    values[:, 4] = 0.5 * z[:, 2, 0]
    assert effects_on_poses(z, values)[0, 0, 1] == pytest.approx(0.05, abs=0.01)


def test_what_grows_wherever_it_is_grows_with_its_concept():
    """Nothing says where it lies, so nothing says where its edges do."""
    rng = np.random.default_rng(0)
    z = rng.uniform(-1, 1, (200, 2, 1))
    values = np.zeros((200, 5))
    values[:, :2], values[:, 2] = rng.uniform(-0.6, 0.6, (200, 2)), 0.2 + 0.05 * z[:, 1, 0]
    expected = np.zeros((2, 5))
    expected[1, 2] = 0.05
    assert effects_on_poses(z, values)[:, 0] == pytest.approx(expected, abs=1e-6)


def test_what_turns_where_it_is_has_no_other_point():
    rng = np.random.default_rng(0)
    angles, centres = rng.uniform(-0.9, 0.9, 60), rng.uniform(-0.3, 0.3, (60, 2))
    poses = find_poses(boxes(centres, np.tile([0.5, 0.1], (60, 1)), angles), 32, rng.normal(size=(60, 2, 1)))
    assert poses.values[:, :2] == pytest.approx(centres, abs=0.02)


@pytest.mark.parametrize("slide", [0.3, 0.5])
def test_what_slides_as_it_tilts_has_no_point_far_away(slide):
    z = np.random.default_rng(0).uniform(-1, 1, (100, 1, 1))
    centres = np.stack([0 * z[:, 0, 0], slide * z[:, 0, 0]], 1)
    poses = find_poses(boxes(centres, np.tile([0.3, 0.05], (100, 1)), 0.6 * z[:, 0, 0]), 32, z)
    assert poses.values[:, 2:4].max() < 0.75
    assert poses.values[:, 4] == pytest.approx(0.6 * z[:, 0, 0], abs=0.06)


@pytest.mark.parametrize("values", [2, 3, 5])
def test_few_values_turn_no_farther_than_is_seen(values):
    """Equally spaced values are turned back by many rates alike; the fastest used to be as good as any."""
    z = np.random.default_rng(0).integers(0, values, (100, 1, 1)) / (values - 1.0)
    angles = 0.8 * z[:, 0, 0]
    poses = find_poses(boxes(np.zeros((100, 2)), np.tile([0.4, 0.08], (100, 1)), angles), 32, z)
    assert poses.values[:, 4] == pytest.approx(angles, abs=0.06)


def test_what_looks_the_same_when_turned_is_upright():
    centres = np.random.default_rng(0).uniform(-0.4, 0.4, (40, 2))
    discs = ((GRID - centres[:, None, None]) ** 2).sum(-1) < 0.2**2
    assert (find_poses(discs, 16).values[:, 4] == 0).all()


def test_single_pixels():
    masks = np.zeros((3, 8, 8), bool)
    masks[:, 2, 5] = True
    poses = find_poses(masks, 4)
    assert poses.values == pytest.approx(np.tile([0.375, -0.375, MARGIN / 8, MARGIN / 8, 0], (3, 1)))
    assert np.isfinite(poses.blur)


def test_sparse_regression_chooses_few():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(500, 4, 2))
    z[:, 3] = z[:, 0] + z[:, 1] + 0.1 * z[:, 3]
    for weights in ({0: (2.0, 0.0)}, {3: (0.5, -1.0)}, {1: (1.0, 1.0), 2: (-2.0, 0.5)}):
        value = 3.0 + sum(z[:, j] @ np.array(w) for j, w in weights.items())
        found = sparse_regression(z, value + 0.01 * rng.normal(size=500))
        expected = np.zeros((4, 2))
        for j, w in weights.items():
            expected[j] = w
        assert found == pytest.approx(expected, abs=0.02)


def test_sparse_regression_of_nothing():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(500, 3, 1))
    for value in (rng.normal(size=500), np.full(500, 2.0), z[:, 0, 0] + 2 * rng.normal(size=500)):
        assert (sparse_regression(z, value) == 0).all()
    assert sparse_regression(z[:, :1], 2 * z[:, 0, 0]) == pytest.approx(np.array([[2.0]]))
