"""Random additive noise models with known graphs, for benchmarks of graph discovery."""

from __future__ import annotations

import networkx as nx
import numpy as np


def random_graph(nodes: int, edges: int, rng: np.random.Generator) -> np.ndarray:
    """An Erdos-Renyi DAG with exactly ``edges`` edges in a random order of the nodes, ``[j, i]`` being ``j -> i``."""
    upper = np.argwhere(np.triu(np.ones((nodes, nodes)), 1))
    chosen = upper[rng.permutation(len(upper))[:edges]]
    order = rng.permutation(nodes)
    adjacency = np.zeros((nodes, nodes))
    adjacency[order[chosen[:, 0]], order[chosen[:, 1]]] = 1
    return adjacency


def sample_mlp_model(adjacency: np.ndarray, samples: int, rng: np.random.Generator, *, hidden: int = 100) -> np.ndarray:
    """Standardised samples ``[samples, n]`` of ``x_i = w_i . sigmoid(V_i parents) + N(0, 1)``.

    All weights lie in +-[0.5, 2] (Zheng et al. 2020). The columns are standardised: else their variance grows along the order and
    sorting by it would find the graph (Reisach et al. 2021).
    """

    def weights(*shape: int) -> np.ndarray:
        return rng.uniform(0.5, 2.0, shape) * rng.choice([-1.0, 1.0], shape)

    x = np.zeros((samples, len(adjacency)))
    for node in nx.topological_sort(nx.from_numpy_array(adjacency, create_using=nx.DiGraph)):
        parents = np.flatnonzero(adjacency[:, node])
        x[:, node] = rng.normal(size=samples)
        if len(parents):
            x[:, node] += 1 / (1 + np.exp(-x[:, parents] @ weights(len(parents), hidden))) @ weights(hidden)
    return (x - x.mean(0)) / x.std(0)
