"""Small scenes before backgrounds of their own."""

import torch


def before_backgrounds(count=200, side=16, seed=1):
    """A red disc that two concepts move, before smooth colours of each image's own.

    Returns:
        Images ``[N, 3, side, side]``, concepts ``[N, 2, 1]`` in [-1, 1], and where the disc is, ``[N, side, side]``.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = 0.35 + 0.65 * torch.rand(count, 3, 3, 3, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=True)
    images[:, 0] *= 0.6
    z = 2 * torch.rand(count, 2, generator=generator) - 1
    line = (2 * torch.arange(side) + 1) / side - 1
    x, y = 0.6 * z[:, 0], 0.4 * z[:, 1]
    masks = (line - x[:, None, None]) ** 2 + (line[:, None] - y[:, None, None]) ** 2 < 0.3**2
    images = torch.where(masks[:, None], torch.tensor([0.9, 0.05, 0.05])[:, None, None], images)
    return images, z[..., None], masks
