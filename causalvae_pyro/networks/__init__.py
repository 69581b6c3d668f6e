"""Encoders and decoders.

An encoder maps images (and labels) to features: ``(x [..., C, H, W], labels [..., n] or None) -> [..., out_features]``.
A decoder maps concepts (and the image's own noise) to what a likelihood takes:
``(z [..., n, d], eps_x [..., r]) -> [..., C, H, W]``. Any module of that form can stand in for these.
"""

from causalvae_pyro.networks.augmentation import RandomBrightness, RandomSymmetry, RandomView
from causalvae_pyro.networks.bilinear import BilinearDecoder
from causalvae_pyro.networks.brightness import BrightnessDecoder
from causalvae_pyro.networks.critics import LabelPredictor, ProjectionDiscriminator
from causalvae_pyro.networks.decoders import ConvDecoder, FiLMDecoder, MLPDecoder
from causalvae_pyro.networks.displacement import Displacement
from causalvae_pyro.networks.encoders import AugmentedEncoder, Backbone, ConvEncoder, MLPEncoder, PooledEncoder, SpatialEncoder
from causalvae_pyro.networks.evidence import EvidenceEncoder
from causalvae_pyro.networks.fields import Fields
from causalvae_pyro.networks.hierarchy import FeaturePyramid, HierarchicalDecoder
from causalvae_pyro.networks.normalised import NormalisedEncoder, ResidualEncoder
from causalvae_pyro.networks.sprites import BackdropDecoder, SceneDecoder, SpriteDecoder

__all__ = [
    "AugmentedEncoder",
    "Backbone",
    "BackdropDecoder",
    "BilinearDecoder",
    "BrightnessDecoder",
    "ConvDecoder",
    "ConvEncoder",
    "Displacement",
    "EvidenceEncoder",
    "FeaturePyramid",
    "FiLMDecoder",
    "Fields",
    "HierarchicalDecoder",
    "LabelPredictor",
    "MLPDecoder",
    "MLPEncoder",
    "NormalisedEncoder",
    "PooledEncoder",
    "ProjectionDiscriminator",
    "RandomBrightness",
    "RandomSymmetry",
    "RandomView",
    "ResidualEncoder",
    "SceneDecoder",
    "SpatialEncoder",
    "SpriteDecoder",
]
