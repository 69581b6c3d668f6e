"""Scores, as plain functions on tensors."""

from causalvae_pyro.metrics.counterfactual import cf_score
from causalvae_pyro.metrics.regression import r2_score

__all__ = ["cf_score", "r2_score"]
