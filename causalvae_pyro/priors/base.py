"""The base class of priors that have one label for each concept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from causalvae_pyro.priors.per_concept import per_concept
from causalvae_pyro.utils.configurable import Configurable
from causalvae_pyro.utils.numbers import check_scale

__all__ = ["LabelPrior"]


class LabelPrior(Configurable, nn.Module):
    """Base class: a diagonal Gaussian with mean ``lambda1(u)`` and standard deviation ``lambda2(u)``.

    Args:
        num_concepts: Number of concepts ``n``.
        dim: Dimensions ``d`` of each concept.
        shift: Label value that maps to 0; one number or one per concept.
        scale: Label units per latent unit, > 0; one number or one per concept.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        num_concepts: int,
        dim: int = 1,
        *,
        shift: float | Sequence[float] = 0.0,
        scale: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        self.num_concepts, self.dim = num_concepts, dim
        self.register_buffer("shift", per_concept("shift", shift, num_concepts))
        self.register_buffer("scale", per_concept("scale", scale, num_concepts))
        check_scale(self.scale)

    @classmethod
    def from_labels(cls, labels: Tensor, dim: int = 1, **kwargs: object) -> LabelPrior:
        """Makes a prior that standardises the labels.

        Args:
            labels: Training labels ``[N, n]``, NaN where missing; the mean and standard deviation of each concept's known ones
                become ``shift`` and ``scale``.
            dim: Dimensions of each concept.
            **kwargs: Passed on to the class.

        Raises:
            ValueError: If a column has fewer than 2 known labels, or all of them are equal.
        """
        labels = torch.as_tensor(labels).double()
        if len(labels) < 2:
            raise ValueError(f"labels: got {len(labels)} rows; standardising them takes at least 2")
        shift, scale = labels.mean(0), labels.std(0)
        for i in labels.isnan().any(0).nonzero().flatten().tolist():
            known = labels[~labels[:, i].isnan(), i]
            if len(known) < 2:
                raise ValueError(f"labels: got {len(known)} in column {i}; standardising them takes at least 2")
            shift[i], scale[i] = known.mean(), known.std()
        for i, column in enumerate(labels.T):
            known = column[~column.isnan()]
            if bool((known == known[0]).all()):
                raise ValueError(
                    f"labels: all {len(known)} in column {i}, counted from 0, are equal ({known[0]:g}); a concept has to vary"
                )
        return cls(labels.shape[1], dim, shift=shift.tolist(), scale=scale.tolist(), **kwargs)

    @abstractmethod
    def lambda1(self, labels: Tensor) -> Tensor:
        """Prior mean, ``[..., n]`` to ``[..., n, d]``."""

    @abstractmethod
    def lambda2(self, labels: Tensor) -> Tensor:
        """Prior standard deviation, ``[..., n]`` to ``[..., n, d]``."""

    @abstractmethod
    def to_labels(self, z: Tensor) -> Tensor:
        """Reads concepts in label units, ``[..., n, d]`` to ``[..., n]``."""

    def forward(self, labels: Tensor) -> dist.Distribution:
        """``p(z | u)``.

        Args:
            labels: ``[..., n]`` in label units.

        Returns:
            A Gaussian with batch shape ``[...]`` and event shape ``[n, d]``.
        """
        if labels.shape[-1] != self.num_concepts:
            raise ValueError(f"labels: expected shape [..., {self.num_concepts}], got {list(labels.shape)}")
        return dist.Normal(self.lambda1(labels), self.lambda2(labels)).to_event(2)

    def _standardise(self, labels: Tensor) -> Tensor:
        # Nothing is subtracted from labels that are bools.
        return (-self.shift + labels) / self.scale
