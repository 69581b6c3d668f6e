"""The comparison of all graphs and the climb, on models whose graph is known and on fakes with exact residuals."""

import itertools
import math
import re

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from causalvae_pyro.discovery import LocalFits, climb, dependence, entropy_score, gaussian_score, independent_graph
from causalvae_pyro.discovery.independence import _all_dags, _depth
from causalvae_pyro.metrics import shd

# Small and fast regressions.
FAST = {"hidden": 16, "steps": 250, "batch_size": 256}


def everything(n):
    return 1 - torch.eye(n)


def adjacency(n, edges):
    result = torch.zeros(n, n)
    for cause, effect in edges:
        result[cause, effect] = 1
    return result


def uniform(generator, count, rows=1000):
    """Columns of uniform noise with standard deviation 1."""
    return ((torch.rand(rows, count, generator=generator, dtype=torch.float64) - 0.5) * math.sqrt(12)).unbind(1)


def nonlinear(name, seed):
    """Samples of an additive noise model whose effects do not stand in the order of the columns, and its graph."""
    generator = torch.Generator().manual_seed(seed)
    a, b, c, d = uniform(generator, 4)
    if name == "chain":
        # 1 -> 2 -> 0
        middle = torch.sin(2 * a) + 0.4 * b
        return torch.stack([middle.square() + 0.4 * c, a, middle], 1), adjacency(3, [(1, 2), (2, 0)])
    if name == "collider":
        # 0 -> 1 <- 2
        return torch.stack([a, torch.sin(2 * a) + b.square() + 0.4 * c, b], 1), adjacency(3, [(0, 1), (2, 1)])
    # 3 -> 2, 3 -> 0, 2 -> 0, and 1 by itself
    second = a.square() + 0.4 * b
    third = torch.sin(2 * second) + a + 0.4 * c
    return torch.stack([third, d, second, a], 1), adjacency(4, [(3, 2), (3, 0), (2, 0)])


class LeastSquares:
    """Stands in for :class:`LocalFits`: linear regressions, solved exactly."""

    def __init__(self, data):
        self.data = (data - data.mean(0)) / data.std(0)

    def residuals(self, families):
        columns = []
        for concept, parents in families:
            x, y = self.data[:, sorted(parents)], self.data[:, [concept]]
            columns.append((y - x @ torch.linalg.lstsq(x, y).solution if parents else y)[:, 0])
        return torch.stack(columns, 1)


# All graphs ----------------------------------------------------------------------------------------------------------


def families_of(n):
    others = [[j for j in range(n) if j != i] for i in range(n)]
    return [[(i, frozenset(p)) for size in range(n) for p in itertools.combinations(others[i], size)] for i in range(n)]


@pytest.mark.parametrize(("n", "count"), [(1, 1), (2, 3), (3, 25), (4, 543), (5, 29281)])
def test_all_dags_are_compared(n, count):
    families = families_of(n)
    graphs, chosen = _all_dags(families, n)
    assert graphs.shape == (count, n, n)
    assert len(graphs.flatten(1).unique(dim=0)) == count
    for index in range(0, count, max(1, count // 50)):
        graph = graphs[index]
        assert nx.is_directed_acyclic_graph(nx.DiGraph(graph.nonzero().tolist()))
        for i in range(n):
            assert families[i][chosen[index, i]] == (i, frozenset(graph[:, i].nonzero().flatten().tolist()))


def test_depth_is_that_of_the_longest_path():
    graphs = _all_dags(families_of(4), 4)[0]
    expected = [nx.dag_longest_path_length(nx.DiGraph(graph.nonzero().tolist())) for graph in graphs]
    assert _depth(graphs).tolist() == expected
    assert sorted(set(expected)) == [0, 1, 2, 3]


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "seed"), [*itertools.product(["chain", "collider"], range(3)), ("four", 0), ("four", 1)])
def test_independent_graph_finds_known_graphs(name, seed):
    data, truth = nonlinear(name, seed)
    fits = LocalFits(data, **FAST, seed=seed)
    assert shd(independent_graph(fits, everything(len(truth))).numpy(), truth.numpy()) == 0


@pytest.fixture(scope="module")
def functions_of_two_roots():
    """Concepts 2 and 3 are each a function of the roots 0 and 1, so that any two concepts determine the others."""
    a, b = uniform(torch.Generator().manual_seed(0), 2, rows=800)
    return LeastSquares(torch.stack([a, b, a + b, a - 0.5 * b], 1)), adjacency(4, [(0, 2), (1, 2), (0, 3), (1, 3)])


def test_of_graphs_with_as_independent_residuals_the_shallow_one_wins(functions_of_two_roots):
    fits, truth = functions_of_two_roots
    assert torch.equal(independent_graph(fits, everything(4)), truth)
    # 3 from 2 and a root leaves the same residuals with the same number of edges, but a longer path.
    deep = adjacency(4, [(0, 2), (1, 2), (0, 3), (2, 3)])
    assert torch.equal(independent_graph(fits, deep), deep)
    assert torch.equal(independent_graph(fits, (deep + truth).clamp(max=1)), truth)


