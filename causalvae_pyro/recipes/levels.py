"""How many resolutions a hierarchical decoder has."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["count_levels"]

_MOST, _COARSEST = 6, 4


def count_levels(image_shape: Sequence[int]) -> int:
    """Resolutions from half of the image's on, each half of the one before, down to 4 pixels; at most 6, at least 1."""
    side, levels = min(image_shape[1:]), 1
    while levels < _MOST and side % 2 ** (levels + 1) == 0 and side >> (levels + 1) >= _COARSEST:
        levels += 1
    return levels
