"""The independent predictor."""

import pytest
import torch

from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.metrics import Predictor, r2_score


def squares(count=200):
    """Bright squares of some size on a dark ground: the size and the brightness are the targets."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(2, 9, (count,), generator=generator)
    levels = 0.3 + 0.7 * torch.rand(count, generator=generator)
    images = torch.zeros(count, 1, 12, 12)
    for image, size, level in zip(images, sizes.tolist(), levels.tolist(), strict=True):
        image[:, :size, :size] = level
    return images, torch.stack([100.0 * sizes, levels], 1)


def test_regression_in_the_targets_units():
    images, targets = squares()
    predictor = Predictor((1, 12, 12), 2)
    predictor.fit(images[:150], targets[:150], epochs=30, batch_size=16)
    assert r2_score(predictor.predict(images[150:]), targets[150:]).min() > 0.9


def test_classification():
    images, targets = squares()
    classes = (targets[:, 0] > 500).long()
    predictor = Predictor((1, 12, 12), 2, classify=True)
    predictor.fit(images[:150], classes[:150], epochs=15, batch_size=16)
    assert (predictor.predict(images[150:]) == classes[150:]).float().mean() > 0.9


def test_uint8_images_and_seeds():
    images, targets = squares(40)
    results = []
    for pixels in (images, (255 * images).round().byte(), images):
        torch.manual_seed(1)
        predictor = Predictor((1, 12, 12), 2)
        predictor.fit(pixels, targets, epochs=2, seed=3)
        results.append(predictor.predict(images))
    assert torch.equal(results[0], results[2])
    torch.testing.assert_close(results[0], results[1], rtol=1e-2, atol=1.0)


def test_sides_that_do_not_fit():
    with pytest.raises(ValueError, match="image_shape: got \\(1, 10, 12\\)"):
        Predictor((1, 10, 12), 2)


def test_features_come_in_batches_and_without_gradients():
    images = torch.randint(0, 256, (7, 1, 8, 8), dtype=torch.uint8)
    for classify in (False, True):
        predictor = Predictor((1, 8, 8), 3, classify=classify).eval()
        features = predictor.features(images, batch_size=3)
        assert not features.requires_grad
        torch.testing.assert_close(features, predictor.features(images.float() / 255))
        outputs = predictor.output(features) * predictor.scale + predictor.shift
        torch.testing.assert_close(outputs, predictor(images.float() / 255))


def test_missing_targets_are_left_out():
    data = Pendulum("test", size=16)
    shuffled = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    (train, test) = shuffled[:400], shuffled[400:600]
    images, labels, true = data.images[train], data.labels[train].clone(), data.labels[test]
    labels[::3, 1] = torch.nan
    labels[1, 0] = torch.nan
    predictor = Predictor((3, 16, 16), 4)
    predictor.fit(images, labels, epochs=8)
    found = predictor.predict(data.images[test])
    assert found.isfinite().all()
    error = (found - true).abs().mean(0)
    # Better than the mean of what is known.
    assert (error < (true - labels.nanmean(0)).abs().mean(0)).all()
    assert torch.allclose(predictor.shift, labels.nanmean(0), rtol=1e-4, atol=1e-4)


def test_a_target_without_any_value_is_refused():
    labels = torch.rand(20, 3)
    labels[:, 2] = torch.nan
    with pytest.raises(ValueError, match=r"^targets: all values of column 2 are missing"):
        Predictor((1, 8, 8), 3).fit(torch.rand(20, 1, 8, 8), labels)


def test_numbers_are_read_without_a_bias():
    """Running means of the batch normalisation used to shift what is read in evaluation mode."""
    images, targets = squares(400)
    predictor = Predictor((1, 12, 12), 2)
    predictor.fit(images, targets, epochs=4, batch_size=16)
    found = predictor.predict(images)
    assert ((found - targets).mean(0).abs() < 1e-3 * targets.std(0)).all()
