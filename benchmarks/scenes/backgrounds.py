"""Parts before a background that is another one in each image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from causalvae_pyro.graph import CausalGraph
from scenes.canvas import Canvas
from scenes.scene import Scene, follows, uniform

__all__ = ["BACKGROUND"]

# A coarse grid of colours, interpolated.
_GRID = 4


def _balloon(v: Mapping[str, float], own: NDArray, side: int) -> NDArray:
    """A burner lifts a balloon, wind drives it, lifts a wind sock and blows it up; the sky is different each time."""
    grid = (120 + 120 * own.reshape(_GRID, _GRID, 3)).astype(np.uint8)
    sky = np.asarray(Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC), np.float32) / 255
    shape, colour = Canvas(side, (0, 0, 0)), Canvas(side, (0, 0, 0))
    for c, paint in ((shape, lambda rgb: (255, 255, 255)), (colour, lambda rgb: rgb)):
        x, y = 0.55 + v["drift"], 0.68 - v["height"]
        c.disc(x, y, 0.14, paint((190, 40, 50)), 0.16)
        c.disc(x, y, 0.05, paint((240, 220, 90)), 0.16)
        c.box(x - 0.05, y + 0.22, x + 0.05, y + 0.29, paint((90, 60, 30)))
        c.polygon([(x - 0.03, y + 0.21), (x, y + 0.21 - v["flame"]), (x + 0.03, y + 0.21)], paint((255, 150, 0)))
        c.box(0.06, 0.55, 0.09, 1, paint((40, 40, 40)))
        # Its length is the wind's own: of a cause that only its effects show, no method can say enough.
        length = 0.12 + 0.16 * v["wind"]
        end = 0.075 + length * np.cos(v["flag"]), 0.58 - length * np.sin(v["flag"])
        c.line([(0.075, 0.58), end], 0.07, paint((20, 90, 50)))
    opacity = shape.pixels()
    return sky * (1 - opacity) + colour.pixels()


BACKGROUND = Scene(
    CausalGraph(["flame", "wind", "height", "drift", "flag"], [("flame", "height"), ("wind", "drift"), ("wind", "flag")]),
    {
        "flame": uniform(0.04, 0.16),
        "wind": uniform(0.0, 1.0),
        "height": follows(lambda flame: 0.02 + 3.2 * (flame - 0.04), 0.12),
        "drift": follows(lambda wind: 0.5 * (wind - 0.5) ** 3 * 4 + 0.1 * (wind - 0.5), 0.1),
        "flag": follows(lambda wind: 1.4 * wind - 1.4 + 0.2, 0.5),
    },
    _balloon,
    0.85,
    own=_GRID * _GRID * 3,
)
