"""The paper's prior: the standardised label is the mean, and nothing is learned."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from causalvae_pyro.priors.base import LabelPrior
from causalvae_pyro.priors.per_concept import std_per_concept

__all__ = ["FixedPrior"]


class FixedPrior(LabelPrior):
    """``N((u - shift) / scale, std^2)``, nothing learned. The defaults are the paper's: ``lambda1(u) = u, lambda2 = 1``.

    Args:
        num_concepts: Number of concepts ``n``.
        dim: Dimensions of each concept; every dimension gets the same mean.
        std: ``lambda2``, > 0; one number or one per concept. Small values tie a concept closely to its label.
        shift: See :class:`LabelPrior`.
        scale: See :class:`LabelPrior`.

    Example:
        >>> import torch
        >>> FixedPrior(2, std=0.1)(torch.tensor([[3.0, 4.0]])).mean.tolist()
        [[[3.0], [4.0]]]
    """

    std: Tensor

    def __init__(
        self,
        num_concepts: int,
        dim: int = 1,
        *,
        std: float | Sequence[float] = 1.0,
        shift: float | Sequence[float] = 0.0,
        scale: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__(num_concepts, dim, shift=shift, scale=scale)
        self.register_buffer("std", std_per_concept(std, num_concepts))

    def lambda1(self, labels: Tensor) -> Tensor:
        return self._standardise(labels)[..., None].expand(*labels.shape, self.dim)

    def lambda2(self, labels: Tensor) -> Tensor:
        return self.std[:, None].expand(*labels.shape, self.dim)

    def to_labels(self, z: Tensor) -> Tensor:
        return z.mean(-1) * self.scale + self.shift
