"""The paper's mask layer as its authors run it: one pass over linearly mixed concepts. For comparison."""

from __future__ import annotations

import torch
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor

from causalvae_pyro.graph import GraphLike
from causalvae_pyro.scm.indexing import take
from causalvae_pyro.scm.networks import NetworkLayer

__all__ = ["MaskLayer"]


class MaskLayer(NetworkLayer):
    """``y = (I - A^T)^-1 eps``, then one pass ``z_i = g_i(A_i o y) + eps_i``; a root is its noise.

    The mechanisms see the linear concepts ``y``, not each other's results, so an intervention stops at the direct children:
    ``do(i = v)`` puts ``v`` in place of ``y_i``, the children of ``i`` see it, and every concept behind them stays exactly as it
    was. :class:`AdditiveNoiseSCM` has the same networks and reaches every descendant; use this layer to compare with the
    paper's numbers.

    What else differs from a structural causal model: the children of ``i`` see ``y_i`` until something replaces the value of
    ``i``, and the replacement from then on. Unless ``i`` is a root (whose ``y_i = z_i``), setting it to its own natural value
    therefore moves its children, and so does a soft intervention that changes nothing, or the factual world among several
    in one pass. Under :func:`~causalvae_pyro.interventions.soft_do` natural value and noise are those of ``z_i``, ``parents``
    holds what the     mechanism saw (``y``, or what replaced it), and a changed value reaches the direct children only.

    Args:
        graph: The causal graph: ``g_i`` sees the parents of ``i`` only.
        dim: Dimensions of each concept.
        hidden: Width of each network's hidden layers.

    Source: Yang et al. 2021 and the authors' code, which computes ``y`` once and masks it.

    Example:
        >>> layer = MaskLayer({"a": [], "b": ["a"], "c": ["b"]})
        >>> layer.linear(torch.tensor([[1.0], [1.0], [1.0]])).squeeze(-1).tolist()
        [1.0, 2.0, 3.0]
    """

    def __init__(self, graph: GraphLike, dim: int = 1, *, hidden: int = 64) -> None:
        super().__init__(graph, dim, outputs=dim, hidden=hidden)
        self._order = [index for level in self._levels for index in level]

    def linear(self, eps: Tensor) -> Tensor:
        """The linear concepts ``y = (I - A^T)^-1 eps``, ``[..., n, d]`` to ``[..., n, d]``."""
        eye = torch.eye(len(self.graph), dtype=self.weight.dtype, device=self.weight.device)
        # Triangular in topological order, so that a concept's ancestors alone enter, to the bit.
        system = take(take(eye - self.adjacency.mT, self._order), self._order, 1)
        solution = torch.linalg.solve_triangular(system, take(eps, self._order, -2), upper=False, unitriangular=True)
        return take(solution, self._restore, -2)

    def solve_level(self, level: list[int], eps: Tensor, z: Tensor) -> Tensor:
        return eps if level is self._levels[0] else self.means(z, level) + eps

    def means(self, z: Tensor, concepts: list[int] | None = None) -> Tensor:
        is_child = take((self.mask.sum(0) > 0).to(z.dtype), concepts)
        return self.networks(z, concepts) * is_child[:, None]

    def to_exogenous(self, z: Tensor) -> Tensor:
        self._check_shape("z", z)
        eps = linear = torch.zeros_like(z)
        for level in self._levels:
            index = torch.tensor(level, device=z.device)
            noise = take(z, level, -2) - self.means(linear, level)
            eps = eps.index_copy(-2, index, noise)
            linear = linear.index_copy(-2, index, take(self.adjacency.mT, level) @ linear + noise)
        return eps

    def log_abs_det_jacobian(self, eps: Tensor, z: Tensor) -> Tensor:
        # Triangular in topological order, with ones on the diagonal.
        return eps.new_zeros(eps.shape[:-2])

    def _solve(self, eps: Tensor, emit: bool) -> Tensor:
        self._check_shape("eps", eps)
        seen = list(self.linear(eps).unbind(-2))
        columns: list[Tensor] = []
        # Outside of all handlers nothing can replace a value, but a site returns a copy of it.
        emit = emit and am_i_wrapped()
        for level in self._levels:
            # Interventions may add leading dimensions to some concepts only.
            working = torch.stack(torch.broadcast_tensors(*seen), -2)
            values = self.solve_level(level, take(eps, level, -2), working)
            for position, index in enumerate(level):
                value = natural = values[..., position, :]
                if emit:
                    parents = {self.graph.names[j]: seen[j] for j in self._parents[index]}
                    value = self._site(self.graph.names[index], natural, parents, eps[..., index, :])
                    if value is not natural:
                        seen[index] = value
                columns.append(value)
        return torch.stack(torch.broadcast_tensors(*(columns[position] for position in self._restore)), -2)
