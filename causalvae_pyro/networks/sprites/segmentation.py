"""What scenes are made of: a background, and in front of it parts of one colour, found in every image."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Part", "find_background", "find_parts", "find_steady_background"]

# Pixels whose colours are closer than this, in [0, 1] units, may belong to one part.
_BANDWIDTH = 0.35

# Pixels differ from the background by more than this, on average over the colours.
_CONTRAST = 1 / 6

# Colours at one place that are closer than this are one colour; so many images are asked which of theirs is the most common.
_ALIKE = 0.08
_ASKED = 60
_PLACES = 256

# What is seen at a place in this share of the images can lie behind what is seen there in the others; what is seen in fewer
# than the second share is no part of its own.
_BEHIND = 0.15
_OFTEN = 0.2


@dataclass(frozen=True)
class Part:
    """One thing seen in many images.

    Attributes:
        colour: Its colour ``[C]`` in [0, 1].
        images: The images it was found in, ``[M]`` indices.
        masks: Its pixels in them, ``[M, H, W]``.
        follows: Which concepts its place, size or rotation follows, ``[n]``; none where that was not asked.
    """

    colour: NDArray
    images: NDArray
    masks: NDArray
    follows: NDArray = field(default_factory=lambda: np.zeros(0, bool))

    @property
    def pixels(self) -> int:
        """How many pixels it has in all."""
        return int(self.masks.sum())


def find_background(images: Tensor) -> Tensor:
    """What lies behind everything, ``[C, H, W]``.

    Things cover others of a more common colour. At each place the background is therefore the most common of all colours
    that a share of the images shows there; where none is steady enough, the median. The median everywhere would be the
    middle of whatever rises and falls, half of the time in front of it.

    Args:
        images: ``[N, C, H, W]`` in [0, 1], on the CPU.
    """
    colours, height, width = images.shape[1:]
    pixels = images.movedim(1, -1).reshape(len(images), height * width, colours)
    modes = _colours(pixels.reshape(-1, colours), 6000)
    nearest = _nearest(pixels, modes)
    result = pixels.median(0).values
    left = torch.ones(height * width, dtype=torch.bool)
    for m in torch.bincount(nearest[nearest >= 0], minlength=len(modes)).argsort(descending=True).tolist():
        shown = nearest == m
        here = left & (shown.float().mean(0) >= _BEHIND)
        result[here] = torch.where(shown[:, here, None], pixels[:, here], torch.nan).nanmedian(0).values
        left &= ~here
    return result.T.reshape(colours, height, width)


def find_steady_background(images: Tensor) -> Tensor:
    """What most images show at each place, ``[C, H, W]``, whatever lies elsewhere.

    For backgrounds with a texture, whose colours say nothing of what lies behind what. What rises and falls, and is at a place
    more often than what is behind it, is taken for the background here; :func:`find_background` knows better.

    Args:
        images: ``[N, C, H, W]`` in [0, 1], on the CPU.
    """
    result = []
    for pixels in images.flatten(2).permute(2, 0, 1).split(_PLACES):
        asked = pixels[:, :: max(1, len(images) // _ASKED)]
        alike = torch.cdist(asked, pixels) < _of_channels(_ALIKE, pixels)
        most = alike.sum(2).argmax(1)
        shown = alike[torch.arange(len(alike)), most]
        result.append(torch.where(shown[..., None], pixels, torch.nan).nanmedian(1).values)
    return torch.cat(result).T.reshape(images.shape[1:])


def find_parts(images: Tensor, background: Tensor, contrast: float = _CONTRAST) -> list[Part]:
    """The parts of scenes over a fixed background, largest first.

    Pixels unlike the background are grouped by colour (mean shift) and, within each image, into connected regions. A colour
    that an image usually has ``m`` regions of makes ``m`` parts; which region is which part is matched from image to image by
    place (k-means in which no two regions of one image are the same part). Colours that lie between the background's and
    another's, along whose pixels they lie, are taken for blurred edges, and parts seen in less than a fifth of the images are
    left out.

    Args:
        images: ``[N, C, H, W]`` in [0, 1], on the CPU.
        background: ``[C, H, W]``.
        contrast: By how much pixels of a part differ from the background at least, on average over the colours.
    """
    count, _, height, width = images.shape
    different = (images - background).abs().mean(1) > contrast
    pixels = images.movedim(1, -1)[different]
    if len(pixels) < max(10, count // 10):
        return []
    modes = _colours(pixels, 3000)
    nearest = torch.full((count, height, width), -1)
    nearest[different] = _nearest(pixels, modes)
    which = nearest.numpy()
    sizes = np.bincount(which[which >= 0], minlength=len(modes))
    around = background.flatten(1).median(1).values.numpy()
    parts: list[Part] = []
    for m, mode in enumerate(modes):
        larger = (o for o in range(len(modes)) if sizes[o] > sizes[m])
        if not any(_is_between(mode, around, modes[o]) and _lies_along(which == m, which == o) for o in larger):
            parts += _parts_of_one_colour(mode, which == m)
    return sorted((part for part in parts if len(part.images) >= _OFTEN * count), key=lambda part: -part.pixels)


def _colours(pixels: Tensor, enough: int, bandwidth: float = _BANDWIDTH) -> NDArray:
    """The colours ``[m, C]`` that many of the pixels ``[P, C]`` have; a sample of them is enough, and there can be millions."""
    from sklearn.cluster import MeanShift  # slow to import

    bandwidth = _of_channels(bandwidth, pixels)
    sample = pixels[torch.randperm(len(pixels))[:enough]].double().numpy()
    # Its seeds are the cells of a grid with so many pixels; without any it raises an error.
    fewest = max(1, len(sample) // 500)
    if not (np.unique((sample / bandwidth).round(), axis=0, return_counts=True)[1] >= fewest).any():
        return np.empty((0, sample.shape[1]))
    shift = MeanShift(bandwidth=bandwidth, bin_seeding=True, min_bin_freq=fewest, cluster_all=False)
    return shift.fit(sample).cluster_centers_


def _nearest(pixels: Tensor, colours: NDArray, bandwidth: float = _BANDWIDTH) -> Tensor:
    """For each pixel ``[..., C]`` the index of its colour, -1 where none is close."""
    modes = torch.as_tensor(colours).to(pixels)
    if not len(modes):
        return torch.full(pixels.shape[:-1], -1)
    bandwidth, parts = _of_channels(bandwidth, pixels), []
    for part in pixels.reshape(-1, pixels.shape[-1]).split(1 << 20):
        distance, nearest = torch.cdist(part, modes).min(-1)
        nearest[distance > bandwidth] = -1
        parts.append(nearest)
    return torch.cat(parts).reshape(pixels.shape[:-1])


def _of_channels(distance: float, pixels: Tensor) -> float:
    """What a distance of colours of three channels is of so many: greys are as far apart as they would be in colour."""
    return distance * (pixels.shape[-1] / 3) ** 0.5


def _is_between(mode: NDArray, one: NDArray, other: NDArray) -> bool:
    way = other - one
    share = float(np.clip((mode - one) @ way / (way @ way + 1e-9), 0, 1))
    return 0.1 < share < 0.9 and float(np.linalg.norm(one + share * way - mode)) < 0.15


def _lies_along(mask: NDArray, other: NDArray) -> bool:
    """Whether most pixels of a mask ``[M, H, W]`` are next to another's, as edges are."""
    from scipy import ndimage  # slow to import

    near = ndimage.binary_dilation(other, np.ones((1, 3, 3), bool))
    return bool((mask & near).sum() > 0.5 * mask.sum())


