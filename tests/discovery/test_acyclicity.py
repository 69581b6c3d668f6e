"""The three acyclicity functions: what they share, and the closed form of each."""

import itertools
import math
import re

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from causalvae_pyro.discovery.acyclicity import exponential_acyclicity, logdet_acyclicity, polynomial_acyclicity
from tests.test_graph import random_dag

FUNCTIONS = [polynomial_acyclicity, exponential_acyclicity, logdet_acyclicity]
every = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__.split("_")[0])


def cycle(length, n, weight=0.5):
    """A cycle over the first ``length`` of ``n`` nodes, its signs alternating."""
    weights = torch.zeros(n, n, dtype=torch.float64)
    for i in range(length):
        weights[i, (i + 1) % length] = (-1) ** i * weight
    return weights


# What they share -----------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("n", [1, 2, 5, 9, 40])
@pytest.mark.parametrize("seed", range(3))
def test_zero_on_dags(function, n, seed):
    weights = random_dag(n, seed) * torch.randn(n, n, dtype=torch.float64)
    assert function(weights).item() == pytest.approx(0, abs=1e-11)


@every
@pytest.mark.parametrize("length", [1, 2, 3, 6])
def test_positive_on_a_cycle_of_any_length_and_sign(function, length):
    n, square = 6, 0.25
    # Closed walks of the one cycle: ``length`` starting points for each number of turns.
    turns = range(length, 200, length)
    factors = {
        polynomial_acyclicity: lambda k: math.comb(n, k) / n**k,
        exponential_acyclicity: lambda k: 1 / math.factorial(min(k, 100)),
        logdet_acyclicity: lambda k: 1 / k,
    }
    expected = sum(length * factors[function](k) * square**k for k in turns)
    value = function(cycle(length, n)).item()
    assert value == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert value > 1e-8


@every
@given(st.integers(1, 5).flatmap(lambda n: st.lists(st.sampled_from([0, 0, 0, -0.6, 0.4]), min_size=n * n, max_size=n * n)))
@settings(max_examples=60, deadline=None)
def test_zero_exactly_where_there_is_no_cycle(function, entries):
    n = math.isqrt(len(entries))
    weights = torch.tensor(entries, dtype=torch.float64).reshape(n, n)
    acyclic = nx.is_directed_acyclic_graph(nx.DiGraph(weights.nonzero().tolist()))
    assert (abs(function(weights).item()) < 1e-12) == acyclic
    assert function(weights) > -1e-12


@every
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_ignores_signs_directions_and_the_order_of_the_concepts(function, scale):
    weights = scale * torch.randn(5, 5, dtype=torch.float64)
    order = torch.randperm(5)
    value = function(weights)
    for same in (weights.abs(), weights.T, weights[order][:, order]):
        torch.testing.assert_close(function(same), value)
    assert abs(function(weights[order]) - value) > 1e-6


@every
def test_gradient_is_that_of_the_value(function):
    weights = 0.3 * torch.randn(3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(function, (weights.requires_grad_(),))


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weights", [torch.zeros(4, 4), torch.ones(4, 4), random_dag(4, 0)], ids=["zero", "full", "dag"])
def test_gradient_is_finite(function, weights, dtype):
    weights = weights.to(dtype).requires_grad_()
    (gradient,) = torch.autograd.grad(function(weights), weights)
    assert gradient.isfinite().all()
    # It leaves absent edges absent, and weakens every edge of a cycle.
    assert torch.equal(gradient != 0, (weights != 0) & bool(weights.diagonal().any()))
    assert (gradient >= 0).all()


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_result_is_a_scalar_of_the_weights_dtype(function, dtype):
    result = function(torch.ones(3, 3, dtype=dtype))
    assert result.shape == ()
    assert result.dtype == dtype


@every
@pytest.mark.parametrize("shape", [(2, 3), (3,), (2, 3, 3)])
def test_other_shapes_are_rejected(function, shape):
    with pytest.raises(ValueError, match=re.escape(f"weights: expected a square matrix, got shape {list(shape)}")):
        function(torch.zeros(shape))


# The closed form of each ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_polynomial_equals_the_sum_over_closed_walks(n, scale):
    weights = torch.randn(n, n, dtype=torch.float64)
    squares = weights.square().tolist()
    factor = 1 / n if scale is None else scale
    expected = 0.0
    for length in range(1, n + 1):
        for walk in itertools.product(range(n), repeat=length):
            steps = itertools.pairwise([*walk, walk[0]])
            expected += math.comb(n, length) * factor**length * math.prod(squares[j][i] for j, i in steps)
    assert polynomial_acyclicity(weights, scale).item() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_exponential_equals_its_series(n):
    weights = torch.randn(n, n, dtype=torch.float64)
    power, expected = torch.eye(n, dtype=torch.float64), 0.0
    for k in range(1, 80):
        power = power @ weights.square() / k
        expected += power.trace().item()
    assert exponential_acyclicity(weights).item() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("s", [0.7, 1.0, 3.0])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_logdet_equals_dagmas_formula_in_its_domain(n, s):
    weights = torch.randn(n, n, dtype=torch.float64)
    weights *= (0.9 * s / weights.square().sum(0).max()).sqrt()
    expected = -torch.logdet(s * torch.eye(n, dtype=torch.float64) - weights.square()) + n * math.log(s)
    assert logdet_acyclicity(weights, s).item() == pytest.approx(expected.item(), rel=1e-11)


# In float32, without the detour over s, the first has a determinant of zero and the next two a negative one.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weights", [cycle(2, 2, 1.0), cycle(3, 4, 2.0), cycle(1, 1, 50.0), 1e3 * torch.ones(5, 5)])
def test_logdet_stays_finite_and_positive_outside_its_domain(weights, dtype):
    weights = weights.to(dtype).requires_grad_()
    value = logdet_acyclicity(weights)
    (gradient,) = torch.autograd.grad(value, weights)
    assert 0.1 < value.item() < 100
    assert gradient.isfinite().all()
    # From there too, descent weakens every edge of the cycle.
    assert torch.equal(gradient * weights > 0, weights != 0)


@pytest.mark.parametrize("seed", range(5))
def test_logdet_of_random_weights_outside_its_domain(seed):
    generator = torch.Generator().manual_seed(seed)
    weights = 10 ** (2 * torch.rand(6, 6, generator=generator, dtype=torch.float64))
    assert 0 < logdet_acyclicity(weights) < 100
    # Zero on DAGs of any size of weights, whatever s was raised to.
    assert logdet_acyclicity(weights * random_dag(6, seed)).item() == pytest.approx(0, abs=1e-11)


def test_logdet_has_no_jump_where_s_is_raised():
    weights = cycle(3, 5, 1.0)
    just_inside, just_outside = ((1 / 1.01 + shift) ** 0.5 * weights for shift in (-1e-9, 1e-9))
    assert logdet_acyclicity(just_outside).item() == pytest.approx(logdet_acyclicity(just_inside).item(), abs=1e-6)


@pytest.mark.parametrize("s", [0, -1.0, math.nan])
def test_logdet_rejects_an_empty_domain(s):
    with pytest.raises(ValueError, match=re.escape(f"s: got {s}; must be > 0")):
        logdet_acyclicity(torch.zeros(2, 2), s)
