"""Compositing: canvases that are placed, stretched and alpha-composited into an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from causalvae_pyro.networks.sampling import sample_images
from causalvae_pyro.networks.sprites.windows import pixel_windows

__all__ = ["OUTSIDE", "Layers", "Sprites", "composite", "render_layers", "shares"]

# Logit of the opacity outside of a layer's canvas.
OUTSIDE = -8.0

# Where a canvas is flatter than so many logits per half image side it has no outline to keep.
_FLAT = 10.0

# What a canvas has around it.
_GREY = 0.5


class Layers(NamedTuple):
    """What ``k`` layers draw.

    Attributes:
        pixels: Numbers of the pixels that they reach, ``[k, N, P]``; ``None`` for all pixels in their order.
        opacity: In logits, ``[k, N, P]``.
        colour: ``[k, N, C, P]``.
    """

    pixels: Tensor | None
    opacity: Tensor
    colour: Tensor


class Sprites(NamedTuple):
    """``K`` canvases, and how each lies in each of ``N`` images.

    Attributes:
        canvases: ``[K, C + 3, S, S]``: colours and opacity in logits, the latter from :data:`OUTSIDE` on, and its slopes along x
            and y.
        usual_size: ``[K, 1, 2]``, in half image sides.
        level: Where the outline lies, in logits, ``[K]``.
        placement: Position, change of size, rotation and shear, ``[K, N, 6]``.
        tint: Change of the colours and of the opacity in logits, ``[K, N, C + 1]``; ``None`` for none.
    """

    canvases: Tensor
    usual_size: Tensor
    level: Tensor
    placement: Tensor
    tint: Tensor | None

    def split(self) -> list[Sprites]:
        """Each canvas by itself."""
        *tensors, tint = self
        tints = [None] * len(self.canvases) if tint is None else tint.split(1)
        return [Sprites(*one) for one in zip(*(tensor.split(1) for tensor in tensors), tints, strict=True)]


def render_layers(sprites: Sprites, pixels_x: Tensor, pixels_y: Tensor) -> list[Layers]:
    """Renders canvases into images.

    On a CPU each of them by itself, in the window that it reaches; on accelerators all at once on the whole image, since there
    it is the number of operations that takes time.

    Args:
        sprites: The canvases and their places.
        pixels_x: Places of the pixels' middles along a row, ``[W]``, in half image sides from the image's centre.
        pixels_y: The same down a column, ``[H]``.
    """
    parts = sprites.split() if sprites.canvases.device.type == "cpu" else [sprites]
    return [_draw(part, pixels_x, pixels_y) for part in parts]


def _draw(sprites: Sprites, pixels_x: Tensor, pixels_y: Tensor) -> Layers:
    canvases, usual_size, level, placement, tint = sprites
    position, change, rotation, shear = placement.split([2, 2, 1, 1], -1)
    # Linear where it matters, and positive: softplus alone underflows to zero under extreme interventions.
    size = usual_size * (nn.functional.softplus(4 * (1 + change / usual_size)) / 4).clamp(min=1e-3)
    cos, sin, zero = rotation.cos(), rotation.sin(), torch.zeros_like(shear)
    turn = torch.stack([torch.cat([cos, sin], -1), torch.cat([-sin, cos], -1)], -2)
    shrink = torch.stack([torch.cat([1 / size[..., :1], shear], -1), torch.cat([zero, 1 / size[..., 1:]], -1)], -2)
    to_canvas = shrink @ turn
    # How far the canvas and the half pixel around it, over which it fades, reach along x and y.
    slant = -shear * size[..., :1] * size[..., 1:]
    along = torch.stack([torch.cat([size[..., :1], slant], -1), torch.cat([zero, size[..., 1:]], -1)], -2)
    reach = (turn.mT @ along).abs().sum(-1) * (1 + 1 / canvases.shape[-1])
    columns = pixel_windows(position[..., 0], reach[..., 0], len(pixels_x))
    rows = pixel_windows(position[..., 1], reach[..., 1], len(pixels_y))
    # Each pixel's x and y act on their own, so the places on the canvas are sums of a row and a column.
    x, y = (pixels_x, pixels_y) if columns is None or rows is None else (pixels_x[columns], pixels_y[rows])
    across = to_canvas[..., None, :, 0] * x[..., None]
    down = to_canvas[..., None, :, 1] * y[..., None] - (to_canvas @ position[..., None]).mT
    where = across[:, :, None] + down[:, :, :, None]
    # The batch lies in the grid's height, so that the canvases need no copies.
    drawn = sample_images(canvases, where.flatten(1, 2)).unflatten(2, where.shape[1:3]).flatten(3)
    colour, (logit, slope_x, slope_y) = drawn[:, :-3].transpose(1, 2), drawn[:, -3:].unbind(1)
    # Squared slopes across the image, by the chain rule, as quadratic forms of those across the canvas.
    xx, yy, xy = slope_x.square(), slope_y.square(), slope_x * slope_y
    usual, here = usual_size.square().reciprocal(), (to_canvas @ to_canvas.mT)[..., None]
    at_usual = torch.addcmul(xx * usual[..., :1] + _FLAT**2, yy, usual[..., 1:])
    as_it_lies = torch.addcmul(xx * here[:, :, 0, 0] + _FLAT**2, yy, here[:, :, 1, 1])
    as_it_lies = torch.addcmul(as_it_lies, xy, 2 * here[:, :, 0, 1])
    stretch = (at_usual / as_it_lies).sqrt()
    level = level.view(-1, 1, 1)
    opacity = torch.addcmul(level, logit - (level - OUTSIDE), stretch)
    if tint is not None:
        colour = colour + tint[..., :-1, None]
        # Outside of the canvas there is nothing to see, however opaque the rest gets.
        opacity = opacity + tint[..., -1:] * ((opacity.detach() - OUTSIDE) / 4).clamp(0, 1)
    whole = columns is None or rows is None
    pixels = None if whole else (rows[..., :, None] * len(pixels_x) + columns[..., None, :]).flatten(2)  # type: ignore[index]
    return Layers(pixels, opacity, colour.sigmoid())


def composite(background: Tensor, frame: Tensor, layers: Sequence[Layers]) -> Tensor:
    """Lays layers over a background, each pixel by the softmax of the opacities.

    Args:
        background: Colours ``[C, P]``, or ``[N, C, P]`` where they change.
        frame: The background's own opacity in logits, ``[P]``.
        layers: Groups of layers.

    Returns:
        ``[N, C, P]``.
    """
    weights = shares(frame, layers)
    image = torch.addcmul(torch.full_like(background, _GREY), weights[0, :, None], background - _GREY)
    groups = weights[1:].split([len(layer.opacity) for layer in layers])
    for weight, layer in zip(groups, layers, strict=True):
        here = weight if layer.pixels is None else weight.gather(2, layer.pixels)
        shown = (here[:, :, None] * (layer.colour - _GREY)).sum(0)
        image = image + shown if layer.pixels is None else _add(image, layer.pixels, shown)
    return image


def shares(frame: Tensor, layers: Sequence[Layers]) -> Tensor:
    """How much of each pixel is the background, first, and each layer: ``[1 + K, N, P]``, their sum 1.

    Args:
        frame: See :func:`composite`.
        layers: Groups of layers.
    """
    images, pixels = layers[0].opacity.shape[1], len(frame)
    opacity = [_everywhere(layer, pixels) for layer in layers]
    return torch.softmax(torch.cat([frame.expand(1, images, -1), *opacity]), 0)


def _add(image: Tensor, pixels: Tensor, shown: Tensor) -> Tensor:
    return image.scatter_add(2, pixels[0, :, None].expand_as(shown), shown)


def _everywhere(layer: Layers, pixels: int) -> Tensor:
    if layer.pixels is None:
        return layer.opacity
    outside = layer.opacity.new_full((*layer.opacity.shape[:2], pixels), OUTSIDE)
    return outside.scatter(2, layer.pixels, layer.opacity)
