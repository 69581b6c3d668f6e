"""Where sprites start: what can be seen in a sample of the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from causalvae_pyro.networks.sprites.moving_parts import find_moving_parts
from causalvae_pyro.networks.sprites.segmentation import Part, find_background, find_parts, find_steady_background
from causalvae_pyro.utils.images import scale_images

__all__ = [
    "Start",
    "best_start",
    "check_concepts",
    "error_of_regression",
    "find_moving_start",
    "find_start",
    "regress_pixels",
]

_SAMPLE, _FEWEST = 300, 40

# A start that leaves more of the pixels' variance than this is poor: other ways to see parts are tried. On Pendulum and Flow at
# 64 x 64 the first leaves 0.18 and 0.38.
_POOR = 0.5
# The contrast of parts with what is behind them: half of what is looked for first.
_FAINT = 1 / 12
# A start that is no better than this was seen by chance.
_CLEARLY = 0.9
# Parts that start with more than ten times the error of a regression of the pixels have not been seen right.
_IN_PLACE, _FEWEST_IN_PLACE = 0.1, 50

_MOST_PRODUCTS = 12

_D = TypeVar("_D", bound=nn.Module)


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


def best_start(
    images: Tensor, concepts: Tensor | None, begin: Callable[[Start], _D], *, in_place: bool = False
) -> tuple[_D, Start, float | None]:
    """The decoder that starts nearest to the images, of those that start from parts seen in different ways.

    The first way is :func:`find_start`. If it is poor, parts of less contrast, a background with a texture and parts that are
    told by what moves them are tried, and the best is taken.

    Args:
        images: ``[N, C, H, W]`` in [0, 1] or uint8.
        concepts: ``[N, n, d]``, NaN where missing. With fewer than 40 complete ones the first way is taken.
        begin: From a start to an untrained decoder, from concepts to logits.
        in_place: Whether the decoder can draw what changes where it is. Then it gets no parts where a regression of each pixel
            on the concepts leaves a tenth of what the first start leaves: what seems to be parts is light.

    Returns:
        The decoder, its start, and the share of the pixels' variance that the start leaves; None where it cannot be told.
    """
    start = find_start(images)
    decoder = begin(start)
    if concepts is None:
        return decoder, start, None
    z = concepts[start.chosen.to(concepts.device)].detach().float().cpu()
    known = ~z.flatten(1).isnan().any(1)
    if int(known.sum()) < _FEWEST:
        return decoder, start, None
    sample = _pick(images, start.chosen)
    z, seen = z[known], sample[known]
    variance = max((seen - seen.mean(0)).square().mean().item(), 1e-12)

    def left(begun: _D) -> float:
        with torch.no_grad():
            noise = [z.new_zeros(len(z), size)] if (size := getattr(begun, "noise_dim", 0)) else []
            return (begun(z, *noise).sigmoid() - seen).square().mean().item() / variance

    best = left(decoder)
    if in_place and len(seen) >= _FEWEST_IN_PLACE and error_of_regression(seen, z) / variance < _IN_PLACE * best:
        start = replace(start, parts=[])
        decoder = begin(start)
        return decoder, start, left(decoder)
    if best <= _POOR:
        return decoder, start, best
    steady = find_steady_background(sample)
    moving = find_moving_start(images, concepts)
    for other in (
        replace(start, parts=find_parts(sample, start.background, _FAINT)),
        replace(start, parts=find_parts(sample, steady, _FAINT), background=steady),
        # The mean image, which has the parts in it, would leave less at the start, and be in the way later.
        replace(moving, background=start.background),
        replace(moving, background=steady),
    ):
        begun = begin(other)
        if (error := left(begun)) < _CLEARLY * best:
            decoder, start, best = begun, other, error
    return decoder, start, best


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


def error_of_regression(images: Tensor, concepts: Tensor) -> float:
    """What a regression of each pixel on the concepts, their squares and products leaves: of half of the images on the others."""
    half = len(images) // 2
    return (_regression(images[:half], concepts[:half], concepts[half:]) - images[half:]).square().mean().item()


def regress_pixels(images: Tensor, concepts: Tensor) -> Tensor:
    """What a regression of each pixel on the concepts, their squares and products says of ``images [N, C, H, W]``."""
    return _regression(images, concepts, concepts)


def _regression(images: Tensor, concepts: Tensor, asked: Tensor) -> Tensor:
    features, pixels = _squares_and_products(concepts), images.flatten(1).double()
    ridge = 1e-2 * len(images) * torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
    coefficients = torch.linalg.solve(features.T @ features + ridge, features.T @ pixels)
    return (_squares_and_products(asked) @ coefficients).to(images).unflatten(1, images.shape[1:])


def _squares_and_products(concepts: Tensor) -> Tensor:
    z = concepts.flatten(1).double()
    first, second = torch.tril_indices(z.shape[1], z.shape[1])
    # Of more, products are as many as the images of a sample, and explain all of them.
    products = [z[:, first] * z[:, second]] if z.shape[1] <= _MOST_PRODUCTS else []
    return torch.cat([torch.ones_like(z[:, :1]), z, *products], 1)
