"""Any network as an encoder."""

import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close

from causalvae_pyro import AmortizedGuide, CausalGraph, LinearSCM, Run, counterfactual, fit, load, save
from causalvae_pyro.networks import Backbone
from tests.builders import check_one_line, make_pair, raises

GRAPH = CausalGraph(["a", "b"], [("a", "b")])


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.BatchNorm2d(4), nn.ReLU())


@pytest.mark.parametrize(
    ("make", "shape", "features"),
    [
        (small, (3, 8, 8), 16),
        (lambda: torchvision.models.resnet18(weights=None), (3, 32, 32), 1000),
        (lambda: nn.Linear(5, 7), (5,), 7),
        (nn.Flatten, (2, 3, 4), 24),
    ],
)
def test_features_are_counted(make, shape, features):
    network = make()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    encoder = Backbone(network, shape)
    assert encoder.out_features == features
    assert encoder.training
    assert encoder.eval()(torch.rand(2, 4, *shape)).shape == (2, 4, features)
    # The dry run changes no running mean, nor does evaluation.
    assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_it_trains_and_answers(tmp_path):
    pair = make_pair(GRAPH, (3, 8, 8), "endogenous", encoder=Backbone(small(), (3, 8, 8)), scm=LinearSCM)
    x = torch.randint(256, (12, 3, 8, 8), dtype=torch.uint8)
    start = pair[1].encoder.network[0].weight.detach().clone()
    fit(*pair, (x, torch.randn(12, 2)), epochs=2, batch_size=4, progress=False, device="cpu")
    assert (pair[1].encoder.network[0].weight != start).any()
    y = counterfactual(*pair, x, {"a": 1.0})
    save(Run(*pair), tmp_path)
    run = load(tmp_path, classes={"Sequential": small})
    assert_close(counterfactual(run.model, run.guide, x, {"a": 1.0}), y)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (nn.Linear(5, 7), [r"\[2, 3, 8, 8\]", "shapes"]),
        (nn.LSTM(8, 4), [r"\[2, 3, 8, 8\]", "LSTM"]),
        (nn.Flatten(0), ["384", r"must return a tensor \[2, \.\.\.\]"]),
    ],
    ids=["size", "kind", "batch"],
)
def test_networks_that_do_not_fit(network, words):
    with raises("network", *words) as error:
        Backbone(network, (3, 8, 8))
    check_one_line(error)


def test_an_encoder_without_features_is_told_of_it():
    with raises("encoder", "Sequential without out_features", "Backbone") as error:
        AmortizedGuide(small(), num_concepts=2)
    check_one_line(error)
