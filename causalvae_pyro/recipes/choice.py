"""A recipe chosen by the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from causalvae_pyro.metrics.noise import noise_share
from causalvae_pyro.networks import ConvDecoder, SceneDecoder, SpriteDecoder
from causalvae_pyro.recipes.recipe import Recipe
from causalvae_pyro.recipes.trial import known_concepts, try_decoders, unusual
from causalvae_pyro.utils.random_state import kept_rng_state

__all__ = ["CANDIDATES", "choose_recipe"]

# Simulators have at most 0.05 (with mechanism noise), photographs under known light 0.27, digits 0.87, faces 0.98.
_OWN_NOISE = 0.1
# Among fewer images even nearest neighbours differ by much.
_FEWEST = 200
#: From the strongest assumptions to the weakest.
CANDIDATES = ("sprites", "scene", "conv")
# A stronger assumption that holds carries further than a trial can tell: it stays unless a weaker one leaves clearly less.
_WORTH = 1.25
_MOST = 2000
# Pairs of more concepts have more fields than is worth their time.
_MOST_CONCEPTS = 12
# After so short a trial, errors of two grey levels say nothing.
_TWO_GREY_LEVELS = 2 / 255


def choose_recipe(
    images: Tensor, labels: Tensor, *, candidates: Sequence[str] = CANDIDATES, **options: Any
) -> tuple[Recipe, str]:
    """The recipe that fits the data.

    Where the labels leave much of the pixels unexplained (:func:`~causalvae_pyro.metrics.noise_share`) it is the one for images
    with much of their own. Else decoders are tried: each is trained for a short while, on known concepts and without a guide, and
    compared on images held out whose effects their causes predict least: of all images they are the most like interventions. The
    first of sprites, scene and convolutions is taken whose error is at most a quarter larger than that of the others.

    Args:
        images: Training images ``[N, C, H, W]``, uint8 or in [0, 1].
        labels: Training labels ``[N, n]``, NaN where missing.
        candidates: The decoders to try, of :data:`CANDIDATES`; a single one is taken untried.
        **options: Of :class:`Recipe`, in place of what would be chosen.

    Returns:
        The recipe, and one line that says what was chosen and why.

    Raises:
        ValueError: If an option is out of range.
    """
    if not candidates or not set(candidates) <= set(CANDIDATES):
        raise ValueError(f"candidates: got {list(candidates)}; valid: {', '.join(map(repr, CANDIDATES))}")
    complete = ~labels.isnan().any(1)
    if (known := int(complete.sum())) < _FEWEST:
        return Recipe(
            **options
        ), f"{known} images with all labels are too few to tell what they leave unexplained: decoder 'conv'"
    share = noise_share(images, labels)
    if labels.shape[1] > _MOST_CONCEPTS and len(candidates) > 1:
        candidates = [name for name in candidates if name != "scene"]
    said = f"the labels leave {100 * share:.0f} % of the pixels' variance unexplained"
    if share > _OWN_NOISE:
        line = f"{said}: noise of the image's own at several resolutions (decoder 'hierarchical')"
        return Recipe(**{"decoder": "hierarchical", **options}), line
    line = f"{said}: no noise of the image's own"
    # Convolutions alone can have noise in one vector.
    only = options.get("decoder", "conv" if options.get("noise_dim") else candidates[0])
    if "decoder" in options or options.get("noise_dim") or len(candidates) == 1:
        return Recipe(**{**options, "decoder": only}), f"{line} (decoder {only!r})"
    errors = _try(candidates, Recipe(**options), images[complete], labels[complete])
    decoder = _choose(errors)
    found = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    # As in the trial: the decoder learns from known concepts.
    options = {"teacher_forcing": decoder == "conv", **options}
    line = f"{line}; squared error on the most unusual images after a trial: {found} (decoder {decoder!r})"
    return Recipe(**{**options, "decoder": decoder}), line


def _choose(errors: dict[str, float]) -> str:
    left = {name: error + _TWO_GREY_LEVELS**2 for name, error in errors.items()}
    return next(name for name in CANDIDATES if name in left and left[name] <= _WORTH * min(left.values()))


def _try(candidates: Sequence[str], recipe: Recipe, images: Tensor, labels: Tensor) -> dict[str, float]:
    with kept_rng_state(images.device):
        torch.manual_seed(0)
        chosen = torch.randperm(len(images))[:_MOST]
        images, labels = images[chosen].cpu(), labels[chosen].float().cpu()
        held = unusual(labels)
        concepts = known_concepts(labels, recipe.dim, 1.0)
        n, seen = labels.shape[1], images[~held]
        made: dict[str, Callable[[], nn.Module]] = {
            "sprites": lambda: SpriteDecoder.from_images(seen, n, recipe.dim, concepts=concepts[~held]),
            "scene": lambda: SceneDecoder.from_images(seen, n, recipe.dim, concepts=concepts[~held]),
            "conv": lambda: ConvDecoder.from_images(seen, n, recipe.dim),
        }
        decoders = {name: made[name]() for name in candidates}
        return try_decoders(decoders, images, concepts, held, weight=recipe.sparsity_weight, growth=recipe.sparsity_weight_growth)
