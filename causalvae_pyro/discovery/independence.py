"""The graph whose residuals are independent of each other: all graphs over a few concepts, compared."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from causalvae_pyro.discovery.local import Family, LocalFits
from causalvae_pyro.discovery.scores import SEED_OFFSET

__all__ = ["dependence", "independent_graph"]

#: All DAGs over so many concepts are compared, 29,281 of them; six have 3.8 million.
MAX_CONCEPTS = 5


def dependence(columns: Tensor, *, smoothing: float = 0.05, bandwidth: float = 0.5, size: int = 1000, seed: int = 0) -> Tensor:
    """Pairwise dependence of columns: the unbiased HSIC with Gaussian kernels, normalised as a correlation is.

    It is averaged over disjoint parts of the samples, since its cost grows with the square of their number.

    Args:
        columns: ``[N, k]``, ``N >= 8``.
        smoothing: Standard deviation of Gaussian noise added first. A column that is nearly constant becomes noise, independent
            of all others, instead of being blown up by its standardisation.
        bandwidth: Of the kernels, in each column's standard deviations, > 0.
        size: Samples in a part, more or less, >= 8.
        seed: Fixes that noise.

    Returns:
        ``[k, k]``; about 0 (of either sign) for independent columns, 1 on the diagonal.

    Source: Gretton et al. 2005; Song et al., Feature selection via dependence maximization, 2012, equation 5.
    """
    if len(columns) < 8:
        raise ValueError(f"columns: got {len(columns)} rows; dependence takes at least 8")
    if not bandwidth > 0:
        raise ValueError(f"bandwidth: got {bandwidth}; must be > 0")
    if size < 8:
        raise ValueError(f"size: got {size}; must be at least 8")
    generator = torch.Generator(columns.device).manual_seed(seed + SEED_OFFSET)
    noise = torch.randn(columns.shape, generator=generator, dtype=columns.dtype, device=columns.device)
    noisy = columns + smoothing * noise
    parts = noisy.tensor_split(max(1, round(len(noisy) / size)))
    return torch.stack([_hsic(part, bandwidth) for part in parts]).mean(0)


def independent_graph(
    fits: LocalFits,
    allowed: Tensor,
    *,
    edge_penalty: float = 0.01,
    tolerance: float = 0.005,
    smoothing: float = 0.05,
) -> Tensor:
    """The DAG with the least dependence between its residuals, pair by pair, plus a penalty for each edge.

    Three assumptions find the graph where likelihood cannot, as among concepts that are functions of each other: residuals
    (and so roots) are independent; of graphs that achieve this the sparser is true; of those that tie in both, the one with
    the shortest longest path, which takes a concept for a function of the roots and not of another function of the roots.

    Args:
        fits: The families' residuals, of at most 5 concepts.
        allowed: ``[n, n]``, nonzero where an edge may be.
        edge_penalty: What an edge must remove of the sum over pairs of :func:`dependence`.
        tolerance: Graphs this near to the best tie.
        smoothing: See :func:`dependence`.

    Returns:
        ``[n, n]`` of 0 and 1.

    Raises:
        ValueError: If there are more than 5 concepts.

    Source: the criterion of Peters et al., Causal discovery with continuous additive noise models, 2014, for all graphs at once.
    """
    n = len(allowed)
    if n > MAX_CONCEPTS:
        raise ValueError(f"fits: got {n} concepts; comparing all graphs is for at most {MAX_CONCEPTS}, use climb")
    families = [
        [(i, frozenset(p)) for size in range(n) for p in combinations([j for j in range(n) if j != i and allowed[j, i]], size)]
        for i in range(n)
    ]
    graphs, chosen = _all_dags(families, n)
    flat: list[Family] = [family for own in families for family in own]
    offsets = torch.tensor([0, *(len(own) for own in families)]).cumsum(0)[:-1]
    pairs = dependence(fits.residuals(flat), smoothing=smoothing)
    place = chosen + offsets
    total = edge_penalty * graphs.sum((-2, -1))
    for i, j in combinations(range(n), 2):
        total = total + pairs[place[:, i], place[:, j]].clamp(min=0)
    near = (total <= total.min() + tolerance).nonzero().flatten()
    depth = _depth(graphs[near])
    shallow = near[depth == depth.min()]
    return graphs[shallow[total[shallow].argmin()]]


def _all_dags(families: list[list[Family]], n: int) -> tuple[Tensor, Tensor]:
    """Adjacencies ``[g, n, n]`` of all DAGs and which family each concept has in them, ``[g, n]``."""
    columns = []
    for own in families:
        column = torch.zeros(len(own), n)
        for k, (_, parents) in enumerate(own):
            column[k, list(parents)] = 1
        columns.append(column)
    if n == 1:
        return torch.zeros(1, 1, 1), torch.zeros(1, 1, dtype=torch.long)
    choice = torch.cartesian_prod(*(torch.arange(len(own)) for own in families))
    graphs = torch.stack([column[choice[:, i]] for i, column in enumerate(columns)], -1)
    acyclic = torch.linalg.matrix_power(graphs, n).sum((-2, -1)) == 0
    return graphs[acyclic], choice[acyclic]


def _depth(graphs: Tensor) -> Tensor:
    """Edges on the longest path of each DAG."""
    depth, power = torch.zeros(len(graphs)), graphs
    while bool((power != 0).any()):
        depth += ((power != 0).sum((-2, -1)) > 0).float()
        power = power @ graphs
    return depth


def _hsic(columns: Tensor, bandwidth: float) -> Tensor:
    size = len(columns)
    scaled = (columns - columns.mean(0)) / columns.std(0).clamp(min=1e-12) / bandwidth
    kernels = columns.new_empty(columns.shape[1], size, size)
    for kernel, column in zip(kernels, scaled.T, strict=True):
        kernel.copy_(torch.exp(-0.5 * (column[:, None] - column[None, :]).square())).fill_diagonal_(0)
    flat, rows = kernels.flatten(1), kernels.sum(1)
    sums = rows.sum(1)
    product = flat @ flat.T + sums[:, None] * sums[None, :] / ((size - 1) * (size - 2)) - 2 / (size - 2) * rows @ rows.T
    scale = product.diagonal().clamp(min=1e-12).sqrt()
    return product / (scale[:, None] * scale[None, :])
