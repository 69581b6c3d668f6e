"""Random splits of data sets that come without one."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_split", "random_fifth"]


def check_split(split: str) -> None:
    """Raises ``ValueError`` unless ``split`` is ``"train"``, ``"test"`` or ``"all"``."""
    if split not in ("train", "test", "all"):
        raise ValueError(f"split: got {split!r}; valid: ['train', 'test', 'all']")


def random_fifth(count: int, split: str, seed: int) -> Tensor:
    """Sorted indices of a split: a random fifth (at least one) for ``"test"``, the others for ``"train"``."""
    if split == "all":
        return torch.arange(count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    cut = max(1, count // 5)
    return (order[:cut] if split == "test" else order[cut:]).sort().values
