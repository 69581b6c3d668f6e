"""Amortised guides: ``q(eps | x, u)`` as Pyro programs.

One :class:`AmortizedGuide` takes a variational family (:class:`Family`) and, to be over ``z``, the causal layer; wrappers
(:class:`GuideWrapper`) go round any guide over ``z``. Any callable with the model's signature that samples ``eps`` (and
``eps_x`` where the model has it) can stand in for these.
"""

from causalvae_pyro.guides.amortized import AmortizedGuide
from causalvae_pyro.guides.base import PosteriorGuide
from causalvae_pyro.guides.bilinear import BilinearGuide
from causalvae_pyro.guides.calibrated import CalibratedGuide, calibrate
from causalvae_pyro.guides.families import BlockDiagonalNormal, DiagonalNormal, Family, FullRankNormal
from causalvae_pyro.guides.flows import NormalizingFlow
from causalvae_pyro.guides.hierarchical import HierarchicalGuide
from causalvae_pyro.guides.iterative import IterativeGuide
from causalvae_pyro.guides.label_conditioned import LabelConditionedGuide
from causalvae_pyro.guides.wrapper import GuideWrapper

__all__ = [
    "AmortizedGuide",
    "BilinearGuide",
    "BlockDiagonalNormal",
    "CalibratedGuide",
    "DiagonalNormal",
    "Family",
    "FullRankNormal",
    "GuideWrapper",
    "HierarchicalGuide",
    "IterativeGuide",
    "LabelConditionedGuide",
    "NormalizingFlow",
    "PosteriorGuide",
    "calibrate",
]
