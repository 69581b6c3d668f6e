"""Scenes with known truth, of the kinds that own images come in: a small structural causal model and a drawing each."""

from __future__ import annotations

from scenes.appearance import GREY, PHOTOMETRIC, VANISHING
from scenes.backgrounds import BACKGROUND
from scenes.discrete import CATEGORIES, COUNTS
from scenes.faces import DEFORMATION, PERSON
from scenes.geometry import CONTACT, GENERATIONS, OCCLUSION, ROTATION
from scenes.scene import Scene, SceneData

__all__ = ["SCENES", "Scene", "SceneData"]

#: By name.
SCENES: dict[str, Scene] = {
    "contact": CONTACT,
    "occlusion": OCCLUSION,
    "rotation": ROTATION,
    "generations": GENERATIONS,
    "photometric": PHOTOMETRIC,
    "vanishing": VANISHING,
    "grey": GREY,
    "counts": COUNTS,
    "categories": CATEGORIES,
    "deformation": DEFORMATION,
    "person": PERSON,
    "background": BACKGROUND,
}
