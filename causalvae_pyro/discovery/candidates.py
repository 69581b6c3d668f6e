"""Mechanisms of a graph that is not known yet: each concept may depend on every other one that is allowed."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from causalvae_pyro.graph import GraphLike, as_graph

__all__ = ["Candidates", "LinearCandidates", "NetworkCandidates", "allowed_edges"]


def allowed_edges(names: Sequence[str], *, supergraph: GraphLike | None = None, order: Sequence[str] | None = None) -> Tensor:
    """Which edges a search may use.

    Args:
        names: The concepts.
        supergraph: Only its edges are allowed.
        order: All concepts, causes first: only edges from earlier to later ones are allowed.

    Returns:
        ``[n, n]``, 1 where ``j -> i`` is allowed; the diagonal is 0.

    Raises:
        ValueError: If ``supergraph`` or ``order`` is not about the same concepts.

    Example:
        >>> allowed_edges(["a", "b"], order=["b", "a"]).tolist()
        [[0.0, 0.0], [1.0, 0.0]]
    """
    n, names = len(names), list(names)
    allowed = 1 - torch.eye(n)
    if supergraph is not None:
        supergraph = as_graph(supergraph)
        if sorted(supergraph.names) != sorted(names):
            raise ValueError(f"supergraph: got the concepts {list(supergraph.names)}; valid: {names}")
        index = [supergraph.index(name) for name in names]
        allowed = allowed * supergraph.adjacency[index][:, index]
    if order is not None:
        if sorted(order) != sorted(names):
            raise ValueError(f"order: got {list(order)}; must hold each of {names} once")
        place = torch.tensor([list(order).index(name) for name in names])
        allowed = allowed * (place[:, None] < place[None, :])
    return allowed


class Candidates(nn.Module):
    """Base class: ``z_i ~ m_i(A_i o z)`` for every concept at once, the graph being what the strengths become.

    Args:
        allowed: ``[n, n]``, nonzero where the edge ``j -> i`` may be used; see :func:`allowed_edges`. The diagonal is never.
        dim: Dimensions of each concept.
    """

    allowed: Tensor

    def __init__(self, allowed: Tensor, dim: int = 1) -> None:
        super().__init__()
        allowed = torch.as_tensor(allowed)
        n = len(allowed)
        if allowed.shape != (n, n):
            raise ValueError(f"allowed: expected a square matrix, got shape {list(allowed.shape)}")
        if dim < 1:
            raise ValueError(f"dim: got {dim}; each concept needs at least one dimension")
        self.dim = dim
        self.register_buffer("allowed", (allowed != 0).to(torch.get_default_dtype()).fill_diagonal_(0))

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """What each concept should be given all others, ``[..., n, d]`` to ``[..., n, d]``."""

    @abstractmethod
    def strengths(self) -> Tensor:
        """``A``, ``[n, n]`` and >= 0: how strongly ``j`` enters the mechanism of ``i``."""

    def shrinkage(self) -> Tensor:
        """What keeps the strengths' unit fixed: a network could shrink its first layer and grow the ones behind it."""
        return self.allowed.new_zeros(())


class LinearCandidates(Candidates):
    """The paper's ``u ~ A^T u``, from ``A = 0``.

    Args:
        allowed: See :class:`Candidates`.
        dim: See :class:`Candidates`; the dimensions of a concept share ``A``.
    """

    def __init__(self, allowed: Tensor, dim: int = 1) -> None:
        super().__init__(allowed, dim)
        self.weight = nn.Parameter(torch.zeros_like(self.allowed))

    def forward(self, z: Tensor) -> Tensor:
        return (self.weight * self.allowed).mT @ z

    def strengths(self) -> Tensor:
        return (self.weight * self.allowed).abs()


class NetworkCandidates(Candidates):
    """One network with a hidden layer per concept; the norm of the weights that read ``j`` is the strength of ``j -> i``.

    These weights start at zero, so no initial value carries the answer.

    Args:
        allowed: See :class:`Candidates`.
        dim: See :class:`Candidates`.
        hidden: Width of the hidden layer.

    Source: Zheng et al., Learning sparse nonparametric DAGs, 2020.
    """

    def __init__(self, allowed: Tensor, dim: int = 1, *, hidden: int = 32) -> None:
        super().__init__(allowed, dim)
        if hidden < 1:
            raise ValueError(f"hidden: got {hidden}; must be at least 1")
        n = len(self.allowed)
        self.input = nn.Parameter(torch.zeros(n, n, dim, hidden))
        self.input_bias = nn.Parameter(torch.randn(n, 1, hidden))
        self.output = nn.Parameter(torch.randn(n, hidden, dim) / (2 * math.sqrt(hidden)))
        self.output_bias = nn.Parameter(torch.zeros(n, 1, dim))

    def forward(self, z: Tensor) -> Tensor:
        flat = z.reshape(-1, *z.shape[-2:])
        hidden = torch.baddbmm(self.input_bias, flat.flatten(1).expand(len(self.allowed), -1, -1), self._input().flatten(1, 2))
        means = torch.baddbmm(self.output_bias, torch.tanh(hidden), self.output)
        return means.movedim(0, 1).reshape(z.shape)

    def strengths(self) -> Tensor:
        # sqrt(squares + small^2) - small: smooth, as the norm has no gradient at zero, and in this form exactly zero there.
        small = 1e-4
        squares = self._input().square().sum((-2, -1)).mT
        return squares / ((squares + small**2).sqrt() + small)

    def shrinkage(self) -> Tensor:
        return self.input.square().sum() + self.output.square().sum()

    def _input(self) -> Tensor:
        return self.input * self.allowed.mT[..., None, None]
