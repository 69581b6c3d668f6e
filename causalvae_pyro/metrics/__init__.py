"""Scores, as plain functions on tensors and arrays, and the independent predictor that some of them need."""

from causalvae_pyro.metrics.axioms import composition, effectiveness, minimality, reversibility
from causalvae_pyro.metrics.counterfactual import cf_errors, cf_score, cf_score_of_errors
from causalvae_pyro.metrics.coverage import interval_coverage
from causalvae_pyro.metrics.dci import DCI, dci
from causalvae_pyro.metrics.disentanglement import irs, mcc, mig, sap
from causalvae_pyro.metrics.efficiency import efficiency_curve, sample_efficiency
from causalvae_pyro.metrics.fid import FID, fid
from causalvae_pyro.metrics.image_vae import ImageVAE, gaussian_kl
from causalvae_pyro.metrics.information import MicTic, MicTicMatrix, mic, mic_e, mic_matrix, mic_tic, tic, tic_e
from causalvae_pyro.metrics.intervals import bootstrap_interval, seeds_interval, subsampling_interval
from causalvae_pyro.metrics.kinds import kind_scores
from causalvae_pyro.metrics.label_weights import LabelWeights
from causalvae_pyro.metrics.lpips import lpips
from causalvae_pyro.metrics.noise import linear_noise_share, noise_share
from causalvae_pyro.metrics.photograph_predictor import PhotographPredictor
from causalvae_pyro.metrics.predictor import Predictor
from causalvae_pyro.metrics.regression import r2_score
from causalvae_pyro.metrics.representation import representation_scores
from causalvae_pyro.metrics.structure import EdgeScores, edge_scores, order_error, shd

__all__ = [
    "DCI",
    "FID",
    "EdgeScores",
    "ImageVAE",
    "LabelWeights",
    "MicTic",
    "MicTicMatrix",
    "PhotographPredictor",
    "Predictor",
    "bootstrap_interval",
    "cf_errors",
    "cf_score",
    "cf_score_of_errors",
    "composition",
    "dci",
    "edge_scores",
    "effectiveness",
    "efficiency_curve",
    "fid",
    "gaussian_kl",
    "interval_coverage",
    "irs",
    "kind_scores",
    "linear_noise_share",
    "lpips",
    "mcc",
    "mic",
    "mic_e",
    "mic_matrix",
    "mic_tic",
    "mig",
    "minimality",
    "noise_share",
    "order_error",
    "r2_score",
    "representation_scores",
    "reversibility",
    "sample_efficiency",
    "sap",
    "seeds_interval",
    "shd",
    "subsampling_interval",
    "tic",
    "tic_e",
]
