import itertools
import json
import re

import networkx as nx
import pytest
import torch

import causalvae_pyro as cv
from causalvae_pyro.datasets import SyntheticSCM
from causalvae_pyro.discovery import allowed_edges
from causalvae_pyro.graph import RESERVED_NAMES, CausalGraph, as_graph
from causalvae_pyro.metrics import shd

# Listed against the index order on purpose: ``d`` is a root that comes last, ``a`` has parents that come later.
NAMES = ["a", "b", "c", "d"]
EDGES = [("d", "b"), ("b", "a"), ("d", "a")]


@pytest.fixture
def graph():
    return CausalGraph(NAMES, EDGES)


def random_dag(n, seed):
    """A random graph whose edges follow a random order of the nodes, so that the matrix is not triangular."""
    generator = torch.Generator().manual_seed(seed)
    strict = (torch.rand(n, n, generator=generator, dtype=torch.float64) < 0.5).double().triu(1)
    order = torch.randperm(n, generator=generator)
    return strict[order][:, order]


def test_adjacency_has_causes_in_rows_and_effects_in_columns(graph):
    expected = torch.zeros(4, 4)
    expected[3, 1] = expected[1, 0] = expected[3, 0] = 1
    assert graph.adjacency.dtype == torch.float32
    assert torch.equal(graph.adjacency, expected)


def test_a_graph_serves_models_of_every_precision(graph):
    matrices = []
    try:
        for dtype in (torch.float64, torch.float32):
            torch.set_default_dtype(dtype)
            matrices.append(graph.adjacency)
            layer = cv.AdditiveNoiseSCM(graph, 2)
            assert layer(torch.zeros(3, 4, 2)).dtype == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    assert [matrix.dtype for matrix in matrices] == [torch.float64, torch.float32]
    # Nobody's changes reach others.
    graph.adjacency.zero_()
    assert graph.adjacency.sum() == 3


FORMS = {
    "graph": lambda graph, _: graph,
    "networkx": lambda graph, _: graph.to_networkx(),
    "mapping": lambda graph, _: {name: graph.parents(name) for name in graph.names},
    "file": lambda graph, folder: write_graph(graph, folder / "graph.json"),
    "path": lambda graph, folder: str(write_graph(graph, folder / "graph.json")),
}


def write_graph(graph, path):
    path.write_text(json.dumps({name: graph.parents(name) for name in graph.names}))
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_taken_wherever_a_graph_is(graph, form, tmp_path):
    given = FORMS[form](graph, tmp_path)
    assert as_graph(given) == graph
    for layer in (cv.LinearSCM(given), cv.AdditiveNoiseSCM(given), cv.scm.MaskLayer(given), cv.scm.SplineFlowSCM(given)):
        assert layer.graph == graph
        # What a checkpoint keeps.
        assert layer.init_args["graph"] == graph
    assert SyntheticSCM(given, {"a": lambda p: p["b"], "b": lambda p: p["d"]}).graph == graph
    assert torch.equal(allowed_edges(NAMES, supergraph=given), graph.adjacency)
    assert shd(given, graph) == 0
    images, labels = torch.zeros(6, 3, 16, 16, dtype=torch.uint8), torch.randn(6, 4)
    assert cv.Recipe(decoder="conv").build(given, images, labels).graph == graph
    assert cv.plots.plot_graph(given)


def test_structure(graph):
    assert len(graph) == 4
    assert graph.levels == (("c", "d"), ("b",), ("a",))
    assert graph.order == ("c", "d", "b", "a")
    assert graph.roots == ("c", "d")
    assert graph.children == ("a", "b")
    assert [graph.index(name) for name in NAMES] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "parents", "descendants"),
    [("a", ("b", "d"), ()), ("b", ("d",), ("a",)), ("c", (), ()), ("d", (), ("a", "b"))],
)
def test_relatives_are_in_index_order(graph, name, parents, descendants):
    assert graph.parents(name) == parents
    assert graph.descendants(name) == descendants


@pytest.mark.parametrize("seed", range(5))
def test_order_and_descendants_of_random_graphs(seed):
    n = 7
    adjacency = random_dag(n, seed)
    graph = CausalGraph.from_adjacency([f"v{i}" for i in range(n)], adjacency)
    position = {name: i for i, name in enumerate(graph.order)}
    assert sorted(graph.order) == sorted(graph.names)
    assert all(position[cause] < position[effect] for cause, effect in graph.edges)
    level = {name: depth for depth, names in enumerate(graph.levels) for name in names}
    assert all(level[name] == max((level[p] + 1 for p in graph.parents(name)), default=0) for name in graph.names)
    # (I - A)^-1 counts the directed paths between two nodes.
    paths = torch.linalg.inv(torch.eye(n, dtype=torch.float64) - adjacency).round()
    for i, name in enumerate(graph.names):
        assert graph.descendants(name) == tuple(graph.names[j] for j in range(n) if j != i and paths[i, j] > 0)


