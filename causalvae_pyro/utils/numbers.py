"""Numbers as users write them, and of rows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_scale", "evenly_spaced", "number_tensor"]


def number_tensor(value: Any, **options: Any) -> Tensor:
    """As :func:`torch.as_tensor`, but an integer is a floating point number, and one beyond all of them is infinite.

    Args:
        value: A number, or what else ``torch.as_tensor`` takes.
        **options: Of ``torch.as_tensor``.

    Example:
        >>> number_tensor(10**400)
        tensor(inf)
    """
    if isinstance(value, int):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    return torch.as_tensor(value, **options)


def check_scale(scale: Tensor) -> None:
    """Refuses scales of labels by which none can be divided.

    Raises:
        ValueError: If one is not positive, or so small that its inverse is infinite.
    """
    smallest = torch.finfo(scale.dtype).tiny
    if not bool((scale >= smallest).all()):
        raise ValueError(f"scale: got {scale.tolist()}; must be positive, at least {smallest:.2g} (is a label constant?)")


def evenly_spaced(count: int, size: int) -> Tensor:
    """``count`` of the rows 0 to ``size - 1``, from the first on; simulators have theirs in the order of their first concept."""
    return torch.arange(count) * size // max(count, 1)
