"""A guide that maps through a causal layer maps through its model's."""

import copy

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn
from torch.testing import assert_close

from causalvae_pyro import CausalELBO, CausalGraph, LinearSCM, Run, counterfactual, encode, fit, reconstruct
from causalvae_pyro.guides import IterativeGuide
from tests.builders import check_one_line, make_pair, raises

GRAPH = CausalGraph(["a", "b"], [("a", "b")])
SHAPE = (1, 4, 4)


def make():
    return make_pair(GRAPH, SHAPE, "endogenous", scm=LinearSCM, moved=0.2)


def data(size=8):
    return torch.rand(size, *SHAPE), torch.randn(size, 2)


class Holder(nn.Module):
    """A guide of the user's own that runs another one."""

    def __init__(self, guide):
        super().__init__()
        self.inner = guide

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


def refined(model, guide):
    return IterativeGuide(guide, model)


OTHERS = {
    "of another pair": lambda: (make()[0], make()[1]),
    "copied one by one": lambda: tuple(copy.deepcopy(module) for module in make()),
    "a wrapper": lambda: (make()[0], refined(*make())),
    "inside a module": lambda: (make()[0], Holder(make()[1])),
}
CALLS = {
    "fit": lambda model, guide, x, labels: fit(model, guide, (x, labels), epochs=1, batch_size=8, progress=False, device="cpu"),
    "counterfactual": lambda model, guide, x, labels: counterfactual(model, guide, x, {"a": 1.0}),
    "reconstruct": lambda model, guide, x, labels: reconstruct(model, guide, x),
    "encode": lambda model, guide, x, labels: encode(model, guide, x),
    "Run": lambda model, guide, x, labels: Run(model, guide),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", OTHERS)
def test_a_guide_of_another_layer_is_refused(kind, call):
    model, guide = OTHERS[kind]()
    with raises("guide", "another causal layer", r"deepcopy\(\(model, guide\)\)") as error:
        CALLS[call](model, guide, *data())
    check_one_line(error)


@pytest.mark.parametrize("objective", [CausalELBO(), CausalELBO(1, 1), CausalELBO(1, 0)], ids=lambda e: f"{e.w_eps}, {e.w_z}")
def test_so_is_it_under_svi(objective):
    model, guide = make()[0], make()[1]
    with raises("guide", "another causal layer"):
        SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), objective).step(*data())


@pytest.mark.parametrize("kind", [lambda model, guide: guide, refined, lambda model, guide: Holder(guide)])
def test_a_pair_and_its_copies_are_let_through(kind):
    model, guide = make()
    for pair in ((model, kind(model, guide)), copy.deepcopy((model, kind(model, guide)))):
        for call in CALLS.values():
            call(*pair, *data())


def test_copies_train_on_their_own_under_svi():
    """Pyro's store is keyed by name: under the same one a second copy would train the first."""
    pair = make()
    start = [p.detach().clone() for module in pair for p in module.parameters()]
    x, labels = data()
    ends = []
    for _ in range(2):
        copies = copy.deepcopy(pair)
        pyro.set_rng_seed(0)
        svi = SVI(*copies, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        losses = [svi.step(x, labels) for _ in range(20)]
        assert losses[-1] < losses[0]
        ends.append([p.detach() for module in copies for p in module.parameters()])
    for first, second, before in zip(*ends, start, strict=True):
        assert_close(first, second, rtol=0, atol=0)
        assert (first != before).any()
    assert_close([p.detach() for module in pair for p in module.parameters()], start, rtol=0, atol=0)


def test_a_copy_and_its_parts_have_a_name_of_their_own():
    model, guide = make()
    wrapped = IterativeGuide(guide, model)
    wrapped(*data())  # Pyro renames nothing that has run
    other = copy.deepcopy((model, wrapped))[1]
    names = [part._pyro_name for root in (model, wrapped, other) for part in root.modules() if hasattr(part, "_pyro_name")]
    assert len(set(names)) == len(names) == 5