def _parts_of_one_colour(colour: NDArray, mask: NDArray) -> list[Part]:
    from scipy import ndimage  # slow to import

    count, height, width = mask.shape
    within_images = np.zeros((3, 3, 3), int)
    within_images[1] = 1
    labels, regions = ndimage.label(mask, within_images)
    area = np.bincount(labels.ravel(), minlength=regions + 1)
    # Specks are noise.
    index = np.flatnonzero(area[1:] >= max(4, 1e-3 * height * width)) + 1
    if not len(index):
        return []
    image, *centres = np.array(ndimage.center_of_mass(mask, labels, index)).T
    image = image.round().astype(int)
    per_image = np.bincount(image, minlength=count)
    number = int(np.median(per_image[per_image > 0]))
    places = np.stack(centres, 1) / (height, width)
    part = _match(places, image, number, first=int(np.flatnonzero(per_image >= number)[0]))
    chosen = [part == k for k in range(number)]
    return [Part(colour, image[mine], labels[image[mine]] == index[mine][:, None, None]) for mine in chosen]


def _match(centres: NDArray, image: NDArray, number: int, first: int) -> NDArray:
    """Which of ``number`` parts each region is, -1 for none; no two regions of one image are the same part."""
    from scipy.optimize import linear_sum_assignment  # slow to import

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
