"""Which rows of a data set: random splits of those that come without one, and evenly spaced rows."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_split", "random_fifth", "random_fifth_of_groups"]


def check_split(split: str) -> None:
    """Raises ``ValueError`` unless ``split`` is ``"train"``, ``"test"`` or ``"all"``."""
    if split not in ("train", "test", "all"):
        raise ValueError(f"split: got {split!r}; valid: ['train', 'test', 'all']")


def random_fifth_of_groups(groups: Tensor, split: str, seed: int) -> Tensor:
    """As :func:`random_fifth`, of groups: a random fifth of them, with all of their rows, for ``"test"``.

    Args:
        groups: Each row's group, ``[N]``.
        split: ``"train"``, ``"test"`` or ``"all"``.
        seed: Fixes the split.
    """
    names = groups.unique()
    return torch.isin(groups, names[random_fifth(len(names), split, seed)]).nonzero().squeeze(1)


def random_fifth(count: int, split: str, seed: int) -> Tensor:
    """Sorted indices of a split: a random fifth (at least one) for ``"test"``, the others for ``"train"``."""
    if split == "all":
        return torch.arange(count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    cut = max(1, count // 5)
    return (order[:cut] if split == "test" else order[cut:]).sort().values
