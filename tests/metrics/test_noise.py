"""The share of the images that the labels leave unexplained."""

import pytest
import torch

from causalvae_pyro.metrics import noise_share


def images_of(labels, noise, seed=0):
    """A blob whose place and brightness follow two labels, and pixel noise of so large a share of the variance."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.linspace(-1, 1, 12)
    x = (-8 * ((grid[None, :, None] - labels[:, 0, None, None]) ** 2 + grid[None, None, :] ** 2)).exp()
    x = x * (1 + labels[:, 1, None, None]) / 2
    variance = (x - x.mean(0)).square().mean()
    own = torch.randn(len(labels), 12, 12, generator=generator) * (variance * noise / (1 - noise)).sqrt()
    # Mapped into [0, 1], which leaves shares as they are.
    return (0.3 + (x + own) / 8).clamp(0, 1)[:, None]


@pytest.mark.parametrize("noise", [0.0, 0.3, 0.9])
def test_the_share_of_known_noise(noise):
    labels = 2 * torch.rand(2000, 2, generator=torch.Generator().manual_seed(1)) - 1
    assert noise_share(images_of(labels, noise), labels) == pytest.approx(noise, abs=0.03)


def test_classes_have_equal_neighbours():
    labels = torch.randint(0, 2, (1000, 2), generator=torch.Generator().manual_seed(1)).float()
    assert noise_share(images_of(labels, 0.6), labels) == pytest.approx(0.6, abs=0.03)


def test_labels_that_say_nothing_and_images_that_are_alike():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randn(300, 3, generator=generator)
    assert noise_share(torch.rand(300, 1, 8, 8, generator=generator), labels) > 0.95
    assert noise_share(torch.full((300, 1, 8, 8), 0.5), labels) == 0.0


def test_missing_labels_are_left_out():
    labels = 2 * torch.rand(400, 2, generator=torch.Generator().manual_seed(1)) - 1
    images = images_of(labels, 0.0)
    known = noise_share(images[:200], labels[:200])
    labels[200:, 1] = torch.nan
    images[200:] = torch.rand(200, 1, 12, 12)
    assert noise_share(images, labels) == known
    with pytest.raises(ValueError, match=r"^labels: 0 images have all of them; the noise share takes at least 11"):
        noise_share(images, torch.full_like(labels, torch.nan))


def test_what_a_group_has_in_common_is_explained():
    generator = torch.Generator().manual_seed(2)
    labels, groups = 2 * torch.rand(1200, 2, generator=generator) - 1, torch.arange(1200) % 40
    images = images_of(labels, 0.2)
    background = 0.3 * torch.rand(40, 1, 12, 12, generator=generator)
    shared = (0.5 * images + background[groups]).clamp(0, 1)
    # The known noise of a fifth of the first part's variance, as a share of the whole.
    own = 0.2 * (0.5 * images).var(0, correction=0).mean() / shared.var(0, correction=0).mean()
    assert noise_share(shared, labels, groups=100 - groups) == pytest.approx(own.item(), abs=0.03)
    assert noise_share(shared, labels) > 2 * own
    # Groups that are too small do not count; they alone are refused.
    few = torch.where(groups < 20, groups, torch.arange(1200) + 40)
    assert noise_share(shared, labels, groups=few) == pytest.approx(own.item(), abs=0.06)
    with pytest.raises(ValueError, match=r"^groups: none has 11 images with all labels"):
        noise_share(shared, labels, groups=torch.arange(1200) // 10)
