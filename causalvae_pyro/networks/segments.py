"""Where images differ from their median: parts of one colour, found in every image, and what their places follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import MeanShift
from torch import Tensor

__all__ = ["Part", "find_parts", "sparse_regression"]

# Pixels whose colours are closer than this, in [0, 1] units, may belong to one part.
_BANDWIDTH = 0.35


@dataclass(frozen=True)
class Part:
    """One thing seen in many images.

    Attributes:
        colour: Its colour ``[C]`` in [0, 1].
        images: The images it was found in, ``[M]`` indices.
        centres: Where, ``[M, 2]``: x and y in [-1, 1].
        spreads: Standard deviations of its pixels' x and y, ``[M, 2]``.
        pixels: How many it has in all.
    """

    colour: NDArray
    images: NDArray
    centres: NDArray
    spreads: NDArray
    pixels: int


def find_parts(images: Tensor, median: Tensor) -> list[Part]:
    """The parts of scenes over a fixed background, largest first.

    Pixels unlike the median are grouped by colour (mean shift) and, within each image, into connected regions. A colour that
    an image usually has ``m`` regions of makes ``m`` parts; which region is which part is matched from image to image by
    place (k-means in which no two regions of one image are the same part). Colours that lie between the background's and
    another's are taken for blurred edges, and parts seen in less than a tenth of the images are left out.

    Args:
        images: ``[N, C, H, W]`` in [0, 1], on the CPU.
        median: ``[C, H, W]``.
    """
    count, colours, height, width = images.shape
    different = (images - median).abs().mean(1) > 1 / 6
    pixels = images.movedim(1, -1)[different].numpy()
    if len(pixels) < max(10, count // 10):
        return []
    # A sample is enough, and there can be a million pixels.
    sample = pixels[torch.randperm(len(pixels))[:3000].numpy()].astype(float)
    shift = MeanShift(bandwidth=_BANDWIDTH, bin_seeding=True, min_bin_freq=max(1, len(sample) // 500), cluster_all=False)
    modes = shift.fit(sample).cluster_centers_
    distance, nearest = torch.cdist(images.movedim(1, -1).reshape(-1, colours), torch.as_tensor(modes).float()).min(-1)
    nearest[(distance > _BANDWIDTH) | ~different.reshape(-1)] = -1
    which = nearest.reshape(count, height, width).numpy()
    sizes = np.bincount(which[which >= 0], minlength=len(modes))
    around = median.flatten(1).median(1).values.numpy()
    parts: list[Part] = []
    for m, mode in enumerate(modes):
        if not any(_is_between(mode, around, modes[o]) for o in range(len(modes)) if sizes[o] > sizes[m]):
            parts += _parts_of_one_colour(mode, which == m)
    return sorted((part for part in parts if len(part.images) >= 0.1 * count), key=lambda part: -part.pixels)


def _is_between(mode: NDArray, one: NDArray, other: NDArray) -> bool:
    way = other - one
    share = float(np.clip((mode - one) @ way / (way @ way + 1e-9), 0, 1))
    return 0.1 < share < 0.9 and float(np.linalg.norm(one + share * way - mode)) < 0.15


def _parts_of_one_colour(colour: NDArray, mask: NDArray) -> list[Part]:
    count, height, width = mask.shape
    within_images = np.zeros((3, 3, 3), int)
    within_images[1] = 1
    labels, regions = ndimage.label(mask, within_images)
    area = np.bincount(labels.ravel(), minlength=regions + 1)
    # Specks are noise.
    index = np.flatnonzero(area[1:] >= max(4, 1e-3 * height * width)) + 1
    if not len(index):
        return []
    y, x = ((2 * np.arange(size) + 1) / size - 1 for size in (height, width))
    places = [np.broadcast_to(grid, mask.shape) for grid in (x[None, None], y[None, :, None])]
    centres = np.stack([ndimage.mean(place, labels, index) for place in places], 1)
    spreads = np.stack([ndimage.standard_deviation(place, labels, index) for place in places], 1)
    image = ndimage.maximum(np.broadcast_to(np.arange(count)[:, None, None], mask.shape), labels, index).astype(int)
    per_image = np.bincount(image, minlength=count)
    number = int(np.median(per_image[per_image > 0]))
    part = _match(centres, image, number, first=int(np.flatnonzero(per_image >= number)[0]))
    chosen = [part == k for k in range(number)]
    return [Part(colour, image[mine], centres[mine], spreads[mine], int(area[index[mine]].sum())) for mine in chosen]


def _match(centres: NDArray, image: NDArray, number: int, first: int) -> NDArray:
    """Which of ``number`` parts each region is, -1 for none; no two regions of one image are the same part."""
    means = centres[image == first][:number]
    groups = [np.flatnonzero(image == i) for i in np.unique(image)]
    part = np.full(len(image), -1)
    for _ in range(20):
        before = part.copy()
        part[:] = -1
        for group in groups:
            rows, columns = linear_sum_assignment(np.square(centres[group][:, None] - means).sum(-1))
            part[group[rows]] = columns
        means = np.stack([centres[part == k].mean(0) if (part == k).any() else means[k] for k in range(number)])
        if (part == before).all():
            break
    return part


def sparse_regression(concepts: NDArray, values: NDArray, *, enough: float = 0.5, gain: float = 0.1) -> NDArray:
    """Coefficients ``[n, d]`` of ``values [M]`` on at most two of the concepts ``[M, n, d]``, greedily chosen; zero elsewhere.

    Args:
        concepts: ``[M, n, d]``.
        values: ``[M]``.
        enough: Share of the variance that has to be explained, or all coefficients are zero.
        gain: Share that the second concept has to add.
    """
    result = np.zeros(concepts.shape[1:])
    centred, target = concepts - concepts.mean(0), values - values.mean()
    total = np.square(target).sum()
    if total < 1e-5 * len(target):
        return result
    chosen: list[int] = []
    reached = 0.0
    while len(chosen) < 2:
        trials = []
        for j in set(range(concepts.shape[1])) - set(chosen):
            columns = centred[:, [*chosen, j]].reshape(len(target), -1)
            solution = np.linalg.lstsq(columns, target, rcond=None)[0]
            trials.append((1 - np.square(target - columns @ solution).sum() / total, j, solution))
        if not trials:
            break
        explained, j, solution = max(trials, key=lambda trial: trial[0])
        if explained < enough or explained - reached < gain:
            break
        chosen, reached = [*chosen, j], explained
        result[:] = 0
        result[chosen] = solution.reshape(len(chosen), -1)
    return result
