"""Pixels that something covers, filled in from those around them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["fill_in"]


def fill_in(images: Tensor, hidden: Tensor) -> Tensor:
    """Replaces hidden pixels by means of the others around them, the nearest that there are: the pull-push algorithm.

    Args:
        images: ``[N, C, H, W]``.
        hidden: Where 1, ``[N, 1, H, W]``; elsewhere 0.

    Returns:
        ``[N, C, H, W]``: as they are where nothing is hidden, and 0 where all of an image is.

    Source: Gortler et al. 1996, The Lumigraph.
    """
    weight = 1 - hidden.to(images)
    total = images * weight
    if min(images.shape[-2:]) == 1:
        filled = total.mean((-2, -1), keepdim=True) / weight.mean((-2, -1), keepdim=True).clamp(min=1e-6)
    else:
        # Sums and weights shrink alike: a pixel of the smaller image is the mean of those that are known.
        known = F.avg_pool2d(weight, 2, ceil_mode=True)
        means = F.avg_pool2d(total, 2, ceil_mode=True) / known.clamp(min=1e-6)
        smaller = fill_in(means, (known == 0).to(images))
        filled = F.interpolate(smaller, images.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(hidden.bool(), filled, images)
