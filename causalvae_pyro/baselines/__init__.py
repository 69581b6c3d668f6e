"""What CausalVAE is compared with: model and guide pairs on the same networks, for the same trainer and metrics."""

from causalvae_pyro.baselines.condition_vae import ConditionGuide, ConditionVAE

__all__ = ["ConditionGuide", "ConditionVAE"]
