"""The Flow scene drawn by matplotlib, as the paper's data set was: the reference for the package's own renderer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.patches import Circle, Rectangle
from matplotlib_pendulum import SceneFigure

__all__ = ["FlowFigure"]

CUP_LEFT, CUP_RIGHT, CUP_TOP = 3.0, 8.0, 19.0
WATER_BASE = 5.0
HOLE_WIDTH = 0.4
LANDING, GROUND = 0.5, 0.2


class FlowFigure(SceneFigure):
    """Water, ball, cup, jet and ground. The labels are the ball's radius, the water's and the hole's height, the jet's reach.

    The published script disturbs the jet's gravity at random, without a trace in the labels; here the jet reaches as far as
    its label says, which without that noise is the same curve.
    """

    y_limits = (0, 20)

    def add_artists(self) -> Sequence[Artist]:
        self.water = self.axes.add_patch(Rectangle((CUP_LEFT, 0), CUP_RIGHT - CUP_LEFT, 0, color="lightskyblue", linewidth=0))
        self.ball = self.axes.add_patch(Circle((0, 0), 1, color="firebrick"))
        left = self.stroke(2, x=[CUP_LEFT, CUP_LEFT], y=[0, CUP_TOP])
        self.below, self.above = self.stroke(2), self.stroke(2)
        self.jet = self.stroke(2, "lightskyblue")
        ground = self.stroke(2, x=[0, 20], y=[GROUND, GROUND])
        # The cup's left wall and the ground never move, but what does lies beneath them.
        return self.water, self.ball, left, self.below, self.above, self.jet, ground

    def move_artists(self, label: Sequence[float]) -> None:
        radius, water, hole, reach = label
        self.water.set_height(WATER_BASE + water)
        self.ball.set(center=(5.5, radius + 0.5), radius=radius)
        self.below.set_data([CUP_RIGHT, CUP_RIGHT], [0, hole])
        self.above.set_data([CUP_RIGHT, CUP_RIGHT], [hole + HOLE_WIDTH, CUP_TOP])
        y = np.linspace(hole, LANDING)
        self.jet.set_data(CUP_RIGHT + reach * np.sqrt((hole - y) / (hole - LANDING)), y)
