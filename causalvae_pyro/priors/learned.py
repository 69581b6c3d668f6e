"""The prior whose mean and standard deviation are learned functions of each label."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalvae_pyro.priors.base import LabelPrior

__all__ = ["LearnedPrior"]


class LearnedPrior(LabelPrior):
    """``lambda1`` and ``lambda2`` as learned functions of each concept's own label.

    ``lambda1(u_i) = a_i u_i' + b_i + MLP_i(u_i')`` and ``lambda2(u_i) = min_std + softplus(MLP_i(u_i'))`` with ``u'`` the
    standardised label. It starts as ``lambda1(u) = u', lambda2 = std``.

    Args:
        num_concepts: Number of concepts ``n``.
        dim: Dimensions of each concept.
        std: Initial ``lambda2``, > ``min_std``.
        min_std: Floor of ``lambda2``, > 0.
        hidden: Width of each concept's hidden layer.
        shift: See :class:`LabelPrior`.
        scale: See :class:`LabelPrior`.
    """

    def __init__(
        self,
        num_concepts: int,
        dim: int = 1,
        *,
        std: float = 1.0,
        min_std: float = 1e-2,
        hidden: int = 16,
        shift: float | Sequence[float] = 0.0,
        scale: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__(num_concepts, dim, shift=shift, scale=scale)
        if not 0 < min_std < std:
            raise ValueError(f"std: got std={std}, min_std={min_std}; need 0 < min_std < std")
        self.min_std = min_std
        start = torch.tensor(std - min_std, dtype=torch.float64).expm1().log().item()
        self.slope = nn.Parameter(torch.ones(num_concepts, dim))
        self.input = nn.Parameter(torch.randn(num_concepts, hidden))
        self.input_bias = nn.Parameter(torch.randn(num_concepts, hidden))
        self.output = nn.Parameter(torch.zeros(num_concepts, hidden, 2 * dim))
        self.output_bias = nn.Parameter(torch.cat([torch.zeros(num_concepts, dim), torch.full((num_concepts, dim), start)], -1))

    def lambda1(self, labels: Tensor) -> Tensor:
        standard = self._standardise(labels)
        return standard[..., None] * self.slope + self._mlp(standard)[..., : self.dim]

    def lambda2(self, labels: Tensor) -> Tensor:
        return self.min_std + F.softplus(self._mlp(self._standardise(labels))[..., self.dim :])

    def to_labels(self, z: Tensor) -> Tensor:
        """The label whose ``lambda1`` lies nearest to ``z``, by search on a grid of +-4 standard deviations."""
        steps = torch.linspace(-4, 4, 2001, dtype=z.dtype, device=z.device)[:, None]
        grid = steps * self.scale + self.shift
        means = self.lambda1(grid)
        flat = z.reshape(-1, *z.shape[-2:])
        columns = [grid[torch.cdist(flat[:, i], means[:, i]).argmin(-1), i] for i in range(self.num_concepts)]
        return torch.stack(columns, -1).reshape(z.shape[:-1])

    def _mlp(self, standard: Tensor) -> Tensor:
        hidden = torch.tanh(standard[..., None] * self.input + self.input_bias)
        return torch.einsum("...nh,nho->...no", hidden, self.output) + self.output_bias
