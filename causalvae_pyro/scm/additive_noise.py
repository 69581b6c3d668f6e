"""The paper's mask layer as a structural causal model: nonlinear mechanisms with additive noise."""

from __future__ import annotations

from torch import Tensor

from causalvae_pyro.graph import GraphLike
from causalvae_pyro.scm.base import AdditiveNoiseLayer
from causalvae_pyro.scm.indexing import take
from causalvae_pyro.scm.networks import NetworkLayer

__all__ = ["AdditiveNoiseSCM"]


class AdditiveNoiseSCM(AdditiveNoiseLayer, NetworkLayer):
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
        graph: GraphLike,
        dim: int = 1,
        *,
        hidden: int = 64,
        learn_noise: bool = False,
        min_noise: float = 1e-2,
    ) -> None:
        NetworkLayer.__init__(self, graph, dim, outputs=dim, hidden=hidden)
        self.init_noise(learn_noise, min_noise)

    def means(self, z: Tensor, concepts: list[int] | None = None) -> Tensor:
        is_child = take((self.mask.sum(0) > 0).to(z.dtype), concepts)
        return self.networks(z, concepts) * is_child[:, None]
