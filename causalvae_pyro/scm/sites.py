"""What an intervention puts at a site, in the shape of what it replaces."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["as_given"]


def as_given(name: str, value: Tensor, natural: Tensor, *, event_dim: int) -> Tensor:
    """A site's value with every intervention in effect, as a tensor like the natural one.

    ``poutine.do`` replaces the natural value by what it was given: a number, an event, or more leading dimensions.

    Args:
        name: The site, for errors.
        value: What the site returned.
        natural: What it would have held.
        event_dim: Number of dimensions that the event has.

    Raises:
        ValueError: If the value does not broadcast to the site's event.
    """
    if value is natural:
        return value
    try:
        shape = torch.broadcast_shapes(value.shape, natural.shape)
    except RuntimeError:
        shape = torch.Size()
    if shape[-event_dim:] != natural.shape[-event_dim:]:
        raise ValueError(
            f"do[{name!r}]: a value of shape {tuple(value.shape)} does not broadcast to the site's {tuple(natural.shape)}"
        )
    return value.to(natural).expand(shape)
