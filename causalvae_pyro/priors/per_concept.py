"""Numbers of a prior that are given once for all concepts, or one for each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["per_concept", "std_per_concept"]


def per_concept(argument: str, value: float | Sequence[float], count: int) -> Tensor:
    """The numbers as a tensor ``[count]``.

    Args:
        argument: What is given, for errors.
        value: One finite number, or ``count`` of them.
        count: Number of concepts, or of label columns.

    Raises:
        ValueError: If the value is not as stated.
    """
    tensor = torch.as_tensor(value, dtype=torch.get_default_dtype())
    if tensor.shape not in ((), (count,)):
        raise ValueError(f"{argument}: expected a number or {count} numbers, got shape {list(tensor.shape)}")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{argument}: got {tensor.tolist()}; must be finite")
    return tensor.expand(count).clone()


def std_per_concept(std: float | Sequence[float], count: int) -> Tensor:
    """As :func:`per_concept`, for standard deviations.

    Raises:
        ValueError: See :func:`per_concept`; and if one is not positive.
    """
    tensor = per_concept("std", std, count)
    if not bool((tensor > 0).all()):
        raise ValueError(f"std: got {tensor.tolist()}; must be positive")
    return tensor
