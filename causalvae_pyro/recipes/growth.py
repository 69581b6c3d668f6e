"""Layers that a start has missed, found in what a short training leaves; and without those that do nothing."""

from __future__ import annotations

import itertools
import math
from copy import deepcopy
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from causalvae_pyro.networks import SceneDecoder, SpriteDecoder
from causalvae_pyro.networks.sprites.moving_parts import find_missed_parts
from causalvae_pyro.networks.sprites.start import Start, check_concepts, error_of_regression, regress_pixels
from causalvae_pyro.recipes.decoder_training import train_decoder
from causalvae_pyro.utils.images import check_images, scale_images

__all__ = ["grow_scene", "grow_sprites"]

# Steps with the layers that were seen, and with each that is added.
_FIRST, _MORE = 150, 80
_MOST_ADDED = 4
# What a layer has to take off what is left for layers. The steps that it costs take off a tenth without it.
_WORTH = 0.75
# A layer without which so much more is left at most does nothing.
_NOTHING = 1.02
_FEWEST = 40
# The mean image is that of so many.
_SOME = 1000
# By how much what is missed differs from what is drawn.
_CONTRASTS = (1 / 6, 1 / 12)
# Sprites that leave so much of the variance have been seen. On Pendulum they leave 0.15, on Flow 0.21 to 0.27.
_SEEN = 0.4

_D = TypeVar("_D", bound=SpriteDecoder)


