"""The decoder that is linear in the noise, what it estimates from groups, and the encoder that asks it."""

import math

import pytest
import torch
from torch.testing import assert_close

from causalvae_pyro.guides.families import GaussianHead
from causalvae_pyro.networks import BilinearDecoder, EvidenceEncoder
from causalvae_pyro.networks.bilinear import Reduced
from tests.builders import raises

SHAPES = [(1, 16, 16), (3, 12, 8), (2, 5, 7)]
OPTIONS = {"anchors": 6, "rank": 3, "cells": 2}


def make(shape=(1, 12, 8), n=2, d=1, dtype=torch.float64, **options):
    torch.manual_seed(0)
    return BilinearDecoder(shape, n, d, **{**OPTIONS, **options}).to(dtype)


def persons(count=10, side=12, shown=None):
    """Faces under five lights: each person's own picture, brighter or darker, over what all share."""
    generator = torch.Generator().manual_seed(0)
    own = torch.nn.functional.interpolate(torch.rand(count, 1, 3, 3, generator=generator), size=(side, side), mode="bicubic")
    lights = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
    ramp = torch.linspace(-1, 1, side)
    x, z, groups = [], [], []
    for person in range(count):
        for light in lights if shown is None else lights[shown[person]]:
            x.append((0.3 + 0.2 * light * ramp + 0.4 * (0.6 + 0.4 * light) * (own[person] - 0.5)).clamp(0, 1))
            z.append(light)
            groups.append(person)
    return torch.stack(x), torch.stack(z)[:, None, None], torch.tensor(groups)


