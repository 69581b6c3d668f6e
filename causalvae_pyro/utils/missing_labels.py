"""Missing labels are NaN: an image may have none of its labels, or some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent

from causalvae_pyro.utils.compat import mask_of
from causalvae_pyro.utils.label_columns import known_concepts, label_columns

__all__ = ["MaskedPrior", "any_missing", "declare_missing", "keep_labels", "masked_prior"]

_declared: ContextVar[bool | None] = ContextVar("declared", default=None)


@contextmanager
def declare_missing(missing: bool) -> Iterator[None]:
    """Declares whether labels may be NaN, which avoids a device sync in each step."""
    token = _declared.set(missing)
    try:
        yield
    finally:
        _declared.reset(token)


def any_missing(labels: Tensor) -> bool:
    """Whether a label may be missing: as declared, else by a test of the values, which is a device sync."""
    declared = _declared.get()
    return bool(labels.isnan().any()) if declared is None else declared


class MaskedPrior(dist.Independent):
    """Conditional prior masked to the concepts whose labels are known."""

    @property
    def known(self) -> Tensor:
        """Which are known, ``[..., n]``."""
        masked = self.base_dist
        return mask_of(masked).expand(masked.batch_shape)[(..., *[0] * (self.reinterpreted_batch_ndims - 1))]

    @property
    def all_concepts(self) -> Any:
        """The prior with some label in place of each missing one, all of it scored."""
        return dist.Independent(self.base_dist.base_dist, self.reinterpreted_batch_ndims)


def masked_prior(prior: Callable[[Tensor], Any], labels: Tensor) -> Any:
    """``p(z | u)`` where all labels are known, else ``prod_i p(z_i | u_i)`` over the known ones.

    The prior itself never sees a missing label. In its place it gets another image's label of the same concept, which has no
    effect; 0 where the batch has none. A concept for which the prior's ``label_columns`` name no column is never known.

    Args:
        prior: From labels ``[batch, n]`` to a distribution over ``[n, d]``, independent between concepts where labels are
            missing.
        labels: ``[batch, n]``, or what columns the prior takes, NaN where missing.

    Raises:
        ValueError: If a column that belongs to no concept has missing values, or labels are missing and the prior's concepts
            are not independent.
    """
    columns = label_columns(prior, labels.shape[-1])
    missing = any_missing(labels)
    if not missing and all(columns):
        return prior(labels)
    known = known_concepts(prior, labels)
    if missing:
        there = ~labels.isnan()
        covariates = sorted(set(range(labels.shape[-1])) - {column for group in columns for column in group})
        if covariates and not bool(there[:, covariates].all()):
            raise ValueError(f"labels: columns {covariates} belong to no concept and have missing values; must be known")
        other = labels.gather(0, there.int().argmax(0, keepdim=True)).nan_to_num()
        labels = torch.where(there, labels, other)
    p = prior(labels)
    inner = p.reinterpreted_batch_ndims if isinstance(p, Independent) else 0
    if not inner or p.base_dist.batch_shape[-inner:][:1] != known.shape[-1:]:
        raise ValueError(
            f"prior: with missing labels concepts must be independent, as in Normal(...).to_event(2), got {type(p).__name__}"
        )
    return MaskedPrior(p.base_dist.mask(known[(..., *[None] * (inner - 1))]), inner)


def keep_labels(labels: Tensor, share: float, *, seed: int = 0) -> Tensor:
    """Keeps the labels of a share of the images, drawn at random, and makes the others' NaN.

    Args:
        labels: ``[N, n]``.
        share: In (0, 1]. At least 2 images keep theirs.
        seed: Of the draw.

    Returns:
        ``[N, n]``, floating point.

    Example:
        >>> keep_labels(torch.arange(4.0)[:, None], 0.5).isnan().sum().item()
        2
    """
    if not 0 < share <= 1:
        raise ValueError(f"share: got {share}; must lie in (0, 1]")
    kept = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[: max(2, round(share * len(labels)))]
    result = torch.full_like(labels, torch.nan, dtype=torch.promote_types(labels.dtype, torch.get_default_dtype()))
    result[kept] = labels[kept].to(result)
    return result
