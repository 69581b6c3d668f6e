"""Conditional priors ``p(z | u) = prod_i N(lambda1(u_i), lambda2(u_i)^2)``: from labels to a distribution over concepts.

Any module that maps labels ``[..., n]`` to a distribution with event shape ``[n, d]`` can stand in for these.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalvae_pyro.utils.configurable import Configurable
from causalvae_pyro.utils.numbers import check_scale, number_tensor

__all__ = ["CategoricalPrior", "FixedPrior", "GroupedPrior", "LabelPrior", "LearnedPrior"]


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


class CategoricalPrior(FixedPrior):
    """:class:`FixedPrior` for labels some of which are one of ``k`` kinds: a digit, a class of fruit, a sex.

    A label column holds the kinds' numbers ``0 ... k - 1``, one column for each concept as ever. Kind ``c`` lies at the unit
    vector ``e_c`` of the concept's ``d >= k`` dimensions, so encoders, decoders and mechanisms see it one-hot; a number has its
    standardised label in all ``d`` dimensions, as with :class:`FixedPrior`. In ``do`` a kind may be given by its word:
    ``do={"fruit": "apple"}``.

    Use it with :class:`~causalvae_pyro.scm.CategoricalSCM`.

    Args:
        kinds: For each concept 0 for a number, the number ``k >= 2`` of its kinds, or their words in the order of their numbers.
        dim: Dimensions ``d`` of each concept; by default as many as the concept with the most kinds needs.
        std: See :class:`FixedPrior`. Unit vectors are 1.4 apart.
        shift: See :class:`LabelPrior`; 0 for categories.
        scale: See :class:`LabelPrior`; 1 for categories.

    Attributes:
        kinds: The number of each concept's kinds, 0 for a number.
        words: Their words, by the concept's index.

    Raises:
        ValueError: If ``kinds`` are not as stated.

    Example:
        >>> prior = CategoricalPrior([0, ["apple", "pear", "plum"]], std=0.1)
        >>> prior(torch.tensor([[0.5, 2.0]])).mean.tolist()
        [[[0.5, 0.5, 0.5], [0.0, 0.0, 1.0]]]
    """

    is_kind: Tensor

    def __init__(
        self,
        kinds: Sequence[int | Sequence[str]],
        dim: int | None = None,
        *,
        std: float | Sequence[float] = 1.0,
        shift: float | Sequence[float] = 0.0,
        scale: float | Sequence[float] = 1.0,
    ) -> None:
        counts = tuple(k if isinstance(k, int) else len(k) for k in kinds)
        for k in kinds:
            if k == 1 or (isinstance(k, int) and k < 0) or (not isinstance(k, int) and not 1 < len(set(k)) == len(k)):
                raise ValueError(f"kinds: got {k!r}; must be 0 for a number, 2 or more kinds, or as many different words")
        most = max(1, *counts)
        if dim is not None and dim < most:
            raise ValueError(f"dim: got {dim}; {most} kinds need as many dimensions")
        super().__init__(len(kinds), most if dim is None else dim, std=std, shift=shift, scale=scale)
        self.kinds = counts
        self.words = {i: tuple(k) for i, k in enumerate(kinds) if not isinstance(k, int)}
        self.register_buffer("is_kind", torch.tensor([[j < k for j in range(self.dim)] for k in counts]), persistent=False)

    @classmethod
    def from_labels(  # type: ignore[override]
        cls, labels: Tensor, kinds: Sequence[int | Sequence[str]], dim: int | None = None, **kwargs: object
    ) -> CategoricalPrior:
        """Makes a prior that standardises the numbers among the labels.

        Args:
            labels: Training labels ``[N, n]``, NaN where missing.
            kinds: See the class.
            dim: See the class.
            **kwargs: Passed on to the class.

        Raises:
            ValueError: If a label is none of its concept's kinds, or a number has fewer than 2 known ones.
        """
        prior = cls(kinds, dim)
        if labels.shape[-1] != len(prior.kinds):
            raise ValueError(f"kinds: got {len(prior.kinds)} of them for {labels.shape[-1]} columns of labels")
        for i, k in enumerate(prior.kinds):
            if k:
                prior.codes(f"labels[:, {i}]", i, labels[:, i])
        labels, category = torch.as_tensor(labels).double(), torch.tensor([k > 0 for k in prior.kinds])
        # Nothing is standardised about a category.
        rows = torch.where(category, torch.arange(len(labels), dtype=labels.dtype)[:, None], labels)
        numbers = FixedPrior.from_labels(rows)
        shift, scale = numbers.shift.masked_fill(category, 0.0), numbers.scale.masked_fill(category, 1.0)
        return cls(kinds, dim, shift=shift.tolist(), scale=scale.tolist(), **kwargs)  # type: ignore[arg-type]

    def codes(self, where: str, index: int, value: Any) -> Any:
        """The kinds' numbers of what ``do`` or a table gives for a concept; a concept that is a number is let through.

        Args:
            where: What is given, for errors.
            index: The concept.
            value: A number, a word, or a sequence or tensor of them; NaN is let through.

        Raises:
            ValueError: If it is none of the concept's kinds.
        """
        count, words = self.kinds[index], self.words.get(index, ())
        if not count:
            return value
        valid = f"one of {', '.join(words)}" if words else f"a whole number from 0 to {count - 1}"
        given = value if isinstance(value, (list, tuple)) else [value]
        if any(isinstance(word, str) for word in given):
            if unknown := [word for word in given if word not in words]:
                raise ValueError(f"{where}: got {unknown[0]!r}; must be {valid}")
            numbers = [words.index(word) for word in given]
            return numbers if isinstance(value, (list, tuple)) else numbers[0]
        try:
            found = number_tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{where}: got {value!r}; must be {valid}") from None
        wrong = ~found.isnan() & ((found != found.round()) | (found < 0) | (found >= count))
        if bool(wrong.any()):
            raise ValueError(f"{where}: got {found[wrong].flatten()[0].item():g}; must be {valid}")
        return value

    def lambda1(self, labels: Tensor) -> Tensor:
        vectors = labels[..., None] == torch.arange(self.dim, device=labels.device)
        return torch.where(self.is_kind[:, :1], vectors & self.is_kind, super().lambda1(labels))

    def to_labels(self, z: Tensor) -> Tensor:
        """Reads concepts in label units, ``[..., n, d]`` to ``[..., n]``: the kind of the largest entry."""
        nearest = z.masked_fill(~self.is_kind, -torch.inf).argmax(-1)
        return torch.where(self.is_kind[:, 0], nearest, super().to_labels(z))


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
