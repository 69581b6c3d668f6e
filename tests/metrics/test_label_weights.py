"""Weights that make labels independent of each other."""

import pytest
import torch

from causalvae_pyro.metrics.label_weights import LabelWeights


@pytest.fixture
def labels():
    generator = torch.Generator().manual_seed(0)
    a = (torch.rand(20_000, generator=generator) < 0.4).float()
    b = torch.where(torch.rand(20_000, generator=generator) < 0.8, a, 1 - a)
    c = torch.where(torch.rand(20_000, generator=generator) < 0.5, a, torch.randint(0, 3, (20_000,), generator=generator))
    return torch.stack([a, b, c, 0.5 * b + torch.randn(20_000, generator=generator)], 1)


def correlation(x, y, weight):
    weight = weight / weight.sum()
    x, y = x - (weight * x).sum(), y - (weight * y).sum()
    return ((weight * x * y).sum() / ((weight * x * x).sum() * (weight * y * y).sum()).sqrt()).item()


def test_a_weighted_label_is_independent_of_the_others(labels):
    weights = LabelWeights([True, True, False, False], [0, 0, 3, 0])
    weights.update(labels)
    found = weights(labels)
    for i in range(4):
        others = [labels[:, j] for j in range(4) if j != i]
        before, after = (max(abs(correlation(labels[:, i], y, w)) for y in others) for w in (torch.ones(20_000), found[:, i]))
        assert before > 0.2
        assert after < 0.06, i
        assert found[:, i].mean().item() == pytest.approx(1, abs=0.06)


def test_two_binary_labels_are_exact():
    labels = torch.tensor([[1.0, 1.0]] * 40 + [[0.0, 0.0]] * 40 + [[1.0, 0.0]] * 10 + [[0.0, 1.0]] * 10)
    weights = LabelWeights([True, True])
    weights.update(labels[:50])
    weights.update(labels[50:])
    # p(u) = 0.5, p(u | the other) = 0.8 or 0.2.
    assert weights(labels)[[0, -1], 0].tolist() == pytest.approx([0.5 / 0.8, 0.5 / 0.2], rel=1e-3)


def test_missing_labels_and_a_label_alone_count_once(labels):
    gaps = labels[:10].clone()
    gaps[::2, 1] = torch.nan
    weights, whole = (LabelWeights([True, True, False, False], [0, 0, 3, 0]) for _ in range(2))
    weights.update(gaps)
    whole.update(gaps[1::2])
    assert torch.equal(weights.moments, whole.moments)
    assert torch.equal(weights(gaps)[::2], torch.ones(5, 4))
    alone = LabelWeights([True])
    alone.update(labels[:, :1])
    assert torch.equal(alone(labels[:, :1]), torch.ones(20_000, 1))
    assert torch.equal(LabelWeights([True, True])(labels[:, :2]), torch.ones(20_000, 2))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_label_that_has_been_the_same_so_far(labels, value):
    same = labels[:40].clone()
    same[:, 0] = value
    same[:, 3] = value
    weights = LabelWeights([True, True, False, False], [0, 0, 3, 0])
    weights.update(same)
    assert weights(labels[:40]).isfinite().all()


def test_a_label_that_is_a_function_of_another_is_capped():
    column = torch.linspace(-1, 1, 100)
    labels = torch.stack([column, 2 * column], 1)
    weights = LabelWeights([False, False])
    weights.update(labels)
    assert weights(labels).isfinite().all()
    assert weights(labels).max() <= 10
