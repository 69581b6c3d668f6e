"""Weights under which labels that go together in the data are independent of each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LabelWeights"]

# No probability is taken to be smaller, and no image counts more often: rare combinations are few, and noisy.
_RARE, _MOST = 0.03, 10.0
_RIDGE = 1e-4


class LabelWeights(nn.Module):
    """Stabilised inverse probability weights (Robins et al. 2000) for classifiers of several labels.

    ::

        w_i(u) = p(u_i) / p(u_i | u_j, j != i)

    Smiles come with open mouths, so a classifier that looks at the mouth alone reads smiles well, and misreads most images in
    which the two disagree: just those that interventions make. Weighted by ``w_i``, label ``i`` is independent of the others, and
    only its own signs help to read it. Conditional means are linear in the other labels (categories one-hot); a probability is
    that mean, a number is Gaussian about it. The moments are those of all labels seen so far: nothing has to be known before a
    training starts.

    Args:
        binary: Which labels are binary (0 or 1), ``n`` of them.
        kinds: For each label the number of its kinds where it is a category, ``0 ... k - 1``, else 0.
    """

    moments: Tensor

    def __init__(self, binary: Sequence[bool], kinds: Sequence[int] = ()) -> None:
        super().__init__()
        self._kinds = list(kinds) or [0] * len(binary)
        self._binary = list(binary)
        size = 1 + sum(max(1, k) for k in self._kinds)
        self.register_buffer("moments", torch.zeros(size, size, dtype=torch.float64))

    @torch.no_grad()
    def update(self, labels: Tensor) -> None:
        """Takes labels into account; rows with a missing one tell nothing.

        Args:
            labels: ``[N, n]``, NaN where missing.
        """
        features = self._features(labels[~labels.isnan().any(1)])
        self.moments += features.T @ features

    @torch.no_grad()
    def forward(self, labels: Tensor) -> Tensor:
        """The weight of each label, ``[N, n]``, at most 10; 1 in rows with a missing one, and for labels without others.

        Args:
            labels: ``[N, n]``, NaN where missing.
        """
        count = self.moments[0, 0]
        if not count or len(self._kinds) < 2:
            return torch.ones_like(labels)
        features, moments = self._features(labels.nan_to_num()), self.moments / count
        weights, start = [], 1
        for binary, kinds in zip(self._binary, self._kinds, strict=True):
            own = torch.zeros(len(moments), dtype=torch.bool, device=moments.device)
            own[start : start + max(1, kinds)] = True
            inner = moments[~own][:, ~own]
            # A label may have been the same, or 0, in all images so far.
            slopes = torch.linalg.solve(inner + (_RIDGE * inner.diag() + 1e-9).diag(), moments[~own][:, own])
            value, mean, always = features[:, own], features[:, ~own] @ slopes, moments[:1, own]
            if binary or kinds:
                weights.append(_probability(value, always) / _probability(value, mean))
            else:
                spread = (moments[own][:, own] - always.square()).clamp(min=1e-9)
                # Never sure: some labels are functions of the others, and no weight makes them independent.
                left = (moments[own][:, own] - moments[own][:, ~own] @ slopes).clamp(min=_RARE * spread.item())
                weights.append((_log_density(value, always, spread) - _log_density(value, mean, left)).exp())
            start += max(1, kinds)
        found = torch.stack(weights, 1).clamp(max=_MOST)
        return torch.where(labels.isnan().any(1, keepdim=True), 1.0, found).to(labels.dtype)

    def _features(self, labels: Tensor) -> Tensor:
        parts = [torch.ones_like(labels[:, :1])]
        for kinds, column in zip(self._kinds, labels.unbind(1), strict=True):
            parts.append(F.one_hot(column.long(), kinds) if kinds else column[:, None])
        return torch.cat([part.to(self.moments) for part in parts], 1)


def _probability(value: Tensor, mean: Tensor) -> Tensor:
    """Of the label that each row has, ``[N]``."""
    if value.shape[1] > 1:
        mean = mean.clamp(min=_RARE)
        return (value * mean / mean.sum(1, keepdim=True)).sum(1)
    one = mean[:, 0].clamp(_RARE, 1 - _RARE)
    return torch.where(value[:, 0] > 0.5, one, 1 - one)


def _log_density(value: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * ((value - mean).square() / variance + variance.log())[:, 0]
