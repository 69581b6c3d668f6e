"""The colours that many pixels have: peaks of their density."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["density_peaks"]

_MOST_STEPS = 300
# Of the bandwidth: a seed that moves by less has arrived.
_ARRIVED = 1e-3
# Distances that are held at once, as many as 64 MB of them.
_AT_ONCE = 2**23


def density_peaks(points: Tensor, bandwidth: float, fewest: int) -> Tensor:
    """Mean shift (Comaniciu & Meer 2002): the means of what lies around them within the bandwidth, the densest first.

    Seeds are the cells of a grid, as wide as the bandwidth, that hold enough of the points. All of them move at once. Of peaks
    closer than the bandwidth the densest counts.

    Args:
        points: ``[P, c]``.
        bandwidth: In the points' unit.
        fewest: Points in a cell that make it a seed.

    Returns:
        ``[m, c]``, ``m >= 0``.
    """
    cells, counts = (points / bandwidth).round().unique(dim=0, return_counts=True)
    means = cells[counts >= fewest] * bandwidth
    moving, density = torch.ones(len(means), dtype=torch.bool), torch.zeros(len(means))
    for _ in range(_MOST_STEPS + 1):
        if not moving.any():
            break
        before = means[moving]
        after, density[moving] = _shift(before, points, bandwidth)
        means[moving] = after
        moving[moving.clone()] = (after - before).norm(dim=1) > _ARRIVED * bandwidth
    means, density = means[density > 0], density[density > 0]
    peaks: list[Tensor] = []
    for k in sorted(range(len(means)), key=lambda k: (density[k].item(), means[k].tolist()), reverse=True):
        if all((means[k] - peak).norm() > bandwidth for peak in peaks):
            peaks.append(means[k])
    return torch.stack(peaks) if peaks else points.new_zeros(0, points.shape[1])


def _shift(means: Tensor, points: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    """The mean of the points around each, and how many there are; where there are none it stays."""
    parts = []
    for some in means.split(max(1, _AT_ONCE // len(points))):
        near = (torch.cdist(some, points, compute_mode="donot_use_mm_for_euclid_dist") <= bandwidth).to(points)
        count = near.sum(1)
        parts.append((torch.where(count[:, None] > 0, near @ points / count.clamp(min=1)[:, None], some), count))
    return torch.cat([mean for mean, _ in parts]), torch.cat([count for _, count in parts]).float()
