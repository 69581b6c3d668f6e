import itertools
import math
import re

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.metrics.structure import EdgeScores, edge_scores, order_error, shd

NAMES = ["a", "b", "c", "d"]
TRUE = CausalGraph(NAMES, [("d", "b"), ("b", "a"), ("d", "a")])
SMALL = settings(max_examples=60, deadline=None)


@st.composite
def dags(draw, n):
    """A random DAG on ``0..n-1``, along a random order of the nodes."""
    order = draw(st.permutations(range(n)))
    pairs = list(itertools.combinations(order, 2))
    kept = draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs)))
    graph = nx.DiGraph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from(pair for pair, keep in zip(pairs, kept, strict=True) if keep)
    return graph


@st.composite
def two_dags(draw):
    n = draw(st.integers(1, 6))
    return draw(dags(n)), draw(dags(n))


def matrix(graph):
    return nx.to_numpy_array(graph, nodelist=range(len(graph)))


def empty(n):
    return np.zeros((n, n))


# SHD ----------------------------------------------------------------------------------------------------------------


@given(two_dags())
@SMALL
def test_shd_counts_pairs_of_nodes(graphs):
    learned, true = graphs
    differing = 0
    entries = 0
    for pair in itertools.combinations(range(len(true)), 2):
        edges = [{edge for edge in (pair, pair[::-1]) if graph.has_edge(*edge)} for graph in graphs]
        differing += edges[0] != edges[1]
        entries += len(edges[0] ^ edges[1])
    assert shd(matrix(learned), matrix(true)) == differing
    assert shd(matrix(true), matrix(learned)) == differing
    assert shd(matrix(learned), matrix(true), double_reversals=True) == entries
    assert entries - differing == sum(learned.has_edge(effect, cause) for cause, effect in true.edges)


def test_shd_is_the_length_of_the_shortest_way_by_single_edits():
    """Breadth-first search over all graphs of three nodes without two edges between one pair."""
    pairs = list(itertools.combinations(range(3), 2))
    states = list(itertools.product([(), (0, 1), (1, 0)], repeat=3))
    edits = nx.Graph()
    edits.add_nodes_from(states)
    edits.add_edges_from(
        (a, b) for a, b in itertools.combinations(states, 2) if sum(x != y for x, y in zip(a, b, strict=True)) == 1
    )
    distances = dict(nx.all_pairs_shortest_path_length(edits))

    def adjacency(state):
        result = empty(3)
        for pair, edge in zip(pairs, state, strict=True):
            if edge:
                result[pair[edge[0]], pair[edge[1]]] = 1
        return result

    assert all(shd(adjacency(a), adjacency(b)) == distances[a][b] for a in states for b in states)


@pytest.mark.parametrize(
    ("learned", "single", "double"),
    [
        (TRUE, 0, 0),
        (CausalGraph(NAMES), 3, 3),
        (CausalGraph(NAMES, [("d", "b"), ("b", "a")]), 1, 1),
        (CausalGraph(NAMES, [("b", "d"), ("b", "a"), ("d", "a")]), 1, 2),
        (CausalGraph(NAMES, [("b", "d"), ("b", "a"), ("d", "a"), ("a", "c")]), 2, 3),
        (TRUE.adjacency.T, 3, 6),
        # Both directions, where one is true and where none is.
        (TRUE.adjacency + TRUE.adjacency.T, 3, 3),
        (torch.ones(4, 4) - torch.eye(4), 6, 9),
    ],
    ids=["equal", "empty", "missing", "reversed", "reversed and extra", "transposed", "both", "full"],
)
def test_shd_of_known_graphs(learned, single, double):
    assert shd(learned, TRUE) == single
    assert shd(learned, TRUE, double_reversals=True) == double
    assert isinstance(shd(learned, TRUE), int)


def test_two_edges_between_a_pair_count_once_or_twice_against_none():
    both = np.array([[0, 1], [1, 0]])
    assert (shd(both, empty(2)), shd(both, empty(2), double_reversals=True)) == (1, 2)


# Edges --------------------------------------------------------------------------------------------------------------


@given(two_dags())
@SMALL
def test_edge_scores_against_sets_of_edges(graphs):
    learned, true = (set(graph.edges) for graph in graphs)
    result = edge_scores(*map(matrix, graphs))
    if not learned and not true:
        assert result == (1, 1, 1)
        return
    entries = list(itertools.permutations(range(len(graphs[0])), 2))
    expected = precision_recall_fscore_support(
        [pair in true for pair in entries], [pair in learned for pair in entries], average="binary", zero_division=0
    )
    assert result == pytest.approx(expected[:3])


@pytest.mark.parametrize(
    ("learned", "true", "expected"),
    [
        (TRUE, TRUE, (1, 1, 1)),
        (empty(4), TRUE, (0, 0, 0)),
        (TRUE, empty(4), (0, 0, 0)),
        (empty(4), empty(4), (1, 1, 1)),
        (empty(1), empty(1), (1, 1, 1)),
        (TRUE.adjacency.T, TRUE, (0, 0, 0)),
        (CausalGraph(NAMES, [("d", "b"), ("c", "a")]), TRUE, (1 / 2, 1 / 3, 2 / 5)),
        (torch.ones(4, 4) - torch.eye(4), TRUE, (3 / 12, 1, 6 / 15)),
    ],
)
def test_edge_scores_of_known_graphs(learned, true, expected):
    result = edge_scores(learned, true)
    assert isinstance(result, EdgeScores)
    assert result == pytest.approx(expected)
    assert (result.precision, result.recall, result.f1) == tuple(result)


