"""Layers drawn where they reach are the same as layers drawn everywhere."""

import pytest
import torch
from torch.testing import assert_close

from causalvae_pyro.networks import SpriteDecoder, sampling
from causalvae_pyro.networks.sprites import compositing
from causalvae_pyro.networks.sprites import decoder as sprites
from causalvae_pyro.networks.sprites.windows import pixel_windows


def small_sprites(shape, noise_dim=0):
    """Sprites of all sizes, turned and sheared, some beyond the picture's edges."""
    decoder = SpriteDecoder(shape, 2, noise_dim=noise_dim, sprites=4, canvas=8).double()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
        decoder.base[..., :2] = torch.tensor([[0.0, 0.0], [0.9, -0.4], [-1.05, 0.2], [0.3, 1.4]])[:, None]
        decoder.base[..., 5] = torch.randn(4, 1)
        decoder.size.copy_(torch.tensor([[0.2, 0.5], [0.06, 0.06], [0.4, 0.1], [0.3, 0.9]])[:, None])
    return decoder


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 11, 17)], ids=str)
@pytest.mark.parametrize("noise_dim", [0, 2])
def test_drawn_in_windows_and_everywhere(shape, noise_dim, monkeypatch):
    decoder = small_sprites(shape, noise_dim)
    inputs = [torch.randn(9, 2, 1).double().requires_grad_()]
    inputs += [torch.randn(9, noise_dim).double().requires_grad_()] if noise_dim else []
    variables, probe = [*inputs, *decoder.parameters()], torch.randn(9, *shape).double()
    found = decoder(*inputs)
    gradients = torch.autograd.grad((found * probe).sum(), variables)
    widths = []
    windows = compositing.pixel_windows
    monkeypatch.setattr(compositing, "pixel_windows", lambda *a: widths.append(windows(*a).shape[-1]))
    expected = decoder(*inputs)
    assert min(widths) < min(shape[1:]) / 2
    assert_close(found, expected, atol=1e-12, rtol=1e-12)
    for own, other in zip(gradients, torch.autograd.grad((expected * probe).sum(), variables), strict=True):
        assert_close(own, other, atol=1e-9, rtol=1e-9)


def test_all_layers_at_once_and_one_by_one(monkeypatch):
    """As on accelerators, and with the interpolation of deterministic algorithms there."""
    decoder = small_sprites((3, 32, 32))
    inputs = torch.randn(9, 2, 1).double().requires_grad_()
    variables, probe = [inputs, *decoder.parameters()], torch.randn(9, 3, 32, 32).double()
    expected = decoder(inputs)
    gradients = torch.autograd.grad((expected * probe).sum(), variables)
    monkeypatch.setattr(compositing, "pixel_windows", lambda *a: None)
    monkeypatch.setattr(sprites, "render_layers", lambda *a: [compositing._draw(*a)])
    for sample in (sampling.sample_images, sampling._sample_in_order):
        monkeypatch.setattr(compositing, "sample_images", sample)
        found = decoder(inputs)
        assert_close(found, expected, atol=1e-12, rtol=1e-12)
        for own, other in zip(torch.autograd.grad((found * probe).sum(), variables), gradients, strict=True):
            assert_close(own, other, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("count", [1, 7, 64])
def test_all_pixels_within_reach(count):
    centre, reach = 4 * torch.rand(500) - 2, torch.rand(500) ** 3
    places = (2 * torch.arange(count) + 1) / count - 1
    for batch in (slice(0, 500), slice(0, 1), slice(3, 9)):
        windows = pixel_windows(centre[batch], reach[batch], count)
        assert windows.min() >= 0
        assert windows.max() < count
        assert (windows.diff(dim=1) == 1).all()
        inside = (places - centre[batch, None]).abs() <= reach[batch, None]
        covered = torch.zeros_like(inside).scatter(1, windows, True)
        assert not (inside & ~covered).any()
        # No more than the furthest reach takes.
        assert windows.shape[1] <= max(1, inside.sum(1).max().item() + 1)


def test_accelerators_wait_for_no_number():
    """A tensor on the meta device has no values to look at."""
    centre = torch.empty(5, device="meta")
    assert pixel_windows(centre, centre, 7) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
def test_one_place_that_is_no_number_among_others(value):
    centre, reach = torch.tensor([0.1, value, -0.4]), torch.full((3,), 0.2)
    windows = pixel_windows(centre, reach, 16)
    assert windows.min() >= 0
    assert windows.max() < 16
    for row in (0, 2):
        places = (2 * windows[row] + 1) / 16 - 1
        inside = ((2 * torch.arange(16) + 1) / 16 - 1 - centre[row]).abs() <= 0.2
        assert ((places - centre[row]).abs() <= 0.2).sum() == inside.sum()


def test_no_images():
    assert pixel_windows(torch.zeros(0), torch.zeros(0), 5).shape == (0, 1)
    assert SpriteDecoder((1, 8, 8), 2)(torch.zeros(0, 2, 1)).shape == (0, 1, 8, 8)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_places_that_are_no_numbers(value):
    decoder = SpriteDecoder((1, 8, 8), 1, sprites=1)
    with torch.no_grad():
        decoder.base[..., 0] = value
    image = decoder(torch.zeros(3, 1, 1))
    assert image.shape == (3, 1, 8, 8)
    # A diverged model does not pass for a whole one.
    assert not torch.isfinite(image).all() or value == 1e30
