"""Images as the package takes them: uint8 from 0 to 255, or floating point from 0 to 1."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine.messenger import unwrap
from torch import Tensor, nn

__all__ = ["as_images", "bright_part", "check_images", "check_observations", "pixels_of", "scale_images", "scale_observations"]


def pixels_of(module: Any) -> bool | None:
    """Whether a model or a guide takes images, uint8 or in [0, 1]; ``None`` where it does not say.

    A model's likelihood says so by ``pixels``, a guide's encoder by the length of its ``image_shape``.
    """
    module = unwrap(module)
    likelihood = getattr(module, "likelihood", None)
    if likelihood is not None:
        return getattr(likelihood, "pixels", None)
    for part in module.modules() if isinstance(module, nn.Module) else ():
        if isinstance(shape := getattr(part, "image_shape", None), tuple):
            return len(shape) == 3
    return None


def check_observations(x: Any, pixels: bool | None, argument: str = "x") -> None:
    """Refuses what is no batch of observations: of images where the model says so, else of real numbers of any shape.

    Args:
        x: What was given.
        pixels: See :func:`pixels_of`.
        argument: Its name, for errors.

    Raises:
        ValueError: See :func:`check_images`; or if it is no tensor ``[N, ...]`` of finite numbers with ``N >= 1``.
    """
    if pixels:
        check_images(x, argument)
        return
    if not isinstance(x, Tensor) or x.ndim < 2 or x.is_complex():
        given = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{argument}: expected a tensor of real numbers [N, ...], got {given}")
    if not x.numel():
        raise ValueError(f"{argument}: got no {'entries' if len(x) else 'rows'}")
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        raise ValueError(f"{argument}: got a number that is not finite")


def scale_observations(
    x: Tensor,
    pixels: bool | None,
    argument: str = "x",
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Images as :func:`scale_images` has them, and other observations as they are, in a floating point precision.

    Args:
        x: Observations.
        pixels: See :func:`pixels_of`; where it is ``None`` bytes ``[N, C, H, W]`` are pixels.
        argument: Its name, for errors.
        device: Where the result lies; by default where ``x`` does.
        dtype: Its precision; by default that of ``x``, or the default one.
    """
    if pixels or (pixels is None and x.dtype == torch.uint8 and x.ndim >= 4):
        return scale_images(x, argument, device=device, dtype=dtype)
    dtype = dtype or (x.dtype if x.is_floating_point() else torch.get_default_dtype())
    return x.to(device=device, dtype=dtype)


def as_images(x: Tensor, argument: str = "x", *, like: Tensor | None = None) -> Tensor:
    """Checked images as floating point numbers from 0 to 1.

    Args:
        x: ``[N, C, H, W]``, uint8 from 0 to 255 or floating point from 0 to 1.
        argument: The argument's name, for errors.
        like: A tensor whose device and precision the images get. Without it floating point images stay as they are, and uint8
            images get the default precision.

    Returns:
        ``[N, C, H, W]`` in [0, 1].

    Raises:
        ValueError: See :func:`check_images`.

    Example:
        >>> as_images(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)).flatten().tolist()
        [0.0, 0.20000000298023224, 1.0]
    """
    check_images(x, argument)
    return scale_images(x, argument) if like is None else scale_images(x, argument, device=like.device, dtype=like.dtype)


def check_images(x: Any, argument: str = "x") -> None:
    """Refuses what is no batch of images. On a GPU this waits for the range of floating point images; uint8 images have none.

    Args:
        x: What was given.
        argument: Its name, for errors.

    Raises:
        ValueError: If it is no tensor ``[N, C, H, W]`` with ``N >= 1``, neither uint8 nor floating point, or a floating point
            pixel lies outside [0, 1] or is NaN.
    """
    if not isinstance(x, Tensor) or x.ndim != 4:
        given = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{argument}: expected a tensor of images [N, C, H, W], got {given}")
    _check_dtype(x, argument)
    if not x.numel():
        raise ValueError(f"{argument}: got no {'pixels' if len(x) else 'images'}")
    if x.is_floating_point():
        # NaN passes through both, and fails the comparison.
        low, high = (end.item() for end in torch.aminmax(x.detach()))
        if not (low >= 0 and high <= 1):
            raise ValueError(f"{argument}: pixels must lie in [0, 1] or be uint8, got {low:.4g} to {high:.4g}")


def scale_images(
    x: Tensor, argument: str = "x", *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """uint8 pixels divided by 255, floating point ones as they are; their range is not looked at, so no device waits.

    Args:
        x: Images or an image, of any shape.
        argument: Its name, for errors.
        device: Where the result lies; by default where ``x`` does.
        dtype: Its precision; by default that of ``x``, for uint8 the default one.

    Raises:
        ValueError: If ``x`` is neither uint8 nor floating point.
    """
    _check_dtype(x, argument)
    if x.dtype == torch.uint8:
        # Bytes are moved, not numbers of four times their size.
        return x.to(device).to(dtype or torch.get_default_dtype()).div_(255)
    return x.to(device=device, dtype=dtype)


def _check_dtype(x: Tensor, argument: str) -> None:
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise ValueError(f"{argument}: expected uint8, or floating point in [0, 1], got {x.dtype}")


def bright_part(images: Tensor) -> Tensor:
    """How bright the bright part of an image is: the median of the pixels at least half way from darkest to brightest.

    Args:
        images: ``[..., C, H, W]``, floating point.

    Returns:
        ``[...]``. Its gradient goes to the pixel that is the median.
    """
    pixels = images.flatten(-3)
    half = (pixels.amin(-1, keepdim=True) + pixels.amax(-1, keepdim=True)) / 2
    return torch.where(pixels >= half, pixels, torch.nan).nanmedian(-1).values
