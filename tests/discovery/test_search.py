"""The parts of a search for the graph: candidate mechanisms, the augmented Lagrangian and thresholding."""

import itertools
import math
import re

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from causalvae_pyro.discovery import (
    AugmentedLagrangian,
    Candidates,
    LinearCandidates,
    NetworkCandidates,
    allowed_edges,
    to_dag,
)
from causalvae_pyro.graph import CausalGraph

NAMES = ["a", "b", "c"]
# Names in another order than NAMES, on purpose.
SUPERGRAPH = CausalGraph(["c", "a", "b"], [("c", "a"), ("a", "b"), ("c", "b")])
CANDIDATES = [LinearCandidates, NetworkCandidates]


def edges(matrix):
    return {(NAMES[j], NAMES[i]) for j, i in torch.as_tensor(matrix).nonzero().tolist()}


# Which edges ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, set(itertools.permutations(NAMES, 2))),
        ({"supergraph": SUPERGRAPH}, {("c", "a"), ("a", "b"), ("c", "b")}),
        ({"order": ["b", "c", "a"]}, {("b", "c"), ("b", "a"), ("c", "a")}),
        ({"supergraph": SUPERGRAPH, "order": ["a", "c", "b"]}, {("a", "b"), ("c", "b")}),
    ],
    ids=["all", "supergraph", "order", "both"],
)
def test_allowed_edges(options, expected):
    allowed = allowed_edges(NAMES, **options)
    assert allowed.dtype == torch.float32
    assert edges(allowed) == expected
    assert set(allowed.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"supergraph": CausalGraph(["a", "b"])}, "supergraph: got the concepts ['a', 'b']; valid: ['a', 'b', 'c']"),
        ({"order": ["a", "b"]}, "order: got ['a', 'b']; must hold each of ['a', 'b', 'c'] once"),
        ({"order": ["a", "b", "b"]}, "order: got ['a', 'b', 'b']; must hold each of ['a', 'b', 'c'] once"),
    ],
)
def test_errors_of_allowed_edges(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        allowed_edges(NAMES, **options)


# Candidates ----------------------------------------------------------------------------------------------------------


def some_allowed(n=4):
    allowed = torch.zeros(n, n)
    allowed[0, 1:] = allowed[2, 1] = allowed[1, 2] = 1
    return allowed


def make(cls, allowed, dim=1):
    """With all parameters at random values, those of forbidden edges too."""
    candidates = cls(allowed, dim)
    for parameter in candidates.parameters():
        torch.nn.init.normal_(parameter)
    return candidates


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("cls", CANDIDATES)
@pytest.mark.parametrize("allowed", [some_allowed(), torch.ones(4, 4), -0.5 * some_allowed(), some_allowed() > 0])
def test_a_mean_depends_on_the_allowed_concepts_alone(cls, allowed, dim):
    candidates = make(cls, allowed, dim)
    z = torch.randn(6, 4, dim)
    means = candidates(z)
    influence = torch.zeros(4, 4)
    for j in range(4):
        changed = z.clone()
        changed[:, j] += torch.randn(6, dim)
        influence[j] = (candidates(changed) != means).any(0).any(-1)
    expected = (allowed != 0).float().fill_diagonal_(0)
    assert torch.equal(influence, expected)
    assert torch.equal(candidates.allowed, expected)
    assert torch.equal((candidates.strengths() > 0).float(), expected)
    assert (candidates.strengths() >= 0).all()


@pytest.mark.parametrize("cls", CANDIDATES)
def test_strengths_start_at_zero_and_can_leave_it(cls):
    candidates = cls(some_allowed(), 2)
    z = torch.randn(50, 4, 2)
    assert torch.equal(candidates.strengths(), torch.zeros(4, 4))
    assert torch.equal(candidates(z), candidates(torch.zeros(50, 4, 2)))
    # Neither a penalty of the strengths nor one of the weights keeps them there.
    loss = (z.roll(1, -2) - candidates(z)).square().mean() + 0.1 * candidates.strengths().sum() + candidates.shrinkage()
    loss.backward()
    weight = candidates.weight if cls is LinearCandidates else candidates.input
    strength = weight.grad.abs() if cls is LinearCandidates else weight.grad.abs().amin((-2, -1)).mT
    assert torch.equal((strength > 0).float(), some_allowed())
    assert all(parameter.grad.isfinite().all() for parameter in candidates.parameters())


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("cls", CANDIDATES)
def test_leading_dimensions_are_samples(cls, dim):
    candidates = make(cls, some_allowed(), dim)
    z = torch.randn(3, 5, 4, dim)
    means = candidates(z)
    assert means.shape == z.shape
    for index in itertools.product(range(3), range(5)):
        torch.testing.assert_close(candidates(z[index]), means[index])


def test_linear_means_are_those_of_the_paper():
    candidates = make(LinearCandidates, some_allowed(), 2)
    weights = candidates.weight.detach() * some_allowed()
    z = torch.randn(7, 4, 2)
    torch.testing.assert_close(candidates(z), torch.einsum("ji,bjd->bid", weights, z))
    assert torch.equal(candidates.strengths(), weights.abs())
    assert candidates.shrinkage() == 0


def test_network_means_and_strengths_by_hand():
    candidates = make(NetworkCandidates, some_allowed(), 2)
    z = torch.randn(7, 4, 2)
    means, strengths = candidates(z), candidates.strengths()
    for i in range(4):
        hidden = candidates.input_bias[i]
        for j in range(4):
            own = candidates.input[i, j] * some_allowed()[j, i]
            assert strengths[j, i].item() == pytest.approx(own.norm().item(), abs=1.1e-4)
            hidden = hidden + z[:, j] @ own
        torch.testing.assert_close(means[:, i], hidden.tanh() @ candidates.output[i] + candidates.output_bias[i])
    assert candidates.shrinkage() == candidates.input.square().sum() + candidates.output.square().sum()


def test_candidates_are_saved_with_what_is_allowed():
    candidates = make(NetworkCandidates, some_allowed())
    other = NetworkCandidates(torch.ones(4, 4))
    other.load_state_dict(candidates.state_dict())
    z = torch.randn(3, 4, 1)
    assert torch.equal(other(z), candidates(z))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LinearCandidates(torch.ones(2, 3)), "allowed: expected a square matrix, got shape [2, 3]"),
        (lambda: LinearCandidates(torch.ones(3)), "allowed: expected a square matrix, got shape [3]"),
        (lambda: LinearCandidates(torch.ones(2, 2), 0), "dim: got 0; each concept needs at least one dimension"),
        (lambda: NetworkCandidates(torch.ones(2, 2), hidden=0), "hidden: got 0; must be at least 1"),
    ],
)
def test_errors_of_candidates(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_other_candidates_need_the_two_methods_only():
    class Constant(Candidates):
        def forward(self, z):
            return torch.zeros_like(z)

        def strengths(self):
            return 0 * self.allowed

    assert Constant(torch.ones(2, 2)).shrinkage() == 0


# The augmented Lagrangian --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constraint", "options", "multiplier"),
    [
        (lambda c: c.abs(), {"tolerance": 1e-5}, 2.0),
        (lambda c: c.square(), {"tolerance": 1e-6, "growth": 2.0}, None),
    ],
    ids=["absolute", "square"],
)
def test_lagrangian_finds_the_constrained_optimum(constraint, options, multiplier):
    """``min (x - 2)^2 + (y - 1)^2`` with ``x + y = 1`` is at (1, 0), where the gradient is (-2, -2)."""
    point = torch.tensor([0.0, 0.0], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([2.0, 1.0], dtype=torch.float64)
    lagrangian = AugmentedLagrangian(**options)
    for number in range(40):
        optimizer = torch.optim.LBFGS([point], max_iter=60, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

        def closure():
            optimizer.zero_grad()  # noqa: B023
            loss = (point - target).square().sum() + lagrangian(constraint(point.sum() - 1))
            loss.backward()
            return loss

        optimizer.step(closure)
        done = lagrangian.update(constraint(point.detach().sum() - 1))
        if number == 0:
            # One round does not do: the point lies well off the constraint.
            assert not done
            assert point.sum() > 1.1
        if done:
            break
    assert done
    torch.testing.assert_close(point.detach(), torch.tensor([1.0, 0.0], dtype=torch.float64), atol=2e-3, rtol=0)
    if multiplier is not None:
        assert lagrangian.multiplier.item() == pytest.approx(multiplier, abs=0.02)


def test_update_by_hand():
    lagrangian = AugmentedLagrangian(penalty=1.0, growth=8.0, progress=0.25, max_penalty=100.0, tolerance=1e-3)
    rounds = [
        # h, multiplier, penalty, whether it holds
        (1.0, 1.0, 1.0, False),  # nothing to compare the first round with
        (0.5, 1.5, 8.0, False),  # 0.5 > 0.25 * 1: too little
        (0.125, 2.5, 8.0, False),  # a quarter is enough
        (0.0625, 3.0, 64.0, False),
        (0.05, 6.2, 100.0, False),  # not beyond the maximum
        (0.0008, 6.28, 100.0, True),
    ]
    for h, multiplier, penalty, holds in rounds:
        assert lagrangian.update(h) is holds
        assert lagrangian.multiplier.item() == pytest.approx(multiplier)
        assert lagrangian.penalty.item() == pytest.approx(penalty)


def test_penalty_does_not_grow_within_the_tolerance():
    lagrangian = AugmentedLagrangian(tolerance=1e-3)
    assert [lagrangian.update(h) for h in (1e-3, 9e-4, 1.1e-3, 1e-3)] == [True, True, False, True]
    assert lagrangian.penalty.item() == 10.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_term_of_the_lagrangian_and_its_gradient(dtype):
    lagrangian = AugmentedLagrangian(penalty=4.0)
    lagrangian.update(0.5)
    h = torch.tensor(0.25, dtype=dtype, requires_grad=True)
    value = lagrangian(h)
    assert value.dtype == dtype
    assert value.item() == 2.0 * 0.25 + 2.0 * 0.25**2
    (gradient,) = torch.autograd.grad(value, h)
    assert gradient.item() == 2.0 + 4.0 * 0.25
    assert AugmentedLagrangian()(torch.zeros(())) == 0


def test_lagrangian_goes_on_exactly_from_its_state_dict():
    first, second = AugmentedLagrangian(), AugmentedLagrangian(penalty=3.0)
    for h in (0.7, 0.5, 0.3):
        first.update(h)
    second.load_state_dict(first.state_dict())
    for h in (0.29, 0.01, 0.009):
        assert first.update(h) == second.update(h)
        assert torch.equal(first(torch.tensor(h)), second(torch.tensor(h)))
    # Apple's GPUs have no double precision.
    assert {value.dtype for value in first.state_dict().values()} == {torch.float32}
    assert set(first.state_dict()) == {"multiplier", "penalty", "last"}
    assert not list(first.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": 0.0}, "penalty: got 0.0; must be > 0"),
        ({"growth": 1.0}, "growth: got 1.0; must be > 1"),
        ({"progress": 0.0}, "progress: got 0.0; must be in (0, 1)"),
        ({"progress": 1.0}, "progress: got 1.0; must be in (0, 1)"),
        ({"penalty": 2.0, "max_penalty": 1.0}, "max_penalty: got 1.0; must be >= penalty = 2.0"),
        ({"tolerance": 0.0}, "tolerance: got 0.0; must be > 0"),
        ({"growth": math.nan}, "growth: got nan; must be > 1"),
    ],
)
def test_errors_of_the_lagrangian(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        AugmentedLagrangian(**options)


# Thresholding --------------------------------------------------------------------------------------------------------

matrices = st.integers(1, 6).flatmap(
    lambda n: st.lists(st.integers(-3, 3), min_size=n * n, max_size=n * n).map(lambda v: torch.tensor(v).reshape(n, n).float())
)


@given(matrices, st.sampled_from([0.0, 1.0, 2.0]))
@settings(max_examples=150, deadline=None)
def test_to_dag_drops_the_weakest_edges_of_cycles_only(strengths, threshold):
    before = strengths.clone()
    result = to_dag(strengths, threshold)
    assert torch.equal(strengths, before)
    assert set(result.unique().tolist()) <= {0.0, 1.0}
    support = (strengths.abs() > threshold).float().fill_diagonal_(0)
    kept = nx.DiGraph(result.nonzero().tolist())
    assert nx.is_directed_acyclic_graph(kept)
    assert (result <= support).all()
    if nx.is_directed_acyclic_graph(nx.DiGraph(support.nonzero().tolist())):
        assert torch.equal(result, support)
    size = strengths.abs()
    for cause, effect in (support - result).nonzero().tolist():
        # It closes a cycle of edges that are all kept and no weaker.
        stronger = nx.DiGraph([edge for edge in kept.edges if size[edge] >= size[cause, effect]])
        assert effect in stronger
        assert cause in nx.descendants(stronger, effect)


def test_threshold_drops_what_equals_it():
    strengths = torch.tensor([[0.0, 0.05, -0.06], [0.0, 0.0, 0.04], [0.0, 0.0, 0.0]])
    assert to_dag(strengths, 0.05).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert to_dag(strengths, 0.04).tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert to_dag(strengths).tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 0]]


def test_to_dag_takes_strengths_in_training_and_ignores_the_diagonal():
    strengths = torch.tensor([[9.0, 0.1], [0.2, 9.0]], requires_grad=True)
    result = to_dag(strengths)
    assert result.tolist() == [[0, 0], [1, 0]]
    assert not result.requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: to_dag(torch.tensor([[0.0, math.nan], [0.0, 0.0]])), "strengths: got NaN or infinite values"),
        (lambda: to_dag(torch.tensor([[0.0, -math.inf], [0.0, 0.0]])), "strengths: got NaN or infinite values"),
        (lambda: to_dag(torch.zeros(2, 3)), "strengths: expected a square matrix, got shape [2, 3]"),
        (lambda: to_dag(torch.zeros(2, 2), -0.1), "threshold: got -0.1; must be >= 0"),
        (lambda: to_dag(torch.zeros(2, 2), math.nan), "threshold: got nan; must be >= 0"),
    ],
)
def test_errors_of_to_dag(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
