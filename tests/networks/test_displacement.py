"""Displacement fields: what moves without being cut out."""

import pytest
import torch
from torch.testing import assert_close

from causalvae_pyro.networks import Displacement, SceneDecoder
from causalvae_pyro.networks.sampling import _sample_in_order, sample_images


def set_linear(net, *shifts):
    """Each concept displaces everything by so much of half a side along x and y."""
    with torch.no_grad():
        net.fields.pictures.zero_()
        for picture, shift in zip(net.fields.pictures, shifts, strict=False):
            picture.copy_((torch.tensor(shift) / 0.1)[:, None].expand(2, picture.numel() // 2).flatten())
    return net


@pytest.mark.parametrize("shape", [(3, 9, 12), (1, 16, 16), (3, 1, 5)], ids=str)
def test_starts_as_the_identity(shape):
    net = Displacement(shape, 2, 3, grid=4)
    x = torch.randn(5, *shape)
    assert_close(net(x, torch.randn(5, 2, 3)), x)


def test_units_and_directions():
    """A concept of 1 that moves by two pixels along x, another by three along y: pixels are taken from there."""
    height, width = 12, 16
    net = set_linear(Displacement((1, height, width), 2, grid=5), (2 * 2 / width, 0.0), (0.0, 2 * 3 / height))
    x = torch.rand(3, 1, height, width)
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]])[..., None]
    right, below, both = net(x, z)
    assert_close(right[:, :, :-2], x[0, :, :, 2:], atol=1e-5, rtol=0)
    assert_close(below[:, :-3], x[1, :, 3:], atol=1e-5, rtol=0)
    assert_close(both[:, :-3, 2:], x[2, :, 3:, :-2], atol=1e-5, rtol=0)
    # Beyond the edges images go on as they end.
    assert_close(right[:, :, -2:], x[0, :, :, -1:].expand(-1, -1, 2), atol=1e-5, rtol=0)
    assert_close(below[:, -3:], x[1, :, -1:].expand(-1, 3, -1), atol=1e-5, rtol=0)
    assert net.displacements(z).shape == (3, height, width, 2)


def test_places_in_between_are_smooth():
    """A single place of the grid moves what is around it, less with the distance, and what is far away not at all."""
    net = Displacement((1, 32, 32), 1, fields=0, pair_fields=0, grid=8)
    with torch.no_grad():
        net.fields.pictures[0].unflatten(0, (2, 8, 8))[0, 2, 5] = 1.0
    found = net.displacements(torch.ones(1, 1, 1))[0].detach()
    assert (found[..., 1] == 0).all()
    size = found[..., 0].abs()
    row, column = divmod(int(size.argmax()), 32)
    assert (row // 4, column // 4) == (2, 5)
    assert size.diff(dim=1).abs().max() < 0.5 * size.max()
    assert (size[20:] == 0).all()


def test_deterministic_interpolation_has_the_same_gradients(monkeypatch):
    net = Displacement((3, 9, 7), 2, grid=3).double()
    with torch.no_grad():
        net.fields.pictures.copy_(torch.randn_like(net.fields.pictures))
    x, probe = torch.randn(2, 4, 3, 9, 7).double().requires_grad_()
    z = torch.randn(4, 2, 1).double()

    def gradients():
        return torch.autograd.grad((net(x, z) * probe).sum(), [x, net.fields.pictures])

    usual = gradients()
    monkeypatch.setattr("causalvae_pyro.networks.displacement.sample_images", _sample_in_order)
    for own, other in zip(gradients(), usual, strict=True):
        assert_close(own, other, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("interpolate", [sample_images, _sample_in_order])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 12, 9), (3, 1, 5)], ids=str)
def test_an_even_image_teaches_nothing(monkeypatch, shape, interpolate):
    """Not at its edges either, where there is nothing beyond."""
    monkeypatch.setattr("causalvae_pyro.networks.displacement.sample_images", interpolate)
    net = Displacement(shape, 2, grid=4)
    z = torch.randn(32, 2, 1)
    (gradient,) = torch.autograd.grad(net(torch.full((32, *shape), -4.0), z).square().sum(), net.fields.pictures)
    assert_close(gradient, torch.zeros_like(gradient), atol=1e-3, rtol=0)


