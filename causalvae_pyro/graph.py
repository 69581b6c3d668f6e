"""Causal graphs over named concepts.

Everything in the package follows one convention: ``A[j, i]`` belongs to the edge ``j -> i``, so column ``i`` holds the
parents of concept ``i``.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import networkx as nx
import torch
from torch import Tensor

from causalvae_pyro.utils.graph_files import read_graph_file

__all__ = ["CausalGraph", "GraphLike", "as_graph"]

#: Names of the model's own sample sites, which a concept may not take.
RESERVED_NAMES = frozenset({"eps", "eps_x", "z", "x", "x_mean", "data"})


class CausalGraph:
    """A directed acyclic graph whose nodes are the concepts, in a fixed index order.

    Args:
        names: One name per concept. The order fixes the index of each concept in every ``[..., n, d]`` tensor.
        edges: Pairs ``(cause, effect)`` of names.

    Raises:
        ValueError: If a name repeats, is reserved for one of the model's sites or is not an identifier, if an edge
            names an unknown concept, or if the edges contain a cycle.

    Example:
        >>> graph = CausalGraph(["sun", "rain", "mood"], [("sun", "mood"), ("rain", "mood")])
        >>> graph.parents("mood")
        ('sun', 'rain')
        >>> graph.adjacency.tolist()
        [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
        >>> graph.levels
        (('sun', 'rain'), ('mood',))
    """

    def __init__(self, names: Sequence[str], edges: Iterable[tuple[str, str]] = ()) -> None:
        self.names = tuple(names)
        _check_names(self.names)
        unique: dict[tuple[str, str], None] = {}
        for edge in edges:
            cause, effect = edge
            for name in (cause, effect):
                if name not in self.names:
                    raise ValueError(f"edges: unknown concept {name!r} in {(cause, effect)!r}; known: {list(self.names)}")
            unique[(cause, effect)] = None
        self.edges = tuple(unique)
        if not nx.is_directed_acyclic_graph(self.to_networkx()):
            cycle = [edge[0] for edge in nx.find_cycle(self.to_networkx())]
            raise ValueError(f"edges: the graph has a cycle {' -> '.join([*cycle, cycle[0]])}; a causal graph must be acyclic")

    @classmethod
    def from_adjacency(cls, names: Sequence[str], adjacency: Tensor) -> CausalGraph:
        """Builds the graph from a ``[n, n]`` matrix: every nonzero ``adjacency[j, i]`` is an edge ``j -> i``."""
        adjacency = torch.as_tensor(adjacency)
        if adjacency.shape != (len(names), len(names)):
            raise ValueError(
                f"adjacency: expected shape {(len(names),) * 2} for {len(names)} names, got {tuple(adjacency.shape)}"
            )
        return cls(names, [(names[j], names[i]) for j, i in adjacency.nonzero().tolist()])

    @classmethod
    def from_networkx(cls, graph: nx.DiGraph) -> CausalGraph:
        """Builds the graph from a networkx ``DiGraph`` with string nodes, in the order of its nodes."""
        if not graph.is_directed():
            raise ValueError("graph: got an undirected graph of networkx; expected a DiGraph")
        return cls(list(graph.nodes), list(graph.edges()))

    @classmethod
    def from_dict(cls, parents: Mapping[str, Sequence[str]]) -> CausalGraph:
        """Builds the graph from ``{concept: [its parents]}``, with the concepts in the order of the mapping."""
        return cls(list(parents), [(cause, effect) for effect, causes in parents.items() for cause in causes])

    def to_networkx(self) -> nx.DiGraph:
        """The same graph as a networkx ``DiGraph``."""
        graph = nx.DiGraph()
        graph.add_nodes_from(self.names)
        graph.add_edges_from(self.edges)
        return graph

    def to_config(self) -> dict:
        """JSON-able description; ``CausalGraph(**config)`` restores the graph."""
        return {"names": list(self.names), "edges": [list(edge) for edge in self.edges]}

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CausalGraph) and self.names == other.names and set(self.edges) == set(other.edges)

    def __hash__(self) -> int:
        return hash((self.names, frozenset(self.edges)))

    def __repr__(self) -> str:
        edges = ", ".join(f"{cause} -> {effect}" for cause, effect in self.edges)
        return f"CausalGraph({list(self.names)}: {edges or 'no edges'})"

    def index(self, name: str) -> int:
        """The index of a concept.

        Raises:
            KeyError: If there is no such concept; the message lists the valid names.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise KeyError(f"unknown concept {name!r}; known: {list(self.names)}") from None

    @property
    def adjacency(self) -> Tensor:
        """``[n, n]`` tensor of the default precision with ``A[j, i] = 1`` for every edge ``j -> i`` and 0 elsewhere."""
        # A new one each time: the default precision may change, and models move and change what they are given.
        matrix = torch.zeros(len(self), len(self))
        for cause, effect in self.edges:
            matrix[self.index(cause), self.index(effect)] = 1.0
        return matrix

    @cached_property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """Concepts grouped by the length of the longest path from a root; all parents lie in earlier groups."""
        return tuple(tuple(sorted(group, key=self.index)) for group in nx.topological_generations(self.to_networkx()))

    @property
    def order(self) -> tuple[str, ...]:
        """A topological order: every concept comes after its parents."""
        return tuple(name for level in self.levels for name in level)

    @property
    def roots(self) -> tuple[str, ...]:
        """Concepts without parents."""
        return tuple(name for name in self.names if not self.parents(name))

    @property
    def children(self) -> tuple[str, ...]:
        """Concepts with at least one parent."""
        return tuple(name for name in self.names if self.parents(name))

    def parents(self, name: str) -> tuple[str, ...]:
        """Direct causes of a concept, in index order."""
        self.index(name)
        return tuple(sorted((cause for cause, effect in self.edges if effect == name), key=self.index))

    def descendants(self, name: str) -> tuple[str, ...]:
        """Every concept that an intervention on ``name`` can change, ``name`` itself excluded, in index order."""
        self.index(name)
        return tuple(sorted(nx.descendants(self.to_networkx(), name), key=self.index))


#: What :func:`as_graph` takes.
GraphLike: TypeAlias = CausalGraph | nx.DiGraph | Mapping[str, Sequence[str]] | Iterable[tuple[str, str]] | str | os.PathLike


def as_graph(graph: GraphLike, names: Sequence[str] | None = None) -> CausalGraph:
    """A causal graph from any of the forms that people write one in.

    Args:
        graph: A :class:`CausalGraph`; a networkx ``DiGraph``; a mapping from each concept to its parents; pairs ``(cause,
            effect)``; or the path of a file, see :func:`~causalvae_pyro.utils.graph_files.read_graph_file`.
        names: The concepts' order; for pairs, where no other order is given.

    Raises:
        ValueError: If the graph has a cycle or names an unknown concept, or the file is malformed.
        FileNotFoundError: If the file is missing.

    Example:
        >>> as_graph({"sun": [], "mood": ["sun"]})
        CausalGraph(['sun', 'mood']: sun -> mood)
    """
    if isinstance(graph, CausalGraph):
        return graph
    if isinstance(graph, (str, os.PathLike)):
        parents, _ = read_graph_file(graph)
        try:
            return _from_parents(parents)
        except ValueError as error:
            raise ValueError(f"graph: {graph}: {str(error).removeprefix('graph: ')}") from None
    if isinstance(graph, nx.Graph):
        return CausalGraph.from_networkx(graph)
    if isinstance(graph, Mapping):
        return _from_parents(graph)
    if not isinstance(graph, Iterable):
        raise ValueError(f"graph: got {reprlib.repr(graph)}; expected a graph, a mapping, pairs (cause, effect) or a file")
    edges = [(edge,) if isinstance(edge, str) else tuple(edge) for edge in graph]
    for edge in edges:
        if len(edge) != 2:
            raise ValueError(f"graph: expected pairs (cause, effect), got {reprlib.repr(edge)}")
    if names is None:
        names = list(dict.fromkeys(name for edge in edges for name in edge))
    return CausalGraph(names, edges)


def _from_parents(graph: Mapping[Any, Any]) -> CausalGraph:
    parents = {}
    for name, causes in graph.items():
        causes = [causes] if isinstance(causes, str) else causes or ()
        if not isinstance(name, str) or not isinstance(causes, Iterable) or not all(isinstance(c, str) for c in causes):
            # Shortened: what is read from YAML may hold itself.
            given = f"{reprlib.repr(name)}: {reprlib.repr(causes)}"
            raise ValueError(f"graph: expected names of concepts, each with a list of its causes, got {given}")
        parents[name] = list(causes)
    return CausalGraph.from_dict(parents)


def _check_names(names: tuple[str, ...]) -> None:
    if not names:
        raise ValueError("names: got none; a graph needs at least one concept")
    for name in names:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(
                f"names: {name!r} is not a valid concept name: {_fault(name)}; use letters, digits and underscores, and no digit "
                "first (a column of a table is renamed by FolderDataset(rename=...))"
            )
        if name in RESERVED_NAMES:
            raise ValueError(f"names: {name!r} is the name of one of the model's sites; reserved: {sorted(RESERVED_NAMES)}")
        if names.count(name) > 1:
            raise ValueError(f"names: {name!r} occurs {names.count(name)} times; names must be unique")


def _fault(name: Any) -> str:
    if not isinstance(name, str):
        return f"it is of type {type(name).__name__}"
    if not name:
        return "it is empty"
    if strange := [character for character in name if not f"a{character}".isidentifier()]:
        return f"it holds {strange[0]!r}"
    return f"it starts with {name[0]!r}"
