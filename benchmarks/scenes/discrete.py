"""Concepts that take a few values: how many of a thing, and which of several kinds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from causalvae_pyro.graph import CausalGraph
from scenes.canvas import Canvas
from scenes.scene import Scene, follows, uniform

__all__ = ["CATEGORIES", "COUNTS"]


def _meadow(v: Mapping[str, float], own: NDArray, side: int) -> NDArray:
    """Trees draw birds; the sun wanders."""
    c = Canvas(side, (180, 220, 245))
    c.disc(v["sun"], 0.15, 0.09, (250, 210, 70))
    c.box(0, 0.75, 1, 1, (100, 170, 80))
    for k in range(round(v["trees"])):
        x = 0.1 + 0.2 * k
        c.box(x - 0.015, 0.65, x + 0.015, 0.85, (100, 70, 40))
        c.polygon([(x - 0.08, 0.7), (x, 0.45), (x + 0.08, 0.7)], (40, 110, 60))
    for k in range(round(v["birds"])):
        x, y = 0.15 + 0.14 * k, 0.36 - 0.04 * (k % 2)
        c.line([(x - 0.05, y - 0.04), (x, y), (x + 0.05, y - 0.04)], 0.03, (60, 40, 80))
    return c.pixels()


COUNTS = Scene(
    CausalGraph(["sun", "trees", "birds"], [("trees", "birds")]),
    {
        "sun": uniform(0.15, 0.85),
        "trees": lambda causes, noise: np.floor(1 + 5 * noise),
        "birds": lambda causes, noise: np.clip(np.round(causes["trees"] + 3 * (noise - 0.5)), 0, 6) + 0.0,
    },
    _meadow,
    0.8,
)


def _sign(v: Mapping[str, float], own: NDArray, side: int) -> NDArray:
    """A disc, a square or a triangle, each of its usual size; a bar shows the size, and the sky its hour."""
    hour = v["hour"]
    c = Canvas(side, (int(120 + 110 * hour), int(150 + 70 * hour), 230))
    c.box(0.47, 0.4, 0.53, 1, (90, 90, 90))
    r, kind = v["size"], round(v["kind"])
    if kind == 0:
        c.disc(0.5, 0.4, r, (200, 50, 50))
    elif kind == 1:
        c.box(0.5 - r, 0.4 - r, 0.5 + r, 0.4 + r, (40, 80, 170))
    else:
        c.polygon([(0.5, 0.4 - 1.2 * r), (0.5 + 1.1 * r, 0.4 + r), (0.5 - 1.1 * r, 0.4 + r)], (240, 200, 50))
    c.box(0.05, 0.92 - v["bar"], 0.15, 0.92, (30, 30, 30))
    return c.pixels()


CATEGORIES = Scene(
    CausalGraph(["kind", "hour", "size", "bar"], [("kind", "size"), ("size", "bar")]),
    {
        "kind": lambda causes, noise: np.floor(3 * noise),
        "hour": uniform(0.0, 1.0),
        "size": follows(lambda kind: 0.2 + 0.03 * kind, 0.14),
        "bar": follows(lambda size: 0.1 + 2.5 * (size - 0.1), 0.2),
    },
    _sign,
    0.8,
    kinds={"kind": 3},
)