def test_no_edges():
    graph = CausalGraph(["only"])
    assert (graph.edges, graph.levels, graph.roots, graph.children) == ((), (("only",),), ("only",), ())
    assert graph.adjacency.tolist() == [[0.0]]
    assert "no edges" in repr(graph)


@pytest.mark.parametrize(
    "roundtrip",
    [
        lambda g: CausalGraph(**g.to_config()),
        lambda g: CausalGraph(**json.loads(json.dumps(g.to_config()))),
        lambda g: CausalGraph.from_networkx(g.to_networkx()),
        lambda g: CausalGraph.from_dict({name: g.parents(name) for name in g.names}),
        lambda g: CausalGraph.from_adjacency(g.names, g.adjacency),
        lambda g: CausalGraph.from_adjacency(g.names, -0.3 * g.adjacency.double()),
        lambda g: CausalGraph.from_adjacency(g.names, g.adjacency.int().tolist()),
    ],
    ids=["config", "json", "networkx", "dict", "adjacency", "weights", "list"],
)
def test_roundtrips(graph, roundtrip):
    back = roundtrip(graph)
    assert back == graph
    assert hash(back) == hash(graph)
    assert back.names == graph.names
    assert torch.equal(back.adjacency, graph.adjacency)


def test_to_networkx_keeps_isolated_nodes(graph):
    result = graph.to_networkx()
    assert isinstance(result, nx.DiGraph)
    assert list(result.nodes) == NAMES
    assert set(result.edges) == set(EDGES)


def test_equality_ignores_the_order_and_repetition_of_edges_only(graph):
    assert graph == CausalGraph(NAMES, [*reversed(EDGES), EDGES[0]])
    assert CausalGraph(NAMES, [*EDGES, EDGES[0]]).edges == tuple(EDGES)
    assert graph != CausalGraph(NAMES[::-1], EDGES)
    assert graph != CausalGraph(NAMES, EDGES[:-1])
    assert graph != (NAMES, EDGES)


def test_repr_lists_the_edges(graph):
    assert repr(graph) == "CausalGraph(['a', 'b', 'c', 'd']: d -> b, b -> a, d -> a)"


@pytest.mark.parametrize(
    ("names", "edges", "message"),
    [
        ([], [], "names: got none; a graph needs at least one concept"),
        (["a", "b", "a"], [], "names: 'a' occurs 2 times; names must be unique"),
        (["hole size"], [], "names: 'hole size' is not a valid concept name"),
        (["1st"], [], "names: '1st' is not a valid concept name: it starts with '1'; use letters, digits and underscores"),
        (["a-b"], [], "names: 'a-b' is not a valid concept name: it holds '-'"),
        ([""], [], "names: '' is not a valid concept name: it is empty"),
        ([3], [], "names: 3 is not a valid concept name: it is of type int"),
        (["a"], [("a", "b")], "edges: unknown concept 'b' in ('a', 'b'); known: ['a']"),
        (["a"], [("b", "a")], "edges: unknown concept 'b' in ('b', 'a'); known: ['a']"),
        (["a"], [("a", "a")], "edges: the graph has a cycle a -> a; a causal graph must be acyclic"),
        *((["a", name], [], f"names: {name!r} is the name of one of the model's sites") for name in sorted(RESERVED_NAMES)),
    ],
)
def test_errors_of_names_and_edges(names, edges, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        CausalGraph(names, edges)


def test_the_cycle_is_named_without_the_path_that_leads_to_it():
    with pytest.raises(ValueError, match="the graph has a cycle ") as error:
        CausalGraph(["start", "a", "b", "c"], [("start", "a"), ("a", "b"), ("b", "c"), ("c", "a")])
    named = re.search(r"cycle (.*);", str(error.value)).group(1).split(" -> ")
    assert named[0] == named[-1]
    assert sorted(named[:-1]) == ["a", "b", "c"]
    assert set(itertools.pairwise(named)) == {("a", "b"), ("b", "c"), ("c", "a")}


@pytest.mark.parametrize("shape", [(2, 3), (3, 3), (2,), (1, 2, 2)])
def test_errors_of_the_adjacency(shape):
    message = f"adjacency: expected shape (2, 2) for 2 names, got {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        CausalGraph.from_adjacency(["a", "b"], torch.zeros(shape))


@pytest.mark.parametrize("method", ["index", "parents", "descendants"])
def test_unknown_concepts_raise_with_the_valid_names(graph, method):
    with pytest.raises(KeyError, match=re.escape("unknown concept 'e'; known: ['a', 'b', 'c', 'd']")):
        getattr(graph, method)("e")
