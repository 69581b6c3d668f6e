"""Learning rates as functions of the progress of training."""

from __future__ import annotations

import math

__all__ = ["cosine_schedule", "linear_schedule"]

_WARM_UP = 0.02


def cosine_schedule(progress: float) -> float:
    """Learning-rate factor at ``progress`` in [0, 1]: 2 % linear warm-up, then a cosine down to 2 %."""
    if progress < _WARM_UP:
        return max(progress, 1e-3) / _WARM_UP
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))


def linear_schedule(progress: float) -> float:
    """Learning-rate factor at ``progress`` in [0, 1]: 2 % linear warm-up, then a line down to 2 %."""
    if progress < _WARM_UP:
        return max(progress, 1e-3) / _WARM_UP
    return 1 - 0.98 * (progress - _WARM_UP) / (1 - _WARM_UP)