@pytest.mark.parametrize("lead", [(), (5,), (2, 3)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape, lead):
    net = make(shape, 2, 2)
    assert net.noise_dim == 3 * 2 * 2
    z, noise = torch.randn(*lead, 2, 2).double(), torch.randn(*lead, net.noise_dim).double()
    output = net(z, noise)
    assert output.shape == (*lead, *shape)
    count = math.prod(lead)
    rows = [net(a, b) for a, b in zip(z.reshape(count, 2, 2), noise.reshape(count, -1), strict=True)]
    assert_close(output.reshape(-1, *shape), torch.stack(rows))


@pytest.mark.parametrize(("z_lead", "noise_lead"), [((4, 5), (5,)), ((5,), (4, 5)), ((4, 1), (1, 5)), ((5,), ())], ids=str)
def test_leading_dimensions_broadcast(z_lead, noise_lead):
    net = make()
    z, noise = torch.randn(*z_lead, 2, 1).double(), torch.randn(*noise_lead, net.noise_dim).double()
    lead = torch.broadcast_shapes(z_lead, noise_lead)
    assert_close(net(z, noise), net(z.expand(*lead, 2, 1), noise.expand(*lead, -1)))


def test_it_is_linear_in_the_noise_and_sees_all_of_it():
    net = make()
    z = torch.randn(4, 2, 1).double().requires_grad_()
    a, b = torch.randn(2, 4, net.noise_dim).double().requires_grad_()
    mean = net.mean_image(z)
    assert_close(net(z, torch.zeros_like(a)), mean)
    assert_close(net(z, 2 * a - 3 * b) - mean, 2 * (net(z, a) - mean) - 3 * (net(z, b) - mean))
    noise = torch.randn(4, net.noise_dim).double().requires_grad_()
    net(z, noise).square().sum().backward()
    assert (z.grad != 0).all()
    assert (noise.grad != 0).all()
    assert net.mean.grad.abs().max() > 0
    assert net.basis.grad.abs().max() > 0


def test_at_an_anchor_its_own_images_result_and_far_away_the_mean_image():
    net = make(length_scale=0.5)
    at = net.anchors.view(-1, 2, 1)
    mean, basis = net.components(at)
    assert_close(mean, net.mean.detach().expand_as(mean), rtol=0, atol=1e-4)
    assert_close(basis, net.basis, rtol=0, atol=1e-4)
    assert_close(net.mean_image(at + 100), net.mean.mean(0).expand_as(mean))
    # Also there the derivative is finite.
    at = at.clone().requires_grad_()
    net(at, torch.ones(len(at), net.noise_dim).double()).sum().backward()
    assert at.grad.isfinite().all()


@pytest.mark.parametrize("cells", [1, 2, 4])
def test_coefficients_have_the_variance_of_the_noise(cells):
    net = make((1, 9, 13), cells=cells, dtype=torch.float32)
    fields = net.coefficients(torch.randn(20000, net.noise_dim))
    assert fields.shape == (20000, 3, 9, 13)
    assert_close(fields.var(0), torch.ones(3, 9, 13), rtol=0, atol=0.07)
    # Neighbours go together.
    assert (fields[:, 0, 4, 5] * fields[:, 0, 4, 6]).mean() > 0.9


def test_the_normal_equations():
    net = make((2, 6, 4))
    z, residual = torch.randn(3, 2, 1).double(), torch.randn(3, 2, 6, 4).double()
    columns = torch.eye(net.noise_dim).double()
    for reduction in (1, 2):
        reduced = Reduced(net, *net.components(z), reduction)
        # Windows are averaged on their own: they are smooth.
        if reduction == 1:
            factor = (net(z[:, None], columns.expand(3, -1, -1)) - net.mean_image(z)[:, None]).flatten(2)
            assert_close(reduced.scaled_precision(0.3), factor @ factor.mT + 0.3 * columns)
            assert_close(reduced.project(reduced.basis, residual), (factor @ residual.flatten(1)[..., None])[..., 0])
        assert reduced.images(residual).shape == (3, 2, 6 // reduction, 4 // reduction)
        assert reduced.variance(0.3) == pytest.approx(0.3 / reduction**2)


def test_mean_and_basis_from_groups():
    x, z, groups = persons()
    net = BilinearDecoder.from_groups(x, z, groups, rank=20, cells=1)
    assert (len(net.anchors), net.rank, net.image_shape) == (5, 20, (1, 12, 12))
    assert not list(net.parameters())
    assert_close(net.mean, torch.stack([x[(z == light).flatten()].mean(0) for light in net.anchors[:, 0]]), rtol=0, atol=0.01)
    # Without derivatives and windows ten persons have nine directions: each person under all lights is one combination.
    residual = (x - net.mean_image(z)).view(10, -1)
    basis = net.components(z[:5])[1].transpose(0, 1).reshape(20, -1)
    explained = residual @ torch.linalg.pinv(basis) @ basis
    assert (explained - residual).square().mean() < 0.05 * residual.square().mean()
    # As wide as the persons differ, and what displacements add.
    assert 1 < basis.square().sum() / (residual.square().sum() / 10) < 3
    bytes_ = BilinearDecoder.from_groups((x * 255).round().byte(), z, groups, rank=20, cells=1)
    assert_close(bytes_.mean, net.mean, rtol=0, atol=0.01)
    assert [name for name, _ in BilinearDecoder.from_groups(x, z, groups, learn=True).named_parameters()] == ["mean", "basis"]


def test_conditions_that_a_group_lacks_are_filled_in():
    shown = torch.stack([torch.randperm(5, generator=torch.Generator().manual_seed(k))[:4] for k in range(10)])
    x, z, groups = persons(shown=shown)
    whole = BilinearDecoder.from_groups(*persons(), rank=8, cells=1)
    part = BilinearDecoder.from_groups(x, z, groups, rank=8, cells=1)
    unseen, light, _ = persons(count=12)
    unseen, light = unseen[50:], light[50:]
    for net, most in ((whole, 0.25), (part, 0.5)):
        basis = net.components(light[:5])[1].transpose(0, 1).reshape(8, -1)
        residual = (unseen - net.mean_image(light)).view(2, -1)
        error = residual @ torch.linalg.pinv(basis) @ basis - residual
        assert error.square().mean() < most * residual.square().mean()


def test_many_places_get_few_anchors():
    torch.manual_seed(0)
    x, z = torch.rand(200, 1, 8, 8), torch.randn(200, 2, 1)
    net = BilinearDecoder.from_groups(x, z, torch.arange(200) % 80, anchors=9, rank=2, cells=1)
    assert net.anchors.shape == (9, 2)
    # Far from each other.
    assert torch.pdist(net.anchors).min() > 0.7
    assert all((net.anchors[k] == z.flatten(1)).all(1).any() for k in range(9))


def test_errors():
    x, z, groups = persons()
    for name, value in (("anchors", 0), ("rank", 0), ("cells", 0), ("length_scale", 0.0)):
        with raises(name, f"got {value}"):
            BilinearDecoder((1, 8, 8), 2, **{name: value})
    with raises("image_shape", r"got \(5,\)"):
        BilinearDecoder((5,), 2)
    with raises("eps_x", "needs eps_x, got None"):
        make()(torch.zeros(1, 2, 1).double())
    with raises("concepts", r"got \[49, 1, 1\]"):
        BilinearDecoder.from_groups(x, z[1:], groups)
    with raises("concepts", "must be finite"):
        BilinearDecoder.from_groups(x, z * torch.nan, groups)
    with raises("groups", r"expected \[50\]"):
        BilinearDecoder.from_groups(x, z, groups[1:])
    with raises("groups", "got 2; a basis takes at least 3"):
        BilinearDecoder.from_groups(x, z, groups % 2)
    with raises("reduction", "got 5; must divide both sides of images 12 x 8"):
        make().check_reduction(5)


# The encoder


def test_evidence_is_that_of_the_gaussian():
    net = make((1, 4, 6))
    x = torch.rand(3, 1, 4, 6).double()
    found = EvidenceEncoder(net, variance=0.3).evidence(x)
    columns = net.coefficients(torch.eye(net.noise_dim).double())
    expected = []
    for mean, basis in zip(net.mean, net.basis, strict=True):
        factor = torch.einsum("krhw,rchw->kchw", columns, basis).flatten(1)
        p = torch.distributions.MultivariateNormal(mean.flatten(), factor.T @ factor + 0.3 * torch.eye(24).double())
        expected.append(p.log_prob(x.flatten(1)))
    constant = torch.stack(expected, 1) - found
    assert_close(constant, constant[0, 0].expand_as(constant))


def test_a_person_not_seen_is_read():
    x, z, groups = persons(count=14)
    seen = groups < 10
    net = BilinearDecoder.from_groups(x[seen], z[seen], groups[seen], rank=12, cells=2)
    spread = (x - net.mean_image(z))[seen].square().mean().item()
    encoder = EvidenceEncoder(net, variance=0.5 * spread, temperature=5.0, reduction=2)
    assert encoder.out_features == 2
    features = encoder(x[~seen])
    assert (features[:, 0] - z[~seen].flatten()).abs().mean() < 0.1
    assert encoder(x.view(14, 5, 1, 12, 12)).shape == (14, 5, 2)
    assert_close(encoder(x.view(14, 5, 1, 12, 12))[3], encoder(x[15:20]), rtol=1e-4, atol=1e-4)
    # A head begins with the reading itself.
    head = GaussianHead(2, (1, 1), 0.1, 1e-4)
    encoder.initialise_head(head)
    assert_close(head(features)[0].flatten(), features[:, 0])


def test_another_basis_is_not_answered_from_memory():
    net = make((1, 4, 6))
    encoder, x = EvidenceEncoder(net, variance=0.3), torch.rand(2, 1, 4, 6).double()
    with torch.no_grad():
        before = encoder(x)
        assert torch.equal(before, encoder(x))
        net.basis.mul_(3.0)
        assert not torch.allclose(before, encoder(x))
    encoder(x).sum().backward()
    assert net.basis.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variance": 0.0}, "^variance: got 0.0; must be > 0"),
        ({"temperature": -1.0}, "^temperature: got -1.0; must be > 0"),
        ({"reduction": 5}, "^reduction: got 5; must divide"),
    ],
)
def test_encoder_errors(options, message):
    with pytest.raises(ValueError, match=message):
        EvidenceEncoder(make(), **{"variance": 0.1, **options})
    with pytest.raises(TypeError, match="^model: its decoder is a Linear; this encoder needs a BilinearDecoder"):
        EvidenceEncoder(torch.nn.Linear(1, 1), variance=0.1)
    with pytest.raises(ValueError, match=r"^x: expected images of shape \[\.\.\., 1, 12, 8\]"):
        EvidenceEncoder(make(), variance=0.1)(torch.zeros(2, 1, 8, 8))
