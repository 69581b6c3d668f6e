"""Checkpoints: saving and loading a trained model with its guide, and sharing it on the Hugging Face Hub."""

from causalvae_pyro.checkpoints.hub import from_pretrained, model_card, push_to_hub, save_pretrained
from causalvae_pyro.checkpoints.runs import Run, SaveCheckpoint, load, save

__all__ = [
    "Run",
    "SaveCheckpoint",
    "from_pretrained",
    "load",
    "model_card",
    "push_to_hub",
    "save",
    "save_pretrained",
]
