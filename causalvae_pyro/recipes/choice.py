"""A recipe chosen by the data."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from causalvae_pyro.metrics.noise import noise_share
from causalvae_pyro.recipes.recipe import Recipe

__all__ = ["choose_recipe"]

# Simulators have at most 0.05 (with mechanism noise), photographs under known light 0.27, digits 0.87, faces 0.98.
_OWN_NOISE = 0.1
# Among fewer images even nearest neighbours differ by much.
_FEWEST = 200


def choose_recipe(images: Tensor, labels: Tensor, **options: Any) -> tuple[Recipe, str]:
    """The recipe that fits the data: do the labels explain the pixels, or have the images much of their own?

    Args:
        images: Training images ``[N, C, H, W]``, uint8 or in [0, 1].
        labels: Training labels ``[N, n]``, NaN where missing.
        **options: Of :class:`Recipe`, in place of what would be chosen.

    Returns:
        The recipe, and one line that says what was chosen and why.

    Raises:
        ValueError: If an option is out of range.
    """
    if (known := int((~labels.isnan().any(1)).sum())) < _FEWEST:
        return Recipe(
            **options
        ), f"{known} images with all labels are too few to tell what they leave unexplained: decoder 'conv'"
    share = noise_share(images, labels)
    decoder = "hierarchical" if share > _OWN_NOISE else "conv"
    what = "noise of the image's own at several resolutions" if decoder == "hierarchical" else "no noise of the image's own"
    line = f"the labels leave {100 * share:.0f} % of the pixels' variance unexplained: {what} (decoder {decoder!r})"
    return Recipe(**{"decoder": decoder, **options}), line
