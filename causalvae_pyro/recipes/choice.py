"""A recipe chosen by the data."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from causalvae_pyro.metrics.noise import noise_share
from causalvae_pyro.recipes.mirroring import left_right_matters
from causalvae_pyro.recipes.recipe import Recipe

__all__ = ["choose_recipe"]

# Simulators have at most 0.05 (with mechanism noise), photographs under known light 0.27, digits 0.87, faces 0.98.
_OWN_NOISE = 0.1
# Photographs of persons under known light: 0.10 within persons, of 0.27. Pose and expression change within persons too.
_WITHIN_GROUPS = 0.5
# Among fewer images even nearest neighbours differ by much.
_FEWEST = 200


def choose_recipe(images: Tensor, labels: Tensor, *, groups: Tensor | None = None, **options: Any) -> tuple[Recipe, str]:
    """The recipe that fits the data: do the labels explain the pixels, or have the images much of their own?

    In the latter case two more things are chosen: whether mirrored images keep their labels and, with groups, whether images of
    one group share what the labels do not say.

    Args:
        images: Training images ``[N, C, H, W]``, uint8 or in [0, 1].
        labels: Training labels ``[N, n]``, NaN where missing.
        groups: The group (person, patient, scene) of each image, ``[N]``, where it is known.
        **options: Of :class:`Recipe`, in place of what would be chosen.

    Returns:
        The recipe, and one line that says what was chosen and why; empty where the options decide.

    Raises:
        ValueError: If an option is out of range.
    """
    known, reasons = int((~labels.isnan().any(1)).sum()), []
    if "decoder" not in options:
        if known < _FEWEST:
            few = f"{known} images with all labels are too few to tell what they leave unexplained: decoder 'conv'"
            return Recipe(**options), few
        share = noise_share(images, labels)
        decoder = "hierarchical" if share > _OWN_NOISE else "conv"
        what = "noise of the image's own at several resolutions" if decoder == "hierarchical" else "no noise of the image's own"
        reasons.append(f"the labels leave {100 * share:.0f} % of the pixels' variance unexplained: {what} (decoder {decoder!r})")
        options["decoder"] = decoder
    if options["decoder"] == "hierarchical":
        if "mirror" not in options and left_right_matters(images, labels):
            options["mirror"] = False
            reasons.append("mirrored images are read worse: none are used (mirror False)")
        if "grouped" not in options and groups is not None and known >= _FEWEST:
            options["grouped"], line = _grouped(images, labels, groups)
            reasons.append(line)
    return Recipe(**options), "; ".join(reasons)


def _grouped(images: Tensor, labels: Tensor, groups: Tensor) -> tuple[bool, str]:
    share = noise_share(images, labels)
    try:
        within = noise_share(images, labels, groups=groups)
    except ValueError as error:
        return False, f"the noise is each image's own, not its group's ({error})"
    if within > _WITHIN_GROUPS * share:
        return False, f"within a group it is {100 * within:.0f} %: the noise is each image's own, not its group's (grouped False)"
    return True, f"within a group it is {100 * within:.0f} %: images of a group share their noise (grouped True)"
