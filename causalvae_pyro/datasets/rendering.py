"""Anti-aliased drawing of simple shapes in batches, by signed distances.

A pixel's coverage is approximated by ``clip(1/2 - d, 0, 1)`` with ``d`` the signed distance, in pixels, from the pixel's
centre to the shape's edge. Pixel coordinates run right and **up** from the lower left corner, as in matplotlib.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Canvas"]


class Canvas:
    """A batch of white RGB images to draw on.

    Args:
        batch: Number of images.
        size: Height and width in pixels.
        device: Where the images live.
        dtype: Floating type of the images.
    """

    def __init__(self, batch: int, size: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> None:
        self.size = size
        self.images = torch.ones(batch, 3, size, size, device=device, dtype=dtype)
        self._centres = torch.arange(size, device=device, dtype=dtype) + 0.5

    def window(self, bottom: float, top: float) -> tuple[slice, Tensor, Tensor]:
        """The rows between two heights, as a slice of the image, with their pixel centres ``x [W]`` and ``y [rows, 1]``."""
        low, high = max(0, math.floor(bottom)), min(self.size, math.ceil(top))
        high = max(high, low)
        rows = slice(self.size - high, self.size - low)
        return rows, self._centres, self._centres[low:high].flip(0)[:, None]

    def paint(self, coverage: Tensor, rows: slice, colour: tuple[float, float, float]) -> None:
        """Composites a colour over the given rows.

        Args:
            coverage: ``[batch, rows, W]`` in [0, 1].
            rows: The rows that ``coverage`` stands for.
            colour: RGB in [0, 1].
        """
        paint = torch.tensor(colour, device=self.images.device, dtype=self.images.dtype)[:, None, None]
        target = self.images[:, :, rows]
        target.add_(coverage[:, None] * (paint - target))

    def segment(self, start: Tensor, end: Tensor, width: float) -> tuple[Tensor, slice]:
        """Coverage of straight strokes with butt caps.

        Args:
            start: ``[batch, 2]`` first end in pixels.
            end: ``[batch, 2]`` second end in pixels; must differ from ``start``.
            width: Stroke width in pixels.

        Returns:
            The coverage ``[batch, rows, W]`` and its rows.
        """
        ys = torch.stack([start[:, 1], end[:, 1]])
        rows, x, y = self.window(ys.min().item() - width, ys.max().item() + width)
        delta = end - start
        length = delta.norm(dim=-1)
        direction = delta / length[:, None]
        middle = (start + end) / 2
        cx, cy, dx, dy = (t[:, None, None] for t in (*middle.unbind(-1), *direction.unbind(-1)))
        px, py = x - cx, y - cy
        along = (px * dx + py * dy).abs_()
        across = (py * dx - px * dy).abs_()
        coverage = across.neg_().add_(width / 2 + 0.5).clamp_(0, 1)
        # A stroke thinner than a pixel never covers one completely.
        coverage = coverage.clamp_(max=min(1.0, width))
        return coverage.mul_(along.neg_().add_(length[:, None, None] / 2 + 0.5).clamp_(0, 1)), rows

    def ellipse(self, centre: Tensor, radii: tuple[Tensor | float, Tensor | float]) -> tuple[Tensor, slice]:
        """Coverage of axis-parallel ellipses.

        Args:
            centre: ``[batch, 2]`` in pixels.
            radii: Horizontal and vertical radius in pixels, each a number or ``[batch]``.

        Returns:
            The coverage ``[batch, rows, W]`` and its rows.
        """
        batch = len(centre)
        rx, ry = (torch.as_tensor(r, device=centre.device, dtype=centre.dtype).expand(batch)[:, None, None] for r in radii)
        reach = ry.max().item() + 1
        rows, x, y = self.window(centre[:, 1].min().item() - reach, centre[:, 1].max().item() + reach)
        px, py = x - centre[:, 0, None, None], y - centre[:, 1, None, None]
        # First-order distance to the implicit curve |p / r| = 1.
        qx, qy = (px / rx).square_(), (py / ry).square_()
        # Bounded below so that their ratio stays right at the centre itself, where both vanish.
        gradient = torch.maximum((qx / rx.square() + qy / ry.square()).sqrt_(), 1e-3 / torch.maximum(rx, ry))
        level = (qx + qy).sqrt_().clamp_(min=1e-3)
        return level.mul_(1 - level).div_(gradient).add_(0.5).clamp_(0, 1), rows

    def box(self, left: float, right: float, bottom: float, top: float, rows: slice) -> Tensor:
        """Coverage ``[rows, W]`` of an axis-parallel box, for clipping what lies in ``rows``."""
        x, y = self._centres, self._centres.flip(0)[rows][:, None]
        inside_x = (torch.minimum(x - left, right - x) + 0.5).clamp(0, 1)
        inside_y = (torch.minimum(y - bottom, top - y) + 0.5).clamp(0, 1)
        return inside_x * inside_y
