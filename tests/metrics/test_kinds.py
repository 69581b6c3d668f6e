"""Scores of categories, the latent divergence, and LPIPS with given weights."""

import pytest
import torch
from sklearn.metrics import f1_score
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close
from torchvision.models import alexnet

from causalvae_pyro.metrics import ImageVAE, PhotographPredictor, gaussian_kl, kind_scores, lpips, minimality
from tests.builders import raises


def test_accuracy_and_f1_of_each_kind():
    generator = torch.Generator().manual_seed(0)
    read, labels = (torch.randint(0, 4, (200,), generator=generator) for _ in range(2))
    scores = kind_scores(read.float(), labels.float(), 5)
    assert scores["accuracy"] == (read == labels).double().mean().item()
    assert scores["f1_by_kind"][:4] == pytest.approx(f1_score(labels, read, average=None).tolist())
    assert scores["f1_by_kind"][4] is None
    assert scores["f1"] == pytest.approx(f1_score(labels, read, average="macro"))
    # Always the commonest kind: a third of the F1 of being right.
    assert kind_scores(torch.zeros(30), torch.arange(30) % 3, 3)["f1"] == pytest.approx(0.5 / 3)
    with raises("read", "expected the labels' shape"):
        kind_scores(read[:3], labels, 5)


def test_a_predictor_learns_kinds_beside_other_labels():
    generator = torch.Generator().manual_seed(0)
    labels = torch.stack([torch.randint(0, 3, (300,), generator=generator).float(), torch.rand(300, generator=generator)], 1)
    x = 0.1 * torch.rand(300, 1, 16, 16, generator=generator)
    for kind in range(3):
        x[labels[:, 0] == kind, :, :, 5 * kind : 5 * kind + 4] += 0.6
    torch.manual_seed(0)
    missing = labels.clone()
    missing[::5, 0] = torch.nan
    predictor = PhotographPredictor((1, 16, 16), [False, False], mirror=False, kinds=[3, 0])
    predictor.fit(x, missing, steps=60)
    read = predictor.predict(x)
    assert (read[:, 0] == labels[:, 0]).double().mean() > 0.95
    assert read.shape == (300, 2)
    assert predictor(x[:2]).shape == (2, 4)
    with raises("kinds", "got 1 of them for 2"):
        PhotographPredictor((1, 16, 16), [False, False], kinds=[3])


def test_the_divergence_is_the_kl_of_torch_per_dimension():
    q, p = torch.randn(2, 5, 6)
    normals = [Normal(part[:, :3], part[:, 3:].exp()) for part in (q, p)]
    assert_close(gaussian_kl(q, p), kl_divergence(*normals).mean(1), rtol=1e-4, atol=1e-5)
    assert gaussian_kl(q, q).abs().max() < 1e-6
    with raises("q", "got 6 columns beside p's 4"):
        gaussian_kl(q, p[:, :4])


def test_minimality_takes_a_distance():
    before, after = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 0, 0])
    features = torch.randn(4, 6)
    asked = []

    def distance(a, b):
        asked.append((tuple(a.shape), tuple(b.shape)))
        return (a - b).square().mean(-1)

    far = minimality(features, features + 10, before, after, distance=distance)
    assert far > minimality(features, features + 0.01, before, after, distance=distance)
    assert asked[:2] == [((4, 6), (4, 6)), ((4, 6), (6,))]


def test_the_vae_tells_images_apart():
    torch.manual_seed(0)
    x = torch.zeros(240, 1, 16, 16)
    x[::2, :, :, :8], x[1::2, :, :, 8:] = 0.9, 0.9
    vae = ImageVAE((1, 16, 16), latent_dim=4, hidden=32)
    vae.fit(x, epochs=12)
    posterior = vae.posterior((255 * x).byte())
    assert posterior.shape == (240, 8)
    same, other = gaussian_kl(posterior[::2], posterior[0]), gaussian_kl(posterior[1::2], posterior[0])
    assert same.max() < 0.1 * other.min()
    for options, words in (
        ({"image_shape": (1, 18, 16)}, "divisible by 4"),
        ({"image_shape": (1, 16, 16), "latent_dim": 0}, "0"),
    ):
        with pytest.raises(ValueError, match=words):
            ImageVAE(**options)


def test_lpips_takes_weights_from_a_file(tmp_path):
    torch.manual_seed(0)
    torch.save(alexnet(weights=None).state_dict(), tmp_path / "alexnet.pth")
    x = torch.rand(3, 1, 32, 32)
    near, far = x + 0.01 * torch.randn_like(x), torch.rand(3, 1, 32, 32)
    same = lpips(x, x, tmp_path / "alexnet.pth", batch_size=2)
    assert same.shape == (3,)
    assert same.abs().max() < 1e-6
    distances = [lpips(x, other.clamp(0, 1), tmp_path / "alexnet.pth") for other in (near, far)]
    assert (distances[0] < distances[1]).all()
    # Grey images are looked at in three equal channels.
    colours = [image.clamp(0, 1).expand(-1, 3, -1, -1) for image in (x, far)]
    assert_close(lpips(*colours, tmp_path / "alexnet.pth"), distances[1])
    with pytest.raises(FileNotFoundError, match="weights: .* does not exist"):
        lpips(x, x, tmp_path / "none.pth")
    torch.save({"a": x}, tmp_path / "other.pth")
    with raises("weights", "does not hold AlexNet's weights"):
        lpips(x, x, tmp_path / "other.pth")
    with raises("images", "16 x 32", "at least 32"):
        lpips(x[..., :16, :], x[..., :16, :], tmp_path / "alexnet.pth")
    with raises("other", "must be alike"):
        lpips(x, x[:2], tmp_path / "alexnet.pth")
