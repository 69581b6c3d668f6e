"""Training objectives: the paper's bound with weights, and the terms that can be added to it."""

from causalvae_pyro.objectives.classifier_consistency import ClassifierConsistency
from causalvae_pyro.objectives.classifier_fit import ClassifierFit, reserved
from causalvae_pyro.objectives.consistency import CounterfactualConsistency
from causalvae_pyro.objectives.divergences import kl, kl_endogenous, kl_exogenous
from causalvae_pyro.objectives.elbo import CausalELBO
from causalvae_pyro.objectives.group_swap import GroupSwap
from causalvae_pyro.objectives.predictor_consistency import PredictorConsistency
from causalvae_pyro.objectives.sleep_phase import SleepPhase
from causalvae_pyro.objectives.sparsity import EffectSparsity
from causalvae_pyro.objectives.teacher_forcing import TeacherForcingMessenger
from causalvae_pyro.objectives.terms import LabelFit, MechanismFit, Term, warm_up

__all__ = [
    "CausalELBO",
    "ClassifierConsistency",
    "ClassifierFit",
    "CounterfactualConsistency",
    "EffectSparsity",
    "GroupSwap",
    "LabelFit",
    "MechanismFit",
    "PredictorConsistency",
    "SleepPhase",
    "TeacherForcingMessenger",
    "Term",
    "kl",
    "kl_endogenous",
    "kl_exogenous",
    "reserved",
    "warm_up",
]
