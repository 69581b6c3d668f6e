"""Parts told by what they do: their place, size or rotation follows the concepts."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from causalvae_pyro.networks.sprites.pose_effects import sparse_regression, usual_poses
from causalvae_pyro.networks.sprites.poses import find_poses
from causalvae_pyro.networks.sprites.segmentation import (
    _CONTRAST,
    _OFTEN,
    Part,
    _colours,
    _is_between,
    _lies_along,
    _nearest,
    _parts_of_one_colour,
)

__all__ = ["find_missed_parts", "find_moving_parts"]

# Of colours before a background of all colours. At the width of find_parts one of the background's swallows those of the parts.
_FINE = 0.12
_FINE_SAMPLE = 20000
# Of those next to a part, which are fewer.
_NEAR_SAMPLE = 5000

# Of colours where something is drawn wrong; and the image's side in units of the gaps that are closed.
_FINER, _CLOSED = 0.2, 32

# The image's side in units of the distance in which something is next to a part.
_NEXT_TO = 8

# What is told to move has been seen in so many images, and so many for each coefficient of its regression on two concepts. Its
# place, size (in half image sides) or angle (in radians) spreads by so much: half a pixel of 32.
_FEWEST, _FEWEST_EACH = 40, 10
_STILL = 0.03
# Poses are taken from masks; the canvas only decides whether turning makes them sharper.
_CANVAS = 32


def find_moving_parts(images: Tensor, concepts: NDArray) -> list[Part]:
    """The parts of scenes over any background, another one in each image or not, that follow the concepts; largest first.

    Where no place has a usual colour, parts are told by what they do. Pixels are grouped by colour, more finely than for
    ``find_parts``, and into regions that are matched from image to image. A region is a part if at most two of the concepts
    explain half of the variance of its place, its size or its rotation, by a linear regression. Regions of the background have
    colours too, but nothing says where they are.

    Then the same is asked of the pixels next to what was found, for what is too small to be seen among all others.

    What does not follow a concept is left to the background, the parts that never move among it.

    Args:
        images: ``[N, C, H, W]`` in [0, 1], on the CPU.
        concepts: ``[N, n, d]``; images with any that is NaN do not count.
    """
    complete = ~np.isnan(concepts).any((1, 2))
    images, concepts = images[torch.as_tensor(complete)], concepts[complete]
    if len(images) < _fewest(len(images), concepts):
        return []
    found = _moving_regions(images, torch.ones(len(images), *images.shape[2:], dtype=torch.bool), concepts, _FINE_SAMPLE)
    found += _attached_parts(images, found, concepts)
    found = [part for part in found if not _is_edge(part, found)]
    # Indices of all the images that were given.
    given = np.flatnonzero(complete)
    return sorted((replace(part, images=given[part.images]) for part in found), key=lambda part: -part.pixels)


def find_missed_parts(images: Tensor, drawn: Tensor, light: Tensor, concepts: NDArray, contrast: float = _CONTRAST) -> list[Part]:
    """Regions that a decoder does not draw right, and that follow the concepts.

    Pixels whose difference is explained neither by the decoder nor by ``light`` are grouped by colour and, within each image,
    into regions. These are closed over what lies between their pieces: what is seen of a thing on both sides of another of its
    colour is one thing. Regions are matched from image to image as in ``find_parts``.

    Args:
        images: ``[N, C, H, W]`` in [0, 1], on the CPU.
        drawn: What the decoder draws of their concepts.
        light: What a regression of the difference on the concepts says; it explains what changes where it is.
        concepts: ``[N, n, d]``, all known.
        contrast: By how much pixels differ at least, on average over the colours.
    """
    from scipy import ndimage  # slow to import

    left = images - drawn
    different = ((left - light).abs().mean(1) > contrast) & (left.abs().mean(1) > contrast)
    pixels = images.movedim(1, -1)[different]
    if len(pixels) < max(10, len(images) // 10):
        return []
    modes = _colours(pixels, 3000, _FINER)
    nearest = torch.full(different.shape, -1)
    nearest[different] = _nearest(pixels, modes, _FINER)
    gap = max(1, round(min(different.shape[1:]) / _CLOSED))
    around, window = ((0, 0), (gap, gap), (gap, gap)), np.ones((1, 2 * gap + 1, 2 * gap + 1), bool)
    # What is around the image is no gap, and no reason to erode what lies at its edge.
    wide = [ndimage.binary_closing(np.pad((nearest == m).numpy(), around), window) for m in range(len(modes))]
    masks = [mask[:, gap:-gap, gap:-gap] for mask in wide]
    parts = [part for mode, mask in zip(modes, masks, strict=True) for part in _parts_of_one_colour(mode, mask)]
    return _that_follow(parts, concepts)


def _moving_regions(images: Tensor, where: Tensor, concepts: NDArray, enough: int) -> list[Part]:
    """Regions of one colour among the pixels ``where [N, H, W]`` that follow the concepts; ``enough`` pixels tell the colours."""
    pixels = images.movedim(1, -1)[where]
    modes = _colours(pixels, enough, _FINE)
    nearest = torch.full(where.shape, -1)
    nearest[where] = _nearest(pixels, modes, _FINE)
    which = nearest.numpy()
    parts = [part for m, mode in enumerate(modes) for part in _parts_of_one_colour(mode, which == m)]
    return _that_follow(parts, concepts)


def _that_follow(parts: list[Part], concepts: NDArray) -> list[Part]:
    """Those that are seen often and follow some of the concepts ``[N, n, d]``."""
    often = [part for part in parts if len(part.images) >= _fewest(len(concepts), concepts)]
    found = [replace(part, follows=_follows(part, concepts[part.images])) for part in often]
    return [part for part in found if part.follows.any()]


def _attached_parts(images: Tensor, parts: list[Part], concepts: NDArray) -> list[Part]:
    """What is seen at the edge of moving parts, and follows a concept that those which it touches do not.

    Small things are too few pixels of the whole image to be told from a background of all colours. Next to what moves they are
    many. Blurred edges have colours too, and follow what they are the edges of.
    """
    from scipy import ndimage  # slow to import

    if not parts:
        return []
    taken = np.zeros((len(parts), len(images), *images.shape[2:]), bool)
    for mask, part in zip(taken, parts, strict=True):
        mask[part.images] = part.masks
    gap = max(1, round(min(images.shape[2:]) / _NEXT_TO))
    near = ndimage.maximum_filter(taken.any(0), size=(1, 2 * gap + 1, 2 * gap + 1)) & ~taken.any(0)
    attached = []
    for part in _moving_regions(images, torch.as_tensor(near), concepts, _NEAR_SAMPLE):
        # Over a blurred edge between them.
        around = ndimage.maximum_filter(part.masks, size=(1, 5, 5))
        touched = [other.follows for other, mask in zip(parts, taken, strict=True) if _often_meet(around, mask[part.images])]
        if touched and (part.follows & ~np.any(touched, axis=0)).any():
            attached.append(part)
    return attached


def _often_meet(masks: NDArray, others: NDArray) -> bool:
    return bool((masks & others).any((1, 2)).mean() > 0.5)


def _is_edge(part: Part, parts: list[Part]) -> bool:
    """Whether it is what is blurred between two larger parts: of a colour between, along both, and with no concept of its own."""

    def meets(other: Part) -> bool:
        shared = np.isin(part.images, other.images)
        mine, theirs = part.masks[shared], other.masks[np.isin(other.images, part.images)]
        return bool(shared.any()) and _lies_along(mine, theirs)

    larger = [other for other in parts if other.pixels > part.pixels and meets(other)]
    pairs = itertools.combinations(larger, 2)
    return any(
        _is_between(part.colour, one.colour, other.colour) and not (part.follows & ~(one.follows | other.follows)).any()
        for one, other in pairs
    )


def _follows(part: Part, concepts: NDArray) -> NDArray:
    found = np.zeros(concepts.shape[1], bool)
    values = find_poses(part.masks, _CANVAS, concepts).values
    usual = usual_poses(concepts, values)
    for number in values[usual].T:
        if number.std() > _STILL:
            found |= sparse_regression(concepts[usual], number).any(1)
    return found


def _fewest(count: int, concepts: NDArray) -> float:
    """In how many of so many images a part has to be seen, for concepts ``[N, n, d]``."""
    return max(_FEWEST, _OFTEN * count, _FEWEST_EACH * 2 * concepts.shape[-1])
