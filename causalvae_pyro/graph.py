"""Causal graphs over named concepts.

Everything in the package follows one convention: ``A[j, i]`` belongs to the edge ``j -> i``, so column ``i`` holds the
parents of concept ``i``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import networkx as nx
import torch
from torch import Tensor

__all__ = ["CausalGraph"]

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
        return cls(list(graph.nodes), list(graph.edges))

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

    @cached_property
    def adjacency(self) -> Tensor:
        """``[n, n]`` float tensor with ``A[j, i] = 1`` for every edge ``j -> i`` and 0 elsewhere."""
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


def _check_names(names: tuple[str, ...]) -> None:
    if not names:
        raise ValueError("names: got none; a graph needs at least one concept")
    for name in names:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"names: {name!r} is not a valid concept name; use letters, digits and underscores")
        if name in RESERVED_NAMES:
            raise ValueError(f"names: {name!r} is the name of one of the model's sites; reserved: {sorted(RESERVED_NAMES)}")
        if names.count(name) > 1:
            raise ValueError(f"names: {name!r} occurs {names.count(name)} times; names must be unique")
