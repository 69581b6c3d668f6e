"""Images of one's own, made to fit a model."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from causalvae_pyro.utils.images import scale_images

__all__ = ["read_image"]

#: Pillow's mode for so many channels.
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def read_image(source: str | os.PathLike | bytes, shape: Sequence[int]) -> Tensor:
    """Reads an image file, turned as its camera says, cropped to its middle and resized to what a model takes.

    Args:
        source: Path of the file, or what is in it.
        shape: Channels (1, 3 or 4), height and width of the model's images.

    Returns:
        ``[C, H, W]`` in [0, 1].

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no image that can be decoded, or one of fewer than 8 pixels a side.
    """
    channels, height, width = shape
    if channels not in _MODES:
        raise ValueError(f"shape: got {tuple(shape)}; valid: 1, 3 or 4 channels")
    name = "the image" if isinstance(source, bytes) else os.fspath(source)
    try:
        with warnings.catch_warnings():
            # Pillow only warns of an image that decompresses to far more than its file; here it is an error.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
                size = file.size
                image = _eight_bits(ImageOps.exif_transpose(file)).convert(_MODES[channels]) if min(size) >= 8 else None
    except FileNotFoundError:
        raise FileNotFoundError(f"image: {name} does not exist") from None
    except (OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        # Where Pillow knows no such format it only says where the bytes lie in memory.
        known = not isinstance(error, UnidentifiedImageError) and str(error)
        reason = f" ({str(error).splitlines()[0]})" if known else ""
        raise ValueError(f"image: {name} is no image that can be decoded{reason}") from None
    if image is None:
        raise ValueError(f"image: {name} is {size[0]} x {size[1]}; needs at least 8 pixels a side")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image)).reshape(height, width, channels)
    return scale_images(pixels.movedim(-1, 0))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow cuts 16 bits off at 255 instead of scaling them."""
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().astype(np.uint8))
