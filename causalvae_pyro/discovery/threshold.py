"""From strengths to a graph."""

from __future__ import annotations

import networkx as nx
import torch
from torch import Tensor

__all__ = ["to_dag"]


def to_dag(strengths: Tensor, threshold: float = 0.0) -> Tensor:
    """Drops the weak edges, then the weakest edge of each cycle that is left: the result is always a DAG.

    Args:
        strengths: ``[n, n]``, of any sign.
        threshold: Edges of at most this absolute strength are dropped, >= 0.

    Returns:
        ``[n, n]`` of 0 and 1.

    Example:
        >>> to_dag(torch.tensor([[0.0, 2.0], [1.0, 0.0]])).tolist()
        [[0.0, 1.0], [0.0, 0.0]]
    """
    if not threshold >= 0:
        raise ValueError(f"threshold: got {threshold}; must be >= 0")
    strengths = torch.as_tensor(strengths).detach().abs()
    if strengths.ndim != 2 or strengths.shape[0] != strengths.shape[1]:
        raise ValueError(f"strengths: expected a square matrix, got shape {list(strengths.shape)}")
    if not bool(torch.isfinite(strengths).all()):
        raise ValueError("strengths: got NaN or infinite values; all must be finite")
    kept = strengths * (strengths > threshold)
    # Strongest first, an edge that would close a cycle (or a loop) being left out: no cycle loses more than its weakest edge.
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(kept)))
    edges = sorted(kept.nonzero().tolist(), key=lambda edge: -kept[edge[0], edge[1]].item())
    for cause, effect in edges:
        if not nx.has_path(graph, effect, cause):
            graph.add_edge(cause, effect)
    result = torch.zeros_like(kept)
    for cause, effect in graph.edges:
        result[cause, effect] = 1
    return result
