"""``fit`` warns where its objective leaves the causal layer as it was."""

import warnings

import pytest
import torch

from causalvae_pyro import AdditiveNoiseSCM, CausalELBO, CausalGraph, LinearSCM, fit
from causalvae_pyro.objectives import LabelFit, MechanismFit
from tests.builders import make_pair

EDGES, NONE = CausalGraph(["a", "b"], [("a", "b")]), CausalGraph(["a", "b"])
OPTIONS = {"epochs": 2, "batch_size": 4, "progress": False, "device": "cpu"}


def data():
    return torch.rand(8, 1, 4, 4), torch.randn(8, 2)


@pytest.mark.parametrize("scm", [LinearSCM, AdditiveNoiseSCM], ids=lambda s: s.__name__)
def test_the_default_bound_alone_teaches_a_guide_over_z_no_mechanism(scm):
    model, guide = make_pair(EDGES, (1, 4, 4), "endogenous", scm=scm)
    with pytest.warns(UserWarning, match=r"^objective: it gives the causal layer no gradient.*LabelFit") as caught:
        fit(model, guide, data(), objective=CausalELBO(), **OPTIONS)
    assert len(caught) == 1, "once"


@pytest.mark.parametrize(
    ("graph", "space", "objective"),
    [
        (EDGES, "endogenous", None),
        (EDGES, "endogenous", lambda: CausalELBO(1, 1)),
        (EDGES, "endogenous", lambda: CausalELBO(terms=[LabelFit()])),
        (EDGES, "endogenous", lambda: CausalELBO(terms=[MechanismFit()])),
        (EDGES, "exogenous", lambda: CausalELBO()),
        (NONE, "endogenous", lambda: CausalELBO()),
    ],
)
def test_nothing_is_said_where_it_learns(graph, space, objective):
    model, guide = make_pair(graph, (1, 4, 4), space)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, guide, data(), objective=objective and objective(), **OPTIONS)


def test_a_layer_that_is_not_to_learn_is_let_be():
    model, guide = make_pair(EDGES, (1, 4, 4), "endogenous")
    model.scm.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, guide, data(), objective=CausalELBO(), **OPTIONS)