# Order --------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 6).flatmap(lambda n: st.tuples(dags(n), st.permutations(range(n)))))
@SMALL
def test_order_error_counts_the_contradicted_edges(case):
    graph, order = case
    expected = sum(order.index(cause) > order.index(effect) for cause, effect in graph.edges)
    assert order_error(order, matrix(graph)) == expected
    assert order_error(order[::-1], matrix(graph)) == graph.number_of_edges() - expected
    assert order_error(list(nx.topological_sort(graph)), matrix(graph)) == 0


def test_orders_without_error_are_the_topological_ones():
    graph = TRUE.to_networkx()
    expected = {tuple(order) for order in nx.all_topological_sorts(graph)}
    found = {order for order in itertools.permutations(NAMES) if order_error(order, TRUE) == 0}
    assert found == expected


@pytest.mark.parametrize(
    ("order", "errors"),
    [(TRUE.order, 0), (["a", "b", "c", "d"], 3), ([3, 1, 0, 2], 0), ([1, 3, 2, 0], 1), (("a", "d", "b", "c"), 2)],
)
def test_order_error_of_known_orders(order, errors):
    assert order_error(order, TRUE) == errors
    if isinstance(order, list) and isinstance(order[0], int):
        assert order_error(torch.tensor(order), TRUE) == errors
        assert order_error(np.array(order), TRUE.adjacency) == errors
    assert isinstance(order_error(order, TRUE), int)


def test_no_edge_contradicts_no_order():
    assert all(order_error(order, empty(3)) == 0 for order in itertools.permutations(range(3)))


@pytest.mark.parametrize(
    ("order", "true", "message"),
    [
        ([0, 1], empty(3), "order: got [0, 1]; valid: each of 0..2 once"),
        ([0, 1, 1], empty(3), "order: got [0, 1, 1]; valid: each of 0..2 once"),
        ([1, 2, 3], empty(3), "order: got [1, 2, 3]; valid: each of 0..2 once"),
        ([0, 1, 2, 2], empty(3), "order: got [0, 1, 2, 2]; valid: each of 0..2 once"),
        (["a", "b"], empty(2), "order: got ['a', 'b']; valid: each of 0..1 once"),
        (
            ["a", "b", "c", "e"],
            TRUE,
            "order: got ['a', 'b', 'c', 'e']; valid: each of 0..3 once, or each of ['a', 'b', 'c', 'd']",
        ),
        (
            ["a", "b", "c", "c"],
            TRUE,
            "order: got ['a', 'b', 'c', 'c']; valid: each of 0..3 once, or each of ['a', 'b', 'c', 'd']",
        ),
        ([0, 1], empty(2)[:1], "true: expected a square matrix, got shape (1, 2)"),
    ],
)
def test_invalid_orders(order, true, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        order_error(order, true)


# Both ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [shd, edge_scores])
def test_every_form_of_a_graph_gives_the_same(metric):
    learned = CausalGraph(NAMES, [("d", "b"), ("a", "b"), ("c", "a")])
    value = metric(learned, TRUE)
    weights = learned.adjacency * torch.tensor([-0.3, 1e-9, 5.0, 2.0])[:, None]
    for form in (
        learned.adjacency,
        learned.adjacency.bool(),
        weights.double().requires_grad_(),
        weights.numpy(),
        learned.adjacency.int().numpy(),
    ):
        assert metric(form, TRUE) == value
        assert metric(form, TRUE.adjacency) == value


@pytest.mark.parametrize("metric", [shd, edge_scores])
def test_renaming_the_nodes_changes_nothing(metric):
    learned = CausalGraph(NAMES, [("d", "b"), ("a", "b"), ("c", "a")]).adjacency
    order = torch.tensor([2, 0, 3, 1])
    assert metric(learned[order][:, order], TRUE.adjacency[order][:, order]) == metric(learned, TRUE)


@pytest.mark.parametrize("metric", [shd, edge_scores])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 3)), "expected a square matrix, got shape (2, 3)"),
        (np.zeros(4), "expected a square matrix, got shape (4,)"),
        (torch.zeros(1, 4, 4), "expected a square matrix, got shape (1, 4, 4)"),
        (torch.full((4, 4), math.nan), "got NaN or infinite entries; all must be finite"),
        (np.full((4, 4), math.inf), "got NaN or infinite entries; all must be finite"),
        (torch.diag(torch.tensor([0.0, 1.0, 0.0, -1.0])), "nodes [1, 3] have an edge to themselves; the diagonal must be 0"),
    ],
)
def test_invalid_matrices(metric, bad, message):
    with pytest.raises(ValueError, match=re.escape(f"learned: {message}")):
        metric(bad, TRUE)
    with pytest.raises(ValueError, match=re.escape(f"true: {message}")):
        metric(TRUE, bad)


@pytest.mark.parametrize("metric", [shd, edge_scores])
def test_graphs_over_different_nodes(metric):
    with pytest.raises(ValueError, match=re.escape("learned: got 3 nodes beside true's 4; both must be over the same nodes")):
        metric(empty(3), TRUE)
    message = "learned: got the concepts ['d', 'c', 'b', 'a']; valid: true's, ['a', 'b', 'c', 'd'], in that order"
    with pytest.raises(ValueError, match=re.escape(message)):
        metric(CausalGraph(NAMES[::-1]), TRUE)
