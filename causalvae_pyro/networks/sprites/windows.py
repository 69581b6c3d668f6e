"""The part of the image that a layer can reach, so that nothing is computed where it cannot."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["pixel_windows"]

# Of a pixel: rounding must not leave out one that the layer just touches.
_SLACK = 1e-3


def pixel_windows(centre: Tensor, reach: Tensor, count: int) -> Tensor | None:
    """Numbers of the pixels along one axis that lie within reach of a centre; the same many for the whole batch.

    On accelerators there is no window: how wide it is would have to be waited for.

    Args:
        centre: ``[...]``, in half image sides from the image's middle.
        reach: ``[...]``, >= 0, in the same unit.
        count: Pixels along the axis.

    Returns:
        ``[..., w]`` increasing integers in ``[0, count)``; ``w`` is what the furthest reach takes, at least 1. ``None`` for all.
    """
    if centre.device.type != "cpu":
        return None
    with torch.no_grad():
        # Pixel i has its middle at (2 i + 1) / count - 1.
        middle, spread = (centre + 1) * (count / 2) - 0.5, reach * (count / 2) + _SLACK
        first = (middle - spread).ceil().nan_to_num(0.0).clamp(0, count - 1).long()
        last = (middle + spread).floor().nan_to_num(count - 1.0).clamp(0, count - 1).long()
        width = int((last - first).clamp(min=0).amax()) + 1 if centre.numel() else 1
        return first.clamp(max=count - width)[..., None] + torch.arange(width)
