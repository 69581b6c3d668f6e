"""How often intervals hold the truth."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["interval_coverage"]


def interval_coverage(samples: Tensor, truth: Tensor, *, level: float = 0.95) -> Tensor:
    """Share of the truth inside the central interval of posterior samples, per column; ``level`` where they are calibrated.

    Args:
        samples: Posterior samples ``[k, N, n]``.
        truth: ``[N, n]``, NaN where unknown.
        level: Of the intervals, in (0, 1).

    Returns:
        ``[n]``; NaN for a column of which nothing is known.

    Raises:
        ValueError: If the shapes do not belong together, or ``level`` is out of range.

    Example:
        >>> interval_coverage(torch.linspace(0, 1, 101)[:, None, None].expand(101, 2, 1), torch.tensor([[0.5], [0.99]]))
        tensor([0.5000])
    """
    if samples.ndim != 3 or samples.shape[1:] != truth.shape:
        raise ValueError(
            f"samples: got shape {list(samples.shape)} beside truth {list(truth.shape)}; must be [k, N, n] and [N, n]"
        )
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}; must lie in (0, 1)")
    low, high = (torch.quantile(samples, end, dim=0) for end in ((1 - level) / 2, (1 + level) / 2))
    inside = ((low <= truth) & (truth <= high)).to(samples.dtype)
    return inside.masked_fill(truth.isnan(), torch.nan).nanmean(0)
