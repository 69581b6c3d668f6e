"""The Pendulum scene drawn by matplotlib, as the paper's data set was: the reference for the package's own renderer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle

__all__ = ["PendulumFigure", "SceneFigure", "draw_new_figure"]

PIVOT_X, PIVOT_Y = 10.0, 10.5
LIGHT_Y = 20.5
SHADOW_Y = -0.5


class SceneFigure(ABC):
    """One figure whose artists move from scene to scene, which is much faster than a figure for each scene.

    A subclass adds the artists of its scene and moves them.

    Args:
        size: Height and width in pixels. The figure is an inch wide, so strokes keep their share of the image.
        blit: Redraw the artists on a stored background only, not the whole figure. The pixels are the same.
    """

    y_limits: ClassVar[tuple[float, float]]

    def __init__(self, size: int = 96, *, blit: bool = False) -> None:
        # Without pyplot, which would only add its bookkeeping to the time of a new figure.
        self.canvas = FigureCanvasAgg(Figure(figsize=(1, 1), dpi=size))
        self.axes = self.canvas.figure.add_subplot()
        self.axes.set_xlim(0, 20)
        self.axes.set_ylim(*self.y_limits)
        self.axes.axis("off")
        self.artists = self.add_artists()
        # In the published order of drawing, which matplotlib takes from zorder.
        for zorder, artist in enumerate(self.artists, 1):
            artist.set(zorder=zorder, animated=blit)
        self.background = None
        if blit:
            self.canvas.draw()
            self.background = self.canvas.copy_from_bbox(self.canvas.figure.bbox)

    @abstractmethod
    def add_artists(self) -> Sequence[Artist]:
        """Adds what is drawn to the axes and returns it in the order of drawing."""

    @abstractmethod
    def move_artists(self, label: Sequence[float]) -> None:
        """Puts everything where it is in the scene with these labels."""

    def stroke(self, width: float, color: str = "black", x: Sequence[float] = (), y: Sequence[float] = ()) -> Artist:
        """Adds a line of a width in points."""
        (line,) = self.axes.plot(x, y, color=color, linewidth=width, solid_capstyle="butt")
        return line

    def draw(self, label: Sequence[float]) -> np.ndarray:
        """Draws one scene.

        Args:
            label: The labels, as the package's data set has them.

        Returns:
            ``[size, size, 3]`` uint8.
        """
        self.move_artists([float(value) for value in label])
        if self.background is None:
            self.canvas.draw()
        else:
            self.canvas.restore_region(self.background)
            for artist in self.artists:
                self.axes.draw_artist(artist)
        # A copy: the next scene is drawn into the same buffer.
        return np.array(self.canvas.buffer_rgba())[..., :3]


class PendulumFigure(SceneFigure):
    """Rod, bob, light and shadow. The labels are the angle, the light's position, the shadow's length and position."""

    y_limits = (-1, 21)

    def add_artists(self) -> Sequence[Artist]:
        self.rod = self.stroke(3)
        self.bob = self.axes.add_patch(Circle((0, 0), 1.5, color="firebrick"))
        self.light = self.axes.add_patch(Circle((0, 0), 3, color="orange"))
        self.shadow = self.stroke(3)
        return self.rod, self.bob, self.light, self.shadow

    def move_artists(self, label: Sequence[float]) -> None:
        angle, light, length, position = label
        bob = PIVOT_X + 8 * math.sin(angle), PIVOT_Y - 8 * math.cos(angle)
        self.rod.set_data([PIVOT_X, bob[0]], [PIVOT_Y, bob[1]])
        self.bob.set_center(bob)
        self.light.set_center((light, LIGHT_Y))
        self.shadow.set_data([position - length / 2, position + length / 2], [SHADOW_Y, SHADOW_Y])


def draw_new_figure(label: Sequence[float], size: int = 96) -> np.ndarray:
    """Draws one scene in a figure of its own; see :meth:`SceneFigure.draw`."""
    return PendulumFigure(size).draw(label)
