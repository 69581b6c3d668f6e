"""The recipe that ``causalvae train`` uses: chosen by the data, or as its options say."""

from __future__ import annotations

import argparse
from typing import Any

from torch import Tensor

from causalvae_pyro.datasets.registry import SIMULATORS
from causalvae_pyro.recipes import Recipe, choose_recipe

__all__ = ["choose", "schedule"]

#: Epochs of the presets, and images per step of the decoders. Half of the epochs in steps of 32 images serve Pendulum's sprites
#: as well, and cost Flow's thin jet some of its effect (docs/notes.md).
_EPOCHS = {"fast": 12, "best": 30}
_BATCH_SIZES = {"conv": 64, "sprites": 64, "hierarchical": 32}
#: Of --quick, which has few images: more steps than batches of 64 give.
_QUICK = {"epochs": 3, "batch_size": 32}


def choose(arguments: argparse.Namespace, images: Tensor, labels: Tensor) -> tuple[Recipe, str]:
    """The recipe, and a line that says why; an empty one where the options decide.

    Args:
        arguments: Of the command.
        images: Training images ``[N, C, H, W]``.
        labels: Training labels ``[N, n]``.

    Raises:
        ValueError: If an option does not fit the decoder.
    """
    options: dict[str, Any] = {
        "dim": arguments.dim,
        "prior_std": arguments.prior_std,
        "w_eps": arguments.w_eps,
        "w_z": arguments.w_z,
        "encoder": arguments.encoder,
        "refinements": arguments.refinements,
        "noise_dim": 0 if arguments.noise_dim is None else arguments.noise_dim,
        "mirror": arguments.mirror,
    }
    decoder = arguments.decoder
    if decoder is None and arguments.noise_dim:
        decoder = "conv"
    if decoder is None and arguments.data in SIMULATORS:
        # With few labels the sprites are untried.
        decoder = "sprites" if arguments.label_share == 1 else "conv"
    recipe, reason = choose_recipe(images, labels, **options) if decoder is None else (Recipe(decoder=decoder, **options), "")
    if recipe.decoder == "sprites" and arguments.patience is not None:
        raise ValueError(
            "--patience: the sprites' loss increases with the sparsity weight and would always stop early; use --decoder conv"
        )
    return recipe, f"{reason}; --decoder overrides it" if reason else ""


def schedule(arguments: argparse.Namespace, recipe: Recipe) -> tuple[int, int]:
    """Epochs, and images per step: those of the preset and the decoder, where no option gives them.

    Args:
        arguments: Of the command.
        recipe: That is trained.
    """
    epochs, batch_size = _EPOCHS[arguments.preset], _BATCH_SIZES[recipe.decoder]
    if arguments.quick:
        epochs, batch_size = _QUICK["epochs"], _QUICK["batch_size"]
    return (
        epochs if arguments.epochs is None else arguments.epochs,
        batch_size if arguments.batch_size is None else arguments.batch_size,
    )
