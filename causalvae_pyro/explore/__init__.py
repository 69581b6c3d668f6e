"""Counterfactuals as one drags a slider: the answers, their picture, and the page of ``causalvae explore`` that asks for them."""

from causalvae_pyro.explore.answers import Answer, Concept, Explorer, Factual, Uncertainty
from causalvae_pyro.explore.images import read_image

__all__ = ["Answer", "Concept", "Explorer", "Factual", "Uncertainty", "read_image"]
