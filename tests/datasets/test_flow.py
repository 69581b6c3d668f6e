"""The Flow simulator."""

import importlib
import math

import numpy as np
import pytest
import torch

from causalvae_pyro.datasets import Flow
from tests import ROOT

BALL, WATER, HOLE, FLOW = range(4)


@pytest.fixture(scope="module")
def data():
    return Flow("all", size=8)


@pytest.fixture(scope="module")
def matplotlib_flow():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        return importlib.import_module("matplotlib_flow")


def test_labels_follow_the_published_formulas(data):
    assert len(data) == 8100 == 30 * 30 * 9
    expected = []
    for r in range(5, 35):
        for h in range(10, 40):
            for hole in range(6, 15):
                water = (r / 30) ** 3 + h / 10
                expected.append([r / 30, water, hole / 3, math.sqrt(2 * 0.98 * water * (hole / 3 - 0.5))])
    torch.testing.assert_close(data.labels, torch.tensor(expected))


def test_ranges_are_those_of_the_docstring(data):
    low, high = Flow.label_range()
    assert [round(v, 2) for v in low.tolist()] == [0.17, 1.0, 2.0, 1.72]
    assert [round(v, 2) for v in high.tolist()] == [1.13, 5.36, 4.67, 6.61]


@pytest.mark.parametrize("partition", ["iid", "grid", "compositional"])
def test_no_label_combination_of_the_test_split_occurs_in_training(partition):
    train, test = (Flow(split, partition=partition, size=8).labels for split in ("train", "test"))
    assert len(train) + len(test) == 8100
    assert 1000 < len(test) < 3000
    seen = {tuple(row) for row in train.tolist()}
    assert len(seen) == len(train)
    assert not any(tuple(row) in seen for row in test.tolist())
    if partition == "compositional":
        # Each value alone is known from training; the combinations are not.
        for column in (BALL, HOLE):
            assert set(test[:, column].tolist()) <= set(train[:, column].tolist())


def test_an_intervention_reaches_over_two_hops_and_keeps_the_free_water(data):
    labels = data.labels[::101]
    after, images = data.counterfactual(labels, {"ball_size": 1.0})
    free = labels[:, WATER] - labels[:, BALL] ** 3
    torch.testing.assert_close(after[:, WATER], 1 + free)
    torch.testing.assert_close(after[:, FLOW], torch.sqrt(2 * 0.98 * after[:, WATER] * (labels[:, HOLE] - 0.5)))
    assert torch.equal(after[:, HOLE], labels[:, HOLE])
    assert torch.equal(images, data.render(after, 8))


def test_a_middle_intervention_cuts_its_cause(data):
    labels = data.labels[::101]
    after, _ = data.counterfactual(labels, {"water_height": 2.0, "hole": labels[:, HOLE].flip(0)})
    assert torch.equal(after[:, BALL], labels[:, BALL])
    torch.testing.assert_close(after[:, FLOW], torch.sqrt(2 * 0.98 * 2.0 * (labels[:, HOLE].flip(0) - 0.5)))


def test_mechanism_noise_is_additive_on_both_children(data):
    noisy = Flow("all", size=8, noise=0.3, seed=3)
    assert torch.equal(noisy.labels[:, [BALL, HOLE]], data.labels[:, [BALL, HOLE]])
    disturbance = noisy.labels[:, WATER] - data.labels[:, WATER]
    assert disturbance.std().item() == pytest.approx(0.3 * Flow.label_std()[WATER].item(), rel=0.03)
    residual = noisy.labels[:, FLOW] - torch.sqrt(2 * 0.98 * noisy.labels[:, WATER].clamp(min=0) * (noisy.labels[:, HOLE] - 0.5))
    assert residual.std().item() == pytest.approx(0.3 * Flow.label_std()[FLOW].item(), rel=0.03)


def test_simulated_scenes_lie_off_the_grid_and_in_range(data):
    labels, images = data.simulate(200, seed=1)
    free = labels[:, WATER] - labels[:, BALL] ** 3
    assert free.min() >= 1.0
    assert free.max() <= 3.9
    assert len(labels[:, BALL].unique()) == 200
    assert images.shape == (200, 3, 8, 8)
    assert torch.equal(data.simulate(200, seed=1)[0], labels)


def test_what_is_drawn_moves_with_its_label():
    labels = Flow("all", size=8).labels[4050].repeat(2, 1)
    for column in range(4):
        pair = labels.clone()
        pair[1, column] += 0.2
        a, b = Flow.render(pair, 64)
        assert (a - b).abs().max() > 0.1, column
    # The jet's reach is drawn as its own label says, whatever the water does.
    pair = labels.clone()
    pair[1, WATER] -= 0.5
    a, b = Flow.render(pair, 64)
    assert torch.equal(a[:, :, 36:], b[:, :, 36:])


def test_rendering_agrees_with_matplotlib(data, matplotlib_flow):
    labels = data.labels[torch.randperm(8100)[:30]]
    figure = matplotlib_flow.FlowFigure(96)
    theirs = np.stack([figure.draw(row) for row in labels.tolist()]) / 255
    assert np.abs(Flow.render(labels, 96).permute(0, 2, 3, 1).numpy() - theirs).mean() <= 0.006


def test_the_reference_drawing_does_not_depend_on_the_reuse_of_its_figure(data, matplotlib_flow):
    figures = matplotlib_flow.FlowFigure(48), matplotlib_flow.FlowFigure(48, blit=True)
    for row in data.labels[torch.randperm(8100)[:5]].tolist():
        new = matplotlib_flow.FlowFigure(48).draw(row)
        assert all(np.array_equal(figure.draw(row), new) for figure in figures)


def test_unphysical_interventions_draw_too(data):
    labels = data.labels[:4]
    for do in ({"water_height": -1.0}, {"water_flow": 0.0}, {"water_flow": -1.0}, {"hole": 0.2}, {"ball_size": 0.0}):
        after, images = data.counterfactual(labels, do)
        assert torch.isfinite(after).all()
        assert torch.isfinite(images).all()
        assert 0 <= images.min() <= images.max() <= 1
