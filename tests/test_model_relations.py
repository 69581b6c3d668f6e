"""What Pyro finds out about the model's structure, for drawings and for inference: the causal graph, no more and no less."""

import pyro
import pytest
import torch
from pyro.infer.inspect import get_dependencies, get_model_relations
from torch.testing import assert_close

from causalvae_pyro import AdditiveNoiseSCM, CausalGraph, LinearSCM
from causalvae_pyro.likelihoods import BernoulliLikelihood, GaussianLikelihood, LaplaceLikelihood
from causalvae_pyro.scm import AffineFlowSCM, MaskLayer, SplineFlowSCM
from tests.builders import make_pair

# root -> mid -> leaf, other -> leaf, lone beside them, against the index order: mid and lone stand in levels with others.
GRAPH = CausalGraph(["leaf", "root", "lone", "mid", "other"], [("root", "mid"), ("mid", "leaf"), ("other", "leaf")])
SHAPE = (1, 4, 4)
LAYERS = [LinearSCM, AdditiveNoiseSCM, AffineFlowSCM, SplineFlowSCM, MaskLayer]

every_layer = pytest.mark.parametrize("scm", LAYERS, ids=lambda s: s.__name__)
with_and_without_labels = pytest.mark.parametrize("labels", [True, False, "missing"])


def arguments(labels):
    u = torch.randn(3, 5)
    if labels == "missing":
        u[0, 1] = torch.nan
    return (torch.randint(2, (3, *SHAPE)).float(), u) if labels else (torch.randint(2, (3, *SHAPE)).float(),)


@with_and_without_labels
@every_layer
def test_the_relations_are_the_causal_graph(scm, labels):
    model, _ = make_pair(GRAPH, SHAPE, scm=scm, noise_dim=2, moved=0.2)
    found = get_model_relations(model, arguments(labels), include_deterministic=True)
    expected = {name: {"eps", *GRAPH.parents(name)} for name in GRAPH.names}
    expected |= {"eps": set(), "eps_x": set(), "z": set(GRAPH.names), "x": {"z", "eps_x"}, "x_mean": {"z", "eps_x"}}
    assert {name: set(causes) for name, causes in found["sample_sample"].items()} == expected
    assert set(found["plate_sample"]["data"]) == set(expected)


@with_and_without_labels
@every_layer
def test_inference_knows_that_the_image_tells_of_the_noise(scm, labels):
    model, _ = make_pair(GRAPH, SHAPE, scm=scm, noise_dim=2)
    found = get_dependencies(model, arguments(labels))
    assert set(found["prior_dependencies"]["x"]) == {"x", "eps", "eps_x"}
    if labels:
        assert set(found["prior_dependencies"]["z"]) == {"z", "eps"}
    assert set(found["posterior_dependencies"]["eps"]) == {"eps", "eps_x", "x"} | ({"z"} if labels else set())


def test_so_are_they_with_local_parameters():
    with pyro.settings.context(module_local_params=True):
        model, _ = make_pair(GRAPH, SHAPE)
        found = get_model_relations(model, arguments(True), include_deterministic=True)
    assert set(found["sample_sample"]["x"]) == {"z"}


@pytest.mark.parametrize("likelihood", [GaussianLikelihood, LaplaceLikelihood, BernoulliLikelihood])
def test_the_drawing(likelihood):
    pytest.importorskip("graphviz")
    model, _ = make_pair(GRAPH, SHAPE, likelihood=likelihood())
    source = pyro.render_model(model, model_args=arguments(True), render_deterministic=True).source
    edges = {tuple(line.strip().split(" -> ")) for line in source.splitlines() if "->" in line}
    expected = {*GRAPH.edges, ("z", "x"), ("z", "x_mean")}
    assert edges == expected | {("eps", name) for name in GRAPH.names} | {(name, "z") for name in GRAPH.names}


@every_layer
def test_looking_changes_nothing(scm):
    model, _ = make_pair(GRAPH, SHAPE, scm=scm, moved=0.2)
    x, labels = arguments(True)
    torch.manual_seed(0)
    before = pyro.poutine.trace(model).get_trace(x, labels)
    get_model_relations(model, (x, labels), include_deterministic=True)
    torch.manual_seed(0)
    after = pyro.poutine.trace(model).get_trace(x, labels)
    assert_close(before.log_prob_sum(), after.log_prob_sum(), rtol=0, atol=0)
    assert type(after.nodes["z"]["value"]) is torch.Tensor
