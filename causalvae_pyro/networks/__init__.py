"""Encoders and decoders.

An encoder maps images (and labels) to features: ``(x [..., C, H, W], labels [..., n] or None) -> [..., out_features]``.
A decoder maps concepts (and the image's own noise) to what a likelihood takes:
``(z [..., n, d], eps_x [..., r]) -> [..., C, H, W]``. Any module of that form can stand in for these.
"""

from causalvae_pyro.networks.augmentation import RandomBrightness, RandomSymmetry
from causalvae_pyro.networks.decoders import ConvDecoder, MLPDecoder, ModulatedDecoder
from causalvae_pyro.networks.encoders import AugmentedEncoder, ConvEncoder, MLPEncoder, PooledEncoder, SpatialEncoder
from causalvae_pyro.networks.gain import GainDecoder
from causalvae_pyro.networks.sprites import SpriteDecoder

__all__ = [
    "AugmentedEncoder",
    "ConvDecoder",
    "ConvEncoder",
    "GainDecoder",
    "MLPDecoder",
    "MLPEncoder",
    "ModulatedDecoder",
    "PooledEncoder",
    "RandomBrightness",
    "RandomSymmetry",
    "SpatialEncoder",
    "SpriteDecoder",
]
