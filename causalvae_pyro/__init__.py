"""CausalVAE (Yang et al., CVPR 2021) as Pyro programs.

The generative model p(x, z, eps | u) is :class:`CausalVAE`; the encoder q(eps | x, u) is a guide from
:mod:`causalvae_pyro.guides`; :func:`fit` trains the pair; ``pyro.poutine.do`` or :func:`counterfactual` intervenes.
"""

from causalvae_pyro.action import intervene
from causalvae_pyro.checkpoint import Run, SaveCheckpoint, load, save
from causalvae_pyro.consistency import CounterfactualConsistency
from causalvae_pyro.counterfactual import abduct, counterfactual, encode, predict, reconstruct
from causalvae_pyro.effects import ate, ite, sample_interventional, twin_worlds
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.guides import (
    BlockEndogenousGuide,
    BlockExogenousGuide,
    EndogenousGuide,
    ExogenousGuide,
    FlowEndogenousGuide,
    FlowExogenousGuide,
    FullRankEndogenousGuide,
    FullRankExogenousGuide,
    LabelledGuide,
    RefinedGuide,
)
from causalvae_pyro.interventions import Replace, Scale, Shift, SoftIntervention, soft_do
from causalvae_pyro.likelihoods import (
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    GaussianLikelihood,
    LaplaceLikelihood,
)
from causalvae_pyro.model import CausalVAE
from causalvae_pyro.networks import (
    AugmentedEncoder,
    ConvDecoder,
    ConvEncoder,
    GainDecoder,
    MLPDecoder,
    MLPEncoder,
    ModulatedDecoder,
    PooledEncoder,
    RandomBrightness,
    RandomSymmetry,
    SpatialEncoder,
    SpriteDecoder,
)
from causalvae_pyro.objectives import CausalELBO, LabelFit, MechanismFit, warm_up
from causalvae_pyro.predictor_consistency import PredictorConsistency
from causalvae_pyro.priors import FixedPrior, LearnedPrior
from causalvae_pyro.scm import AdditiveNoiseSCM, AffineFlowSCM, LinearSCM, MaskLayer, SplineFlowSCM
from causalvae_pyro.sleep import SleepPhase
from causalvae_pyro.sparsity import SparseEffects
from causalvae_pyro.training import History, NonFiniteLossError, fit

__version__ = "0.1.0"

__all__ = [
    "AdditiveNoiseSCM",
    "AffineFlowSCM",
    "AugmentedEncoder",
    "BernoulliLikelihood",
    "BlockEndogenousGuide",
    "BlockExogenousGuide",
    "CausalELBO",
    "CausalGraph",
    "CausalVAE",
    "ContinuousBernoulliLikelihood",
    "ConvDecoder",
    "ConvEncoder",
    "CounterfactualConsistency",
    "EndogenousGuide",
    "ExogenousGuide",
    "FixedPrior",
    "FlowEndogenousGuide",
    "FlowExogenousGuide",
    "FullRankEndogenousGuide",
    "FullRankExogenousGuide",
    "GainDecoder",
    "GaussianLikelihood",
    "History",
    "LabelFit",
    "LabelledGuide",
    "LaplaceLikelihood",
    "LearnedPrior",
    "LinearSCM",
    "MLPDecoder",
    "MLPEncoder",
    "MaskLayer",
    "MechanismFit",
    "ModulatedDecoder",
    "NonFiniteLossError",
    "PooledEncoder",
    "PredictorConsistency",
    "RandomBrightness",
    "RandomSymmetry",
    "RefinedGuide",
    "Replace",
    "Run",
    "SaveCheckpoint",
    "Scale",
    "Shift",
    "SleepPhase",
    "SoftIntervention",
    "SparseEffects",
    "SpatialEncoder",
    "SplineFlowSCM",
    "SpriteDecoder",
    "abduct",
    "ate",
    "counterfactual",
    "encode",
    "fit",
    "intervene",
    "ite",
    "load",
    "predict",
    "reconstruct",
    "sample_interventional",
    "save",
    "soft_do",
    "twin_worlds",
    "warm_up",
]
