"""The Pendulum scene drawn by matplotlib, as the paper's data set was: the reference for the package's own renderer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle

__all__ = ["PendulumFigure", "draw_new_figure"]

PIVOT_X, PIVOT_Y = 10.0, 10.5
LIGHT_Y = 20.5
SHADOW_Y = -0.5


class PendulumFigure:
    """One figure whose artists move from scene to scene, which is much faster than a figure for each scene.

    Args:
        size: Height and width in pixels. The figure is an inch wide, so strokes keep their share of the image.
        blit: Redraw the four artists on a stored background only, not the whole figure. The pixels are the same.
    """

    def __init__(self, size: int = 96, *, blit: bool = False) -> None:
        # Without pyplot, which would only add its bookkeeping to the time of a new figure.
        self.canvas = FigureCanvasAgg(Figure(figsize=(1, 1), dpi=size))
        self.axes = self.canvas.figure.add_subplot()
        self.axes.set_xlim(0, 20)
        self.axes.set_ylim(-1, 21)
        self.axes.axis("off")
        stroke = {"color": "black", "linewidth": 3, "solid_capstyle": "butt", "animated": blit}
        # In the published order of drawing, which matplotlib takes from zorder.
        (self.rod,) = self.axes.plot([], [], zorder=1, **stroke)
        self.bob = self.axes.add_patch(Circle((0, 0), 1.5, color="firebrick", zorder=2, animated=blit))
        self.light = self.axes.add_patch(Circle((0, 0), 3, color="orange", zorder=3, animated=blit))
        (self.shadow,) = self.axes.plot([], [], zorder=4, **stroke)
        self.background = None
        if blit:
            self.canvas.draw()
            self.background = self.canvas.copy_from_bbox(self.canvas.figure.bbox)

    def draw(self, label: Sequence[float]) -> np.ndarray:
        """Draws one scene.

        Args:
            label: Angle of the pendulum, position of the light, length and position of the shadow.

        Returns:
            ``[size, size, 3]`` uint8.
        """
        angle, light, length, position = (float(value) for value in label)
        bob = PIVOT_X + 8 * math.sin(angle), PIVOT_Y - 8 * math.cos(angle)
        self.rod.set_data([PIVOT_X, bob[0]], [PIVOT_Y, bob[1]])
        self.bob.set_center(bob)
        self.light.set_center((light, LIGHT_Y))
        self.shadow.set_data([position - length / 2, position + length / 2], [SHADOW_Y, SHADOW_Y])
        if self.background is None:
            self.canvas.draw()
        else:
            self.canvas.restore_region(self.background)
            for artist in (self.rod, self.bob, self.light, self.shadow):
                self.axes.draw_artist(artist)
        # A copy: the next scene is drawn into the same buffer.
        return np.array(self.canvas.buffer_rgba())[..., :3]


def draw_new_figure(label: Sequence[float], size: int = 96) -> np.ndarray:
    """Draws one scene in a figure of its own; see :meth:`PendulumFigure.draw`."""
    return PendulumFigure(size).draw(label)
