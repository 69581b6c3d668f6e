"""The recipe that ``causalvae train`` uses: chosen by the data, or as its options say."""

from __future__ import annotations

import argparse
from typing import Any

from torch import Tensor

from causalvae_pyro.datasets.registry import SIMULATORS
from causalvae_pyro.recipes import CANDIDATES, Recipe, choose_recipe

__all__ = ["choose"]


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
        decoder = "sprites" if arguments.label_share == 1 else "conv"
    if decoder in (None, "auto"):
        # With few labels the others are untried, and with patience they would always stop early.
        few = arguments.label_share < 1 or arguments.patience is not None
        recipe, reason = choose_recipe(images, labels, candidates=("conv",) if few else CANDIDATES, **options)
    else:
        recipe, reason = Recipe(decoder=decoder, **options), ""
    if recipe.decoder in ("sprites", "scene") and arguments.patience is not None:
        raise ValueError(
            "--patience: the sprites' loss increases with the sparsity weight and would always stop early; use --decoder conv"
        )
    return recipe, reason
