"""Where sprites start: the best of several ways to see parts."""

import pytest
import torch

from causalvae_pyro.networks import SceneDecoder, SpriteDecoder
from causalvae_pyro.networks.sprites.start import find_start
from tests.networks.sprites.scenes import before_a_texture


@pytest.mark.parametrize("kind", [SpriteDecoder, SceneDecoder])
def test_a_poor_start_is_noticed_and_another_way_is_taken(kind):
    images, z, background = before_a_texture()
    variance = (images - images.mean(0)).square().mean()
    torch.manual_seed(0)
    first = SpriteDecoder((3, 24, 24), 2, sprites=len(start.parts) if (start := find_start(images)).parts else 1, canvas=16)
    first.begin(start, z)
    with torch.no_grad():
        # Worse than the mean image: the background's colours were taken for parts.
        assert (first(z).sigmoid() - images).square().mean() > variance
    decoder = kind.from_images(images, 2, concepts=z, canvas=16)
    assert decoder.sprites == decoder.parts_at_start == 2
    with torch.no_grad():
        left = (decoder(z).sigmoid() - images).square().mean() / variance
    assert left < 0.4
    assert decoder.unexplained_at_start == pytest.approx(left.item(), abs=0.1)
    assert (torch.sigmoid(20 * decoder.background) - background).abs().mean() < 0.1


def test_without_concepts_nothing_is_known_of_a_start():
    images, z, _ = before_a_texture(60)
    assert SpriteDecoder.from_images(images, 2, canvas=4).unexplained_at_start is None
    few = torch.where(torch.arange(60)[:, None, None] < 30, z, torch.nan)
    assert SpriteDecoder.from_images(images, 2, canvas=4, concepts=few).unexplained_at_start is None


def test_layers_without_parts_are_not_called_parts():
    # Nothing moves.
    images, z = torch.rand(1, 3, 16, 16).repeat(60, 1, 1, 1), torch.rand(60, 2, 1)
    decoder = SpriteDecoder.from_images(images, 2, canvas=4, concepts=z)
    assert (decoder.sprites, decoder.parts_at_start) == (6, 0)
