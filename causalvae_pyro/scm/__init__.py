"""Causal layers: ``z = f(eps)`` with one site per concept."""

from causalvae_pyro.scm.additive_noise import AdditiveNoiseSCM
from causalvae_pyro.scm.base import AdditiveNoiseLayer, CausalLayer, CausalTransform
from causalvae_pyro.scm.binary_effects import BinaryEffectSCM
from causalvae_pyro.scm.categories import CategoricalSCM
from causalvae_pyro.scm.flows import AffineFlowSCM, ConditionalFlowLayer, SplineFlowSCM
from causalvae_pyro.scm.given_labels import NoiseGivenLabels
from causalvae_pyro.scm.linear import LinearSCM
from causalvae_pyro.scm.mask import MaskLayer
from causalvae_pyro.scm.networks import NetworkLayer

__all__ = [
    "AdditiveNoiseLayer",
    "AdditiveNoiseSCM",
    "AffineFlowSCM",
    "BinaryEffectSCM",
    "CategoricalSCM",
    "CausalLayer",
    "CausalTransform",
    "ConditionalFlowLayer",
    "LinearSCM",
    "MaskLayer",
    "NetworkLayer",
    "NoiseGivenLabels",
    "SplineFlowSCM",
]
