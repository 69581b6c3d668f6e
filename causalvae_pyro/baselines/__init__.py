"""What CausalVAE is compared with: model and guide pairs on the same networks, for the same trainer and metrics."""

from causalvae_pyro.baselines.alignment import AlignedPrior, align, relabel
from causalvae_pyro.baselines.cvae import CVAE, CVAEGuide
from causalvae_pyro.baselines.ivae import IVAEPrior
from causalvae_pyro.baselines.ladder_vae import LadderGuide, LadderPosterior, LowerLevel, ladder_layer
from causalvae_pyro.baselines.methods import METHODS, Method, beta_vae, causal_vae_unsup, condition_vae, ivae, ladder_vae
from causalvae_pyro.baselines.paper import DeterministicNormal, PaperRecipe, SigmoidLabelFit

__all__ = [
    "CVAE",
    "METHODS",
    "AlignedPrior",
    "CVAEGuide",
    "DeterministicNormal",
    "IVAEPrior",
    "LadderGuide",
    "LadderPosterior",
    "LowerLevel",
    "Method",
    "PaperRecipe",
    "SigmoidLabelFit",
    "align",
    "beta_vae",
    "causal_vae_unsup",
    "condition_vae",
    "ivae",
    "ladder_layer",
    "ladder_vae",
    "relabel",
]