@torch.inference_mode(False)
def grow_scene(
    images: Tensor, num_concepts: int, dim: int = 1, *, concepts: Tensor, weight: float = 2000.0, noise_dim: int = 0
) -> SceneDecoder:
    """A scene's decoder that starts from what is seen, tells by a short training what it has missed, and adds it.

    The layers alone are trained with known concepts. What they leave, and a regression of each pixel on the concepts does not
    explain either, is no light: regions of one colour in it whose place, size or rotation follows a concept become layers, one by
    one, as long as each takes off a quarter of what is left. Such are things that touch another of their colour, or that are seen
    in some images only. Layers that make no difference then are taken out. Chance enters through torch's global generator.

    Args:
        images: Training images ``[N, C, H, W]``, uint8 or in [0, 1].
        num_concepts: Number of concepts ``n``.
        dim: Dimensions of each concept.
        concepts: ``[N, n, d]``; images with any that is NaN do not count. With fewer than 40 others, or where no part is seen at
            first, nothing is trained.
        weight: Of :class:`~causalvae_pyro.objectives.EffectSparsity`.
        noise_dim: Of the decoder. With noise there are no layers: what differs from image to image for reasons that no concept
            knows cannot be told from what concepts move. Fields and displacements start before the mean image then.

    Raises:
        ValueError: If an argument has a shape that does not fit, or ``noise_dim`` is no multiple of ``dim``.
    """
    check_images(images, "images")
    if noise_dim:
        decoder = SceneDecoder(tuple(images.shape[1:]), num_concepts, dim, noise_dim=noise_dim, sprites=0, displaces=True)
        some = images[:: max(1, len(images) // _SOME)]
        decoder.begin(Start(len(images), torch.arange(0), scale_images(some).float().mean(0).cpu(), []), None)
        return decoder
    return _grown(SceneDecoder, images, num_concepts, dim, concepts=concepts, weight=weight, slides=True)


@torch.inference_mode(False)
def grow_sprites(images: Tensor, num_concepts: int, dim: int = 1, *, concepts: Tensor, weight: float = 2000.0) -> SpriteDecoder:
    """Sprites that start from what is seen; where that leaves much of the images, they grow as :func:`grow_scene` says.

    A start that leaves at most two fifths of the pixels' variance is taken as it is, untrained. What differs from what is
    behind it by a sixth of the range, such as a cloud, is missed by some starts, and no training moves another layer there.

    Args:
        images: See :func:`grow_scene`, as for all below.
        num_concepts: Number of concepts ``n``.
        dim: Dimensions of each concept.
        concepts: ``[N, n, d]``.
        weight: Of :class:`~causalvae_pyro.objectives.EffectSparsity`.

    Raises:
        ValueError: If an argument has a shape that does not fit.
    """
    check_images(images, "images")
    return _grown(SpriteDecoder, images, num_concepts, dim, concepts=concepts, weight=weight)


def _grown(kind: type[_D], images: Tensor, num_concepts: int, dim: int, *, concepts: Tensor, weight: float, **widths: Any) -> _D:
    """A decoder of this kind that starts from what is seen and grows what that has missed."""
    check_concepts(concepts, len(images), num_concepts, dim)
    concepts = concepts.detach()
    complete = (~concepts.flatten(1).isnan().any(1)).nonzero().squeeze(1).cpu()
    if len(complete) < _FEWEST:
        return kind.started(images, num_concepts, dim, concepts=concepts, **widths)[0]
    if len(complete) < len(images):
        images, concepts = images[complete.to(images.device)], concepts[complete.to(concepts.device)]
    decoder, start = kind.started(images, num_concepts, dim, concepts=concepts, **widths)
    if not start.parts or (kind is SpriteDecoder and (decoder.unexplained_at_start or 0.0) <= _SEEN):
        return decoder
    seen = scale_images(images[start.chosen.to(images.device)]).float().cpu()
    z = concepts[start.chosen.to(concepts.device)].float().cpu()

    def train(grown: _D, steps: int) -> float:
        # What is drawn in place is for the fields, which would learn to draw what travels as well.
        fields = getattr(grown, "fields", nn.Module()).requires_grad_(False)
        train_decoder(grown, images, concepts, torch.arange(len(images)), steps=steps, weight=weight, growth=1.0)
        fields.requires_grad_(True)
        return _left(grown, seen, z)

    untrained = deepcopy(decoder)
    left, steps = train(decoder, _FIRST), _FIRST
    if not math.isfinite(left):
        return untrained
    for _ in range(_MOST_ADDED):
        with torch.no_grad():
            drawn = decoder(z).sigmoid()
        tried: list[tuple[float, _D]] = []
        light = regress_pixels(seen - drawn, z)
        # What is missed is drawn as its mean, and stands out less from that than from what is behind it.
        missed = (find_missed_parts(seen, drawn, light, z.double().numpy(), contrast) for contrast in _CONTRASTS)
        for part in itertools.chain.from_iterable(missed):
            alone = kind.from_start(
                replace(start, parts=[part]), decoder.image_shape, num_concepts, dim, concepts=concepts, **widths
            )
            more = _of_layers(decoder, decoder.sprites + 1)
            more.take_layers(alone, [0], decoder.sprites)
            more.take_layers(decoder, range(decoder.sprites))
            tried.append((_left(more, seen, z), more))
        if not tried:
            break
        _, more = min(tried, key=lambda each: each[0])
        # Not where it is no number either.
        if not (after := train(more, _MORE)) <= _WORTH * left:
            break
        decoder, left, steps = more, after, steps + _MORE
    decoder = _without_idle(decoder, seen, z, left)
    with torch.no_grad():
        error, before = ((each(z).sigmoid() - seen).square().mean() for each in (decoder, untrained))
    # Not where it is no number either.
    if not error < before:
        return untrained
    decoder.unexplained_at_start = (error / (seen - seen.mean(0)).square().mean().clamp(min=1e-12)).item()
    decoder.parts_at_start, decoder.steps_at_start = decoder.sprites, steps
    return decoder


def _left(decoder: SpriteDecoder, images: Tensor, concepts: Tensor) -> float:
    """What is left for layers to draw: what no regression in place explains, where fields can draw that."""
    with torch.no_grad():
        left = images - decoder(concepts).sigmoid()
    return error_of_regression(left, concepts) if isinstance(decoder, SceneDecoder) else left.square().mean().item()


def _of_layers(decoder: _D, count: int) -> _D:
    """An untrained one made as this was, but for the number of its layers."""
    return type(decoder)(**{**decoder.init_args, "sprites": count})


def _without_idle(decoder: _D, images: Tensor, concepts: Tensor, left: float) -> _D:
    """The decoder without layers that make no difference, the least useful first."""
    kept = list(range(decoder.sprites))

    def without(layer: int) -> float:
        opacity = decoder.opacity.detach().clone()
        with torch.no_grad():
            decoder.opacity[[k for k in range(decoder.sprites) if k == layer or k not in kept]] = -1.0
            found = _left(decoder, images, concepts)
            decoder.opacity.copy_(opacity)
        return found

    # Sprites have one at least.
    while len(kept) > decoder.fewest:
        errors = {k: without(k) for k in kept}
        idle = min(kept, key=errors.__getitem__)
        if not errors[idle] <= _NOTHING * left:
            break
        kept.remove(idle)
        left = min(left, errors[idle])
    if len(kept) == decoder.sprites:
        return decoder
    fewer = _of_layers(decoder, len(kept))
    fewer.take_layers(decoder, kept)
    return fewer
