"""Conditional priors ``p(z | u) = prod_i N(lambda1(u_i), lambda2(u_i)^2)``: from labels to a distribution over concepts.

Any module that maps labels ``[..., n]`` to a distribution with event shape ``[n, d]`` can stand in for these.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalvae_pyro.utils.configurable import Configurable
from causalvae_pyro.utils.numbers import check_scale

__all__ = ["FixedPrior", "GroupedPrior", "LabelPrior", "LearnedPrior"]


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
        self.register_buffer("shift", _per_concept("shift", shift, num_concepts))
        self.register_buffer("scale", _per_concept("scale", scale, num_concepts))
        check_scale(self.scale)

    @classmethod
    def from_labels(cls, labels: Tensor, dim: int = 1, **kwargs: object) -> LabelPrior:
        """Makes a prior that standardises the labels.

        Args:
            labels: Training labels ``[N, n]``, NaN where missing; the mean and standard deviation of each concept's known ones
                become ``shift`` and ``scale``.
            dim: Dimensions of each concept.
            **kwargs: Passed on to the class.
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


class FixedPrior(LabelPrior):
    """``N((u - shift) / scale, std^2)``, nothing learned. The defaults are the paper's: ``lambda1(u) = u, lambda2 = 1``.

    Args:
        num_concepts: Number of concepts ``n``.
        dim: Dimensions of each concept; every dimension gets the same mean.
        std: ``lambda2``, > 0; one number or one per concept. Small values tie a concept closely to its label.
        shift: See :class:`LabelPrior`.
        scale: See :class:`LabelPrior`.

    Example:
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
        self.register_buffer("std", _per_concept("std", std, num_concepts))
        if not bool((self.std > 0).all()):
            raise ValueError(f"std: got {self.std.tolist()}; must be positive")

    def lambda1(self, labels: Tensor) -> Tensor:
        return self._standardise(labels)[..., None].expand(*labels.shape, self.dim)

    def lambda2(self, labels: Tensor) -> Tensor:
        return self.std[:, None].expand(*labels.shape, self.dim)

    def to_labels(self, z: Tensor) -> Tensor:
        return z.mean(-1) * self.scale + self.shift


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
        self.register_buffer("shift", _per_concept("shift", shift, count))
        self.register_buffer("scale", _per_concept("scale", scale, count))
        self.register_buffer("std", _per_concept("std", std, len(groups)))
        check_scale(self.scale)
        if not bool((self.std > 0).all()):
            raise ValueError(f"std: got {self.std.tolist()}; must be positive")
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


def _per_concept(argument: str, value: float | Sequence[float], num_concepts: int) -> Tensor:
    tensor = torch.as_tensor(value, dtype=torch.get_default_dtype())
    if tensor.shape not in ((), (num_concepts,)):
        raise ValueError(f"{argument}: expected a number or {num_concepts} numbers, got shape {list(tensor.shape)}")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{argument}: got {tensor.tolist()}; must be finite")
    return tensor.expand(num_concepts).clone()
