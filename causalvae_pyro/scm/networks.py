"""One small network per concept that sees the concept's parents only; all of them run as one batched product."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalvae_pyro.graph import GraphLike
from causalvae_pyro.scm.base import CausalLayer
from causalvae_pyro.scm.indexing import take

__all__ = ["NetworkLayer"]


class NetworkLayer(CausalLayer):
    """Base class of layers whose mechanisms are networks of the masked parents ``A_i o z`` (Yang et al. 2021).

    Each network is linear plus an MLP with two hidden layers. It starts at zero output.

    Args:
        graph: The causal graph: the network of ``i`` sees the parents of ``i`` only.
        dim: Dimensions of each concept.
        outputs: Outputs of each network.
        hidden: Width of each network's hidden layers.
    """

    parents: Tensor
    is_parent: Tensor

    def __init__(self, graph: GraphLike, dim: int, outputs: int, hidden: int) -> None:
        super().__init__(graph, dim)
        if hidden < 1:
            raise ValueError(f"hidden: got {hidden}; must be at least 1")
        n, inputs = len(self.graph), len(self.graph) * dim
        fan_in = (self.mask.sum(0) * dim).clamp(min=1)[:, None, None]
        # A_i of the paper: the strength with which each parent enters its child's network.
        self.weight = nn.Parameter(self.mask.clone())
        self.input = nn.Parameter(torch.randn(n, inputs, hidden) / fan_in.sqrt())
        self.input_bias = nn.Parameter(torch.randn(n, 1, hidden))
        self.hidden = nn.Parameter(torch.randn(n, hidden, hidden) * math.sqrt(2 / hidden))
        self.hidden_bias = nn.Parameter(torch.zeros(n, 1, hidden))
        self.output = nn.Parameter(torch.zeros(n, hidden, outputs))
        self.output_bias = nn.Parameter(torch.zeros(n, 1, outputs))
        self.skip = nn.Parameter(torch.zeros(n, inputs, outputs))
        most = max(1, *map(len, self._parents))
        self.sparse = 2 * most < n
        padded = [parents + [0] * (most - len(parents)) for parents in self._parents]
        self.register_buffer("parents", torch.tensor(padded), persistent=False)
        is_parent = [[float(k < len(parents)) for k in range(most)] for parents in self._parents]
        self.register_buffer("is_parent", torch.tensor(is_parent), persistent=False)

    @property
    def adjacency(self) -> Tensor:
        """The masked strengths ``A``, ``[n, n]``."""
        return self.weight * self.mask

    def networks(self, z: Tensor, concepts: list[int] | None = None) -> Tensor:
        """The networks' outputs given the parents in ``z``.

        Args:
            z: ``[..., n, d]``.
            concepts: Indices of the ``m`` concepts wanted; all by default.

        Returns:
            ``[..., m, outputs]``; for a root it is the same for every ``z``.
        """
        flat, gate = z.reshape(-1, *z.shape[-2:]), take(self.adjacency.mT, concepts)
        first, skip = take(self.input, concepts), take(self.skip, concepts)
        if self.sparse:
            # In a large graph nearly all of what a network could see is masked: read the parents only.
            parents = take(self.parents, concepts)
            gate = gate.gather(1, parents) * take(self.is_parent, concepts)
            seen = flat[:, parents].transpose(0, 1)
            rows = (parents[..., None] * self.dim + torch.arange(self.dim, device=z.device)).flatten(1)
            first, skip = (weights[torch.arange(len(rows), device=z.device)[:, None], rows] for weights in (first, skip))
        else:
            seen = flat[None]
        # [m, batch, k * d]: every concept's own masked view of the others.
        masked = (gate[:, None, :, None] * seen).flatten(-2)
        h = F.relu(torch.baddbmm(take(self.input_bias, concepts), masked, first))
        h = F.relu(torch.baddbmm(take(self.hidden_bias, concepts), h, take(self.hidden, concepts)))
        out = torch.baddbmm(take(self.output_bias, concepts), h, take(self.output, concepts)) + masked @ skip
        return out.movedim(0, -2).reshape(*z.shape[:-2], *out.shape[::2])
