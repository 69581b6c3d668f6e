"""Anti-aliased drawing with PIL in units of the picture's side, from the upper left corner."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

__all__ = ["Canvas", "distance"]

# Lines are whole numbers of these wide: at 4, a line of 1 to 4 pixels has ten widths, and its label a hundredth of its variance
# that no image shows.
_FINER = 8


class Canvas:
    """A picture to draw on.

    Args:
        side: In pixels.
        colour: Of the background, bytes.
    """

    def __init__(self, side: int, colour: Sequence[int]) -> None:
        self.side, self._fine = side, side * _FINER
        self._image = Image.new("RGB", (self._fine, self._fine), tuple(colour))
        self._pen = ImageDraw.Draw(self._image)

    def disc(self, x: float, y: float, radius: float, colour: Sequence[int], height: float | None = None) -> None:
        """A disc, or an ellipse of another half ``height``."""
        tall = radius if height is None else height
        if radius > 0 and tall > 0:
            self._pen.ellipse(self._scaled([(x - radius, y - tall), (x + radius, y + tall)]), tuple(colour))

    def polygon(self, points: Sequence[tuple[float, float]], colour: Sequence[int]) -> None:
        self._pen.polygon(self._scaled(points), tuple(colour))

    def box(self, left: float, top: float, right: float, bottom: float, colour: Sequence[int]) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def line(self, points: Sequence[tuple[float, float]], width: float, colour: Sequence[int]) -> None:
        self._pen.line(self._scaled(points), tuple(colour), max(1, round(width * self._fine)), joint="curve")

    def pixels(self) -> NDArray:
        """``[side, side, 3]`` in [0, 1]."""
        return np.asarray(self._image.reduce(_FINER), np.float32) / 255

    def _scaled(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x * self._fine, y * self._fine) for x, y in points]


def distance(side: int, x: float, y: float) -> NDArray:
    """Distance of each pixel from a place, ``[side, side, 1]`` in picture sides."""
    line = (np.arange(side) + 0.5) / side
    return np.hypot(line[None, :] - x, line[:, None] - y)[..., None]
