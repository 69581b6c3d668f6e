"""The live page of ``causalvae explore``: counterfactuals that follow a slider."""

from causalvae_pyro.explore.answers import Answer, Concept, Explorer, Factual, Uncertainty
from causalvae_pyro.explore.images import read_image

__all__ = ["Answer", "Concept", "Explorer", "Factual", "Uncertainty", "read_image"]
