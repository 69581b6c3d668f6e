"""Small scenes before backgrounds of their own, and before one of all colours."""

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


def before_a_texture(count=200, side=24, seed=1):
    """A red and a blue square that a concept each moves along a row, before pixels of any colour, the same in all images.

    Returns:
        Images ``[N, 3, side, side]``, concepts ``[N, 2, 1]`` in [-1, 1], and the background ``[3, side, side]``.
    """
    generator = torch.Generator().manual_seed(seed)
    background = torch.rand(3, side, side, generator=generator)
    images = background.repeat(count, 1, 1, 1)
    z = 2 * torch.rand(count, 2, generator=generator) - 1
    columns = ((z + 1) / 2 * (side - 7)).round().long().tolist()
    for image, starts in zip(images, columns, strict=True):
        for row, start, colour in zip((2, side - 9), starts, ([0.9, 0.1, 0.1], [0.1, 0.1, 0.9]), strict=True):
            image[:, row : row + 7, start : start + 7] = torch.tensor(colour)[:, None, None]
    return images, z[..., None], background


def bead_on_an_arm(count=200, side=24, seed=1):
    """A dark arm that one concept swings about its foot, and a bead of the same colour that another slides along it.

    Returns:
        Images ``[N, 1, side, side]``, concepts ``[N, 2, 1]`` in [-1, 1], and where the bead is and the arm is not.
    """
    generator = torch.Generator().manual_seed(seed)
    z = 2 * torch.rand(count, 2, generator=generator) - 1
    line = (2 * torch.arange(side) + 1) / side - 1
    x, y = line - 0.0, line[:, None] - 0.8
    angle, slide = 0.7 * z[:, :1, None], 0.9 + 0.4 * z[:, 1:, None]
    along, across = x * angle.sin() - y * angle.cos(), x * angle.cos() + y * angle.sin()
    arm = (along > 0) & (along < 1.5) & (across.abs() < 0.09)
    bead = (along - slide) ** 2 + across**2 < 0.25**2
    images = torch.where((arm | bead)[:, None], 0.05, 0.8)
    return images, z[..., None], bead & ~arm
