"""Encoders, decoders, likelihoods and conditional priors."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from causalvae_pyro import ConvDecoder, ConvEncoder, FixedPrior, GaussianLikelihood
from causalvae_pyro.likelihoods import BernoulliLikelihood, ContinuousBernoulliLikelihood, LaplaceLikelihood
from causalvae_pyro.networks import (
    AugmentedEncoder,
    FiLMDecoder,
    HierarchicalDecoder,
    MLPDecoder,
    MLPEncoder,
    NormalisedEncoder,
    PooledEncoder,
    RandomBrightness,
    RandomSymmetry,
    ResidualEncoder,
    SpatialEncoder,
)
from causalvae_pyro.priors import LearnedPrior
from tests.builders import jitter

ENCODERS = [ConvEncoder, MLPEncoder, NormalisedEncoder, PooledEncoder, ResidualEncoder, SpatialEncoder]
DECODERS = [ConvDecoder, MLPDecoder, FiLMDecoder, HierarchicalDecoder]
PRIORS = [FixedPrior, LearnedPrior]
SHAPES = [(1, 16, 16), (3, 32, 32), (4, 32, 16), (3, 64, 32)]
LEADS = [(), (5,), (2, 3)]


def name(value):
    return value.__name__ if isinstance(value, type) else "x".join(map(str, value)) or "none"


every_encoder = pytest.mark.parametrize("encoder", ENCODERS, ids=name)
every_decoder = pytest.mark.parametrize("decoder", DECODERS, ids=name)
every_prior = pytest.mark.parametrize("prior", PRIORS, ids=name)


def widths(decoder, noise_dim):
    """Small ones; the noise of a hierarchy has the size of its maps."""
    if decoder is HierarchicalDecoder:
        return {"channels": (8, 8), "noise_channels": (1, 1), "blocks": 1}
    return {"noise_dim": noise_dim, "hidden": 8}


def awake(net):
    """The layers of a hierarchy that start at zero let nothing through."""
    if isinstance(net, HierarchicalDecoder):
        jitter(0.1, net)
    return net


def images(*lead, shape=(1, 16, 16)):
    return torch.rand(*lead, *shape)


# Encoders


@pytest.mark.parametrize("label_dim", [0, 3])
@pytest.mark.parametrize("lead", LEADS, ids=name)
@pytest.mark.parametrize("shape", SHAPES, ids=name)
@every_encoder
def test_encoder_shapes(encoder, shape, lead, label_dim):
    net = encoder(shape, 7, label_dim=label_dim).eval()
    x, labels = images(*lead, shape=shape), torch.randn(*lead, 3)
    features = net(x, labels)
    assert net.out_features == 7
    assert features.shape == (*lead, 7)
    # One image at a time gives the same.
    rows = [net(a[None], b[None])[0] for a, b in zip(x.reshape(-1, *shape), labels.reshape(-1, 3), strict=True)]
    assert_close(features.reshape(-1, 7), torch.stack(rows))


@every_encoder
def test_encoder_looks_at_every_part_of_the_image(encoder):
    x = images(4, shape=(3, 32, 16)).requires_grad_()
    encoder((3, 32, 16))(x).sum().backward()
    assert (x.grad.abs().sum(0) > 0).float().mean() > 0.9


@every_encoder
def test_labels_enter_standardised_if_asked_for(encoder):
    x, labels = images(5), 10 + 5 * torch.randn(5, 2)
    blind = encoder((1, 16, 16)).eval()
    assert torch.equal(blind(x, labels), blind(x))
    net = encoder((1, 16, 16), label_dim=2, label_shift=[10.0, 9.0], label_scale=5.0).eval()
    plain = encoder((1, 16, 16), label_dim=2).eval()
    weights = {name: value for name, value in net.state_dict().items() if not name.endswith(("label_shift", "label_scale"))}
    plain.load_state_dict(weights, strict=False)
    assert_close(net(x, labels), plain(x, (labels - torch.tensor([10.0, 9.0])) / 5))
    assert not torch.equal(net(x, labels), net(x, labels + 1))
    # What labels mean is part of the state.
    plain.load_state_dict(net.state_dict())
    assert torch.equal(net(x, labels), plain(x, labels))
    # Images in particles, labels shared by them.
    assert_close(net(x.expand(3, *x.shape), labels)[1], net(x, labels))


@every_encoder
def test_encoder_errors_name_the_argument(encoder):
    net = encoder((1, 16, 16), label_dim=2)
    x = images(5)
    with pytest.raises(ValueError, match=r"^labels: .*q\(eps \| x, u\).*label_dim=0"):
        net(x)
    for wrong in (torch.zeros(5, 3), torch.zeros(5, 1)):
        with pytest.raises(ValueError, match=r"^labels: expected shape .*2\], got \[5, "):
            net(x, wrong)
    for shape in ((5, 3, 16, 16), (5, 1, 16, 32), (1, 16)):
        with pytest.raises(ValueError, match=r"^x: expected images of shape \[\.\.\., 1, 16, 16\], got"):
            net(torch.zeros(shape), torch.zeros(5, 2))


def test_pooled_encoder_does_not_mind_where_things_are():
    net = PooledEncoder((1, 32, 32)).eval()
    x = torch.zeros(1, 1, 32, 32)
    x[..., 10:14, 8:16] = torch.rand(4, 8)
    assert_close(net(x), net(x.roll((4, 8), (-2, -1))), rtol=0, atol=1e-4)
    assert (net(x) - net(x / 2)).abs().max() > 1e-3


def test_augmentation_in_training_only():
    inner = MLPEncoder((1, 16, 16))
    net = AugmentedEncoder(inner, RandomSymmetry())
    assert net.out_features == inner.out_features
    x = images(3)
    assert torch.equal(net.eval()(x), inner(x))
    torch.manual_seed(0)
    assert not torch.allclose(net.train()(x), inner(x))


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"flips": False, "transpose": False, "shift": 0}, 1),
        ({"transpose": False, "shift": 0}, 4),
        ({"flips": False, "shift": 0}, 2),
        ({"shift": 0}, 8),
        ({"flips": False, "transpose": False, "shift": 1}, 9),
        ({}, 200),
    ],
)
def test_random_symmetry(options, count):
    torch.manual_seed(0)
    x = torch.rand(2, 1, 8, 8)
    augment = RandomSymmetry(**options)
    changed = [augment(x) for _ in range(2000 if count == 200 else 200)]
    # Only the order of the pixels changes, in all images of the batch alike.
    assert all(torch.equal(c.flatten(1).sort(1).values, x.flatten(1).sort(1).values) for c in changed)
    distinct = {tuple(c[0].flatten().tolist()) for c in changed}
    assert len(distinct) == count


def test_random_symmetry_errors():
    with pytest.raises(ValueError, match=r"^shift: got -1"):
        RandomSymmetry(shift=-1)
    with pytest.raises(ValueError, match=r"^low: got 0; must lie in \(0, 1\]"):
        RandomBrightness(0)
    torch.manual_seed(0)
    augment, wide = RandomSymmetry(), torch.zeros(2, 1, 4, 8)
    with pytest.raises(ValueError, match=r"^x: got images of 4 x 8"):
        [augment(wide) for _ in range(50)]


def test_random_brightness_scales_each_image():
    torch.manual_seed(0)
    x = torch.rand(500, 1, 4, 4) * torch.rand(500, 1, 1, 1)
    x[0] = 0
    changed = RandomBrightness(0.4)(x)
    assert (changed[0] == 0).all()
    ratio = changed[1:] / x[1:]
    assert_close(ratio, ratio[:, :, :1, :1].expand_as(ratio), rtol=1e-4, atol=1e-4)
    top = changed[1:].amax((1, 2, 3))
    assert 0.4 <= top.min() < 0.42
    assert 0.98 < top.max() <= 1.0001
    assert_close(top.mean(), torch.tensor(0.7), atol=0.03, rtol=0)


# Decoders


@pytest.mark.parametrize("noise_dim", [0, 2])
@pytest.mark.parametrize("lead", LEADS, ids=name)
@pytest.mark.parametrize("shape", SHAPES, ids=name)
@every_decoder
def test_decoder_shapes(decoder, shape, lead, noise_dim):
    net = awake(decoder(shape, 3, 2, **widths(decoder, noise_dim)))
    inputs = (torch.randn(*lead, 3, 2), torch.randn(*lead, net.noise_dim))[: 2 if net.noise_dim else 1]
    output = net(*inputs)
    assert output.shape == (*lead, *shape)
    flat = [value.reshape(math.prod(lead), *value.shape[len(lead) :]) for value in inputs]
    rows = [net(*(value[i] for value in flat)) for i in range(math.prod(lead))]
    assert_close(output.reshape(-1, *shape), torch.stack(rows), rtol=1e-4, atol=1e-5)


@every_decoder
def test_decoder_sees_every_concept_and_the_noise(decoder):
    net = awake(decoder((1, 16, 16), 3, 2, **widths(decoder, 2)))
    z, eps_x = torch.randn(4, 3, 2, requires_grad=True), torch.randn(4, net.noise_dim, requires_grad=True)
    net(z, eps_x).square().sum().backward()
    assert (z.grad != 0).all()
    assert (eps_x.grad != 0).all()


@pytest.mark.parametrize(("z_lead", "noise_lead"), [((4, 5), (5,)), ((5,), (4, 5)), ((4, 1), (1, 5)), ((5,), ())], ids=str)
@every_decoder
def test_leading_dimensions_of_z_and_noise_broadcast(decoder, z_lead, noise_lead):
    net = awake(decoder((1, 16, 16), 3, **widths(decoder, 2)))
    z, eps_x = torch.randn(*z_lead, 3, 1), torch.randn(*noise_lead, net.noise_dim)
    lead = torch.broadcast_shapes(z_lead, noise_lead)
    expected = net(z.expand(*lead, 3, 1), eps_x.expand(*lead, net.noise_dim))
    assert_close(net(z, eps_x), expected, rtol=1e-4, atol=1e-5)


@every_decoder
def test_decoder_needs_its_noise(decoder):
    net = decoder((1, 16, 16), 3, **widths(decoder, 2))
    with pytest.raises(ValueError, match=rf"^eps_x: .*noise_dim={net.noise_dim}.*got None"):
        net(torch.zeros(2, 3, 1))


@pytest.mark.parametrize("uint8", [False, True])
@pytest.mark.parametrize("shape", [(1, 16, 16), (4, 16, 32)], ids=name)
@every_decoder
def test_background_is_the_mean_image(decoder, shape, uint8):
    data = 0.9 * torch.rand(1500, *shape) ** (1 + 4 * torch.rand(shape)) + 0.05
    if uint8:
        data = (data * 255).byte()
    net = decoder.from_images(data, 3, 2, **widths(decoder, 1))
    assert (net.image_shape, net.num_concepts, net.dim) == (shape, 3, 2)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter is not net.background:
                parameter.zero_()
    mean = data.double().mean(0) / (255 if uint8 else 1)
    drawn = net(torch.randn(2, 3, 2), torch.randn(2, net.noise_dim)).sigmoid()
    assert_close(drawn, mean.float().expand(2, *shape), rtol=0, atol=1e-6)
    assert net.background.requires_grad


@every_decoder
def test_background_of_constant_pixels_is_finite(decoder):
    data = torch.zeros(10, 1, 16, 16)
    data[..., 8:] = 1
    background = decoder.from_images(data, 2, **widths(decoder, 0)).background
    assert torch.isfinite(background).all()
    assert_close(background.sigmoid(), data[0].clamp(1e-3, 1 - 1e-3))
    with pytest.raises(ValueError, match=r"^images: expected shape \[N, 1, 16, 16\], got \[10, 3, 16, 16\]"):
        decoder((1, 16, 16), 2, **widths(decoder, 0)).initialise_background(torch.zeros(10, 3, 16, 16))


@pytest.mark.parametrize("make", [ConvEncoder, lambda shape: ConvDecoder(shape, 3)], ids=["ConvEncoder", "ConvDecoder"])
@pytest.mark.parametrize("shape", [(2, 16, 16), (1, 16), (1, 20, 16), (3, 16, 8), (1, 16, 0)], ids=name)
def test_convolutions_refuse_other_shapes(make, shape):
    with pytest.raises(ValueError, match=r"^image_shape: got .*multiples of 16"):
        make(shape)


@pytest.mark.parametrize(
    ("make", "multiple"),
    [(PooledEncoder, 4), (SpatialEncoder, 4), (lambda shape: FiLMDecoder(shape, 3), 8)],
    ids=["pooled", "spatial", "modulated"],
)
@pytest.mark.parametrize("shape", [(2, 16, 16), (1, 16), (1, 18, 16), (1, 16, 0)], ids=name)
def test_other_convolutions_refuse_other_shapes(make, multiple, shape):
    with pytest.raises(ValueError, match=rf"^image_shape: got .*multiples of {multiple}"):
        make(shape)


def test_errors_of_channels():
    for encoder in (PooledEncoder, SpatialEncoder):
        with pytest.raises(ValueError, match=r"^channels: got 0"):
            encoder((1, 16, 16), channels=0)
    with pytest.raises(ValueError, match=r"^channels: expected 3 numbers, got \[8, 8\]"):
        FiLMDecoder((1, 16, 16), 3, channels=[8, 8])


@pytest.mark.parametrize(
    "make", [ConvEncoder, lambda shape, **kwargs: ConvDecoder(shape, 3, **kwargs)], ids=["encoder", "decoder"]
)
def test_wrong_number_of_channels(make):
    with pytest.raises(ValueError, match=r"^channels: expected \d numbers, got \[8, 8\]"):
        make((1, 16, 16), channels=[8, 8])


# Likelihoods


def bernoulli(x, output):
    return torch.where(x == 1, output.sigmoid(), 1 - output.sigmoid()).log()


def continuous_bernoulli(x, output):
    # The normaliser of p^x (1 - p)^(1 - x) over [0, 1] by the midpoint rule.
    t = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    p = output.sigmoid()[..., None]
    return bernoulli_density(x, output.sigmoid()).log() - bernoulli_density(t, p).mean(-1).log()


def bernoulli_density(x, p):
    return p**x * (1 - p) ** (1 - x)


def gaussian(x, output):
    return -0.5 * ((x - output.sigmoid()) / 0.2) ** 2 - math.log(0.2 * math.sqrt(2 * math.pi))


def laplace(x, output):
    return -(x - output.sigmoid()).abs() / 0.2 - math.log(0.4)


LIKELIHOODS = {
    "bernoulli": (BernoulliLikelihood, bernoulli),
    "continuous": (ContinuousBernoulliLikelihood, continuous_bernoulli),
    "gaussian": (lambda: GaussianLikelihood(0.2), gaussian),
    "laplace": (lambda: LaplaceLikelihood(0.2), laplace),
}


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_log_prob_and_mean(kind):
    make, density = LIKELIHOODS[kind]
    output = 2 * torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    x = x.round() if kind == "bernoulli" else x
    p = make().double()(output)
    assert (p.batch_shape, p.event_shape) == ((2, 3), (1, 4, 4))
    assert_close(p.log_prob(x), density(x, output).sum((-3, -2, -1)), rtol=1e-5, atol=1e-5)
    mean = output.sigmoid()
    if kind == "continuous":
        t = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
        weight = bernoulli_density(t, mean[..., None])
        mean = (weight * t).mean(-1) / weight.mean(-1)
    assert_close(p.mean, mean, rtol=1e-5, atol=1e-5)
    assert p.sample().shape == output.shape


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_pixels_at_the_ends_of_the_range(kind):
    x = torch.tensor([0.0, 1.0, 0.0, 1.0]).reshape(1, 2, 2)
    output = torch.tensor([-30.0, 30.0, 0.0, 0.0]).reshape(1, 2, 2).requires_grad_()
    log_prob = LIKELIHOODS[kind][0]()(output).log_prob(x)
    log_prob.backward()
    assert torch.isfinite(log_prob)
    assert torch.isfinite(output.grad).all()


def test_bernoulli_refuses_grey_pixels_and_the_others_take_them():
    # Pitfall: Bernoulli under validation raises on grey pixels.
    x, output = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"support"):
        BernoulliLikelihood()(output).log_prob(x)
    for likelihood in (ContinuousBernoulliLikelihood(), GaussianLikelihood(), LaplaceLikelihood()):
        assert likelihood(output).log_prob(x).shape == (2,)


@pytest.mark.parametrize("kind", [GaussianLikelihood, LaplaceLikelihood], ids=name)
def test_learned_scale(kind):
    x, output = torch.full((1, 1, 4, 4), 0.9), torch.zeros(1, 1, 4, 4)
    fixed = kind(0.1)
    assert list(fixed.parameters()) == []
    assert fixed.scale.item() == pytest.approx(0.1)
    learned = kind(0.1, learn_scale=True, min_scale=0.01)
    assert learned.scale.item() == pytest.approx(0.1)
    learned(output).log_prob(x).sum().backward()
    (parameter,) = learned.parameters()
    # The error is 0.4: the likelihood grows with the scale.
    assert parameter.grad > 0
    optimiser = torch.optim.Adam(learned.parameters(), lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        (-learned(output).log_prob(x).sum()).backward()
        optimiser.step()
    assert learned.scale.item() == pytest.approx(0.4, rel=0.02)
    with torch.no_grad():
        parameter.fill_(-100.0)
    assert learned.scale.item() == pytest.approx(0.01)
    other = kind(0.5, learn_scale=True, min_scale=0.01)
    other.load_state_dict(learned.state_dict())
    assert torch.equal(other.scale, learned.scale)


@pytest.mark.parametrize("kind", [GaussianLikelihood, LaplaceLikelihood], ids=name)
def test_unbounded_mean_and_errors_of_the_scale(kind):
    output = torch.randn(2, 1, 4, 4)
    assert torch.equal(kind(0.1, bounded=False)(output).mean, output)
    for scale, floor in ((0.0, 1e-3), (1e-3, 1e-3), (0.1, 0.0), (-1.0, 1e-3)):
        with pytest.raises(ValueError, match=r"^scale: got scale=.*0 < min_scale < scale"):
            kind(scale, min_scale=floor)


# Priors


def labels_of(batch=200):
    return torch.randn(batch, 3).clamp(-2.5, 2.5) * torch.tensor([1.0, 20.0, 0.1]) + torch.tensor([0.0, 100.0, -3.0])


def test_fixed_prior_defaults_are_the_papers():
    u = torch.tensor([[0.5, -2.0], [3.0, 4.0]])
    p = FixedPrior(2, 3)(u)
    assert (p.batch_shape, p.event_shape) == ((2,), (2, 3))
    assert torch.equal(p.mean, u[..., None].expand(2, 2, 3))
    assert torch.equal(p.stddev, torch.ones(2, 2, 3))
    expected = -0.5 * ((1 - u).square().sum(-1) * 3 + 6 * math.log(2 * math.pi))
    assert_close(p.log_prob(torch.ones(2, 2, 3)), expected)
    assert list(FixedPrior(2).parameters()) == []


def test_fixed_prior_per_concept_numbers():
    p = FixedPrior(2, std=[0.1, 0.2], shift=[1.0, 0.0], scale=[2.0, 4.0])(torch.tensor([3.0, 4.0]))
    assert_close(p.mean.squeeze(-1), torch.tensor([1.0, 1.0]))
    assert_close(p.stddev.squeeze(-1), torch.tensor([0.1, 0.2]))


@every_prior
def test_from_labels_standardises(prior):
    labels = labels_of()
    p = prior.from_labels(labels, 2, std=0.3)
    mean = p(labels).mean
    assert mean.shape == (200, 3, 2)
    assert_close(mean.mean(0), torch.zeros(3, 2), rtol=0, atol=1e-4)
    assert_close(mean.std(0), torch.ones(3, 2), rtol=1e-4, atol=0)
    assert_close(p(labels).stddev, torch.full((200, 3, 2), 0.3))
    assert_close(p.shift, labels.mean(0))
    assert_close(p.scale, labels.std(0))
    again = type(p)(**p.init_args)
    again.load_state_dict(p.state_dict())
    assert torch.equal(again(labels).mean, mean)


@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1, 7.7, -100.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@every_prior
def test_a_constant_label_is_an_error(prior, constant, dtype):
    labels = labels_of(333).to(dtype)
    labels[:, 1] = constant
    message = rf"^labels: all 333 in column 1, counted from 0, are equal \({constant:g}\); a concept has to vary$"
    with pytest.raises(ValueError, match=message):
        prior.from_labels(labels)
    labels[::3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"^labels: all 222 in column 1, counted from 0, are equal"):
        prior.from_labels(labels)


@pytest.mark.parametrize("dim", [1, 3])
@every_prior
def test_to_labels_inverts_lambda1(prior, dim):
    labels = labels_of()
    p = prior.from_labels(labels, dim)
    resolution = 8 / 2000 * labels.std(0)
    read = p.to_labels(p(labels).mean)
    assert read.shape == labels.shape
    assert ((read - labels).abs() <= (1e-4 if prior is FixedPrior else 0.55) * resolution + 1e-5 * labels.abs()).all()
    assert p.to_labels(p(labels).mean.expand(2, 200, 3, dim)).shape == (2, 200, 3)
    assert torch.equal(p.to_labels(p(labels[0]).mean), read[0])


def test_to_labels_of_a_bent_lambda1():
    labels = labels_of()
    p = LearnedPrior.from_labels(labels, 2)
    with torch.no_grad():
        p.slope.copy_(torch.tensor([[2.0, 0.5], [-1.0, 1.0], [1.0, 0.0]]))
        p.output[..., :2].normal_(0, 0.05)
        p.output_bias[..., :2].normal_()
    assert ((p.to_labels(p(labels).mean) - labels).abs() <= 0.55 * 8 / 2000 * p.scale + 1e-5 * labels.abs()).all()


def test_learned_prior_starts_as_the_standardised_label():
    labels = labels_of()
    p = LearnedPrior.from_labels(labels, 2, std=0.2, min_std=0.05)
    assert_close(
        p.lambda1(labels), ((labels - labels.mean(0)) / labels.std(0))[..., None].expand(-1, -1, 2), rtol=1e-4, atol=1e-4
    )
    assert_close(p.lambda2(labels), torch.full((200, 3, 2), 0.2))


def test_gradient_reaches_the_learned_prior():
    labels = labels_of()
    p = LearnedPrior.from_labels(labels, 2)
    z = torch.randn(200, 3, 2)
    optimiser = torch.optim.Adam(p.parameters(), lr=0.01)
    before = {key: value.clone() for key, value in p.named_parameters()}
    for _ in range(3):
        optimiser.zero_grad()
        (-p(labels).log_prob(z).mean()).backward()
        optimiser.step()
    # The hidden layer's own gradient is zero only at the very start, where its output weights are.
    assert all((value != before[key]).any() for key, value in p.named_parameters())
    with torch.no_grad():
        p.output.fill_(-100.0)
        p.output_bias.fill_(-100.0)
    assert (p.lambda2(labels) >= p.min_std).all()


@every_prior
def test_each_concept_sees_its_own_label_only(prior):
    p = prior(3, 2)
    for parameter in p.parameters():
        nn.init.normal_(parameter)
    u, other = torch.randn(5, 3), torch.randn(5, 3)
    for of in (p.lambda1, p.lambda2):
        for i in range(3):
            mixed = other.clone()
            mixed[:, i] = u[:, i]
            assert_close(of(mixed)[:, i], of(u)[:, i])
            assert prior is FixedPrior or not torch.allclose(of(other)[:, i], of(u)[:, i])


@every_prior
def test_prior_errors_name_the_argument(prior):
    for arguments, message in [
        ({"scale": 0.0}, "scale: got .*positive"),
        ({"scale": [1.0, -1.0]}, "scale: got .*positive"),
        ({"scale": [1.0, 2.0, 3.0]}, r"scale: expected a number or 2 numbers, got shape \[3\]"),
        ({"shift": [1.0]}, r"shift: expected a number or 2 numbers, got shape \[1\]"),
        ({"shift": math.nan}, "shift: got .*finite"),
        ({"scale": math.inf}, "scale: got .*finite"),
        ({"std": 0.0}, "std: got"),
        ({"std": -1.0}, "std: got"),
    ]:
        with pytest.raises(ValueError, match=f"^{message}"):
            prior(2, **arguments)
    with pytest.raises(ValueError, match=r"^labels: expected shape \[\.\.\., 2\], got \[5, 3\]"):
        prior(2)(torch.zeros(5, 3))


def test_floor_of_the_learned_std():
    with pytest.raises(ValueError, match=r"^std: got std=0.01, min_std=0.02"):
        LearnedPrior(2, std=0.01, min_std=0.02)