def test_of_graphs_with_as_independent_residuals_the_sparse_one_wins(functions_of_two_roots):
    fits, truth = functions_of_two_roots
    allowed = truth + adjacency(4, [(2, 3)])
    residuals = [(2, frozenset({0, 1})), (3, frozenset({0, 1})), (3, frozenset({0, 1, 2}))]
    assert fits.residuals(residuals).abs().max() < 1e-9
    # With depth out of the way a fifth edge would cost nothing else: it goes by the penalty alone.
    assert independent_graph(fits, allowed, tolerance=0.0).sum() == 4
    assert independent_graph(fits, allowed, tolerance=0.0, edge_penalty=-0.01).sum() == 5
    assert independent_graph(fits, allowed, edge_penalty=10.0).sum() == 0


@pytest.mark.parametrize("name", ["chain", "independent"])
@pytest.mark.parametrize("seed", range(3))
def test_independent_graph_equals_its_definition(seed, name):
    """Graph by graph, on residuals that are only linear fits of a nonlinear model, and on chance dependences of both signs."""
    noise = torch.stack(uniform(torch.Generator().manual_seed(seed), 3, rows=200), 1)
    fits = LeastSquares(nonlinear(name, seed)[0] if name == "chain" else noise)
    families = list(itertools.chain(*families_of(3)))
    pairs = dependence(fits.residuals(families))
    totals = []
    for graph in _all_dags(families_of(3), 3)[0]:
        own = [families.index((i, frozenset(graph[:, i].nonzero().flatten().tolist()))) for i in range(3)]
        total = 0.001 * graph.sum() + sum(max(0.0, pairs[i, j].item()) for i, j in itertools.combinations(own, 2))
        totals.append((total.item(), graph))
    best = min(totals, key=lambda entry: entry[0])[1]
    assert torch.equal(independent_graph(fits, everything(3), tolerance=0.0, edge_penalty=0.001), best)


def test_independent_graph_respects_what_is_allowed():
    data, truth = nonlinear("chain", 0)
    allowed = everything(3) - truth
    graph = independent_graph(LeastSquares(data), allowed)
    assert graph.sum() > 0
    assert (graph <= allowed).all()
    assert independent_graph(LeastSquares(data), torch.zeros(3, 3)).sum() == 0


def test_no_concept_is_its_own_parent():
    asked = []

    class Spy(LeastSquares):
        def residuals(self, families):
            asked.extend(families)
            return super().residuals(families)

    independent_graph(Spy(nonlinear("chain", 0)[0]), torch.ones(3, 3))
    assert len(asked) == 12
    assert all(concept not in parents for concept, parents in asked)


def test_one_and_two_concepts():
    a, b = uniform(torch.Generator().manual_seed(0), 2)
    assert independent_graph(LeastSquares(a[:, None]), everything(1)).tolist() == [[0]]
    fits = LocalFits(torch.stack([torch.tanh(2 * a) + 0.3 * b, a], 1), **FAST)
    assert independent_graph(fits, everything(2)).tolist() == [[0, 0], [1, 0]]
    assert independent_graph(LeastSquares(torch.stack([a, b], 1)), everything(2)).sum() == 0


def test_six_concepts_are_too_many():
    message = "fits: got 6 concepts; comparing all graphs is for at most 5, use climb"
    with pytest.raises(ValueError, match=re.escape(message)):
        independent_graph(LeastSquares(torch.randn(20, 6)), everything(6))


# The climb -----------------------------------------------------------------------------------------------------------


class RandomScores:
    """Stands in for :class:`LocalFits`: every family has a random score, which is its only residual."""

    def __init__(self, seed):
        self.seed = seed

    def value(self, family):
        concept, parents = family
        generator = torch.Generator().manual_seed(hash((self.seed, concept, tuple(sorted(parents)))) % 2**31)
        return torch.rand((), generator=generator, dtype=torch.float64).item()

    def residuals(self, families):
        return torch.tensor([[self.value(family) for family in families]], dtype=torch.float64)

    def total(self, matrix, edge_penalty):
        parents = [frozenset(column.nonzero().flatten().tolist()) for column in matrix.T]
        return sum(map(self.value, enumerate(parents))) + edge_penalty * matrix.sum().item()


def own_residual(residuals):
    return residuals[0]


def single_moves(matrix, allowed):
    """All DAGs one addition, removal or reversal away."""
    for j, i in itertools.permutations(range(len(matrix)), 2):
        for changed in ((1, 0), (0, 1), (0, 0)):
            other = matrix.clone()
            other[j, i], other[i, j] = changed
            if (other <= allowed).all() and nx.is_directed_acyclic_graph(nx.DiGraph(other.nonzero().tolist())):
                yield other


