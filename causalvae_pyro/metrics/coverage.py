"""How often intervals hold the truth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["interval_coverage"]


def interval_coverage(samples: Tensor, truth: Tensor, *, level: float | Sequence[float] = 0.95) -> Tensor:
    """Share of the truth inside the central interval of posterior samples, per column; ``level`` where they are calibrated.

    Args:
        samples: Posterior samples ``[k, N, n]``.
        truth: ``[N, n]``, NaN where unknown.
        level: Of the intervals, in (0, 1); one or several.

    Returns:
        ``[n]``, of several levels ``[levels, n]``; NaN for a column of which nothing is known.

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
    levels = torch.as_tensor(level, dtype=samples.dtype, device=samples.device)
    if not bool(((levels > 0) & (levels < 1)).all()):
        raise ValueError(f"level: got {level}; must lie in (0, 1)")
    low, high = torch.quantile(samples, torch.stack([1 - levels, 1 + levels]).flatten() / 2, dim=0).unflatten(
        0, (2, *levels.shape)
    )
    inside = ((low <= truth) & (truth <= high)).to(samples.dtype)
    return inside.masked_fill(truth.isnan(), torch.nan).nanmean(-2)
