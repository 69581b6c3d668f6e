"""The decoder whose picture the concepts make brighter or darker."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from causalvae_pyro import (
    AdditiveNoiseSCM,
    AmortizedGuide,
    CausalGraph,
    CausalVAE,
    ConvDecoder,
    FixedPrior,
    GaussianLikelihood,
    Run,
    load,
    save,
)
from causalvae_pyro.datasets import MorphoMNIST
from causalvae_pyro.networks import BrightnessDecoder, FiLMDecoder, MLPDecoder, MLPEncoder
from causalvae_pyro.utils.images import bright_part

SHAPE = (1, 8, 8)


def shake(module, size=0.3):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn_like(p))
    return module


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("noise_dim", [0, 3])
def test_the_picture_times_the_gain(dim, noise_dim):
    decoder = shake(BrightnessDecoder(MLPDecoder(SHAPE, 2, dim, noise_dim=noise_dim)))
    z, eps_x = torch.randn(7, 5, 2, dim), torch.randn(7, 5, noise_dim)
    inputs = (z, eps_x) if noise_dim else (z,)
    image = decoder(*inputs).sigmoid()
    assert image.shape == (7, 5, *SHAPE)
    effects = torch.stack(
        [
            (z[..., j, :] * decoder.linear[j]).sum(-1)
            + torch.tanh(z[..., j, :] @ decoder.first[j] + decoder.first_bias[j]) @ decoder.second[j] / 16
            for j in range(2)
        ],
        -1,
    )
    assert_close(decoder.effects(z), effects)
    gain = torch.sigmoid(decoder.level + effects.sum(-1))
    assert_close(decoder.gain(z), gain)
    assert_close(image, decoder.picture(*inputs).sigmoid() * gain[..., None, None, None], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("picture", [FiLMDecoder, ConvDecoder])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_it_starts_from_the_mean_image(picture, kind):
    images = torch.rand(40, 1, 16, 16) ** 3 * torch.rand(40, 1, 1, 1)
    given = (images * 255).round().to(torch.uint8) if kind == torch.uint8 else images
    decoder = BrightnessDecoder.from_images(given, 2, picture=picture, noise_dim=2)
    assert type(decoder.picture) is picture
    assert decoder.noise_dim == 2
    assert_close(decoder.gain(torch.zeros(2, 1)), images.amax((1, 2, 3)).mean(), atol=5e-3, rtol=0)
    ground = decoder.picture.background.sigmoid() * decoder.gain(torch.zeros(2, 1))
    assert_close(ground, images.mean(0).clamp(min=1e-3), atol=3e-3, rtol=0)


def test_effect_sizes_are_standard_deviations():
    decoder = BrightnessDecoder(FiLMDecoder(SHAPE, 3, noise_dim=2))
    z = torch.randn(500, 3, 1) * torch.tensor([1.0, 2.0, 3.0])[:, None]
    with torch.no_grad():
        decoder.linear.copy_(torch.tensor([[0.5], [0.0], [-1.0]]))
    sizes = decoder.effect_sizes(z)
    assert sizes.shape == (1, 3)
    spread = z[..., 0].std(0, correction=0)
    assert_close(
        sizes[0], torch.tensor([0.5, 1e-4, 1.0]) * torch.where(torch.tensor([True, False, True]), spread, 1), rtol=1e-3, atol=0
    )
    assert decoder.effect_sizes(z[:0]).tolist() == [[0.0] * 3]
    # An effect of none at all still has a gradient that is a number.
    fresh = BrightnessDecoder(FiLMDecoder(SHAPE, 3))
    fresh.effect_sizes(z).sum().backward()
    assert torch.isfinite(fresh.linear.grad).all()


def test_effect_sizes_of_a_picture_that_has_them_count_too():
    class Sized(MLPDecoder):
        def effect_sizes(self, z):
            return z.new_full((2, z.shape[-2]), 7.0)

    sizes = BrightnessDecoder(Sized(SHAPE, 3)).effect_sizes(torch.randn(5, 3, 1))
    assert sizes.shape == (3, 3)
    assert (sizes[1:] == 7).all()


def test_it_is_saved_with_its_picture(tmp_path):
    scm = AdditiveNoiseSCM(CausalGraph(["a", "b"], [("a", "b")]))
    decoder = shake(BrightnessDecoder(FiLMDecoder(SHAPE, 2, noise_dim=2), hidden=5, exact=True, brightness_concepts=[1]))
    model = CausalVAE(scm, FixedPrior(2), decoder, GaussianLikelihood(), noise_dim=2)
    save(Run(model, AmortizedGuide(MLPEncoder(SHAPE), scm, noise_dim=2)), tmp_path)
    z, eps_x = torch.randn(3, 2, 1), torch.randn(3, 2)
    assert_close(load(tmp_path).model.decoder(z, eps_x), decoder(z, eps_x))
    with pytest.raises(ValueError, match="^hidden: got 0; must be at least 1"):
        BrightnessDecoder(MLPDecoder(SHAPE, 2), hidden=0)


def test_any_picture_will_do():
    class Plain(nn.Module):
        image_shape, num_concepts, dim, noise_dim = SHAPE, 2, 1, 0

        def forward(self, z):
            return z.sum((-2, -1))[..., None, None, None].expand(*z.shape[:-2], *SHAPE)

    assert BrightnessDecoder(Plain())(torch.randn(3, 2, 1)).shape == (3, *SHAPE)


def test_an_exact_brightness_is_the_bright_part_of_the_image():
    decoder = shake(BrightnessDecoder(MLPDecoder(SHAPE, 2, noise_dim=3), exact=True))
    with torch.no_grad():
        decoder.level.fill_(-2.0)  # far from white, where pixels end
    z, eps_x = torch.randn(7, 5, 2, 1), torch.randn(7, 5, 3)
    image = decoder(z, eps_x).sigmoid()
    assert_close(bright_part(image), decoder.gain(z), atol=1e-5, rtol=1e-4)
    levels = MorphoMNIST.measure_intensity(image.detach().flatten(0, 1))
    assert_close(levels, 255 * decoder.gain(z).detach().flatten(), atol=0.01, rtol=1e-3)
    picture = decoder.picture(z, eps_x).sigmoid()
    factor = decoder.gain(z) / bright_part(picture)
    assert_close(image, factor[..., None, None, None] * picture, atol=1e-5, rtol=1e-4)


def test_the_gradient_of_an_exact_brightness():
    decoder = shake(BrightnessDecoder(MLPDecoder(SHAPE, 2), exact=True)).double()
    with torch.no_grad():
        decoder.level.fill_(-2.0)
    z = torch.randn(3, 2, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: decoder(z).sigmoid(), z)
    (slope,) = torch.autograd.grad(bright_part(decoder(z).sigmoid()).sum(), z)
    (expected,) = torch.autograd.grad(decoder.gain(z).sum(), z)
    assert_close(slope, expected)


def test_concepts_of_the_brightness_alone():
    decoder = shake(BrightnessDecoder(MLPDecoder(SHAPE, 3), brightness_concepts=[1]))
    z = torch.randn(5, 3, 1)
    brighter, other = z.clone(), z.clone()
    brighter[:, 1] += 1
    other[:, [0, 2]] += 1
    factor = decoder.gain(brighter) / decoder.gain(z)
    assert (factor - 1).abs().min() > 1e-3
    assert_close(decoder(brighter).sigmoid(), factor[:, None, None, None] * decoder(z).sigmoid(), rtol=1e-3, atol=1e-5)
    assert torch.equal(decoder.gain(other), decoder.gain(z))
    assert not torch.equal(decoder(other), decoder(z))
    assert (decoder.effect_sizes(z)[0, [0, 2]] < 1e-3).all()
    with pytest.raises(ValueError, match=r"^brightness_concepts: got \[3\]; must be positions of the 3 concepts"):
        BrightnessDecoder(MLPDecoder(SHAPE, 3), brightness_concepts=[3])


def test_the_bright_part_by_hand():
    image = torch.tensor([[[0.0, 0.4, 0.5], [0.6, 0.9, 1.0]]])  # half way is 0.5
    assert bright_part(image).item() == pytest.approx(0.6)  # the lower of both in the middle
    assert bright_part(torch.full((2, 1, 3, 3), 0.3)).tolist() == pytest.approx([0.3, 0.3])
