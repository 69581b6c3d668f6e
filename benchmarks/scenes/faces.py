"""Faces whose parts bend and open: one face, or another person in each image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from causalvae_pyro.graph import CausalGraph
from scenes.canvas import Canvas
from scenes.scene import Scene, follows, uniform

__all__ = ["DEFORMATION", "PERSON"]

_GRAPH = CausalGraph(
    ["joy", "voice", "mouth", "lids"], [("joy", "mouth"), ("voice", "mouth"), ("mouth", "lids"), ("joy", "lids")]
)


def _face(v: Mapping[str, float], own: NDArray, side: int) -> NDArray:
    """Joy bends the lips and lifts the cheeks, a voice moves the throat and opens the mouth, an open mouth closes the eyes."""
    skin, width, hair, apart, shirt = own if len(own) else np.full(5, 0.5)
    flesh = np.array([150, 100, 70]) + (np.array([240, 205, 180]) - [150, 100, 70]) * skin
    dark = (flesh * 0.75).astype(int).tolist()
    c = Canvas(side, (200, 220, 225))
    wide = 0.26 + 0.1 * width
    c.box(0.2, 0.88, 0.8, 1, (int(60 + 150 * shirt), 90, int(200 - 150 * shirt)))
    c.box(0.4, 0.75, 0.6, 0.92, flesh.astype(int).tolist())
    c.disc(0.5, 0.32, wide + 0.04, (int(30 + 170 * hair), int(20 + 120 * hair), 30), 0.27)
    c.disc(0.5, 0.48, wide, flesh.astype(int).tolist(), 0.36)
    c.disc(0.5, 0.86, 0.04, dark, 0.02 + 0.05 * v["voice"])
    for side_of in (-1, 1):
        x = 0.5 + side_of * (0.1 + 0.04 * apart)
        c.disc(x, 0.4, 0.06, (250, 250, 250), 0.06 * np.clip(v["lids"], 0.03, None))
        c.disc(x, 0.4, 0.03, (40, 60, 90), 0.03 * np.clip(v["lids"], 0.03, None))
    t = np.linspace(-1, 1, 17)
    bend = 0.07 * v["joy"]
    upper = list(zip(0.5 + 0.15 * t, 0.66 + bend * (1 - t**2) - 0.4 * v["mouth"] * (1 - t**2), strict=True))
    lower = list(zip(0.5 + 0.15 * t, 0.66 + bend * (1 - t**2) + 0.6 * v["mouth"] * (1 - t**2), strict=True))
    c.polygon(upper + lower[::-1], (90, 20, 30))
    c.line(upper, 0.025, (190, 60, 70))
    c.line(lower, 0.025, (190, 60, 70))
    return c.pixels()


_MECHANISMS = {
    "joy": uniform(-1.0, 1.0),
    "voice": uniform(0.0, 1.0),
    "mouth": follows(lambda joy, voice: 0.03 + 0.1 * voice * (1 + 0.3 * joy), 0.05),
    "lids": follows(lambda mouth, joy: 1.0 - 4.5 * np.clip(mouth, 0, 0.2) - 0.15 * joy, 0.3),
}
DEFORMATION = Scene(_GRAPH, _MECHANISMS, _face, 0.85)
PERSON = Scene(_GRAPH, _MECHANISMS, _face, 0.75, own=5)
