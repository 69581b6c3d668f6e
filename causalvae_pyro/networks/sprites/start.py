"""Where sprites start: what can be seen in a sample of the images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numpy.typing import NDArray
from torch import Tensor

from causalvae_pyro.networks.sprites.segmentation import Part, find_background, find_moving_parts, find_parts
from causalvae_pyro.utils.images import scale_images

__all__ = ["Start", "check_concepts", "find_moving_start", "find_start"]

_SAMPLE, _FEWEST = 300, 40


@dataclass
class Start:
    """What can be seen in a sample of the images.

    Attributes:
        count: How many images it is a sample of.
        chosen: Which of them it has, ``[m]`` indices.
        background: What lies behind the parts, ``[C, H, W]`` in [0, 1].
        parts: Largest first.
    """

    count: int
    chosen: Tensor
    background: Tensor
    parts: list[Part]

    def concepts(self, concepts: Tensor) -> NDArray:
        """The sample's ``[m, n, d]`` of the concepts ``[N, n, d]`` of all images."""
        return _of_sample(concepts, self.chosen)


def find_start(images: Tensor) -> Start:
    """Before a background that is the same in all images.

    Args:
        images: ``[N, C, H, W]`` in [0, 1] or uint8.
    """
    chosen = torch.randperm(len(images))[:_SAMPLE]
    sample = _pick(images, chosen)
    background = find_background(sample)
    return Start(len(images), chosen, background, find_parts(sample, background))


def find_moving_start(images: Tensor, concepts: Tensor) -> Start:
    """Before a background that may be another one in each image: what the concepts move, before the mean image.

    Args:
        images: ``[N, C, H, W]`` in [0, 1] or uint8.
        concepts: ``[N, n, d]``; images with any that is NaN do not count.

    Raises:
        ValueError: If fewer than 40 images have all their concepts.
    """
    complete = (~concepts.isnan().flatten(1).any(1)).nonzero().squeeze(1).cpu()
    if len(complete) < _FEWEST:
        raise ValueError(f"concepts: {len(complete)} images have all of them; what they move is found in at least {_FEWEST}")
    chosen = complete[torch.randperm(len(complete))[:_SAMPLE]]
    sample = _pick(images, chosen)
    return Start(len(images), chosen, sample.mean(0), find_moving_parts(sample, _of_sample(concepts, chosen)))


def check_concepts(concepts: Tensor, count: int, n: int, d: int) -> None:
    """Raises a ``ValueError`` unless they are ``[count, n, d]``."""
    if tuple(concepts.shape) != (count, n, d):
        raise ValueError(f"concepts: expected shape {[count, n, d]}, got {list(concepts.shape)}")


def _pick(images: Tensor, chosen: Tensor) -> Tensor:
    return scale_images(images[chosen.to(images.device)].detach()).float().cpu()


def _of_sample(concepts: Tensor, chosen: Tensor) -> NDArray:
    return concepts.detach()[chosen.to(concepts.device)].double().cpu().numpy()
