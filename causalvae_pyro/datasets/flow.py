"""The Flow scene of the CausalVAE paper: a ball raises the water in a cup, and the water flows out of a hole."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from causalvae_pyro.datasets.rendering import Canvas, Figure
from causalvae_pyro.datasets.simulator import ImageSimulator
from causalvae_pyro.datasets.structural import complete
from causalvae_pyro.graph import CausalGraph

__all__ = ["Flow"]

FIREBRICK = (178 / 255, 34 / 255, 34 / 255)
LIGHT_SKY_BLUE = (135 / 255, 206 / 255, 250 / 255)
BLACK = (0.0, 0.0, 0.0)

GRAVITY = 0.98
CUP_LEFT, CUP_RIGHT, CUP_TOP = 3.0, 8.0, 19.0
GROUND, LANDING = 0.2, 0.5
HOLE_WIDTH = 0.4
WATER_BASE = 5.0


class Flow(ImageSimulator):
    """8,100 scenes of a cup of water with a ball in it and a hole in its wall (Yang et al. 2021).

    Labels, in units of the published drawing's axes:

    ================  ================================================================  ================
    concept           meaning                                                           range
    ================  ================================================================  ================
    ``ball_size``     radius of the ball                                                [0.167, 1.133]
    ``water_height``  water level above the cup's base: radius cubed plus a free part   [1.00, 5.36]
                      of 1.0 to 3.9
    ``hole``          height of the hole                                                [2, 4.67]
    ``water_flow``    horizontal reach of the jet where it lands                        [1.71, 6.62]
    ================  ================================================================  ================

    ``ball_size`` causes ``water_height``; ``water_height`` and ``hole`` cause ``water_flow``. See
    :class:`~causalvae_pyro.datasets.ImageSimulator` for the arguments. The published images draw the jet with a randomly
    disturbed gravity; here the jet is drawn exactly as its label says.

    Example:
        >>> data = Flow("test", size=16)
        >>> data.images.shape, data.labels.shape
        (torch.Size([1620, 3, 16, 16]), torch.Size([1620, 4]))
        >>> data.graph.descendants("ball_size")
        ('water_height', 'water_flow')
    """

    graph = CausalGraph(
        ["ball_size", "water_height", "hole", "water_flow"],
        [("ball_size", "water_height"), ("water_height", "water_flow"), ("hole", "water_flow")],
    )
    units = ("units", "units", "units", "units")

    @classmethod
    def published_labels(cls) -> Tensor:
        """30 radii x 30 free parts of the water level x 9 holes."""
        radius = torch.arange(5, 35, dtype=torch.float64) / 30
        free = torch.arange(10, 40, dtype=torch.float64) / 10
        hole = torch.arange(6, 15, dtype=torch.float64) / 3
        grid = torch.cartesian_prod(radius, free, hole)
        return complete(cls.graph, cls.mechanism, torch.cat([grid, torch.zeros_like(grid[:, :1])], 1))

    @classmethod
    def file_name_labels(cls, labels: Tensor) -> Tensor:
        radius, water, hole, flow = labels.double().unbind(-1)
        # The reach in units of a tenth; floats just below a whole number are meant to be it.
        return torch.stack([torch.round(30 * radius), (water + 1e-6).floor(), torch.round(3 * hole), (10 * flow).trunc()], -1)

    @classmethod
    def root_ranges(cls) -> dict[str, tuple[float, float]]:
        """The intervals that the published grid spans."""
        return {"ball_size": (5 / 30, 34 / 30), "hole": (2.0, 14 / 3)}

    @classmethod
    def exogenous(cls, name: str, count: int, generator: torch.Generator) -> Tensor:
        """The water level's free part is uniform over its published range."""
        uniform = torch.rand(count, generator=generator, dtype=torch.float64)
        return 1.0 + 2.9 * uniform if name == "water_height" else torch.zeros_like(uniform)

    @classmethod
    def mechanism(cls, name: str, parents: Mapping[str, Tensor]) -> Tensor:
        """The ball displaces water; the jet is a parabola from the hole to the ground (Torricelli)."""
        if name == "water_height":
            return parents["ball_size"] ** 3
        # An intervention can ask for less than no water or a hole in the ground: then nothing flows.
        drop = (parents["hole"] - LANDING).clamp(min=0)
        return torch.sqrt(2 * GRAVITY * parents["water_height"].clamp(min=0) * drop)

    @classmethod
    def draw(cls, labels: Tensor, size: int) -> Tensor:
        """Water, ball, cup, jet, ground; a matplotlib figure of ``size`` pixels a side."""
        labels = labels.to(torch.float32) if labels.dtype not in (torch.float32, torch.float64) else labels
        canvas = Canvas(len(labels), size, device=labels.device, dtype=labels.dtype)
        figure = Figure(size, x_limits=(0.0, 20.0), y_limits=(0.0, 20.0))
        radius, water, hole, flow = labels.unbind(-1)
        stroke = figure.points(2)

        level = (WATER_BASE + water).clamp(0, 20)
        canvas.paint(*canvas.rectangle(figure.pixels(CUP_LEFT, 0 * level), figure.pixels(CUP_RIGHT, level)), LIGHT_SKY_BLUE)
        edge = figure.points(0.5)
        ball = figure.pixels(5.5, radius + 0.5)
        canvas.paint(
            *canvas.ellipse(ball, (radius.abs() * figure.x_scale + edge, radius.abs() * figure.y_scale + edge)), FIREBRICK
        )
        for x, low, high in (
            (CUP_LEFT, 0 * hole, 0 * hole + CUP_TOP),
            (CUP_RIGHT, 0 * hole, hole),
            (CUP_RIGHT, hole + HOLE_WIDTH, 0 * hole + CUP_TOP),
        ):
            wall = torch.stack([figure.pixels(x, low), figure.pixels(x, high)])
            start, end = figure.snap(wall, stroke, axis=0)
            canvas.paint(*canvas.segment(start, end, stroke), BLACK)
        jet = canvas.parabola(figure.pixels(CUP_RIGHT, hole), figure.pixels(CUP_RIGHT + flow, 0 * hole + LANDING), stroke)
        canvas.paint(*figure.clip(canvas, *jet), LIGHT_SKY_BLUE)
        ground = torch.stack([figure.pixels(0.0, 0 * hole + GROUND), figure.pixels(20.0, 0 * hole + GROUND)])
        start, end = figure.snap(ground, stroke, axis=1)
        canvas.paint(*figure.clip(canvas, *canvas.segment(start, end, stroke)), BLACK)
        return canvas.images.clamp_(0, 1)
