"""Parts of scenes: squares of known colour, place and size."""

import numpy as np
import pytest
import torch

from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.networks.segments import find_parts, sparse_regression

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


def centre(corners, size, side=32):
    """x and y in [-1, 1]."""
    return ((2 * corners + size).double() / side - 1).flip(1).numpy()


def test_each_square_is_a_part():
    images, corners = squares()
    parts = find_parts(images, images.median(0).values)
    assert len(parts) == 3
    # The largest first: 36, 25 and 9 pixels.
    for part, (name, size, colour) in zip(parts, (("red", 6, RED), ("low", 5, BLACK), ("high", 3, BLACK)), strict=True):
        assert part.colour == pytest.approx(np.array(colour), abs=0.02)
        assert part.images.tolist() == list(range(60))
        assert part.centres == pytest.approx(centre(corners[name], size), abs=1e-6)
        assert part.spreads == pytest.approx(np.full((60, 2), np.sqrt((size**2 - 1) / 12) / 16), abs=1e-6)
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


@pytest.mark.parametrize("change", [0.0, 0.1])
def test_images_alike_have_no_parts(change):
    images = torch.rand(1, 3, 16, 16).expand(20, -1, -1, -1) * (1 - change * torch.rand(20, 1, 1, 1))
    assert find_parts(images, images.median(0).values) == []


def test_noise_and_few_images():
    for count in (1, 2, 40):
        images = torch.rand(count, 1, 16, 16)
        for part in find_parts(images, torch.full((1, 16, 16), 0.5)):
            assert np.isfinite(part.centres).all()
            assert np.isfinite(part.spreads).all()


def test_the_pendulums_four_things():
    data = Pendulum("train", size=64)
    chosen = torch.arange(100) * len(data) // 100
    images = data.images[chosen].float() / 255
    parts = find_parts(images, images.median(0).values)
    assert len(parts) == 4
    # Light, bob, rod and shadow, each in all the images.
    assert all(len(part.images) == 100 for part in parts)
    shadow = max(parts, key=lambda part: part.centres[:, 1].mean())
    position = data.labels[chosen, data.graph.index("shadow_position")].numpy()
    assert np.corrcoef(shadow.centres[:, 0], position)[0, 1] > 0.999


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
