"""The sprite decoder against an independent renderer, and the price on its effects."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from causalvae_pyro import (
    AdditiveNoiseSCM,
    CausalELBO,
    CausalGraph,
    CausalVAE,
    ConvEncoder,
    EndogenousGuide,
    FixedPrior,
    GaussianLikelihood,
    Run,
    SparseEffects,
    SpriteDecoder,
    load,
    reconstruct,
    save,
)


def randomise(decoder, scale=0.3):
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape))
    return decoder


def bilinear(canvas, x, y, outside):
    """The canvas ``[H][W]`` at x, y in [-1, 1], sides at -1 and 1, by plain arithmetic."""
    height, width = canvas.shape
    column, row = (x + 1) * width / 2 - 0.5, (y + 1) * height / 2 - 0.5
    total = 0.0
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            inside = 0 <= i < height and 0 <= j < width
            total += (1 - abs(row - i)) * (1 - abs(column - j)) * (canvas[i, j].item() if inside else outside)
    return total


def render(decoder, placement):
    """One image ``[C, H, W]``, pixel by pixel, from the placements ``[K, 6]``."""
    colours, height, width = decoder.image_shape
    image = torch.zeros(colours, height, width, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            p = torch.tensor([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], dtype=torch.float64)
            weights, painted = [1.0], [[torch.sigmoid(20 * decoder.background[c, row, column]).item() for c in range(colours)]]
            for k in range(decoder.sprites):
                position, change, rotation, shear = placement[k].split([2, 2, 1, 1])
                size = decoder.size[k, 0] * torch.log1p((4 * (1 + change / decoder.size[k, 0])).exp()) / 4
                dx, dy = (p - position).tolist()
                cos, sin = math.cos(rotation.item()), math.sin(rotation.item())
                dx, dy = cos * dx + sin * dy, -sin * dx + cos * dy
                x, y = dx / size[0].item() + shear.item() * dy, dy / size[1].item()
                weights.append(math.exp(bilinear(20 * decoder.opacity[k, 0], x, y, -8.0)))
                # Outside of the canvas there is no texture, but nothing to see either.
                logits = [bilinear(20 * (decoder.texture[k, c] + decoder.colour[k, c]), x, y, 0.0) for c in range(colours)]
                painted.append([1 / (1 + math.exp(-logit)) for logit in logits])
            for c in range(colours):
                mixed = sum(w * paint[c] for w, paint in zip(weights, painted, strict=True)) / sum(weights)
                image[c, row, column] = mixed
    return image


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 5, 9)])
@pytest.mark.parametrize("noise_dim", [0, 2])
def test_equals_a_plain_renderer(shape, noise_dim):
    decoder = randomise(SpriteDecoder(shape, 2, 2, noise_dim=noise_dim, sprites=2, canvas=5).double(), 0.2)
    decoder.size.copy_(0.5 + torch.rand(2, 1, 2))
    z, eps_x = torch.randn(1, 2, 2).double(), torch.randn(1, 2).double()
    placement = decoder.base[:, 0] + decoder.effects(z).sum(2)[:, 0]
    if noise_dim:
        placement = placement + decoder.effects_of_noise(eps_x[:, None])[:, 0, 0]
    drawn = decoder(z, eps_x if noise_dim else None)[0].sigmoid()
    assert_close(drawn, render(decoder, placement), atol=2e-6, rtol=0)


def test_a_concept_moves_turns_and_stretches():
    decoder = SpriteDecoder((1, 16, 16), 1, sprites=1, canvas=16)
    with torch.no_grad():
        for effects in (decoder.effects_of_concepts.linear, decoder.effects_of_concepts.second):
            effects.zero_()
        decoder.opacity[:] = -0.4
        decoder.opacity[..., 6:10, 4:9] = 0.4
        decoder.colour[:] = 0.3
        still = decoder(torch.zeros(1, 1, 1))
        # One concept unit is 3 pixels to the right, 2 down.
        decoder.effects_of_concepts.linear[0, 0, 0, :2] = torch.tensor([3 / 8, 2 / 8])
        moved = decoder(torch.ones(1, 1, 1))
        assert_close(moved[..., 2:, 3:], still[..., :-2, :-3], atol=1e-5, rtol=0)
        decoder.effects_of_concepts.linear[0, 0, 0] = torch.tensor([0, 0, 0, 0, math.pi / 2, 0])
        turned = decoder(torch.ones(1, 1, 1))
        assert_close(turned[..., 3:-3, 3:-3], still.rot90(-1, (-2, -1))[..., 3:-3, 3:-3], atol=1e-4, rtol=0)
        # softplus(8) / softplus(4) is 2 to 1 %, so the edges lie where they should to a tenth of a pixel.
        decoder.effects_of_concepts.linear[0, 0, 0] = torch.tensor([0, 0, 1.0, 0, 0, 0])
        wide = (decoder(torch.ones(1, 1, 1)) - still.min()).clamp(min=0).sum((0, 1, 2))
        assert (wide > 1).sum() == 2 * ((still - still.min()).sum((0, 1, 2)) > 1).sum()


def test_effects_are_additive():
    decoder = randomise(SpriteDecoder((1, 8, 8), 3, 2, sprites=4))
    z = torch.randn(10, 3, 2)
    other = z.clone()
    other[:, 1] = torch.randn(10, 2)
    before, after = decoder.effects(z), decoder.effects(other)
    assert before.shape == (4, 10, 3, 6)
    assert torch.equal(before[:, :, [0, 2]], after[:, :, [0, 2]])
    assert not torch.isclose(before[:, :, 1], after[:, :, 1]).all()
    expected = (before - before.mean(1, keepdim=True)).square().sum(-1).mean(1).sqrt()
    assert_close(decoder.effect_sizes(z), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("lead", [(), (5,), (2, 3)])
def test_shapes(lead):
    decoder = randomise(SpriteDecoder((3, 10, 7), 3, 2, noise_dim=2))
    z, eps_x = torch.randn(*lead, 3, 2), torch.randn(2)
    image = decoder(z, eps_x)
    assert image.shape == (*lead, 3, 10, 7)
    assert image.isfinite().all()
    with pytest.raises(ValueError, match="eps_x: this decoder has noise_dim=2"):
        decoder(z)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sprites": 0}, "sprites: got 0"),
        ({"hidden": 0}, "hidden: got 0"),
        ({"canvas": 1}, "canvas: got 1"),
        ({"image_shape": (2, 8, 8)}, "image_shape: got"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpriteDecoder(**{"image_shape": (1, 8, 8), "num_concepts": 2, **arguments})


def scenes(count=200, size=16):
    """A red square of 4 pixels on white that moves from left to right, and its place as the only label."""
    images = torch.ones(count, 3, size, size)
    left = torch.randint(0, size - 4, (count,))
    for image, x in zip(images, left.tolist(), strict=True):
        image[1:, 8:12, x : x + 4] = 0
    return images, (left[:, None].float() - left.float().mean()) / left.float().std()


@pytest.mark.parametrize("uint8", [False, True])
def test_starts_where_the_images_differ(uint8):
    images, _ = scenes()
    torch.manual_seed(0)
    decoder = SpriteDecoder.from_images((images * 255).to(torch.uint8) if uint8 else images, 1, sprites=1)
    torch.manual_seed(0)
    again = SpriteDecoder.from_images(images, 1, sprites=1)
    assert_close(decoder.state_dict(), again.state_dict())
    assert_close((20 * decoder.colour[0]).sigmoid(), torch.tensor([0.98, 0.02, 0.02]), atol=0.01, rtol=0)
    # The square's rows are 8 to 11 of 16; its columns' standard deviation is that of 4 pixels.
    assert decoder.base[0, 0, 1].item() == pytest.approx(0.25, abs=1e-3)
    assert decoder.size[0, 0].tolist() == pytest.approx([2.5 * math.sqrt(1.25) / 8] * 2, rel=0.1)
    assert_close((20 * decoder.background).sigmoid(), torch.ones(3, 16, 16), atol=0.01, rtol=0)


def test_images_without_parts():
    decoder = SpriteDecoder.from_images(torch.full((20, 1, 8, 8), 0.4), 2)
    assert_close((20 * decoder.background).sigmoid(), torch.full((1, 8, 8), 0.4))
    assert decoder(torch.randn(3, 2, 1)).isfinite().all()
    with pytest.raises(ValueError, match=r"images: expected shape \[N, 1, 8, 8\], got \[5, 3, 8, 8\]"):
        decoder.initialise_background(torch.zeros(5, 3, 8, 8))


def train(decoder, images, z, price=None, steps=200):
    optimizer = torch.optim.Adam(decoder.parameters(), lr=5e-3)
    for _ in range(steps):
        loss = (decoder(z).sigmoid() - images).square().sum((1, 2, 3)).mean() / (2 * 0.05**2)
        if price is not None:
            nodes = {"z": {"value": z}}
            loss = loss + price.weight * price(SimpleNamespace(decoder=decoder), SimpleNamespace(nodes=nodes), None) / len(z)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (decoder(z).sigmoid() - images).square().mean().item()


def test_learns_what_a_concept_moves_and_extrapolates():
    images, z = scenes()
    near = z[:, 0].abs() < 1.2
    decoder = SpriteDecoder.from_images(images, 1, sprites=1, canvas=8)
    train(decoder, images[near], z[near, :, None])
    unmoved = (images - images.median(0).values).square().mean()
    with torch.no_grad():
        error = (decoder(z[~near, :, None]).sigmoid() - images[~near]).square().mean()
    assert error < 0.15 * unmoved


def test_the_price_leaves_the_work_to_one_concept():
    images, z = scenes()
    # Two noisy halves of it, which together say as much.
    other = torch.randn_like(z)
    z = torch.stack([z, (z + other) / 2, (z - other) / 2], 1)
    shares = []
    for price in (None, SparseEffects(2000.0)):
        torch.manual_seed(0)
        decoder = SpriteDecoder.from_images(images, 3, sprites=1, canvas=8)
        assert train(decoder, images, z, price, steps=400) < 0.01
        sizes = decoder.effect_sizes(z).detach()[0]
        shares.append((sizes[1:].sum() / sizes.sum()).item())
    assert shares[0] > 0.2
    assert shares[1] < 0.05


def make():
    scm = AdditiveNoiseSCM(CausalGraph(["a", "b"], [("a", "b")]))
    decoder = randomise(SpriteDecoder((1, 16, 16), 2, sprites=3), 0.1)
    model = CausalVAE(scm, FixedPrior(2), decoder, GaussianLikelihood())
    return model, EndogenousGuide(ConvEncoder((1, 16, 16)), scm)


def test_survives_saving(tmp_path):
    model, guide = make()
    model.decoder.size.fill_(0.7)
    save(Run(model, guide, {}), tmp_path / "run")
    run = load(tmp_path / "run")
    x = torch.rand(3, 1, 16, 16)
    assert torch.equal(reconstruct(run.model, run.guide, x), reconstruct(model.eval(), guide.eval(), x))


@pytest.mark.parametrize("lead", [(), (4,)])
def test_price(lead):
    model, _ = make()
    z = torch.randn(*lead, 7, 2, 1)
    value = SparseEffects(1.0, scale=0.3)(model, SimpleNamespace(nodes={"z": {"value": z}}), None)
    sizes = model.decoder.effect_sizes(z.reshape(-1, 2, 1))
    # Summed over the batch, whatever the number of particles.
    assert value.item() == pytest.approx(7 * 0.3 * (1 + sizes / 0.3).log().sum().item(), rel=1e-5)


def test_price_in_the_objective():
    model, guide = make()
    x, labels = torch.rand(5, 1, 16, 16), torch.randn(5, 2)
    objective = CausalELBO(terms=[SparseEffects(lambda progress: 100.0 * progress)])
    objective.progress = 0.5
    objective.differentiable_loss(model, guide, x, labels).backward()
    assert objective.last_terms["sparse_effects"] > 0
    term = SparseEffects()
    z = torch.randn(5, 2, 1, requires_grad=True)
    model.zero_grad()
    term(model, SimpleNamespace(nodes={"z": {"value": z}}), None).backward()
    assert model.decoder.effects_of_concepts.linear.grad.abs().sum() > 0
    assert z.grad is None


@pytest.mark.parametrize(
    ("arguments", "message"), [({"weight": -1.0}, "weight: got -1.0"), ({"scale": 0.0}, "scale: got 0.0; must be > 0")]
)
def test_price_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SparseEffects(**arguments)