@st.composite
def climbs(draw):
    n = draw(st.integers(1, 5))
    bits = st.lists(st.sampled_from([True, True, True, False]), min_size=n * n, max_size=n * n)
    allowed, start = (torch.tensor(draw(bits)).reshape(n, n).float().fill_diagonal_(0) for _ in range(2))
    order = draw(st.permutations(range(n)))
    earlier = torch.ones(n, n).triu(1)[order][:, order]
    return allowed, start * allowed * earlier, draw(st.integers(0, 1000))


@given(climbs(), st.sampled_from([0.0, 0.1]))
@settings(max_examples=80, deadline=None)
def test_climb_ends_at_a_local_optimum_within_what_is_allowed(problem, edge_penalty):
    allowed, start, seed = problem
    fits = RandomScores(seed)
    found = climb(fits, start, allowed, score=own_residual, edge_penalty=edge_penalty)
    assert (found <= allowed).all()
    assert nx.is_directed_acyclic_graph(nx.DiGraph(found.nonzero().tolist()))
    total = fits.total(found, edge_penalty)
    assert total <= fits.total(start, edge_penalty) + 1e-9
    assert all(total <= fits.total(other, edge_penalty) + 1e-8 for other in single_moves(found, allowed))


@given(climbs())
@settings(max_examples=40, deadline=None)
def test_the_best_move_comes_first(problem):
    allowed, start, seed = problem
    fits = RandomScores(seed)
    best = min([start, *single_moves(start, allowed)], key=lambda matrix: fits.total(matrix, 0.05))
    found = climb(fits, start, allowed, score=own_residual, edge_penalty=0.05, max_moves=1)
    assert fits.total(found, 0.05) == pytest.approx(fits.total(best, 0.05))


def test_a_reversal_never_closes_a_cycle():
    class Scores(RandomScores):
        def value(self, family):
            return -1.0 if family == (0, frozenset({2})) else 0.0

    # 2 -> 0 would be better than 0 -> 2, but 0 -> 1 -> 2.
    start = adjacency(3, [(0, 1), (1, 2), (0, 2)])
    found = climb(Scores(0), start, everything(3), score=own_residual, edge_penalty=0.0)
    assert torch.equal(found, start)


def test_climb_reaches_the_score_of_the_true_graph():
    generator = torch.Generator().manual_seed(0)
    a, b, c, d, e, f = uniform(generator, 6, rows=1200)
    second = torch.tanh(2 * a) + 0.4 * b
    third = torch.sin(2 * second) + 0.4 * c
    fifth = third.square() + d + 0.4 * e
    data = torch.stack([fifth, third, a, d, second, torch.tanh(2 * fifth) + 0.5 * f], 1)
    truth = adjacency(6, [(2, 4), (4, 1), (1, 0), (3, 0), (0, 5)])
    fits = LocalFits(data, hidden=16, steps=120, batch_size=128)
    found = climb(fits, torch.zeros(6, 6), everything(6), score=entropy_score)

    def total(matrix):
        families = [(i, frozenset(column.nonzero().flatten().tolist())) for i, column in enumerate(matrix.T)]
        return entropy_score(fits.residuals(families)).sum().item() + 0.02 * matrix.sum().item()

    assert total(found) <= total(truth) + 1e-6
    assert shd(found.numpy(), truth.numpy()) <= 1
    assert total(truth) < total(torch.zeros(6, 6)) - 1


def test_climb_drops_edges_that_gain_too_little():
    a, b = uniform(torch.Generator().manual_seed(0), 2)
    fits = LeastSquares(torch.stack([a, b, a + b], 1))
    assert climb(fits, torch.zeros(3, 3), everything(3)).sum() > 0
    assert climb(fits, adjacency(3, [(0, 2), (1, 2)]), everything(3), edge_penalty=100.0).sum() == 0
    # The default score is the Gaussian's.
    found = climb(fits, torch.zeros(3, 3), everything(3))
    assert torch.equal(found, climb(fits, torch.zeros(3, 3), everything(3), score=gaussian_score))


@pytest.mark.parametrize(
    ("start", "allowed"),
    [
        (adjacency(3, [(0, 1), (1, 2), (2, 0)]), everything(3)),
        (torch.eye(3), torch.ones(3, 3)),
        (adjacency(3, [(0, 1)]), adjacency(3, [(1, 0)])),
    ],
    ids=["cycle", "loop", "forbidden"],
)
def test_climb_starts_from_an_allowed_dag_only(start, allowed):
    with pytest.raises(ValueError, match="start: must be a DAG whose edges are all allowed"):
        climb(RandomScores(0), start, allowed, score=own_residual)


def test_climb_takes_weights_and_a_full_diagonal():
    found = climb(RandomScores(3), -0.3 * adjacency(3, [(0, 1)]), torch.ones(3, 3), score=own_residual)
    assert torch.equal(found, climb(RandomScores(3), adjacency(3, [(0, 1)]), everything(3), score=own_residual))
