"""Interventions: Pyro handlers for ``do`` and soft ``do``, counterfactuals, and causal effects."""

from causalvae_pyro.interventions.actions import InterventionSet, intervene
from causalvae_pyro.interventions.counterfactuals import (
    abduct,
    abduct_pixels,
    counterfactual,
    counterfactual_traces,
    encode,
    predict,
    reconstruct,
)
from causalvae_pyro.interventions.effects import (
    AverageEffect,
    IndividualEffects,
    TwinWorlds,
    World,
    ate,
    ite,
    sample_interventional,
    twin_worlds,
)
from causalvae_pyro.interventions.handlers import Replace, Scale, Shift, SoftDoMessenger, SoftIntervention, soft_do
from causalvae_pyro.interventions.pixel_effects import pixel_effects
from causalvae_pyro.interventions.pixels import FADE, FadingNoise
from causalvae_pyro.interventions.sweeps import sweep

__all__ = [
    "FADE",
    "AverageEffect",
    "FadingNoise",
    "IndividualEffects",
    "InterventionSet",
    "Replace",
    "Scale",
    "Shift",
    "SoftDoMessenger",
    "SoftIntervention",
    "TwinWorlds",
    "World",
    "abduct",
    "abduct_pixels",
    "ate",
    "counterfactual",
    "counterfactual_traces",
    "encode",
    "intervene",
    "ite",
    "pixel_effects",
    "predict",
    "reconstruct",
    "sample_interventional",
    "soft_do",
    "sweep",
    "twin_worlds",
]
