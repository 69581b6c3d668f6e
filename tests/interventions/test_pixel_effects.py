"""Which pixels a concept moves, and by how much."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from causalvae_pyro import encode
from causalvae_pyro.interventions import pixel_effects
from tests.builders import SPACES, raises
from tests.interventions.test_counterfactuals import GRAPH, LEAF, LONE, MID, ROOT, SHAPE, N, make


class Screen(nn.Module):
    """The first pixels show one concept each, the others nothing."""

    dim, noise_dim = 1, 0

    def forward(self, z):
        pixels = torch.zeros(*z.shape[:-2], 16)
        pixels[..., : len(GRAPH)] = z[..., 0]
        return pixels.reshape(*z.shape[:-2], *SHAPE)


@pytest.fixture
def x():
    return torch.rand(N, *SHAPE)


@pytest.mark.parametrize("batch_size", [256, 4])
@pytest.mark.parametrize("space", SPACES)
def test_each_concept_moves_its_pixel(space, batch_size, x):
    model, guide = make(space)
    model.decoder = Screen()
    found = pixel_effects(model, guide, x, batch_size=batch_size).flatten(1)
    values = encode(model, guide, x)[..., 0].detach()
    for j in range(len(GRAPH)):
        ordered = values[:, j].sort().values.sigmoid()
        expected = torch.zeros(16)
        expected[j] = (ordered.roll(N // 2) - ordered).square().mean().sqrt()
        assert_close(found[j], expected, rtol=1e-4, atol=1e-6)


def test_effects_follow_their_cause(x):
    model, guide = make()
    model.decoder = Screen()
    found = pixel_effects(model, guide, x, direct=False).flatten(1) > 1e-6
    assert found[ROOT, [ROOT, MID, LEAF]].all()
    assert found[MID, [MID, LEAF]].all()
    assert not found[MID, [ROOT, LONE]].any()
    assert found[LONE].nonzero().tolist() == [[LONE]]


def test_model_and_noise_of_the_image_stay(x):
    pair = make(noise_dim=2)
    before = torch.get_rng_state()
    found = pixel_effects(*pair, x)
    assert found.shape == (4, *SHAPE)
    assert (found > 0).any()
    assert not found.requires_grad
    assert torch.equal(before, torch.get_rng_state())
    assert_close(found, pixel_effects(*pair, x))


def test_one_image_has_nothing_to_exchange(x):
    with raises("x"):
        pixel_effects(*make(), x[:1])
