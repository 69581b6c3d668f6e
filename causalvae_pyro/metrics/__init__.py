"""Scores, as plain functions on tensors, and the independent predictor that some of them need."""

from causalvae_pyro.metrics.counterfactual import cf_score
from causalvae_pyro.metrics.predictor import Predictor
from causalvae_pyro.metrics.regression import r2_score

__all__ = ["Predictor", "cf_score", "r2_score"]
