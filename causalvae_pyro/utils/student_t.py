"""Student's t intervals."""

from __future__ import annotations

__all__ = ["half_width"]


def half_width(standard_error: float, count: int, level: float = 0.95) -> float:
    """Half the width of the t interval of a mean.

    Args:
        standard_error: Of the mean.
        count: Number of values behind the mean, >= 2.
        level: Confidence level, between 0 and 1.

    Example:
        >>> round(half_width(1.0, 5), 3)
        2.776
    """
    from scipy.special import stdtrit  # slow to import

    return float(stdtrit(count - 1, (1 + level) / 2)) * standard_error
