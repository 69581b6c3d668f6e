"""What CausalVAE is compared with: model and guide pairs on the same networks, for the same trainer and metrics."""

from causalvae_pyro.baselines.cvae import CVAE, CVAEGuide

__all__ = ["CVAE", "CVAEGuide"]
