"""One concept through its range: a sweep, its animation, and the pixels that follow it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor

from causalvae_pyro.explore.answers import Explorer, Factual
from causalvae_pyro.utils.images import scale_images

__all__ = ["FORMATS", "Sweep", "effect_maps", "encode_frames", "sweep_concept"]

#: What :func:`encode_frames` writes, with their media types.
FORMATS = {"gif": "image/gif", "webp": "image/webp", "png": "image/png"}
#: Pixels of an animation's longer side, at least: those of a small model would be a stamp.
_SIDE = 256
#: Milliseconds that a picture of an animation is shown.
_SHOWN = 90


@dataclass(frozen=True)
class Sweep:
    """Counterfactuals of an image with one concept at several values.

    Attributes:
        concept: Its name.
        values: In label units, ``[V]``, increasing.
        images: ``[V, C, H, W]``.
        true_images: The true ones; ``None`` where the data do not draw them.
    """

    concept: str
    values: Tensor
    images: Tensor
    true_images: Tensor | None


def sweep_concept(
    explorer: Explorer, factual: Factual, do: Mapping[str, float], name: str, steps: int = 9, *, detail: bool = False
) -> Sweep:
    """Takes a concept through the values that its slider reaches.

    Args:
        explorer: What answers.
        factual: The image.
        do: The other interventions, in label units; one on the concept itself gives way.
        name: The concept.
        steps: Values, at least 2.
        detail: See :meth:`~causalvae_pyro.explore.Explorer.answer`.

    Raises:
        ValueError: If the concept is unknown or an intervention cannot be made.
    """
    if name not in explorer.graph.names:
        raise ValueError(f"concept: got {name!r}; valid: {', '.join(explorer.graph.names)}")
    if not 2 <= steps <= 100:
        raise ValueError(f"steps: got {steps}; must lie between 2 and 100")
    values = torch.linspace(*explorer.concept(name).ends(), steps)
    images, true_images = explorer.answer_all(factual, {**do, name: values}, steps, detail=detail)
    return Sweep(name, values, images, true_images)


def effect_maps(explorer: Explorer, factual: Factual, do: Mapping[str, float], steps: int = 7) -> dict[str, Tensor]:
    """Which pixels follow which concept, by name: the standard deviation over its range, root mean square over the channels.

    What the concept moves through its effects counts too; set an effect (``do``) to leave it out.

    Args:
        explorer: See :func:`sweep_concept`, as for the others.
        factual: The image.
        do: The other interventions, in label units.
        steps: Values of each concept.

    Returns:
        ``[H, W]`` for each concept, in the order of the graph.
    """
    swept = {name: sweep_concept(explorer, factual, do, name, steps) for name in explorer.graph.names}
    return {name: sweep.images.var(0, correction=0).mean(0).sqrt() for name, sweep in swept.items()}


def encode_frames(images: Tensor, kind: str) -> bytes:
    """A sweep as a file: an animation there and back, or one picture with all of it in a row.

    Args:
        images: ``[V, C, H, W]`` in [0, 1]; values beyond are clipped.
        kind: One of :data:`FORMATS`: ``"gif"`` and ``"webp"`` move, ``"png"`` is a strip.

    Raises:
        ValueError: If it is none of them, or the installed Pillow cannot write it.
    """
    if kind not in FORMATS:
        raise ValueError(f"format: got {kind!r}; valid: {', '.join(FORMATS)}")
    if kind == "webp" and not features.check("webp"):
        raise ValueError("format: the installed Pillow writes no WebP; use gif")
    pictures = [_enlarged(image) for image in images]
    buffer = io.BytesIO()
    if kind == "png":
        joined = np.concatenate([np.asarray(picture) for picture in pictures], 1)
        Image.fromarray(joined).save(buffer, format="png")
    else:
        first, *others = [*pictures, *pictures[-2:0:-1]]
        options = {"lossless": True} if kind == "webp" else {}
        first.save(buffer, format=kind, save_all=True, append_images=others, duration=_SHOWN, loop=0, **options)
    return buffer.getvalue()


def _enlarged(image: Tensor) -> Image.Image:
    """By a whole number, so that pixels stay squares."""
    pixels = (scale_images(image).clamp(0, 1) * 255).round().byte().movedim(0, -1).numpy()
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    factor = -(-_SIDE // max(picture.size))
    return picture.resize(_times(picture.size, factor), Image.Resampling.NEAREST)


def _times(size: Sequence[int], factor: int) -> tuple[int, int]:
    width, height = size
    return width * factor, height * factor
