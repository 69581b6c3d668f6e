"""Bilinear interpolation of images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["sample_images"]


def sample_images(images: Tensor, where: Tensor, *, border: bool = False) -> Tensor:
    """Bilinear interpolation of images ``[K, c, H, W]`` at ``[K, P, Q, 2]``.

    On CUDA with deterministic algorithms its gradient is deterministic.

    Args:
        images: ``[K, c, H, W]``.
        where: In half image sides from the centre, x first.
        border: Whether images go on around themselves as they end; else there is zero.

    Returns:
        ``[K, c, P, Q]``.
    """
    if images.is_cuda and torch.are_deterministic_algorithms_enabled():
        return _sample_in_order(images, where, border=border)
    padding = "border" if border else "zeros"
    return nn.functional.grid_sample(images, where, padding_mode=padding, align_corners=False)


def _sample_in_order(images: Tensor, where: Tensor, *, border: bool = False) -> Tensor:
    """The same from operations whose gradients CUDA sums up in a fixed order, which ``grid_sample`` has not."""
    count, channels, height, width = images.shape
    flat = images.transpose(0, 1).reshape(channels, -1)
    sides = where.new_tensor([width, height])
    place = ((where + 1) * sides - 1) / 2
    if border:
        beyond = (place <= 0) | (place >= sides - 1)
        place = torch.where(beyond, place.detach().clamp(min=0).minimum(sides - 1), place)
    corner = place.detach().floor()
    weights = place - corner
    first = (torch.arange(count, device=where.device) * (height * width))[:, None, None]
    result = flat.new_zeros(channels, *where.shape[:3])
    for right in (0, 1):
        for below in (0, 1):
            x, y = corner[..., 0] + right, corner[..., 1] + below
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            index = first + y.clamp(0, height - 1).long() * width + x.clamp(0, width - 1).long()
            along = weights[..., 0] if right else 1 - weights[..., 0]
            down = weights[..., 1] if below else 1 - weights[..., 1]
            values = flat.index_select(1, index.flatten()).reshape(channels, *index.shape)
            result = result + values * torch.where(inside, along * down, 0.0)
    return result.transpose(0, 1)
