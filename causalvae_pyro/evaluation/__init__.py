"""Evaluation: the score card of a run, its tables and its report."""

from causalvae_pyro.evaluation.data import CounterfactualData, has_truth
from causalvae_pyro.evaluation.evaluate import evaluate, train_predictor
from causalvae_pyro.evaluation.predicted import train_photograph_predictor
from causalvae_pyro.evaluation.report import write_report
from causalvae_pyro.evaluation.tables import score_table

__all__ = [
    "CounterfactualData",
    "evaluate",
    "has_truth",
    "score_table",
    "train_photograph_predictor",
    "train_predictor",
    "write_report",
]
