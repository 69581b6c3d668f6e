"""How close a learned graph, or a causal order, comes to the true one.

Graphs are in any form of :func:`~causalvae_pyro.graph.as_graph` but pairs, or a square matrix with ``A[j, i] != 0`` iff
``j -> i``. Learned edge strengths are seldom exactly 0: threshold them before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import networkx as nx
import numpy as np
from torch import Tensor

from causalvae_pyro.graph import CausalGraph, as_graph

__all__ = ["EdgeScores", "edge_scores", "order_error", "shd"]

#: A graph, in the forms that :func:`~causalvae_pyro.graph.as_graph` can tell from a matrix, or a matrix.
Graph: TypeAlias = CausalGraph | nx.DiGraph | Mapping[str, Sequence[str]] | str | os.PathLike | Tensor | np.ndarray


class EdgeScores(NamedTuple):
    """What :func:`edge_scores` returns; each in [0, 1], 1 is perfect."""

    #: Share of the learned edges that are true.
    precision: float
    #: Share of the true edges that were learned.
    recall: float
    #: Harmonic mean of the two.
    f1: float


def shd(
    learned: Graph,
    true: Graph,
    *,
    double_reversals: bool = False,
) -> int:
    """Structural Hamming distance: how many edges to add, remove or turn round to get from one graph to the other.

    Args:
        learned: A graph of ``n`` nodes; cycles of two edges or more are allowed.
        true: The true graph, over the same nodes in the same order.
        double_reversals: Count an edge in the wrong direction twice, as one to remove and one to add, instead of once.

    Returns:
        A whole number from 0 (equal) to ``n (n - 1) / 2`` pairs of nodes, or ``n (n - 1)`` with ``double_reversals``. Against an
        empty graph it is the number of the other's edges, if that is acyclic: two edges between the same pair count as one
        difference, or as two with ``double_reversals``.

    Raises:
        ValueError: If a graph is not a square, finite matrix with a zero diagonal, or they are over different nodes.

    Source: Tsamardinos et al. 2006, on directed graphs instead of equivalence classes.

    Example:
        >>> learned, true = torch.tensor([[0, 1], [0, 0]]), torch.tensor([[0, 0], [1, 0]])
        >>> shd(learned, true), shd(learned, true, double_reversals=True)
        (1, 2)
    """
    a, b = _pair(learned, true)
    differs = a != b
    return int(differs.sum()) if double_reversals else int(np.triu(differs | differs.T).sum())


def edge_scores(learned: Graph, true: Graph) -> EdgeScores:
    """Precision, recall and F1 of the learned directed edges; an edge in the wrong direction is a wrong one.

    Args:
        learned: A graph of ``n`` nodes.
        true: The true graph, over the same nodes in the same order.

    Returns:
        See :class:`EdgeScores`. If neither graph has an edge, all are 1; if only one has none, all are 0, the undefined share
        included.

    Raises:
        ValueError: If a graph is not a square, finite matrix with a zero diagonal, or they are over different nodes.

    Example:
        >>> true = CausalGraph(["a", "b", "c"], [("a", "b"), ("b", "c")])
        >>> edge_scores(CausalGraph(["a", "b", "c"], [("a", "b")]), true)
        EdgeScores(precision=1.0, recall=0.5, f1=0.6666666666666666)
    """
    a, b = _pair(learned, true)
    found, claimed, real = int((a & b).sum()), int(a.sum()), int(b.sum())
    if not claimed and not real:
        return EdgeScores(1.0, 1.0, 1.0)
    return EdgeScores(found / claimed if claimed else 0.0, found / real if real else 0.0, 2 * found / (claimed + real))


def order_error(order: Sequence[int] | Sequence[str] | Tensor | np.ndarray, true: Graph) -> int:
    """The number of true edges that a causal order contradicts, by placing the effect before its cause.

    Args:
        order: All nodes, causes first: indices, or names if ``true`` is a ``CausalGraph``.
        true: The true graph.

    Returns:
        A whole number from 0, a topological order of the graph, to its number of edges, such an order backwards. Without edges
        every order has 0.

    Raises:
        ValueError: If ``true`` is not a square, finite matrix with a zero diagonal, or ``order`` does not hold every node once.

    Source: ``D_top`` of Rolland et al. 2022.

    Example:
        >>> true = CausalGraph(["a", "b", "c"], [("a", "b"), ("b", "c")])
        >>> order_error(true.order, true), order_error(["b", "a", "c"], true), order_error([2, 1, 0], true)
        (0, 1, 2)
    """
    true = _known(true)
    matrix = _matrix(true, "true")
    given = order.tolist() if isinstance(order, Tensor | np.ndarray) else list(order)
    names = list(true.names) if isinstance(true, CausalGraph) else []
    nodes: list[Any] = [names.index(node) if node in names else node for node in given]
    if len(nodes) != len(matrix) or set(nodes) != set(range(len(matrix))):
        valid = f"each of 0..{len(matrix) - 1} once" + (f", or each of {names}" if names else "")
        raise ValueError(f"order: got {given}; valid: {valid}")
    position = np.argsort(np.asarray(nodes, dtype=np.int64))
    return int((matrix & (position[:, None] > position[None, :])).sum())


def _pair(learned: Graph, true: Graph) -> tuple[np.ndarray, np.ndarray]:
    learned, true = _known(learned), _known(true)
    a, b = _matrix(learned, "learned"), _matrix(true, "true")
    if a.shape != b.shape:
        raise ValueError(f"learned: got {len(a)} nodes beside true's {len(b)}; both must be over the same nodes")
    if isinstance(learned, CausalGraph) and isinstance(true, CausalGraph) and learned.names != true.names:
        raise ValueError(f"learned: got the concepts {list(learned.names)}; valid: true's, {list(true.names)}, in that order")
    return a, b


def _known(graph: Graph) -> CausalGraph | Tensor | np.ndarray:
    return as_graph(graph) if isinstance(graph, (nx.Graph, Mapping, str, os.PathLike)) else graph


def _matrix(graph: Graph, name: str) -> np.ndarray:
    """``[n, n]`` bool, true for every edge."""
    values = graph.adjacency if isinstance(graph, CausalGraph) else graph
    matrix = values.detach().double().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name}: expected a square matrix, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name}: got NaN or infinite entries; all must be finite")
    loops = np.flatnonzero(np.diagonal(matrix))
    if loops.size:
        raise ValueError(f"{name}: nodes {loops.tolist()} have an edge to themselves; the diagonal must be 0")
    return matrix != 0
