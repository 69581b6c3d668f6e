"""Image files as tensors: the one way in which the package decodes images of a user's own."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from causalvae_pyro.datasets.cache import cores
from causalvae_pyro.utils.files import input_file

__all__ = ["MODES", "SUFFIXES", "Points", "decode_image"]

#: Two points, x and y each.
Points = Sequence[Sequence[float]]
#: Channels of an image by its mode.
MODES = {"L": 1, "RGB": 3, "RGBA": 4}
#: Of files that are taken for images though no table names them, in lower case; what a table names is decoded whatever it has.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")

# Filters of warnings are those of the whole process.
_LOCK = threading.Lock()
# What a decoded image takes is bounded, so that of all of them is, if only a few are decoded at a time.
_DECODERS = threading.BoundedSemaphore(min(4, cores()))


def decode_image(
    source: str | os.PathLike | bytes,
    argument: str,
    *,
    mode: str | None = None,
    size: Sequence[int] | None = None,
    min_side: int = 1,
    points: tuple[Points, Points] | None = None,
) -> Tensor:
    """Decodes an image.

    It is turned upright as its EXIF orientation says. 16 bits are scaled by 1/65535, floating point pixels are taken as 0 to
    1. Where the mode has no transparency, what is transparent lies on white. Palettes, CMYK and the like become RGB.

    Args:
        source: Path of the file, or what is in it.
        argument: Which argument an error names.
        mode: ``"L"`` (grey), ``"RGB"`` or ``"RGBA"``; ``None`` takes the one that the file has, without loss.
        size: Height and width to which the image's middle is resized; ``None`` keeps it as it is.
        min_side: Smallest height and width of the file's image.
        points: Two points of the upright image, in pixels from its upper left corner, and where they shall lie in an image of
            ``size``, as shares of its width and height. The image is shifted, turned and scaled for it, and continued by its
            outermost pixels. ``None`` takes the middle.

    Returns:
        ``[C, H, W]`` uint8.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be decoded, has pixels whose range nothing tells (32-bit integers, floating point numbers
            outside of [0, 1]), is too small, has not both ``points``, or has more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``,
            which is found out before it is decoded.
    """
    name = f"{argument}: the image" if isinstance(source, bytes) else f"{argument}: {os.fspath(source)}"
    file = io.BytesIO(source) if isinstance(source, bytes) else input_file(source, argument)
    try:
        with _LOCK, warnings.catch_warnings():
            # Pillow only warns of too many pixels; its error comes at twice as many.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(file)
        with _DECODERS, opened as image:
            if (fault := _fault(image, min_side)) is None:
                return _decode(image, mode, size, points)
    except _OutsideError as error:
        fault = str(error)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        fault = f"has more than {Image.MAX_IMAGE_PIXELS} pixels, which is not safe to decode; make it smaller first"
    except Exception as error:
        # On damaged files Pillow's readers raise errors of nearly every class. Where it knows no such format it only says where
        # the bytes lie in memory.
        known = not isinstance(error, UnidentifiedImageError) and str(error)
        fault = "is no image that can be decoded" + (f" ({str(error).splitlines()[0]})" if known else "")
    raise ValueError(f"{name} {fault}")


class _OutsideError(Exception):
    pass


def _fault(image: Image.Image, min_side: int) -> str | None:
    if min(image.size) < min_side:
        return f"is {image.width} x {image.height}; needs at least {min_side} pixels a side"
    # Some versions of Pillow open PNG of 16 bits as 32-bit integers.
    if image.mode == "I" and image.format != "PNG":
        return "holds 32-bit integers, whose range nothing tells; save it with 8 or 16 bits"
    if image.mode == "F":
        pixels = np.asarray(image)
        low, high = pixels.min(), pixels.max()
        # NaN passes through both, and fails the comparison.
        if not (low >= 0 and high <= 1):
            return f"holds floating point pixels from {low:.4g} to {high:.4g}; valid: 0 to 1"
    return None


def _decode(image: Image.Image, mode: str | None, size: Sequence[int] | None, points: tuple[Points, Points] | None) -> Tensor:
    ImageOps.exif_transpose(image, in_place=True)
    image = _eight_bits(image)
    own = _own_mode(image)
    image = image if image.mode == own and "transparency" not in image.info else image.convert(own)
    if size is not None and points is not None:
        image = _placed(image, size, *points)
    elif size is not None and image.size != (size[1], size[0]):
        # The shorter side to size, then the middle.
        image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BICUBIC)
    mode = own if mode is None else mode
    if own == "RGBA" and mode != "RGBA":
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    pixels = np.array(image if image.mode == mode else image.convert(mode))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).movedim(-1, 0)


def _placed(image: Image.Image, size: Sequence[int], points: Points, places: Points) -> Image.Image:
    """Shifted, turned and scaled such that the points come to their places."""
    if not all(0 <= x <= image.width and 0 <= y <= image.height for x, y in points):
        raise _OutsideError(f"is {image.width} x {image.height}: no image of both points {[tuple(point) for point in points]}")
    # As complex numbers: new = turn * old + shift.
    first, second = (complex(*point) for point in points)
    one, two = (complex(x * size[1], y * size[0]) for x, y in places)
    if abs(second - first) < 2:
        raise _OutsideError(f"has points {[tuple(point) for point in points]} less than two pixels apart")
    turn = (two - one) / (second - first)
    if (scale := abs(turn)) < 1:
        # Transformations sample single pixels; resizing averages over all.
        small = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        first = complex(first.real * small[0] / image.width, first.imag * small[1] / image.height)
        turn, image = turn / scale, image.resize(small, Image.Resampling.BICUBIC)
    back = 1 / turn
    origin = first - back * one
    # What the result shows, and a margin for the filter; beyond the image its outermost pixels.
    corners = [origin + back * complex(x, y) for x in (0, size[1]) for y in (0, size[0])]
    left, right, top, bottom = (
        int(limit(values)) + margin
        for values in ([c.real for c in corners], [c.imag for c in corners])
        for limit, margin in ((min, -4), (max, 4))
    )
    columns, rows = (np.arange(a, b).clip(0, n - 1) for a, b, n in ((left, right, image.width), (top, bottom, image.height)))
    image = Image.fromarray(np.asarray(image)[rows[:, None], columns])
    origin -= complex(left, top)
    coefficients = (back.real, -back.imag, origin.real, back.imag, back.real, origin.imag)
    return image.transform((size[1], size[0]), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)


def _own_mode(image: Image.Image) -> str:
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        return "RGBA"
    return "L" if image.mode in ("1", "L") else "RGB"


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey images of more bits scaled to 8; Pillow cuts them off at 255."""
    if image.mode == "F":
        return Image.fromarray(np.rint(np.asarray(image) * 255).astype(np.uint8))
    if image.mode == "I" or image.mode.startswith("I;16"):
        # v / 257, rounded, in the 16 bits that there are.
        pixels = np.asarray(image).astype(np.uint16, copy=False)
        return Image.fromarray(((np.minimum(pixels, 65407) + 128) // 257).astype(np.uint8))
    return image
