"""The Fréchet distance against its closed form, and what InceptionV3 is handed."""

import re
import sys
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from causalvae_pyro.metrics import FID, Predictor, fid

FLAT = nn.Flatten()


def images(seed, count=60, channels=2, side=3, low=0.0, high=1.0):
    """Correlated pixels in part of the range."""
    generator = torch.Generator().manual_seed(seed)
    size = channels * side * side
    mix = torch.rand(size, size, generator=generator) / size
    pixels = torch.rand(count, size, generator=generator) @ mix
    return (low + (high - low) * pixels / pixels.max()).reshape(count, channels, side, side)


def closed_form(one, two):
    """Of features ``[N, f]``."""
    one, two = (np.asarray(rows, dtype=np.float64) for rows in (one, two))
    s, t = np.cov(one.T), np.cov(two.T)
    with warnings.catch_warnings():
        # Of features that are 0 everywhere.
        warnings.simplefilter("ignore", scipy.linalg.LinAlgWarning)
        root = scipy.linalg.sqrtm(s @ t).real
    return np.square(one.mean(0) - two.mean(0)).sum() + np.trace(s + t - 2 * root)


class Fixed(nn.Module):
    """A small network that never changes."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(2, 5, 2)
        with torch.no_grad():
            self.convolution.weight.copy_(torch.linspace(-2, 2, 40).cos().reshape(5, 2, 2, 2))
            self.convolution.bias.copy_(torch.linspace(-0.3, 0.3, 5))
        self.modes = []

    def forward(self, x):
        self.modes.append((self.training, torch.is_grad_enabled()))
        return self.convolution(x).relu().mean(-1)


# Closed forms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(60, 60), (60, 35), (30, 200)])
def test_identity_features_in_closed_form(sizes):
    one, two = images(0, sizes[0], high=0.8).double(), images(1, sizes[1], low=0.3).double()
    assert fid(one, two, feature=FLAT) == pytest.approx(closed_form(one.flatten(1), two.flatten(1)), rel=1e-6)
    assert fid(two, one, feature=FLAT) == pytest.approx(fid(one, two, feature=FLAT), rel=1e-6)


def test_features_of_a_network_in_closed_form():
    network, one, two = Fixed(), images(0), images(1, 45)
    with torch.no_grad():
        features = [network(x).flatten(1) for x in (one, two)]
    network.modes.clear()
    assert fid(one, two, feature=network) == pytest.approx(closed_form(*features), rel=1e-5)
    # It stays in its mode, and nothing is kept for a gradient.
    assert set(network.modes) == {(True, False)}


def test_a_shift_and_a_scale():
    x = images(0, high=0.5).double()
    size = x[0].numel()
    # Equal covariances: the distance of the means alone.
    assert fid(x, x + 0.25, feature=FLAT) == pytest.approx(size * 0.25**2, rel=1e-6)
    # Covariances S and 4 S.
    mean, total = x.mean(0).square().sum().item(), x.flatten(1).var(0).sum().item()
    assert fid(x, 2 * x, feature=FLAT) == pytest.approx(mean + total, rel=1e-6)


def test_the_same_images_are_at_no_distance_and_never_below():
    for seed in range(5):
        x = images(seed, 12)
        assert 0 <= fid(x, x.flip(0), feature=FLAT) < 1e-6
    assert fid(images(0), images(1), feature=FLAT) > 1e-3


def test_one_feature():
    one, two = images(0), images(1)
    found = fid(one, two, feature=lambda x: x.mean((1, 2, 3)).unsqueeze(1))
    a, b = (x.mean((1, 2, 3)).double() for x in (one, two))
    # In double precision, of features in single.
    assert found == pytest.approx(((a.mean() - b.mean()).square() + (a.std() - b.std()).square()).item(), rel=1e-9)


def test_bytes_and_batches_make_no_difference():
    one, two = ((255 * images(seed)).round().byte() for seed in (0, 1))
    expected = fid(one / 255, two / 255, feature=FLAT)
    seen = []

    def spy(x):
        seen.append((len(x), x.dtype, x.max().item() <= 1))
        return x.flatten(1)

    assert fid(one, two, feature=spy, batch_size=25) == pytest.approx(expected, rel=1e-6)
    # One image tells the number of features.
    assert [size for size, *_ in seen] == [1, 25, 25, 10, 25, 25, 10]
    assert {tuple(rest) for _, *rest in seen} == {(torch.float32, True)}


def test_the_features_of_the_reference_are_computed_once():
    sizes = []

    def spy(x):
        sizes.append(len(x))
        return x.flatten(1)

    others = [images(seed, 20 + seed) for seed in (1, 2, 1)]
    distance = FID(images(0), feature=spy)
    found = [distance(other) for other in others]
    assert sizes == [1, 60, 21, 22, 21]
    assert found == pytest.approx([fid(images(0), other, feature=FLAT) for other in others], rel=1e-9)


def test_the_features_of_a_predictor():
    one = images(0, 40, 1, 8)
    targets = torch.stack([one.mean((1, 2, 3)), one[:, 0, 0, 0]], 1)
    predictor = Predictor((1, 8, 8), 2)
    predictor.fit(one, targets, epochs=2, batch_size=10)
    with torch.no_grad():
        features = predictor.features(one)
        torch.testing.assert_close(predictor.output(features) * predictor.scale + predictor.shift, predictor.predict(one))
    assert features.shape == (40, 128)
    # As far from itself as rounding, and from dimmed images farther than from a few changed ones.
    near, far = one.clone(), 0.5 * one
    near[:3] = near[:3].flip(-1)
    same, near, far = (fid(one, other, feature=predictor.features) for other in (one, near, far))
    assert same < 1e-3 * near < 1e-3 * far


# InceptionV3 ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def inception(monkeypatch):
    """Stands in for the network, whose weights would have to be downloaded; records what it is handed."""
    import torchmetrics.image.fid as module

    seen = []

    class Network(nn.Module):
        def __init__(self, name, features_list, **options):
            super().__init__()
            self.count = int(features_list[0])

        def forward(self, x):
            seen.append(x)
            return x.double().flatten(1)[:, : self.count] / 255

    monkeypatch.setattr(module, "NoTrainInceptionV3", Network)
    monkeypatch.setattr(module, "_TORCH_FIDELITY_AVAILABLE", True)
    return seen


def test_inception_sees_the_bytes_themselves(inception):
    # Every value of a byte, divided by 255 and multiplied again: truncation would lose some.
    one = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    two = (one / 255).flip(0)
    fid(one, two, feature=64)
    assert [x.dtype for x in inception] == [torch.uint8] * 2
    for x, expected in zip(inception, (one, one.flip(0)), strict=True):
        assert torch.equal(x, expected.expand(-1, 3, -1, -1))


def test_the_layer_of_inception(inception):
    one, two = (images(seed, 300, 3, 8) for seed in (0, 1))
    bytes_ = [(255 * x).round().flatten(1)[:, :64] / 255 for x in (one, two)]
    assert fid(one, two, feature=64) == pytest.approx(closed_form(*bytes_), rel=1e-5)


def test_inception_is_the_default(inception, monkeypatch):
    import torchmetrics.image.fid as module

    wanted = []
    network = module.NoTrainInceptionV3
    monkeypatch.setattr(module, "NoTrainInceptionV3", lambda **o: wanted.append(o["features_list"]) or network(**o))
    x = images(0, 4, 3, 2)
    with pytest.raises(RuntimeError):
        fid(x, x)  # The stand-in has fewer features than it is asked for.
    assert wanted == [["2048"]]


def test_weights_that_cannot_be_downloaded(monkeypatch):
    import torchmetrics.image.fid as module

    def fail(**options):
        raise OSError("no network")

    monkeypatch.setattr(module, "_TORCH_FIDELITY_AVAILABLE", True)
    monkeypatch.setattr(module, "NoTrainInceptionV3", fail)
    message = "feature: InceptionV3's weights cannot be downloaded (no network); give a function of images instead"
    with pytest.raises(OSError, match="^" + re.escape(message)):
        fid(images(0, channels=3), images(1, channels=3))


# Errors --------------------------------------------------------------------------------------------------------------


def test_without_torchmetrics(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    message = r"^fid: needs torchmetrics \(.*\); install the extra: pip install 'causalvae-pyro\[fid\]'$"
    with pytest.raises(ModuleNotFoundError, match=message):
        fid(images(0), images(1), feature=FLAT)


def test_without_torch_fidelity(monkeypatch):
    import torchmetrics.image.fid as module

    monkeypatch.setattr(module, "_TORCH_FIDELITY_AVAILABLE", False)
    with pytest.raises(ModuleNotFoundError, match=r"^feature: InceptionV3 needs torch-fidelity; install the extra: .*\[fid\]'$"):
        fid(images(0, channels=3), images(1, channels=3))
    # Other features do without.
    assert fid(images(0), images(1), feature=FLAT) > 0


def test_what_a_feature_raises_is_left_alone():
    def broken(x):
        raise ModuleNotFoundError("mine")

    with pytest.raises(ModuleNotFoundError, match=r"^mine$"):
        fid(images(0), images(1), feature=broken)


@pytest.mark.parametrize(
    ("one", "two", "options", "message"),
    [
        (images(0)[:1], images(1), {}, "images: got 1 image; must be at least 2"),
        (images(0), images(1)[:1], {}, "other: got 1 image; must be at least 2"),
        (images(0)[0], images(1), {}, "images: expected a tensor of images [N, C, H, W], got [2, 3, 3]"),
        (images(0), images(1)[:, :1], {}, "other: got images of shape [1, 3, 3]; valid: that of images, [2, 3, 3]"),
        (images(0), images(1, side=4), {}, "other: got images of shape [2, 4, 4]; valid: that of images, [2, 3, 3]"),
        (images(0).int(), images(1), {}, "images: expected uint8, or floating point in [0, 1], got torch.int32"),
        (255 * images(0), images(1), {}, "images: pixels must lie in [0, 1] or be uint8, got "),
        (images(0), images(1) - 0.5, {}, "other: pixels must lie in [0, 1] or be uint8, got -0."),
        (images(0), images(1) * float("nan"), {}, "other: pixels must lie in [0, 1] or be uint8, got nan to nan"),
        (images(0), images(1), {"batch_size": 0}, "batch_size: got 0; must be at least 1"),
        (images(0), images(1), {"feature": 64}, "images: got 2 channels; InceptionV3 takes 1 or 3, other features any number"),
        (
            images(0, channels=1),
            images(1, channels=1),
            {"feature": 100},
            "feature: got 100; valid: 64, 192, 768, 2048, or a function of images",
        ),
    ],
)
def test_bad_input(one, two, options, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        fid(one, two, **{"feature": FLAT, **options})
