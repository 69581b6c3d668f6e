"""The live page of ``causalvae explore``: counterfactuals that follow a slider."""

from causalvae_pyro.explore.answers import Answer, Explorer, Factual, Uncertainty
from causalvae_pyro.explore.concepts import Concept
from causalvae_pyro.explore.images import read_image
from causalvae_pyro.explore.ranges import Sweep, effect_maps, encode_frames, sweep_concept

__all__ = [
    "Answer",
    "Concept",
    "Explorer",
    "Factual",
    "Sweep",
    "Uncertainty",
    "effect_maps",
    "encode_frames",
    "read_image",
    "sweep_concept",
]
