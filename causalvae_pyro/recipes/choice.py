"""A recipe chosen by the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from causalvae_pyro.metrics.noise import linear_noise_share, noise_share
from causalvae_pyro.networks import ConvDecoder
from causalvae_pyro.networks.sprites.start import find_moving_start
from causalvae_pyro.recipes import bilinear
from causalvae_pyro.recipes.growth import grow_scene, grow_sprites
from causalvae_pyro.recipes.mirroring import left_right_matters
from causalvae_pyro.recipes.price import price_growth
from causalvae_pyro.recipes.recipe import Recipe
from causalvae_pyro.recipes.trial import known_concepts, try_decoders, unusual
from causalvae_pyro.recipes.views import VIEWS, misread_after, telling_changes
from causalvae_pyro.utils.images import scale_images
from causalvae_pyro.utils.label_columns import is_binary, one_hot_categories
from causalvae_pyro.utils.random_state import kept_rng_state

__all__ = ["CANDIDATES", "choose_recipe"]

# Simulators have at most 0.05 (with mechanism noise), photographs under known light 0.27, digits 0.87, faces 0.98.
_OWN_NOISE = 0.1
# Where parts are sharp and concepts many, even nearest neighbours differ by much, as if by noise: four squares that the labels
# place have 0.50 among 250 images and 0.25 among 2,000. Up to this share a trial of decoders has its say as well.
_DOUBTFUL = 0.75
# What few images make of sharp parts falls as they grow in number, noise does not: among half as many it is 1.2 to 2.3 times
# as much in the benchmark's scenes with 300 to 1,000 images, and 1.0 to 1.13 times where images have much of their own. What
# falls with the power 0.75 of their number is left out.
_FALLS = 1 / (2**0.75 - 1)
# Photographs of persons under known light: 0.10 within persons, of 0.27. Pose and expression change within persons too.
_WITHIN_GROUPS = 0.5
# Of what the labels leave, 16 principal components explain 0.98 on images held out where a drawn face has a colour, a width, hair
# and a shirt of its own, and 0.84 of a flower with its own petals that leans; 0.77 of photographs of faces (0.77 to 0.78
# in four samples of 2,000; the flower 0.84 to 0.85 in three), 0.61 of handwriting, 0.32 where each image has another background.
_DIRECTIONS, _ALONG = 16, 0.8
# Numbers of noise, and how many they and the concepts may be together. A step with 8 and 8 takes 1.5 times as long as with 8 and
# 4 concepts; what is taken otherwise, 'hierarchical', takes longer still, and draws grain.
_OWN = 8
_MOST_WITH_OWN = 16
# Among fewer images even nearest neighbours differ by much.
_FEWEST = 200
#: From the strongest assumptions to the weakest.
CANDIDATES = ("sprites", "scene", "conv")
# A stronger assumption that holds carries further than a trial can tell: it stays unless a weaker one leaves clearly less.
_WORTH = 1.1
_MOST = 2000
# Pairs of more concepts have more fields than is worth their time where sprites or convolutions can be taken instead.
_MOST_CONCEPTS = 12
# After so short a trial, errors of two grey levels say nothing.
_TWO_GREY_LEVELS = 2 / 255
_SEVERAL = " at several resolutions (decoder 'hierarchical')"


def choose_recipe(
    images: Tensor,
    labels: Tensor,
    *,
    groups: Tensor | None = None,
    kinds: Sequence[int] = (),
    candidates: Sequence[str] = CANDIDATES,
    **options: Any,
) -> tuple[Recipe, str]:
    """The recipe that fits the data.

    Where the labels leave much of the pixels unexplained (:func:`~causalvae_pyro.metrics.noise_share`, less what falls as
    images grow in number), and none of the decoders below explains it, it is the one for images with much of their own. If
    what is left lies along a few directions (:func:`~causalvae_pyro.metrics.linear_noise_share`), there are no groups and at
    most eight labels, a scene gets noise in one vector. If more than half of the concepts move parts of one colour, these lie
    before a background of each image's own. Else it is chosen whether mirrored images keep their labels, which small changes
    of an image do (:func:`~causalvae_pyro.recipes.views.telling_changes` and
    :func:`~causalvae_pyro.recipes.views.misread_after`) and, with groups, whether images of one group share what the labels
    do not say. If they do, and a basis of some groups' images says more of another group than the mean image of its labels,
    the decoder is the bilinear one.

    Else decoders are tried: each is trained for a short while, on known concepts and without a guide, and compared on images held
    out whose effects their causes predict least: of all images they are the most like interventions. The first of sprites, scene
    and convolutions is taken whose error is at most a tenth larger than that of the others.

    Args:
        images: Training images ``[N, C, H, W]``, uint8 or in [0, 1].
        labels: Training labels ``[N, n]``, NaN where missing.
        groups: The group (person, patient, scene) of each image, ``[N]``, where it is known.
        kinds: For each label the number of its kinds where it is a category, else 0; by default none is. Of the decoders to try
            only ``"conv"`` takes categories.
        candidates: The decoders to try, of :data:`CANDIDATES`; a single one is taken untried.
        **options: Of :class:`Recipe`, in place of what would be chosen.

    Returns:
        The recipe, and one line that says what was chosen and why; empty where the options decide.

    Raises:
        ValueError: If an option is out of range.
    """
    if not candidates or not set(candidates) <= set(CANDIDATES):
        raise ValueError(f"candidates: got {list(candidates)}; valid: {', '.join(map(repr, CANDIDATES))}")
    if any(kinds):
        labels, candidates = one_hot_categories(labels, kinds), ("conv",)
    reasons = []
    by_the_data = "decoder" not in options
    if by_the_data:
        options["decoder"], line = _decoder(images, labels, candidates, options, groups is not None)
        reasons.append(line)
    if options["decoder"] == "bilinear":
        options.setdefault("grouped", True)
    if options["decoder"] in ("hierarchical", "bilinear"):
        if "mirror" not in options and left_right_matters(images, labels):
            options["mirror"] = False
            reasons.append("mirrored images are read worse: they do not keep their labels (mirror False)")
        if "grouped" not in options and groups is not None and _known(labels) >= _FEWEST:
            options["grouped"], line = _grouped(images, labels, groups)
            reasons.append(line)
        if by_the_data and options.get("grouped") and groups is not None and _known(labels) >= _FEWEST:
            complete = ~labels.isnan().any(1)
            if bilinear.generalises(images[complete], labels[complete], groups.to(labels.device)[complete]):
                options["decoder"] = "bilinear"
                reasons[0] = reasons[0].removesuffix(_SEVERAL)
                reasons.append("other groups' images explain those of a group held out: linear in the noise (decoder 'bilinear')")
    if "views" not in options and options["decoder"] == "hierarchical":
        options["views"], line = _views(images, labels)
        reasons += [line] if line else []
    return Recipe(**options), "; ".join(reasons)


def _views(images: Tensor, labels: Tensor) -> tuple[tuple[str, ...], str]:
    told = telling_changes(images, labels)
    views = tuple(name for name in VIEWS if name not in told)
    lines = [f"the labels change with {', '.join(told)}"] if told else []
    if misread_after(images, labels, views):
        views = ()
        lines.append("numbers are read worse by a network that learns from images changed at random")
    if not lines:
        return views, ""
    return views, f"{', and '.join(lines)}: no such changes in training (views {' '.join(views) or 'none'})"


def _known(labels: Tensor) -> int:
    return int((~labels.isnan().any(1)).sum())


def _decoder(
    images: Tensor, labels: Tensor, candidates: Sequence[str], options: dict[str, Any], has_groups: bool
) -> tuple[str, str]:
    if options.get("grouped"):
        return "hierarchical", f"images of a group share noise, as asked for: noise of the image's own{_SEVERAL}"
    known = _known(labels)
    # As where decoders are tried. With few labels, or noise, it is untried.
    learns_from_labels = 2 * known > len(labels) and not options.get("noise_dim")
    if known < _FEWEST:
        options.setdefault("teacher_forcing", learns_from_labels)
        return "conv", f"{known} images with all labels are too few to tell what they leave unexplained: decoder 'conv'"
    near, share = _unexplained(images, labels, known)
    said, many = f"the labels leave {100 * share:.0f} % of the pixels' variance unexplained", ""
    if near > _OWN_NOISE >= share:
        said = f"{said} ({100 * near:.0f} % by their neighbours, and less the more images there are)"
    if labels.shape[1] > _MOST_CONCEPTS and len(candidates) > 1:
        many = f", scene not with more than {_MOST_CONCEPTS} concepts" if "scene" in candidates else ""
        candidates = [name for name in candidates if name != "scene"]
    complete, errors = ~labels.isnan().any(1), dict[str, float]()
    # What a group's images share is asked below.
    tried = len(candidates) > 1 and not (options.get("noise_dim") or has_groups)
    if tried and share <= _DOUBTFUL:
        errors = _try(candidates, Recipe(**options), images[complete], labels[complete])
    if share > _OWN_NOISE and errors:
        left = min(filter(math.isfinite, errors.values()), default=math.inf) / _variance(images[complete])
        if left < share:
            said, share = f"{said} by their neighbours, but a decoder {100 * left:.0f} %", left
    if share > _OWN_NOISE and not options.get("noise_dim"):
        if "scene" in candidates and "noise_dim" not in options and not has_groups and labels.shape[1] + _OWN <= _MOST_WITH_OWN:
            along = linear_noise_share(images, labels, _DIRECTIONS)
            if along > _ALONG:
                options["noise_dim"] = _OWN * max(1, options.get("dim", 1))
                line = f"{said}, and {_DIRECTIONS} directions {100 * along:.0f} % of that: noise of the image's own in one vector"
                return "scene", f"{line} (decoder 'scene', noise_dim {options['noise_dim']})"
        if "sprites" in candidates and (moved := _move_parts(images, labels)) > labels.shape[1] / 2:
            line = f"{said}, and {moved} of {labels.shape[1]} concepts move parts of one colour"
            return "backdrop", f"{line}: before a background of each image's own (decoder 'backdrop')"
        return "hierarchical", f"{said}: noise of the image's own{_SEVERAL}"
    what = "noise in one vector, as asked for" if options.get("noise_dim") else "no noise of the image's own"
    line = f"{said}: {what}"
    # Where it is asked for, convolutions have the noise in one vector.
    only = "conv" if options.get("noise_dim") else candidates[0]
    if options.get("noise_dim") or len(candidates) == 1:
        options.setdefault("teacher_forcing", learns_from_labels and only == "conv")
        return only, f"{line} (decoder {only!r})"
    if not errors:
        errors = _try(candidates, Recipe(**options), images[complete], labels[complete])
    decoder = _choose(errors)
    found = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    # As in the trial: the decoder learns from known concepts.
    options.setdefault("teacher_forcing", decoder == "conv")
    found = f"{found}{many}; the first that no other beats by a tenth (decoder {decoder!r})"
    return decoder, f"{line}; squared error on the most unusual images after a trial: {found}"


def _unexplained(images: Tensor, labels: Tensor, known: int) -> tuple[float, float]:
    """The share of the pixels' variance that neighbours in the labels leave, and what of it would stay among many more images."""
    near = noise_share(images, labels, count=min(known, _MOST))
    fewer = noise_share(images, labels, count=min(known, _MOST) // 2)
    return near, max(0.0, near - _FALLS * max(0.0, fewer - near))


def _move_parts(images: Tensor, labels: Tensor) -> int:
    """How many concepts place, size or turn something that has one colour. Digits and faces have nothing of the kind.

    What a label of two values seems to move may as well be there or not.
    """
    complete = ~labels.isnan().any(1)
    with kept_rng_state(images.device):
        torch.manual_seed(0)
        parts = find_moving_start(images[complete], known_concepts(labels[complete].float(), 1, 1.0)).parts
    moved = np.any([part.follows for part in parts], axis=0) if parts else np.zeros(labels.shape[1], bool)
    return int((moved & ~np.array(is_binary(labels))).sum())


def _grouped(images: Tensor, labels: Tensor, groups: Tensor) -> tuple[bool, str]:
    share = noise_share(images, labels)
    try:
        within = noise_share(images, labels, groups=groups)
    except ValueError as error:
        return False, f"the noise is each image's own, not its group's ({error})"
    if within > _WITHIN_GROUPS * share:
        return False, f"within a group it is {100 * within:.0f} %: the noise is each image's own, not its group's (grouped False)"
    return True, f"within a group it is {100 * within:.0f} %: images of a group share their noise (grouped True)"


def _variance(images: Tensor) -> float:
    x = scale_images(images[:_MOST]).float()
    return max((x - x.mean(0)).square().mean().item(), 1e-12)


def _choose(errors: dict[str, float]) -> str:
    # A trial may diverge.
    left = {name: error + _TWO_GREY_LEVELS**2 if math.isfinite(error) else math.inf for name, error in errors.items()}
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
            "sprites": lambda: grow_sprites(seen, n, recipe.dim, concepts=concepts[~held], weight=recipe.sparsity_weight),
            "scene": lambda: grow_scene(seen, n, recipe.dim, concepts=concepts[~held], weight=recipe.sparsity_weight),
            "conv": lambda: ConvDecoder.from_images(seen, n, recipe.dim),
        }
        decoders = {name: made[name]() for name in candidates}
        growth = recipe.sparsity_weight_growth or price_growth(labels)
        return try_decoders(decoders, images, concepts, held, weight=recipe.sparsity_weight, growth=growth)
