"""Anti-aliased drawing of simple shapes in batches, by signed distances.

A pixel's coverage is approximated by ``clip(1/2 - d, 0, 1)`` with ``d`` the signed distance, in pixels, from the pixel's
centre to the shape's edge. Pixel coordinates run right and **up** from the lower left corner, as in matplotlib.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Canvas", "Figure"]

# matplotlib's default axes on a square figure, as fractions of its side.
AXES_LEFT, AXES_RIGHT, AXES_BOTTOM, AXES_TOP = 0.125, 0.9, 0.11, 0.88


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

    def rectangle(self, lower_left: Tensor, upper_right: Tensor) -> tuple[Tensor, slice]:
        """Coverage of axis-parallel rectangles.

        Args:
            lower_left: ``[batch, 2]`` in pixels.
            upper_right: ``[batch, 2]`` in pixels.

        Returns:
            The coverage ``[batch, rows, W]`` and its rows.
        """
        rows, x, y = self.window(lower_left[:, 1].min().item() - 1, upper_right[:, 1].max().item() + 1)
        left, bottom, right, top = (t[:, None, None] for t in (*lower_left.unbind(-1), *upper_right.unbind(-1)))
        across = torch.minimum(x - left, right - x).add_(0.5).clamp_(0, 1)
        return across * torch.minimum(y - bottom, top - y).add_(0.5).clamp_(0, 1), rows

    def parabola(self, apex: Tensor, end: Tensor, width: float) -> tuple[Tensor, slice]:
        """Coverage of strokes along half a parabola that leaves its apex horizontally and falls to its end.

        Args:
            apex: ``[batch, 2]`` in pixels.
            end: ``[batch, 2]`` in pixels, below the apex and not left of it.
            width: Stroke width in pixels.

        Returns:
            The coverage ``[batch, rows, W]`` and its rows.
        """
        rows, x, y = self.window(end[:, 1].min().item() - width, apex[:, 1].max().item() + width)
        x0, y0, x1, y1 = (t[:, None, None] for t in (*apex.unbind(-1), *end.unbind(-1)))
        reach, fall = (x1 - x0).clamp(min=1e-3), (y0 - y1).clamp(min=1e-3)
        # First-order distance to (x - x0)^2 = slope (y0 - y), which is exact on the curve and near it.
        slope = reach.square() / fall
        px, depth = x - x0, y0 - y
        distance = (px.square() - slope * depth).abs_().div_((4 * px.square() + slope.square()).sqrt_().clamp_(min=1e-6))
        coverage = distance.neg_().add_(width / 2 + 0.5).clamp_(0, min(1.0, width))
        # Butt ends: the apex's on the left, the end's below.
        return coverage.mul_((px + 0.5).clamp_(0, 1)).mul_((y - y1).add_(0.5).clamp_(0, 1)), rows

    def box(self, left: float, right: float, bottom: float, top: float, rows: slice) -> Tensor:
        """Coverage ``[rows, W]`` of an axis-parallel box, for clipping what lies in ``rows``."""
        x, y = self._centres, self._centres.flip(0)[rows][:, None]
        inside_x = (torch.minimum(x - left, right - x) + 0.5).clamp(0, 1)
        inside_y = (torch.minimum(y - bottom, top - y) + 0.5).clamp(0, 1)
        return inside_x * inside_y


class Figure:
    """The geometry of a square matplotlib figure with one axes in the default place.

    Args:
        size: Side of the figure in pixels; it is one inch wide, so that strokes scale with it.
        x_limits: Data coordinates of the axes' left and right ends.
        y_limits: Data coordinates of the axes' lower and upper ends.
    """

    def __init__(self, size: int, *, x_limits: tuple[float, float], y_limits: tuple[float, float]) -> None:
        self.size, self._x_limits, self._y_limits = size, x_limits, y_limits
        #: Pixels per data unit.
        self.x_scale = (AXES_RIGHT - AXES_LEFT) * size / (x_limits[1] - x_limits[0])
        self.y_scale = (AXES_TOP - AXES_BOTTOM) * size / (y_limits[1] - y_limits[0])

    def points(self, width: float) -> float:
        """A width in points, in pixels."""
        return width * self.size / 72

    def pixels(self, x: Tensor | float, y: Tensor | float) -> Tensor:
        """Data coordinates, at least one of them ``[batch]``, as pixel coordinates ``[batch, 2]``."""
        px = AXES_LEFT * self.size + self.x_scale * (x - self._x_limits[0])
        py = AXES_BOTTOM * self.size + self.y_scale * (y - self._y_limits[0])
        like = py if isinstance(py, Tensor) else px
        assert isinstance(like, Tensor)
        return torch.stack(
            torch.broadcast_tensors(*(torch.as_tensor(p, dtype=like.dtype, device=like.device) for p in (px, py))), -1
        )

    def snap(self, points: Tensor, stroke: float, axis: int) -> Tensor:
        """Centres strokes on pixels as matplotlib does with straight lines along an axis; for lines that never move.

        Snapping a line that moves would throw away where exactly it is.

        Args:
            points: ``[..., 2]`` in pixels.
            stroke: Stroke width in pixels.
            axis: The coordinate to snap: 0 for a vertical line's ``x``, 1 for a horizontal line's ``y``.
        """
        position = points[..., axis]
        # matplotlib snaps in coordinates that run down from the top.
        position = self.size - position if axis == 1 else position
        snapped = (position + 0.5).floor() + (0.5 if round(stroke) % 2 else 0.0)
        result = points.clone()
        result[..., axis] = self.size - snapped if axis == 1 else snapped
        return result

    def clip(self, canvas: Canvas, coverage: Tensor, rows: slice) -> tuple[Tensor, slice]:
        """Cuts a coverage off at the axes' frame."""
        frame = canvas.box(AXES_LEFT * self.size, AXES_RIGHT * self.size, AXES_BOTTOM * self.size, AXES_TOP * self.size, rows)
        return coverage * frame, rows
