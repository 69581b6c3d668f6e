"""Light and shade: what brightens, glows, appears and vanishes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from causalvae_pyro.graph import CausalGraph
from scenes.canvas import Canvas, distance
from scenes.scene import Scene, follows, uniform

__all__ = ["GREY", "PHOTOMETRIC", "VANISHING"]


def _harbour(v: Mapping[str, float], own: NDArray, side: int) -> NDArray:
    """Daylight tints everything, fog takes the contrast, a beacon glows the brighter the darker it is, a sail has its colour."""
    c = Canvas(side, (130, 180, 235))
    c.box(0, 0.65, 1, 1, (40, 90, 130))
    c.box(0.7, 0.3, 0.8, 0.7, (225, 225, 225))
    c.box(0.7, 0.42, 0.8, 0.52, (200, 40, 40))
    sail = (int(255 * v["sail"]), 120, int(255 * (1 - v["sail"])))
    c.polygon([(0.28, 0.3), (0.28, 0.66), (0.48, 0.66)], sail)
    c.polygon([(0.15, 0.7), (0.5, 0.7), (0.45, 0.78), (0.2, 0.78)], (110, 70, 40))
    light = np.array([1.0, 0.95, 0.85]) * v["day"] + np.array([0.12, 0.15, 0.3]) * (1 - v["day"])
    picture = c.pixels() * light
    picture += v["fog"] * (np.array([0.7, 0.7, 0.72]) * (0.3 + 0.7 * v["day"]) - picture)
    glow = np.exp(-((distance(side, 0.75, 0.27) / 0.1) ** 2))
    return picture + glow * v["beacon"] * (np.array([1.0, 0.9, 0.5]) - picture)


PHOTOMETRIC = Scene(
    CausalGraph(["day", "fog", "sail", "beacon"], [("day", "beacon"), ("fog", "beacon")]),
    {
        "day": uniform(0.1, 1.0),
        "fog": uniform(0.0, 0.5),
        "sail": uniform(0.0, 1.0),
        "beacon": follows(lambda day, fog: np.clip(0.75 - 0.65 * day + 0.3 * fog, 0, 1) + 0.1, 0.2),
    },
    _harbour,
    0.93,
)


def _forest(v: Mapping[str, float], own: NDArray, side: int) -> NDArray:
    """Damp ground is darker; mushrooms come up only where it is damp, and a snail only where there are mushrooms."""
    soil = np.array([170, 130, 90]) * (1 - 0.5 * v["damp"])
    c = Canvas(side, (205, 225, 200))
    c.box(0, 0.7, 1, 1, soil.astype(int).tolist())
    c.box(v["tree"] - 0.06, 0.1, v["tree"] + 0.06, 0.75, (100, 70, 50))
    c.disc(v["tree"], 0.15, 0.16, (60, 120, 60))
    height = v["mushroom"] - 0.1
    if height > 0:
        c.box(0.28, 0.82 - height, 0.33, 0.82, (240, 230, 210))
        c.disc(0.305, 0.82 - height, 0.45 * height + 0.03, (200, 40, 50), 0.3 * height + 0.02)
    picture = c.pixels()
    # It fades in, as everything that half of the images show.
    shown = np.clip(6 * (v["snail"] - 0.35), 0, 1)
    if shown > 0:
        c.disc(0.72, 0.84, 0.09, (230, 180, 60))
        c.line([(0.6, 0.9), (0.84, 0.9)], 0.05, (90, 60, 120))
    return picture + shown * (c.pixels() - picture)


VANISHING = Scene(
    CausalGraph(["damp", "tree", "mushroom", "snail"], [("damp", "mushroom"), ("mushroom", "snail")]),
    {
        "damp": uniform(0.0, 1.0),
        "tree": uniform(0.3, 0.8),
        "mushroom": follows(lambda damp: 0.35 * damp - 0.02, 0.12),
        "snail": follows(lambda mushroom: 0.1 + 2.2 * np.clip(mushroom, 0, 0.4), 0.3),
    },
    _forest,
    0.8,
)


def _metronome(v: Mapping[str, float], own: NDArray, side: int) -> NDArray:
    """In grey: a weight on an arm, the arm's shadow on a wall of uneven light, and a bulb that follows the weight."""
    wall = np.linspace(0.5, 0.95, side)[None, :, None] * np.linspace(1.0, 0.75, side)[:, None, None]
    c = Canvas(side, (0, 0, 0))
    s = Canvas(side, (0, 0, 0))
    direction = np.array([np.sin(v["arm"]), -np.cos(v["arm"])])
    foot = np.array([0.45, 0.85])
    tip, weight = foot + 0.65 * direction, foot + v["weight"] * direction
    s.line([(foot[0] + 0.1, foot[1]), (foot[0] + 0.1 + v["shadow"], 0.35)], 0.06, (255, 255, 255))
    picture = wall * (1 - 0.35 * s.pixels()[..., :1])
    c.line([tuple(foot), tuple(tip)], 0.04, (255, 255, 255))
    c.disc(*weight, 0.07, (255, 255, 255))
    c.box(0.25, 0.85, 0.65, 0.95, (255, 255, 255))
    return picture * (1 - 0.9 * c.pixels()[..., :1])


GREY = Scene(
    CausalGraph(["arm", "weight", "shadow"], [("arm", "shadow")]),
    {
        "arm": uniform(-0.6, 0.6),
        "weight": uniform(0.2, 0.6),
        "shadow": follows(lambda arm: 0.35 * np.sin(arm) / 0.6, 0.15),
    },
    _metronome,
    0.8,
)
