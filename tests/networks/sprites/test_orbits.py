"""Parts that go around a point."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from causalvae_pyro.networks import SceneDecoder
from causalvae_pyro.networks.sprites.orbits import find_orbit
from causalvae_pyro.networks.sprites.segmentation import Part
from causalvae_pyro.networks.sprites.start import Start


def discs(centres, radius=0.2, side=48):
    line = (2 * np.arange(side) + 1) / side - 1
    return (line - centres[:, :1, None]) ** 2 + (line[:, None] - centres[:, 1:, None]) ** 2 < radius**2


def turned(arm, angles):
    cos, sin = np.cos(angles), np.sin(angles)
    return np.stack([cos * arm[:, 0] - sin * arm[:, 1], sin * arm[:, 0] + cos * arm[:, 1]], 1)


@pytest.mark.parametrize("dim", [1, 2])
def test_a_bead_on_an_arm_that_swings(dim):
    rng = np.random.default_rng(0)
    z = rng.uniform(-1.5, 1.7, (200, 3, dim))
    first, last = z[:, 2, 0], z[:, 0, dim - 1]
    angles = 0.3 + 0.5 * first
    arm = np.stack([0.1 + 0.0 * last, -0.7 - 0.15 * last], 1)
    point = np.array([0.1, 0.6])
    centres = point + turned(arm, angles)
    found = find_orbit(discs(centres), 16, z)
    assert found is not None
    # Where an angle and an arm are counted from is free: what counts is where the part is.
    said = found.angle + (z * found.turns).sum((1, 2))
    there = found.point + turned(found.arm + np.einsum("mnd,nde->me", z, found.slides), said)
    assert np.abs(there - centres).max() < 0.04
    assert_allclose(found.point, point, atol=0.05)
    assert_allclose(found.turns[2, 0], 0.5, atol=0.03)
    assert np.count_nonzero(found.turns) == 1
    assert_allclose(np.linalg.norm(found.slides[0, dim - 1]), 0.15, atol=0.02)
    assert_allclose(found.size, 0.35, atol=0.1)
    assert found.shape[8, 8] > 0.9 > 0.1 > found.shape[0, 0]


def test_straight_paths_and_small_ones_are_no_orbits():
    rng = np.random.default_rng(0)
    z = rng.uniform(-1.7, 1.7, (200, 2, 1))
    straight = np.stack([0.1 + 0.3 * z[:, 0, 0], 0.2 + 0.2 * z[:, 1, 0]], 1)
    assert find_orbit(discs(straight), 16, z) is None
    assert find_orbit(discs(0.01 * straight), 16, z) is None
    # Nothing says where it is.
    assert find_orbit(discs(rng.uniform(-0.5, 0.5, (200, 2))), 16, z) is None


def test_what_goes_around_without_turning_is_not_turned():
    rng = np.random.default_rng(0)
    z = rng.uniform(-1.7, 1.7, (200, 1, 1))
    centres = np.array([0.0, 0.5]) + turned(np.tile([0.0, -0.9], (200, 1)), 0.5 * z[:, 0, 0])
    line = (2 * np.arange(48) + 1) / 48 - 1
    flat = (np.abs(line - centres[:, :1, None]) < 0.3) & (np.abs(line[:, None] - centres[:, 1:, None]) < 0.08)
    start = Start(200, torch.arange(200), torch.full((1, 48, 48), 0.9), [Part(np.array([0.1]), np.arange(200), flat)])
    concepts = torch.as_tensor(z).float()
    for masks, slid in ((flat, False), (discs(centres), True)):
        start.parts = [Part(np.array([0.1]), np.arange(200), masks)]
        decoder = SceneDecoder.from_start(start, (1, 48, 48), 1, concepts=concepts, slides=True)
        assert bool(decoder.slide.abs().max() > 0.1) == slid
