"""The paper's mask layer as a structural causal model: nonlinear mechanisms with additive noise."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.scm.base import AdditiveNoiseLayer

__all__ = ["AdditiveNoiseSCM"]


class AdditiveNoiseSCM(AdditiveNoiseLayer):
    """``z_i = g_i(A_i o z) + s_i eps_i`` with one small network ``g_i`` per child (the mask layer of Yang et al. 2021).

    Unlike the paper's one-pass layer the mechanisms are evaluated in topological order, so an intervention reaches every
    descendant. All networks run as one batched product. ``g_i`` is linear plus an MLP with two hidden layers; it starts
    at zero output.

    Args:
        graph: The causal graph: ``g_i`` sees the parents of ``i`` only.
        dim: Dimensions of each concept.
        hidden: Width of each network's hidden layers.
        learn_noise: Learn one noise scale per concept instead of 1.
        min_noise: Floor of the learned noise scales.
    """

    def __init__(
        self,
        graph: CausalGraph,
        dim: int = 1,
        *,
        hidden: int = 64,
        learn_noise: bool = False,
        min_noise: float = 1e-2,
    ) -> None:
        super().__init__(graph, dim, learn_noise=learn_noise, min_noise=min_noise)
        if hidden < 1:
            raise ValueError(f"hidden: got {hidden}; must be at least 1")
        n, inputs = len(graph), len(graph) * dim
        fan_in = (graph.adjacency.sum(0) * dim).clamp(min=1)[:, None, None]
        # A_i of the paper: the strength with which each parent enters its child's network.
        self.weight = nn.Parameter(graph.adjacency.clone())
        self.input = nn.Parameter(torch.randn(n, inputs, hidden) / fan_in.sqrt())
        self.input_bias = nn.Parameter(torch.randn(n, 1, hidden))
        self.hidden = nn.Parameter(torch.randn(n, hidden, hidden) * math.sqrt(2 / hidden))
        self.hidden_bias = nn.Parameter(torch.zeros(n, 1, hidden))
        self.output = nn.Parameter(torch.zeros(n, hidden, dim))
        self.output_bias = nn.Parameter(torch.zeros(n, 1, dim))
        self.skip = nn.Parameter(torch.zeros(n, inputs, dim))

    @property
    def adjacency(self) -> Tensor:
        """The masked strengths ``A``, ``[n, n]``."""
        return self.weight * self.mask

    def means(self, z: Tensor, concepts: list[int] | None = None) -> Tensor:
        index = slice(None) if concepts is None else concepts
        gate = self.adjacency.mT[index]
        is_child = (self.mask.sum(0) > 0).to(z.dtype)[index]
        lead = z.shape[:-2]
        # [m, batch, n * d]: every concept's own masked view of all the others.
        masked = (gate[:, None, :, None] * z.reshape(1, -1, *z.shape[-2:])).flatten(-2)
        h = F.relu(torch.baddbmm(self.input_bias[index], masked, self.input[index]))
        h = F.relu(torch.baddbmm(self.hidden_bias[index], h, self.hidden[index]))
        out = torch.baddbmm(self.output_bias[index], h, self.output[index]) + masked @ self.skip[index]
        return (out * is_child[:, None, None]).movedim(0, -2).reshape(*lead, len(out), self.dim)
