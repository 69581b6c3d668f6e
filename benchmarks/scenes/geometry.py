"""Things that move: in contact, before each other, round in circles, and down a chain of causes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from causalvae_pyro.graph import CausalGraph
from scenes.canvas import Canvas
from scenes.scene import Scene, follows, uniform

__all__ = ["CONTACT", "GENERATIONS", "OCCLUSION", "ROTATION"]


def _scale(v: Mapping[str, float], own: NDArray, side: int) -> NDArray:
    """A weight lies on a spring scale, which sinks; a needle shows how far."""
    c = Canvas(side, (236, 232, 220))
    c.box(0, 0.93, 1, 1, (90, 80, 70))
    top = 0.42 + v["sag"]
    zigzag = [(0.3 + 0.09 * (-1) ** k, top + (0.93 - top) * k / 6) for k in range(7)]
    c.line(zigzag, v["spring"], (70, 110, 160))
    c.box(0.1, top - 0.025, 0.5, top + 0.025, (60, 60, 60))
    c.disc(0.3, top - 0.025 - v["weight"], v["weight"], (190, 60, 40))
    c.disc(0.77, 0.6, 0.17, (250, 250, 250))
    c.line([(0.77, 0.6), (0.77 + 0.15 * np.sin(v["needle"]), 0.6 - 0.15 * np.cos(v["needle"]))], 0.035, (20, 120, 60))
    return c.pixels()


CONTACT = Scene(
    CausalGraph(["weight", "spring", "sag", "needle"], [("weight", "sag"), ("spring", "sag"), ("sag", "needle")]),
    {
        "weight": uniform(0.06, 0.15),
        "spring": uniform(0.02, 0.06),
        "sag": follows(lambda weight, spring: 0.02 + 18 * weight**2 * (1.1 - 10 * spring), 0.08),
        "needle": follows(lambda sag: -1.2 + 9 * np.clip(sag, -0.1, 0.5) ** 0.9, 0.7),
    },
    _scale,
    0.95,
)


def _street(v: Mapping[str, float], own: NDArray, side: int) -> NDArray:
    """A van behind, a bicycle's wheel before it, a post before both; a kite's height follows the wheel's size."""
    c = Canvas(side, (190, 215, 235))
    c.box(0, 0.8, 1, 1, (120, 120, 120))
    c.box(v["van"] - 0.18, 0.5, v["van"] + 0.18, 0.8, (200, 50, 50))
    c.box(v["van"] - 0.02, 0.55, v["van"] + 0.14, 0.66, (240, 240, 210))
    c.disc(v["wheel"], 0.84 - v["size"], v["size"], (30, 60, 140))
    c.disc(v["wheel"], 0.84 - v["size"], 0.55 * v["size"], (240, 200, 60))
    c.box(0.47, 0.25, 0.53, 0.95, (50, 90, 50))
    c.polygon([(0.85, v["kite"] - 0.08), (0.92, v["kite"]), (0.85, v["kite"] + 0.1), (0.78, v["kite"])], (150, 40, 140))
    return c.pixels()


OCCLUSION = Scene(
    CausalGraph(["van", "size", "wheel", "kite"], [("van", "wheel"), ("size", "kite")]),
    {
        "van": uniform(0.2, 0.8),
        "size": uniform(0.08, 0.16),
        "wheel": follows(lambda van: 0.85 - 0.8 * (van - 0.1), 0.25),
        "kite": follows(lambda size: 0.35 - 3 * (size - 0.08), 0.12),
    },
    _street,
    0.95,
)


def _engine(v: Mapping[str, float], own: NDArray, side: int) -> NDArray:
    """A crank turns all the way round and pushes a piston; a gauge's level follows the piston."""
    c = Canvas(side, (245, 245, 240))
    c.disc(0.27, 0.55, 0.2, (200, 205, 215))
    x, y = 0.27 + 0.15 * np.cos(v["crank"]), 0.55 + 0.15 * np.sin(v["crank"])
    c.line([(0.27, 0.55), (x, y)], 0.06, (60, 70, 90))
    c.disc(x, y, 0.05, (200, 70, 30))
    c.box(v["piston"] - 0.06, 0.44, v["piston"] + 0.06, 0.66, (40, 100, 170))
    c.box(0.86, 0.3, 0.95, 0.8, (215, 215, 205))
    c.box(0.86, 0.8 - v["gauge"], 0.95, 0.8, (30, 140, 70))
    return c.pixels()


ROTATION = Scene(
    CausalGraph(["crank", "piston", "gauge"], [("crank", "piston"), ("piston", "gauge")]),
    {
        "crank": uniform(0.0, 2 * np.pi),
        "piston": follows(lambda crank: 0.65 + 0.07 * np.cos(crank), 0.06),
        "gauge": follows(lambda piston: 0.05 + 2.4 * (piston - 0.55), 0.12),
    },
    _engine,
    0.8,
)


def _valley(v: Mapping[str, float], own: NDArray, side: int) -> NDArray:
    """Rain fills a river, which turns a mill, which makes a heap of flour; wind drives the cloud."""
    c = Canvas(side, (170, 205, 240))
    c.box(0, 0.6, 1, 1, (110, 160, 80))
    for dx, size in ((-0.08, 0.7), (0.08, 0.75), (0.0, 1.0)):
        c.disc(v["wind"] + dx, 0.15, size * v["rain"], (245, 245, 245))
    c.box(0, 0.96 - v["river"], 0.45, 0.96, (40, 90, 190))
    c.box(0.38, 0.5, 0.62, 0.96, (150, 110, 80))
    for k in range(2):
        angle = v["mill"] + k * np.pi / 2
        dx, dy = 0.17 * np.cos(angle), 0.17 * np.sin(angle)
        c.line([(0.5 - dx, 0.55 - dy), (0.5 + dx, 0.55 + dy)], 0.04, (80, 40, 30))
    c.polygon([(0.66, 0.96), (0.82, 0.96 - v["flour"]), (0.98, 0.96)], (250, 235, 190))
    return c.pixels()


GENERATIONS = Scene(
    CausalGraph(["wind", "rain", "river", "mill", "flour"], [("rain", "river"), ("river", "mill"), ("mill", "flour")]),
    {
        "wind": uniform(0.2, 0.8),
        "rain": uniform(0.06, 0.13),
        "river": follows(lambda rain: 0.06 + 3.2 * (rain - 0.06), 0.08),
        "mill": follows(lambda river: 0.1 + 4 * river, 0.3),
        "flour": follows(lambda mill: 0.05 + 0.2 * np.clip(mill, 0, None), 0.1),
    },
    _valley,
    0.8,
)
