"""The prior of concepts with several label columns, or with none."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from causalvae_pyro.priors.fixed import FixedPrior
from causalvae_pyro.priors.per_concept import per_concept, std_per_concept
from causalvae_pyro.utils.configurable import Configurable
from causalvae_pyro.utils.numbers import check_scale

__all__ = ["GroupedPrior"]


class GroupedPrior(Configurable, nn.Module):
    """A Gaussian for labels that are not one per concept: an angle as sine and cosine, a direction, a concept without a label.

    ``N((u - shift) / scale, std^2)``, where a concept of ``d`` dimensions has one label column for all of them, one for each,
    or none: then it is learned from the images alone, and follows its mechanism where labels are all that is given. Any prior
    with the attributes ``label_columns`` and ``num_labels`` has the same contract.

    Columns that belong to no concept are covariates, which a subclass's ``lambda1`` and ``lambda2`` may read; they have to be
    known for every image, and are 0 in interventions in label units.

    Args:
        columns: For each concept its columns of the labels: none, one or ``d``. A column belongs to one concept at most.
        dim: Dimensions ``d`` of each concept.
        num_labels: Number of columns ``m``; by default up to the last one that a concept has.
        std: ``lambda2``, > 0; one number or one per concept.
        shift: Label value that maps to 0; one number or one per column.
        scale: Label units per latent unit, > 0; one number or one per column.

    Raises:
        ValueError: If an argument is not as stated.

    Example:
        >>> prior = GroupedPrior([[0, 1], [2], []], dim=2)          # a direction, a size, and what nobody labelled
        >>> prior(torch.tensor([[0.6, 0.8, 3.0]])).mean.tolist()
        [[[0.6000000238418579, 0.800000011920929], [3.0, 3.0], [0.0, 0.0]]]
    """

    std: Tensor
    shift: Tensor
    scale: Tensor
    index: Tensor
    labelled: Tensor

    def __init__(
        self,
        columns: Sequence[Sequence[int]],
        dim: int = 1,
        *,
        num_labels: int | None = None,
        std: float | Sequence[float] = 1.0,
        shift: float | Sequence[float] = 0.0,
        scale: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__()
        groups = tuple(map(tuple, columns))
        used = [column for group in groups for column in group]
        count = max(used, default=-1) + 1 if num_labels is None else num_labels
        if len(set(used)) < len(used) or not all(0 <= column < count for column in used):
            raise ValueError(f"columns: got {[list(g) for g in groups]}; must be different whole numbers below {count}")
        if any(len(group) not in (0, 1, dim) for group in groups):
            raise ValueError(f"columns: got {[list(g) for g in groups]}; must be none, one or dim = {dim} for each concept")
        self.label_columns, self.num_labels, self.dim = groups, count, dim
        self.register_buffer("shift", per_concept("shift", shift, count))
        self.register_buffer("scale", per_concept("scale", scale, count))
        check_scale(self.scale)
        self.register_buffer("std", std_per_concept(std, len(groups)))
        rows = [list(group) if len(group) == dim else list(group or (0,)) * dim for group in groups]
        self.register_buffer("index", torch.tensor(rows), persistent=False)
        self.register_buffer("labelled", torch.tensor([bool(group) for group in groups])[:, None], persistent=False)

    @classmethod
    def from_labels(cls, labels: Tensor, columns: Sequence[Sequence[int]], dim: int = 1, **kwargs: object) -> GroupedPrior:
        """Makes a prior that standardises each column of the labels ``[N, m]``; see :meth:`LabelPrior.from_labels`."""
        whole = FixedPrior.from_labels(labels)
        kwargs = {"num_labels": labels.shape[1], **kwargs}
        return cls(columns, dim, shift=whole.shift.tolist(), scale=whole.scale.tolist(), **kwargs)  # type: ignore[arg-type]

    def lambda1(self, labels: Tensor) -> Tensor:
        """Prior mean, ``[..., m]`` to ``[..., n, d]``; 0 for concepts without a label, which are not scored."""
        standard = (-self.shift + labels) / self.scale
        return standard[..., self.index].masked_fill(~self.labelled, 0.0)

    def lambda2(self, labels: Tensor) -> Tensor:
        """Prior standard deviation, ``[..., m]`` to ``[..., n, d]``."""
        return self.std[:, None].expand(*labels.shape[:-1], len(self.label_columns), self.dim)

    def forward(self, labels: Tensor) -> dist.Distribution:
        """``p(z | u)``.

        Args:
            labels: ``[..., m]`` in label units.

        Returns:
            A Gaussian with batch shape ``[...]`` and event shape ``[n, d]``.
        """
        if labels.shape[-1] != self.num_labels:
            raise ValueError(f"labels: expected shape [..., {self.num_labels}], got {list(labels.shape)}")
        return dist.Normal(self.lambda1(labels), self.lambda2(labels)).to_event(2)
