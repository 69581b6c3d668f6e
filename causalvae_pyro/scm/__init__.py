"""Causal layers: ``z = f(eps)`` with one site per concept."""

from causalvae_pyro.scm.additive_noise import AdditiveNoiseSCM
from causalvae_pyro.scm.base import AdditiveNoiseLayer, CausalLayer, CausalTransform
from causalvae_pyro.scm.linear import LinearSCM

__all__ = ["AdditiveNoiseLayer", "AdditiveNoiseSCM", "CausalLayer", "CausalTransform", "LinearSCM"]
