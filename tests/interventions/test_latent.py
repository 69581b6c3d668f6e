"""``model.latent``: label units for ``poutine.do``."""

import numpy as np
import pyro.poutine as poutine
import pytest
import torch
from torch.testing import assert_close

from causalvae_pyro import (
    CausalGraph,
    FixedPrior,
    Shift,
    abduct,
    counterfactual,
    intervene,
)
from causalvae_pyro.interventions import InterventionSet
from causalvae_pyro.priors import LearnedPrior
from tests.builders import make_pair

GRAPH = CausalGraph(["leaf", "root", "lone", "mid"], [("root", "mid"), ("mid", "leaf")])
N = 6
DOS = {
    "number": {"mid": 7.0},
    "integer": {"mid": 7},
    "one per image": {"root": torch.linspace(-3, 1, N)},
    "list": {"root": [0.5, 1.0, 2.0, 3.0, 4.0, 5.0]},
    "numpy": {"lone": np.linspace(0, 1, N)},
    "several": {"mid": torch.linspace(-3, 1, N), "leaf": 2.0, "lone": -1.0},
    "nothing": {},
}


def make(prior=FixedPrior, dim=1, dtype=torch.float32):
    units = {"shift": [1.0, -2.0, 0.0, 3.0], "scale": [2.0, 0.5, 1.0, 4.0]}
    layer = {"learn_noise": True}
    options = {"prior": prior, "dim": dim, "hidden": 8, "moved": 0.2, "dtype": dtype}
    return make_pair(GRAPH, (1, 4, 4), layer_options=layer, prior_options=units, **options)


@pytest.mark.parametrize("do", DOS.values(), ids=DOS)
@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("prior", [FixedPrior, LearnedPrior])
def test_do_in_label_units(prior, dim, do):
    model, guide = make(prior, dim)
    x = torch.rand(N, 1, 4, 4)
    noise, values = abduct(guide, x), model.latent(do)
    traces = []
    for world in (poutine.do(model, data=values), intervene(model, do)):
        with torch.no_grad():
            traces.append(poutine.trace(poutine.condition(world, data=noise)).get_trace(num_samples=N))
    by_hand, ours = (trace.nodes["z"]["value"] for trace in traces)
    assert torch.equal(by_hand, ours)
    assert torch.equal(traces[0].nodes["x_mean"]["value"], traces[1].nodes["x_mean"]["value"])
    images, z = counterfactual(model, guide, x, do, return_latents=True)
    assert torch.equal(z, by_hand)
    assert torch.equal(images, traces[0].nodes["x_mean"]["value"])
    assert values.keys() == do.keys()
    for name, value in values.items():
        labels = torch.zeros(N, 4)
        labels[:, GRAPH.index(name)] = torch.as_tensor(do[name])
        assert_close(by_hand[:, GRAPH.index(name)], model.prior(labels).mean[:, GRAPH.index(name)])
        assert value.shape == ((N, dim) if np.ndim(do[name]) else (dim,))
        assert not value.requires_grad


def test_on_the_models_device_and_in_its_precision():
    model, _ = make(LearnedPrior, 3, torch.float64)
    assert model.latent({"mid": 1.0, "root": torch.zeros(2)})["mid"].dtype == torch.float64
    assert model.to("meta").latent({}) == {}


def test_several_samples_at_once():
    model, _ = make(dim=3)
    values = model.latent({"mid": torch.linspace(0, 1, N), "root": 2.0})
    eps = torch.randn(5, N, 4, 3)
    z = poutine.do(model.scm, data=values)(eps)
    assert torch.equal(z[..., 3, :], values["mid"].expand(5, N, 3))
    assert torch.equal(z[..., 1, :], values["root"].expand(5, N, 3))


def test_it_is_the_same_code_as_that_of_interventions(monkeypatch):
    model, _ = make()
    monkeypatch.setattr("causalvae_pyro.interventions.actions._lambda1", lambda *_: torch.full((1,), 77.0))
    assert InterventionSet.from_do(model, {"mid": 1.0}).hard["mid"] == 77
    assert model.latent({"mid": 1.0})["mid"] == 77


@pytest.mark.parametrize(
    ("do", "message"),
    [
        ({"nobody": 1.0}, r"do: unknown concept 'nobody'; known: \['leaf', 'root', 'lone', 'mid'\]"),
        ([("mid", 1.0)], "do: expected a mapping from concepts to values, got list"),
        ({"mid": torch.zeros(N, 1)}, r"do\['mid'\]: expected a number or one value per image, got shape \(6, 1\)"),
        ({"mid": float("nan")}, r"do\['mid'\]: got a value that is not finite"),
        ({"mid": [1.0, float("inf")]}, r"do\['mid'\]: got a value that is not finite"),
        ({"mid": "7"}, r"do\['mid'\]: expected a number or a tensor, got '7'"),
        ({"mid": None}, r"do\['mid'\]: expected a number or a tensor, got None"),
        ({"mid": Shift(1.0)}, r"do\['mid'\]: expected a number or one value per image, got Shift\(by=1.0\); soft ones go to"),
        ({"mid": torch.sqrt}, r"do\['mid'\]: expected a number or one value per image, got <built-in"),
    ],
    ids=range(9),
)
def test_what_is_refused(do, message):
    model, _ = make()
    with pytest.raises(ValueError, match=f"^{message}") as error:
        model.latent(do)
    assert "\n" not in str(error.value)
