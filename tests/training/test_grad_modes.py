"""What trains does so under ``torch.no_grad()`` and ``torch.inference_mode()`` too, or says in a line why not."""

import pytest
import torch

from causalvae_pyro import Recipe, fit
from causalvae_pyro.datasets import Pendulum
from causalvae_pyro.discovery import discover_graph
from causalvae_pyro.evaluation import train_predictor
from causalvae_pyro.recipes import fit_mechanisms
from tests.builders import check_one_line, make_pendulum_pair, raises

MODES = [torch.no_grad, torch.inference_mode]


@pytest.fixture(scope="module")
def data():
    pendulum = Pendulum("test", size=16)
    return pendulum.images[::30].clone(), pendulum.labels[::30].clone()


def weights(*modules):
    return torch.cat([p.detach().flatten() for module in modules for p in module.parameters()])


def train(data):
    torch.manual_seed(0)
    recipe = Recipe()
    run = recipe.build(Pendulum.graph, *data)
    fit_mechanisms(run.model, data[1], steps=3)
    fit(run.model, run.guide, data, objective=recipe.objective(run), epochs=1, batch_size=16, device="cpu", progress=False)
    return weights(run.model, run.guide)


def find_graph(data):
    return discover_graph(data[1], Pendulum.graph.names, rounds=1, steps=2, refine=False).strengths


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("learn", [train, find_graph, lambda data: weights(train_predictor(*data, steps=4))])
def test_it_learns_the_same(learn, mode, data):
    expected = learn(data)
    with mode():
        found = learn(tuple(part.clone() for part in data))
        assert not torch.is_grad_enabled()
    assert torch.equal(found, expected)


def test_a_model_that_cannot_be_trained_is_refused(data):
    with torch.inference_mode():
        pair = make_pendulum_pair(data)
    with raises("model", "made under torch.inference_mode", "make it outside") as error:
        fit(*pair, data, epochs=1, batch_size=16, device="cpu", progress=False)
    check_one_line(error)
