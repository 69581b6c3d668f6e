"""Reading a user's image in the shape that a model takes."""

from __future__ import annotations

import os
from collections.abc import Sequence

from torch import Tensor

from causalvae_pyro.datasets.image_files import MODES, Points, decode_image
from causalvae_pyro.utils.images import scale_images

__all__ = ["read_image"]


def read_image(source: str | os.PathLike | bytes, shape: Sequence[int], *, points: tuple[Points, Points] | None = None) -> Tensor:
    """Reads an image file as :class:`~causalvae_pyro.datasets.FolderDataset` does, its middle resized to what a model takes.

    Args:
        source: Path of the file, or what is in it.
        shape: Channels (1, 3 or 4), height and width of the model's images.
        points: Two points of the file's image, such as the eyes of a face, ``((x, y), (x, y))`` in pixels from its upper left
            corner, and where they shall lie, as shares of width and height: it is shifted, turned and scaled for that.

    Returns:
        ``[C, H, W]`` in [0, 1].

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no image that can be decoded, one that is too large to decode safely, or one of fewer than 8
            pixels a side, or if a point lies outside of it; see :func:`~causalvae_pyro.datasets.image_files.decode_image`.
    """
    modes = {channels: mode for mode, channels in MODES.items()}
    if shape[0] not in modes:
        raise ValueError(f"shape: got {tuple(shape)}; valid: 1, 3 or 4 channels")
    return scale_images(decode_image(source, "image", mode=modes[shape[0]], size=shape[1:], min_side=8, points=points))
