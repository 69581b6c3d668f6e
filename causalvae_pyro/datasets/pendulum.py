"""The Pendulum scene of the CausalVAE paper: a light and a pendulum cast a shadow."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from causalvae_pyro.datasets.rendering import Canvas, Figure
from causalvae_pyro.datasets.simulator import ImageSimulator
from causalvae_pyro.datasets.structural import complete
from causalvae_pyro.graph import CausalGraph

__all__ = ["Pendulum"]

FIREBRICK = (178 / 255, 34 / 255, 34 / 255)
ORANGE = (1.0, 165 / 255, 0.0)
BLACK = (0.0, 0.0, 0.0)

PIVOT = (10.0, 10.5)
LIGHT_HEIGHT = 20.5
SHADOW_HEIGHT = -0.5
MIN_SHADOW = 3.0


class Pendulum(ImageSimulator):
    """7,308 scenes of a pendulum, a light and the shadow that they cast (Yang et al. 2021).

    Labels, in radians and in units of the published drawing's axes, 20 of them from left to right:

    ========================  =====================================================  ==================
    concept                   meaning                                                range
    ========================  =====================================================  ==================
    ``pendulum``              angle of the pendulum, radians                         [-0.628, 0.675]
    ``light``                 horizontal position of the light                       [0.90, 17.27]
    ``shadow_length``         length of the shadow, at least 3                       [3, 12.58]
    ``shadow_position``       horizontal middle of the shadow                        [2.01, 19.61]
    ========================  =====================================================  ==================

    ``pendulum`` and ``light`` cause both shadow concepts. See :class:`~causalvae_pyro.datasets.ImageSimulator` for the
    arguments.

    Example:
        >>> data = Pendulum("test", size=16)
        >>> data.images.shape, data.labels.shape
        (torch.Size([1461, 3, 16, 16]), torch.Size([1461, 4]))
        >>> data.graph.parents("shadow_length")
        ('pendulum', 'light')
    """

    graph = CausalGraph(
        ["pendulum", "light", "shadow_length", "shadow_position"],
        [(cause, effect) for effect in ("shadow_length", "shadow_position") for cause in ("pendulum", "light")],
    )
    units = ("rad", "units", "units", "units")

    @classmethod
    def published_labels(cls) -> Tensor:
        """84 angles x 87 light directions; the vertical direction is left out, as published."""
        angle = torch.arange(-40, 44, dtype=torch.float64) * math.pi / 200
        direction = torch.tensor([j for j in range(60, 148) if j != 100], dtype=torch.float64) * math.pi / 200
        light = PIVOT[0] + (LIGHT_HEIGHT - PIVOT[1]) / torch.tan(direction)
        grid = torch.cartesian_prod(angle, light)
        return complete(cls.graph, cls.mechanism, torch.cat([grid, torch.zeros_like(grid)], 1))

    @classmethod
    def file_name_labels(cls, labels: Tensor) -> Tensor:
        angle, light, length, position = labels.double().unbind(-1)
        # The direction is an angle above the ground to the right, in (0, pi).
        direction = torch.atan2(labels.new_tensor(LIGHT_HEIGHT - PIVOT[1]).double(), light - PIVOT[0])
        steps = (torch.round(value * 200 / math.pi) for value in (angle, direction))
        return torch.stack([*steps, length.trunc(), position.trunc()], -1)

    @classmethod
    def root_ranges(cls) -> dict[str, tuple[float, float]]:
        """The intervals that the published grid spans."""
        grid = cls.published_labels()
        return {name: (grid[:, i].min().item(), grid[:, i].max().item()) for i, name in enumerate(cls.graph.roots)}

    @classmethod
    def mechanism(cls, name: str, parents: Mapping[str, Tensor]) -> Tensor:
        """Projects the pivot and the pendulum's tip along the light's direction onto the ground."""
        angle, light = parents["pendulum"], parents["light"]
        slope = (light - PIVOT[0]) / (LIGHT_HEIGHT - PIVOT[1])
        tip_x, tip_y = PIVOT[0] + 9.5 * torch.sin(angle), PIVOT[1] - 9.5 * torch.cos(angle)
        pivot_shadow = PIVOT[0] - (PIVOT[1] - SHADOW_HEIGHT) * slope
        tip_shadow = tip_x - (tip_y - SHADOW_HEIGHT) * slope
        if name == "shadow_length":
            return (pivot_shadow - tip_shadow).abs().clamp(min=MIN_SHADOW)
        return (pivot_shadow + tip_shadow) / 2

    @classmethod
    def draw(cls, labels: Tensor, size: int) -> Tensor:
        """Rod, bob, light, shadow, in this order, clipped by the axes; a matplotlib figure of ``size`` pixels a side."""
        labels = labels.to(torch.float32) if labels.dtype not in (torch.float32, torch.float64) else labels
        canvas = Canvas(len(labels), size, device=labels.device, dtype=labels.dtype)
        figure = Figure(size, x_limits=(0.0, 20.0), y_limits=(-1.0, 21.0))
        stroke = figure.points(3)
        # A disc's edge of 1 pt is centred on its outline.
        edge = figure.points(0.5)
        angle, light, length, position = labels.unbind(-1)

        bob_x, bob_y = PIVOT[0] + 8 * torch.sin(angle), PIVOT[1] - 8 * torch.cos(angle)
        bob = figure.pixels(bob_x, bob_y)
        canvas.paint(*canvas.segment(figure.pixels(PIVOT[0], 0 * angle + PIVOT[1]), bob, stroke), BLACK)
        canvas.paint(*canvas.ellipse(bob, (1.5 * figure.x_scale + edge, 1.5 * figure.y_scale + edge)), FIREBRICK)
        disc = canvas.ellipse(figure.pixels(light, LIGHT_HEIGHT), (3 * figure.x_scale + edge, 3 * figure.y_scale + edge))
        canvas.paint(*figure.clip(canvas, *disc), ORANGE)
        # A negative length (mechanism noise far out in the tail) draws as the mirrored segment, zero as nothing.
        half = length.abs().clamp(min=1e-6) / 2
        shadow = figure.pixels(position - half, SHADOW_HEIGHT), figure.pixels(position + half, SHADOW_HEIGHT)
        canvas.paint(*figure.clip(canvas, *canvas.segment(*shadow, stroke)), BLACK)
        return canvas.images.clamp_(0, 1)
