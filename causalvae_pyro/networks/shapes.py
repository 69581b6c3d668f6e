"""Checks that networks share."""

from __future__ import annotations

from collections.abc import Sequence


def check_image_shape(image_shape: Sequence[int], multiple: int = 16) -> None:
    """Raises a ``ValueError`` unless ``image_shape`` is ``(1, 3 or 4, H, W)`` with sides that are multiples of ``multiple``."""
    if (
        len(image_shape) != 3
        or image_shape[0] not in (1, 3, 4)
        or any(side < multiple or side % multiple for side in image_shape[1:])
    ):
        raise ValueError(
            f"image_shape: got {tuple(image_shape)}; expected (channels, height, width) "
            f"with 1, 3 or 4 channels and sides that are multiples of {multiple}"
        )


def check_any_image_shape(image_shape: Sequence[int]) -> None:
    """Raises a ``ValueError`` unless ``image_shape`` is ``(C, H, W)``, or another shape, with all of it at least 1."""
    if not image_shape or any(side < 1 for side in image_shape):
        expected = "expected (channels, height, width), or (length,) of vectors, each of them at least 1"
        raise ValueError(f"image_shape: got {tuple(image_shape)}; {expected}")


def check_at_least(least: int, **arguments: int) -> None:
    """Raises a ``ValueError`` that names the first argument below ``least``, if there is one."""
    for name, value in arguments.items():
        if value < least:
            raise ValueError(f"{name}: got {value}; must be at least {least}")