def test_sizes_are_those_of_small_changes():
    """What a concept alone changes in a smooth image, as a standard deviation; a pixel that has no slope does not change."""
    side = 32
    net = Displacement((1, side, side), 2, fields=0, pair_fields=0, grid=4)
    # One concept stretches the image along x, the other shifts it along y.
    stretch = torch.tensor([-3.0, -1.0, 1.0, 3.0]).repeat(4)
    with torch.no_grad():
        net.fields.pictures[:2] = (
            torch.stack([torch.cat([stretch, 0 * stretch]), torch.tensor([0.0, 2.0]).repeat_interleave(16)]) / 50
        )
    x, y = net.places.unbind(-1)
    images = (0.5 + 0.3 * x + 0.1 * torch.sin(y)).expand(3, 1, side, side)
    z = torch.randn(200, 2, 1)
    found = net.sizes(images, z).unflatten(1, (side, side))
    assert found.shape == (2 + 3, side, side)
    for j in range(2):
        alone = torch.where(torch.arange(2)[:, None] == j, z, 0.0)
        with torch.no_grad():
            true = net(images[:1].expand(200, -1, -1, -1), alone)[:, 0].std(0, correction=0)
        assert_close(found[j, 2:-2, 2:-2], true[2:-2, 2:-2], rtol=0.03, atol=1e-5)
    assert_close(net.sizes(torch.ones_like(images), z), torch.zeros(5, side**2), atol=2e-6, rtol=0)
    # One pixel has no slope along its side, and no image none.
    assert Displacement((3, 1, 5), 1).sizes(torch.rand(2, 3, 1, 5), torch.randn(9, 1, 1)).isfinite().all()
    assert net.sizes(images[:0], z[:0]).isfinite().all()


def test_the_price_of_a_scene_has_displacements():
    torch.manual_seed(0)
    scene = SceneDecoder((1, 8, 8), 2, noise_dim=1, sprites=0, displaces=True)
    with torch.no_grad():
        for parameter in scene.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    sizes = scene.field_sizes(torch.randn(40, 2, 1))
    assert sizes.shape == (2 * (3 + 6), 64)
    (gradient,) = torch.autograd.grad(sizes[9:].sum(), scene.displacement.fields.pictures)
    assert gradient.isfinite().all()
    assert gradient.any()


def coloured_squares(count, seed):
    """A square that a concept moves over several of its widths, in a colour of each image's own, two numbers, on black."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.rand(count, 3, generator=generator) * 2 - 1
    places = (torch.arange(24) + 0.5) / 12 - 1
    away = ((places - 0.5 * z[:, :1]).abs() - 0.25) * 12
    inside = (0.5 - away).clamp(0, 1)[:, None, None, :] * (places.abs() < 0.3).float()[:, None]
    colour = torch.stack([0.5 + 0.45 * z[:, 1], 0.5 + 0.45 * z[:, 2], 0.5 - 0.45 * z[:, 1]], 1)[..., None, None]
    return (0.05 + 0.9 * inside * colour).clamp(0.02, 0.98), z[..., None] * 3**0.5


def test_what_moves_has_its_own_colour():
    """Fields alone would need one for each place and colour."""
    x, z = coloured_squares(400, 0)
    held, asked = coloured_squares(100, 1)

    def error(displaces):
        torch.manual_seed(0)
        net = SceneDecoder((3, 24, 24), 1, noise_dim=2, sprites=0, displaces=displaces)
        net.initialise_background(x)
        adam = torch.optim.Adam(net.parameters(), lr=8e-3)
        for step in range(100):
            rows = torch.arange(32 * step, 32 * step + 32) % 400
            adam.zero_grad()
            (net(z[rows, :1], z[rows, 1:, 0]).sigmoid() - x[rows]).square().mean().backward()
            adam.step()
        with torch.no_grad():
            return (net(asked[:, :1], asked[:, 1:, 0]).sigmoid() - held).square().mean().item()

    assert error(True) < 0.5 * error(False)


def test_a_scene_displaces_what_lies_behind_its_layers():
    torch.manual_seed(0)
    scene = SceneDecoder((1, 16, 16), 2, sprites=1, canvas=4, displaces=True)
    with torch.no_grad():
        scene.background.copy_(torch.randn_like(scene.background) / 20)
        scene.opacity.fill_(0.3)
        scene.size.fill_(0.2)
    z = torch.tensor([[0.0, 0.0], [1.0, 0.0]])[..., None]
    set_linear(scene.displacement, (4 / 16, 0.0))
    for parameter in (scene.effects_of_concepts, scene.tints_of_concepts):
        for p in parameter.parameters():
            torch.nn.init.zeros_(p)
    still, shifted = scene(z).detach()
    assert_close(shifted[:, :4, :12], still[:, :4, 2:14], atol=1e-4, rtol=0)
    # The layer stays.
    assert_close(shifted[:, 7:9, 7:9], still[:, 7:9, 7:9], atol=1e-2, rtol=0)


def test_what_it_cannot_be():
    with pytest.raises(ValueError, match="^grid: got 1; must be at least 2$"):
        Displacement((1, 4, 4), 2, grid=1)
    with pytest.raises(ValueError, match="^pair_fields: got -1; must be at least 0$"):
        Displacement((1, 4, 4), 2, pair_fields=-1)
    with pytest.raises(ValueError, match=r"^image_shape: got \(8, 8\); expected \(channels, height, width\)"):
        Displacement((8, 8), 2)
