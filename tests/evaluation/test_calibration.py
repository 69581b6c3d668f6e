"""How often the guide's intervals hold the labels, in the score card and as a picture."""

import json

import pytest
import torch

from causalvae_pyro import Run
from causalvae_pyro.distributions import TopDownNormal
from causalvae_pyro.evaluation import calibration
from causalvae_pyro.evaluation.calibration import LEVELS, calibration_scores
from causalvae_pyro.evaluation.tables import score_table
from causalvae_pyro.guides import calibrate
from causalvae_pyro.plots import plot_coverage
from causalvae_pyro.recipes import Recipe
from tests.guides.test_calibrated import GRAPH, data, make


@pytest.fixture
def pair():
    return make()


def scores(model, guide, x, labels, **options):
    return calibration_scores(Run(model, guide), x, labels, GRAPH.names, **options)


def test_a_calibrated_guide_lies_on_the_diagonal_and_the_guide_in_it_does_not(pair):
    model, guide = pair
    found = scores(model, calibrate(model, guide, *data(model, guide)), *data(model, guide, 500))
    # Errors five times as large as the guide takes them for, as large, and a fifth.
    for name in GRAPH.names:
        assert found["guide"][name] == pytest.approx(LEVELS, abs=0.08)
    assert found["uncalibrated"]["b"] == pytest.approx(LEVELS, abs=0.08)
    assert found["uncalibrated"]["a"][LEVELS.index(0.95)] < 0.45
    assert found["uncalibrated"]["c"][LEVELS.index(0.5)] > 0.99
    assert json.loads(json.dumps(found)) == found


def test_a_guide_that_is_not_calibrated_is_scored_alone(pair):
    model, guide = pair
    x, labels = data(model, guide, 100)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    found = scores(model, guide, x, labels)
    assert set(found) == {"levels", "guide"}
    assert torch.equal(torch.get_rng_state(), state)
    assert scores(model, guide, x, labels) == found != scores(model, guide, x, labels, seed=1)


def test_dimensions_are_averaged_and_concepts_are_those_asked_for():
    model, guide = make(dim=2)
    x, labels = data(model, guide, 300)
    found = calibration_scores(Run(model, guide), x, labels, ["c", "a"])
    assert list(found["guide"]) == ["c", "a"]
    assert found["guide"]["c"][0] > found["guide"]["a"][0]


def test_labels_that_nobody_knows(pair, monkeypatch):
    model, guide = pair
    monkeypatch.setattr(calibration, "_SAMPLES", 20)
    x, labels = data(model, guide, 50)
    labels[:, 1], labels[:25, 0] = torch.nan, torch.nan
    found = scores(model, guide, x, labels)
    assert found["guide"]["b"] == [None] * len(LEVELS)
    # The others are of the images that have one.
    half = scores(model, guide, x, labels.where(labels.isnan(), 1e6))["guide"]["a"]
    assert half == [0.0] * len(LEVELS)
    axes = plot_coverage(LEVELS, found["guide"]).axes
    assert [panel.get_title() for panel in axes] == list(GRAPH.names)
    assert axes[0].lines[1].get_ydata().tolist() == found["guide"]["a"]


def test_the_table_says_both():
    card = {"r2": {"a": 0.5}, "intervals": {}, "images": 1, "reconstruction_mse": 0.1, "directions": {}}
    card |= {"graph": {"shd": 0, "f1": 1.0}}
    shares = {"levels": [0.5, 0.95], "guide": {"a": [0.4, 0.941]}, "uncalibrated": {"a": [0.1, 0.212]}}
    table = score_table(card | {"calibration": shares}).split("\n")
    assert table[2].split() == ["concept", "R^2", "covered", "uncalibrated"]
    assert table[4].split() == ["a", "0.5000", "0.941", "0.212"]
    assert "covered" not in score_table(card).split("\n")[2]


def test_the_picture_draws_the_guide_before_calibration_dashed():
    figure = plot_coverage([0.5, 0.9], {"a": [0.25, 0.75]}, {"a": [0.0, 0.125]})
    diagonal, after, before = figure.axes[0].lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert (after.get_ydata().tolist(), after.get_linestyle()) == ([0.25, 0.75], "-")
    assert (before.get_ydata().tolist(), before.get_linestyle()) == ([0.0, 0.125], "--")


def test_the_images_own_noise_is_not_sampled(monkeypatch):
    torch.manual_seed(0)
    x, labels = torch.rand(300, 3, 16, 16), torch.randint(0, 2, (300, 2)).float()
    run = Recipe(decoder="hierarchical").build({"a": [], "b": ["a"]}, x, labels)
    monkeypatch.setattr(TopDownNormal, "rsample", lambda *_: pytest.fail("hundreds of samples of the noise take gigabytes"))
    found = calibration_scores(run, x, labels, ["b", "a"])
    assert list(found["guide"]) == ["b", "a"]
    assert all(0 <= share <= 1 for share in found["guide"]["a"])
