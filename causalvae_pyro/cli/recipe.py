"""The recipe that ``causalvae train`` uses: chosen by the data, or as its options say."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from causalvae_pyro.datasets.registry import SIMULATORS
from causalvae_pyro.recipes import CANDIDATES, Recipe, choose_recipe, usual_schedule

__all__ = ["choose", "schedule"]

#: Epochs of the presets: of images of one's own at least so many.
_EPOCHS = {"fast": 12, "best": 30}
#: Half of the epochs in steps of half the images serve Pendulum as well, and cost Flow's thin jet some of its effect
#: (docs/notes.md). Faces are measured with eight (docs/results.md).
_FAST = {("pendulum", "sprites"): (6, 32), ("celeba", "hierarchical"): (8, 32)}
_SIMULATOR_BATCH_SIZE = 64
#: Of --quick: epochs, images per step, and at least so many steps.
_QUICK, _QUICK_STEPS = (3, 32), 180
#: What only these decoders have a use for.
_OF_PHOTOGRAPHS = {"mirror": ("hierarchical", "bilinear"), "views": ("hierarchical",)}


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
        **{
            name: value for name in ("noise_dim", "mirror", "views", "grouped") if (value := getattr(arguments, name)) is not None
        },
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
            "--patience: the sprites' loss increases where the sparsity weight grows and would stop early; use --decoder conv"
        )
    idle = [f"--{name}" for name, decoders in _OF_PHOTOGRAPHS.items() if name in options and recipe.decoder not in decoders]
    if idle:
        reason = "; ".join(filter(None, [reason, f"not used with decoder {recipe.decoder!r}: {', '.join(idle)}"]))
    named = ", ".join(f"--{option}" for option in ("decoder", "mirror", "views", "grouped") if f"({option} " in reason)
    return recipe, f"{reason} (options: {named})" if named else reason


def schedule(arguments: argparse.Namespace, recipe: Recipe, count: int) -> tuple[int, int]:
    """Epochs, and images per step: those of the preset and the decoder, where no option gives them.

    Args:
        arguments: Of the command.
        recipe: That is trained.
        count: Training images; where they are fewer than those of a step, a step takes all of them (an even number, for pairs).
    """
    epochs, batch_size = _EPOCHS[arguments.preset], _SIMULATOR_BATCH_SIZE
    if arguments.data not in SIMULATORS or recipe.decoder not in CANDIDATES:
        epochs, batch_size = usual_schedule(recipe.decoder, count, epochs=epochs, batch_size=arguments.batch_size)
    if arguments.preset == "fast":
        epochs, batch_size = _FAST.get((arguments.data, recipe.decoder), (epochs, batch_size))
    if arguments.quick:
        epochs, batch_size = _QUICK
        epochs = max(epochs, math.ceil(_QUICK_STEPS / max(count // batch_size, 1)))
    batch_size = min(batch_size, max(count - count % 2, 1))
    return (
        epochs if arguments.epochs is None else arguments.epochs,
        batch_size if arguments.batch_size is None else arguments.batch_size,
    )
