"""A causal layer that has just inverted z does not solve for it again, and never takes what it remembers for something else."""

import copy
import gc
import pickle

import pyro.poutine as poutine
import pytest
import torch
from torch.testing import assert_close

from causalvae_pyro import AdditiveNoiseSCM, CausalGraph, LinearSCM
from causalvae_pyro.scm import AffineFlowSCM, CausalTransform, SplineFlowSCM

GRAPH = CausalGraph(["a", "b", "c", "d"], [("a", "b"), ("b", "c"), ("a", "c"), ("c", "d")])
LAYERS = [LinearSCM, AdditiveNoiseSCM, AffineFlowSCM, SplineFlowSCM]


def make(kind):
    torch.manual_seed(0)
    scm = kind(GRAPH).double()
    with torch.no_grad():
        for p in scm.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return scm


def inverted(scm, z):
    return CausalTransform(scm).inv(z)


def never(*args):
    raise AssertionError("solved again")


@pytest.mark.parametrize("kind", LAYERS)
def test_the_inverse_is_not_solved_again(kind, monkeypatch):
    scm = make(kind)
    z = torch.randn(5, 4, 1, dtype=torch.float64, requires_grad=True)
    eps = inverted(scm, z)
    weights = torch.randn(5, 4, 1, dtype=torch.float64)
    # A copy of the tensor is not the tensor: this is the solution as it is without a memory, with its gradients.
    solved = scm(eps.clone())
    parameters = list(scm.parameters())
    (z_slow, *slow) = torch.autograd.grad((solved * weights).sum(), [z, *parameters], allow_unused=True, retain_graph=True)
    monkeypatch.setattr(scm, "solve_level", never)
    with poutine.trace() as tracer:
        found = scm(eps)
    assert found is z
    assert_close(found, solved, atol=1e-5, rtol=1e-5)
    for i, name in enumerate(GRAPH.names):
        assert_close(tracer.trace.nodes[name]["value"], z[:, i])
    assert scm.to_endogenous(eps) is z
    # z does not depend on the parameters: in f(f^-1(z)) their gradients cancel.
    assert_close(z_slow, weights, atol=1e-4, rtol=1e-4)
    for gradient in slow:
        assert gradient is None or gradient.abs().max() < 1e-4


@pytest.mark.parametrize("kind", LAYERS)
def test_descendants_of_an_intervention_are_solved(kind):
    scm = make(kind)
    z = torch.randn(5, 4, 1, dtype=torch.float64)
    eps = inverted(scm, z)
    do = {"b": torch.full((5, 1), 2.0, dtype=torch.float64)}
    found = poutine.do(scm, do)(eps)
    assert_close(found, poutine.do(scm, do)(eps.clone()), atol=1e-5, rtol=1e-5)
    assert_close(found[:, 0], z[:, 0])
    assert (found[:, 1] == 2).all()
    # And the memory is not spoiled by it.
    assert scm(eps) is z


@pytest.mark.parametrize("kind", LAYERS)
def test_changed_parameters_are_noticed(kind):
    scm = make(kind)
    z = torch.randn(5, 4, 1, dtype=torch.float64)
    eps = inverted(scm, z)
    optimizer = torch.optim.SGD(scm.parameters(), 0.1)
    for p in scm.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert_close(scm(eps), scm(eps.clone()))
    assert (scm(eps) - z).abs().max() > 1e-2
    # Of loaded weights too.
    other = make(kind)
    eps = inverted(scm, z)
    scm.load_state_dict(other.state_dict())
    assert_close(scm(eps), other(eps.clone()))


def test_nothing_is_kept_alive():
    scm = make(AdditiveNoiseSCM)
    z = torch.randn(5, 4, 1, dtype=torch.float64)
    with torch.no_grad():
        eps = inverted(scm, z)
    del z
    gc.collect()
    assert scm._inverted[1]() is None
    assert_close(scm(eps), scm(eps.clone()))
    # With gradients, eps needs z to live; nothing needs eps.
    eps = inverted(scm, torch.randn(5, 4, 1, dtype=torch.float64))
    assert scm(eps) is scm._inverted[1]()
    del eps
    gc.collect()
    assert scm._inverted[0]() is None
    assert scm._inverted[1]() is None


def test_a_dead_tensor_is_not_taken_for_its_successor():
    scm = make(AdditiveNoiseSCM)
    for _ in range(50):
        z = torch.randn(5, 4, 1, dtype=torch.float64)
        eps = inverted(scm, z)
        other = torch.randn(5, 4, 1, dtype=torch.float64)
        assert_close(scm(other), scm(other.clone()))
        assert scm(eps) is z


def test_copies_and_pickles_start_afresh():
    scm = make(AdditiveNoiseSCM)
    z = torch.randn(5, 4, 1, dtype=torch.float64)
    eps = inverted(scm, z)
    for other in (copy.deepcopy(scm), pickle.loads(pickle.dumps(scm))):
        assert_close(other(eps), scm(eps.clone()))
    assert scm(eps) is z
