"""The paper's linear causal layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from causalvae_pyro.graph import GraphLike
from causalvae_pyro.scm.base import AdditiveNoiseLayer
from causalvae_pyro.scm.indexing import take

__all__ = ["LinearSCM"]


class LinearSCM(AdditiveNoiseLayer):
    """``z = A^T z + s o eps``, that is ``z = (I - A^T)^-1 (s o eps)`` (Yang et al. 2021, equation 1).

    ``A[j, i]`` is the strength of the edge ``j -> i``, shared by the dimensions of a concept. Strengths outside the graph
    are masked to zero, inside they are learned from zero.

    Args:
        graph: The causal graph.
        dim: Dimensions of each concept.
        learn_noise: Learn one noise scale per concept instead of 1.
        min_noise: Floor of the learned noise scales.

    Example:
        >>> scm = LinearSCM({"a": [], "b": ["a"]})
        >>> _ = scm.weight.data.fill_(2.0)
        >>> scm.to_endogenous(torch.tensor([[1.0], [1.0]])).squeeze(-1).tolist()
        [1.0, 3.0]
    """

    def __init__(self, graph: GraphLike, dim: int = 1, *, learn_noise: bool = False, min_noise: float = 1e-2) -> None:
        super().__init__(graph, dim, learn_noise=learn_noise, min_noise=min_noise)
        self.weight = nn.Parameter(torch.zeros(len(self.graph), len(self.graph)))

    @property
    def adjacency(self) -> Tensor:
        """The masked edge strengths ``A``, ``[n, n]``."""
        return self.weight * self.mask

    def means(self, z: Tensor, concepts: list[int] | None = None) -> Tensor:
        adjacency = take(self.adjacency, concepts, -1)
        return adjacency.mT @ z

    def matrix(self) -> Tensor:
        """``C = (I - A^T)^-1 diag(s)`` with ``z = C eps``, ``[n, n]``."""
        eye = torch.eye(len(self.graph), dtype=self.weight.dtype, device=self.weight.device)
        return torch.linalg.solve(eye - self.adjacency.mT, torch.diag(self.noise_scale))
