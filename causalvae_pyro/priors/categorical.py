"""The prior of labels some of which are categories: each kind lies at a unit vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from causalvae_pyro.priors.fixed import FixedPrior
from causalvae_pyro.utils.numbers import number_tensor

__all__ = ["CategoricalPrior"]


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
        if getattr(getattr(value, "dtype", None), "kind", "") in ("U", "S", "O"):
            # NumPy's array of words.
            value = value.tolist()
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
