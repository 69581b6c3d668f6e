"""Layers that a start has missed, found in what a short training leaves; and without those that do nothing."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from causalvae_pyro.networks import SceneDecoder
from causalvae_pyro.networks.sprites.segmentation import find_missed_parts
from causalvae_pyro.networks.sprites.start import Start, error_of_regression, regress_pixels
from causalvae_pyro.recipes.decoder_training import train_decoder
from causalvae_pyro.utils.images import check_images, scale_images

__all__ = ["grow_scene"]

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
            knows cannot be told from what concepts move. Fields start before the mean image then.

    Raises:
        ValueError: If an argument has a shape that does not fit, or ``noise_dim`` is no multiple of ``dim``.
    """
    check_images(images, "images")
    if noise_dim:
        decoder = SceneDecoder(tuple(images.shape[1:]), num_concepts, dim, noise_dim=noise_dim, sprites=0)
        some = images[:: max(1, len(images) // _SOME)]
        decoder.begin(Start(len(images), torch.arange(0), scale_images(some).float().mean(0).cpu(), []), None)
        return decoder
    concepts = concepts.detach()
    complete = (~concepts.flatten(1).isnan().any(1)).nonzero().squeeze(1).cpu()
    if len(complete) < _FEWEST:
        return SceneDecoder.started(images, num_concepts, dim, concepts=concepts, slides=True)[0]
    if len(complete) < len(images):
        images, concepts = images[complete.to(images.device)], concepts[complete.to(concepts.device)]
    decoder, start = SceneDecoder.started(images, num_concepts, dim, concepts=concepts, slides=True)
    if not decoder.sprites:
        return decoder
    seen = scale_images(images[start.chosen.to(images.device)]).float().cpu()
    z = concepts[start.chosen.to(concepts.device)].float().cpu()

    def train(grown: SceneDecoder, steps: int) -> float:
        # What is drawn in place is for the fields, which would learn to draw what travels as well.
        grown.fields.requires_grad_(False)
        train_decoder(grown, images, concepts, torch.arange(len(images)), steps=steps, weight=weight, growth=1.0)
        grown.fields.requires_grad_(True)
        return _left(grown, seen, z)

    untrained = deepcopy(decoder)
    left, steps = train(decoder, _FIRST), _FIRST
    if not math.isfinite(left):
        return untrained
    for _ in range(_MOST_ADDED):
        with torch.no_grad():
            drawn = decoder(z).sigmoid()
        tried: list[tuple[float, SceneDecoder]] = []
        for part in find_missed_parts(seen, drawn, regress_pixels(seen - drawn, z), z.double().numpy()):
            alone = SceneDecoder.from_start(
                replace(start, parts=[part]), decoder.image_shape, num_concepts, dim, concepts=concepts, slides=True
            )
            more = SceneDecoder(decoder.image_shape, num_concepts, dim, sprites=decoder.sprites + 1, slides=True)
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
        error, variance = (decoder(z).sigmoid() - seen).square().mean(), (seen - seen.mean(0)).square().mean()
    decoder.unexplained_at_start = (error / variance.clamp(min=1e-12)).item()
    decoder.parts_at_start, decoder.steps_at_start = decoder.sprites, steps
    return decoder


def _left(decoder: SceneDecoder, images: Tensor, concepts: Tensor) -> float:
    """What is left for layers to draw: what no regression in place explains."""
    with torch.no_grad():
        return error_of_regression(images - decoder(concepts).sigmoid(), concepts)


def _without_idle(decoder: SceneDecoder, images: Tensor, concepts: Tensor, left: float) -> SceneDecoder:
    """The decoder without layers that make no difference, the least useful first."""
    kept = list(range(decoder.sprites))

    def without(layer: int) -> float:
        opacity = decoder.opacity.detach().clone()
        with torch.no_grad():
            decoder.opacity[[k for k in range(decoder.sprites) if k == layer or k not in kept]] = -1.0
            found = _left(decoder, images, concepts)
            decoder.opacity.copy_(opacity)
        return found

    while kept:
        errors = {k: without(k) for k in kept}
        idle = min(kept, key=errors.__getitem__)
        if not errors[idle] <= _NOTHING * left:
            break
        kept.remove(idle)
        left = min(left, errors[idle])
    if len(kept) == decoder.sprites:
        return decoder
    fewer = SceneDecoder(decoder.image_shape, decoder.num_concepts, decoder.dim, sprites=len(kept), slides=True)
    fewer.take_layers(decoder, kept)
    return fewer
