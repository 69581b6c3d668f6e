"""The model and its guide as parts of a larger program: within a plate of the program's own, and twice."""

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.contrib.autoname import scope
from pyro.infer import SVI, Trace_ELBO

from causalvae_pyro import AmortizedGuide, CausalGraph, CausalVAE, FixedPrior, GaussianLikelihood, LinearSCM, counterfactual
from causalvae_pyro.guides import CalibratedGuide, HierarchicalGuide
from causalvae_pyro.networks import HierarchicalDecoder, MLPDecoder, MLPEncoder
from tests.builders import raises

GRAPH, SHAPE, N = CausalGraph(["a", "b"], [("a", "b")]), (1, 4, 4), 3


def make(plate="images"):
    scm = LinearSCM(GRAPH)
    model = CausalVAE(scm, FixedPrior(2), MLPDecoder(SHAPE, 2, hidden=8), GaussianLikelihood(), plate=plate)
    return model, AmortizedGuide(MLPEncoder(SHAPE, 8, hidden=8), scm, plate=plate)


def nodes(program, *arguments):
    return poutine.trace(program).get_trace(*arguments).nodes


def test_within_a_plate_that_has_the_usual_name():
    model, guide = make()
    x = torch.rand(N, *SHAPE)

    def around(part):
        def program(x):
            with pyro.plate("data", 4, dim=-2):
                return part(x)

        return program

    sites = nodes(around(model), x)
    assert sites["eps"]["value"].shape == (4, N, 2, 1)
    assert [frame.name for frame in sites["x"]["cond_indep_stack"]] == ["data", "images"]
    assert SVI(around(model), around(guide), pyro.optim.Adam({}), Trace_ELBO()).step(x) > 0
    usual = make("data")[0]
    with pytest.raises(RuntimeError, match="Multiple sample sites named 'data'"):
        nodes(around(usual), x)


def test_twice_in_one_program():
    (first, its_guide), (second, other_guide) = make("left"), make("right")
    x, other = torch.rand(N, *SHAPE), torch.rand(N + 2, *SHAPE)

    def program(one, two):
        def both(x, other):
            with scope(prefix="one"):
                a = one(x)
            with scope(prefix="two"):
                b = two(other)
            return a, b

        return both

    sites = nodes(program(first, second), x, other)
    assert sites["one/z"]["value"].shape == (N, 2, 1)
    assert sites["two/z"]["value"].shape == (N + 2, 2, 1)
    svi = SVI(program(first, second), program(its_guide, other_guide), pyro.optim.Adam({}), Trace_ELBO())
    before = [next(guide.parameters()).clone() for guide in (its_guide, other_guide)]
    svi.step(x, other)
    for guide, weights in zip((its_guide, other_guide), before, strict=True):
        assert not torch.equal(next(guide.parameters()), weights)
    # One model may stand in both places.
    assert {"one/x", "two/x"} <= set(nodes(program(first, first), x, other))


def test_counterfactuals_do_not_mind_the_name():
    model, guide = make()
    x = torch.rand(N, *SHAPE)
    expected = counterfactual(model, guide, x, {"a": 1.0})
    model.plate = guide.plate = "data"
    assert torch.equal(counterfactual(model, guide, x, {"a": 1.0}), expected)


def test_wrappers_have_the_name_of_what_they_wrap():
    model, guide = make()
    wrapped = CalibratedGuide(guide, model)
    assert wrapped.plate == "images"
    assert "images" in nodes(wrapped, torch.rand(N, *SHAPE))


def test_so_has_the_hierarchical_guide():
    scm = LinearSCM(GRAPH)
    decoder = HierarchicalDecoder((3, 16, 16), 2)
    model = CausalVAE(scm, FixedPrior(2), decoder, GaussianLikelihood(), noise_dim=decoder.noise_dim, plate="images")
    guide = HierarchicalGuide(MLPEncoder((3, 16, 16), 8, hidden=8), model, plate="images")
    assert {"images", "eps_x"} <= set(nodes(guide, torch.rand(N, 3, 16, 16)))


@pytest.mark.parametrize("plate", ["a", "eps", "x", "", 3])
def test_errors(plate):
    with raises("plate", repr(plate), "no site has"):
        make(plate)


def test_a_guide_knows_no_concepts_but_the_sites():
    with raises("plate", "'eps'"):
        AmortizedGuide(MLPEncoder(SHAPE, 8, hidden=8), num_concepts=2, plate="eps")
