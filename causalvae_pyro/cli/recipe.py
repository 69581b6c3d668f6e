"""The recipe that ``causalvae train`` uses: chosen by the data, or as its options say."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from causalvae_pyro.datasets.registry import SIMULATORS
from causalvae_pyro.recipes import CANDIDATES, Recipe, choose_recipe

__all__ = ["choose", "schedule"]

#: Epochs of the presets, and images per step of the decoders.
_EPOCHS = {"fast": 12, "best": 30}
_BATCH_SIZES = {"conv": 64, "sprites": 64, "scene": 64, "backdrop": 32, "hierarchical": 32}
#: Faces are measured with eight (docs/results.md). Half of the epochs in steps of half the images serve Pendulum as well, and
#: cost Flow's thin jet some of its effect (docs/notes.md).
_FAST = {("pendulum", "sprites"): {"epochs": 6, "batch_size": 32}, ("celeba", "hierarchical"): {"epochs": 8}}
#: Basis, noise and reading have closed forms.
_BILINEAR = {"epochs": 3, "batch_size": 32}
#: Of --quick, which has few images: more steps than batches of 64 give.
_QUICK = {"epochs": 3, "batch_size": 32}


def choose(
    arguments: argparse.Namespace,
    images: Tensor,
    labels: Tensor,
    groups: Tensor | None = None,
    kinds: Sequence[int] = (),
) -> tuple[Recipe, str]:
    """The recipe, and a line that says why; an empty one where the options decide.

    Args:
        arguments: Of the command.
        images: Training images ``[N, C, H, W]``.
        labels: Training labels ``[N, n]``.
        groups: The group of each image, where it is known.
        kinds: For each label the number of its kinds where it is a category, else 0.

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
        **{name: value for name in ("mirror", "views", "grouped") if (value := getattr(arguments, name)) is not None},
    }
    if arguments.grouped and groups is None:
        raise ValueError("--grouped: the images have no groups; --group-by names the column that has")
    decoder = arguments.decoder
    if decoder is None and arguments.noise_dim:
        decoder = "conv"
    if decoder is None and arguments.data in SIMULATORS:
        decoder = "sprites" if arguments.label_share == 1 else "conv"
    if decoder in (None, "auto"):
        # With few labels the others are untried, and with patience they would always stop early.
        few = arguments.label_share < 1 or arguments.patience is not None or Recipe().labelled_repeats(labels) > 1
        options["candidates"] = ("conv",) if few else CANDIDATES
    else:
        options["decoder"] = decoder
    recipe, reason = choose_recipe(images, labels, groups=groups, kinds=kinds, **options)
    if recipe.decoder in ("sprites", "scene", "backdrop") and arguments.patience is not None:
        raise ValueError(
            "--patience: the sprites' loss increases with the sparsity weight and would always stop early; use --decoder conv"
        )
    named = ", ".join(f"--{option}" for option in ("decoder", "mirror", "views", "grouped") if f"({option} " in reason)
    return recipe, f"{reason} (options: {named})" if named else reason


def schedule(arguments: argparse.Namespace, recipe: Recipe, count: int) -> tuple[int, int]:
    """Epochs, and images per step: those of the preset and the decoder, where no option gives them.

    Args:
        arguments: Of the command.
        recipe: That is trained.
        count: Training images; where they are fewer than those of a step, a step takes all of them (an even number, for pairs).
    """
    usual = _BILINEAR
    if recipe.decoder != "bilinear":
        usual = {"epochs": _EPOCHS[arguments.preset], "batch_size": _BATCH_SIZES[recipe.decoder]}
    if arguments.preset == "fast":
        usual |= _FAST.get((arguments.data, recipe.decoder), {})
    if arguments.quick:
        usual = _QUICK
    usual = usual | {"batch_size": min(usual["batch_size"], max(count - count % 2, 1))}
    given = {name: getattr(arguments, name) for name in usual if getattr(arguments, name) is not None}
    chosen = usual | given
    return chosen["epochs"], chosen["batch_size"]
