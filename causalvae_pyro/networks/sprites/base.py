"""What layers are made of, and how they start from what is seen in images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import Self

from causalvae_pyro.networks.decoders import _Decoder
from causalvae_pyro.networks.shapes import check_at_least, check_image_shape
from causalvae_pyro.networks.sprites.compositing import OUTSIDE
from causalvae_pyro.networks.sprites.effects import AdditiveEffects
from causalvae_pyro.networks.sprites.pose_effects import effects_on_poses, usual_poses
from causalvae_pyro.networks.sprites.poses import find_poses
from causalvae_pyro.networks.sprites.start import Start, best_start, check_concepts, find_start
from causalvae_pyro.utils.images import check_images

__all__ = ["GAIN", "LayersDecoder"]

# Adam's steps are about as long as its learning rate whatever the gradient. Pixels, in logits, have further to go than weights.
GAIN = 20.0

# Attributes whose first dimension numbers the layers.
_PER_LAYER = frozenset(
    (
        *("opacity", "texture", "colour", "base", "level", "size", "slide"),
        *("effects_of_concepts", "effects_of_noise", "tints_of_concepts", "slides_of_concepts"),
    )
)


class LayersDecoder(_Decoder):
    """Base of :class:`SpriteDecoder`: the layers' parameters and how they start. Subclasses draw them, in ``forward``.

    For the arguments see :class:`SpriteDecoder`.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_concepts: int,
        dim: int = 1,
        *,
        noise_dim: int = 0,
        sprites: int = 6,
        canvas: int = 32,
        hidden: int = 16,
    ) -> None:
        check_image_shape(image_shape, 1)
        super().__init__(image_shape, num_concepts, dim, noise_dim)
        check_at_least(self.fewest, sprites=sprites)
        check_at_least(1, hidden=hidden)
        check_at_least(2, canvas=canvas)
        colours, height, width = self.image_shape
        self.sprites = sprites
        self.effects_of_concepts = AdditiveEffects(sprites, num_concepts, dim, hidden)
        self.effects_of_noise = AdditiveEffects(sprites, 1, noise_dim, hidden) if noise_dim else None
        # A soft disc: something to see wherever a sprite starts.
        side = torch.linspace(-1, 1, canvas)
        opacity = (1.5 - 5 * (side[:, None] ** 2 + side**2)).clamp(min=OUTSIDE + 1)
        self.opacity = nn.Parameter((opacity / GAIN).expand(sprites, 1, -1, -1).clone())
        self.texture = nn.Parameter(torch.zeros(sprites, colours, canvas, canvas))
        self.colour = nn.Parameter(torch.zeros(sprites, colours))
        self.base = nn.Parameter(torch.zeros(sprites, 1, 6))
        self.frame = nn.Parameter(torch.zeros(1, height, width))
        self.level = nn.Parameter(torch.zeros(sprites, 1, 1, 1, 1))
        self.register_buffer("size", torch.ones(sprites, 1, 2))
        for name, count in (("pixels_x", width), ("pixels_y", height)):
            self.register_buffer(name, (2 * torch.arange(count) + 1) / count - 1, persistent=False)

    size: Tensor
    pixels_x: Tensor
    pixels_y: Tensor

    fewest = 1
    """How few layers it can have."""

    # Where nothing is seen.
    _usual = 6
    # Whether it can draw what changes where it is.
    _in_place = False

    unexplained_at_start: float | None = None
    """The share of the pixels' variance that the start leaves, before any training or after ``steps_at_start``; None where no
    concepts said where parts are."""

    parts_at_start = 0
    """How many parts the start has; where none is found there may be layers all the same."""

    steps_at_start = 0
    """How many steps of training a recipe has spent on the start."""

    lr_factor = 4.0
    """Steps of :func:`~causalvae_pyro.fit` are so many times longer: there are few parameters, each with a meaning of its own."""

    @classmethod
    def from_images(  # type: ignore[override]
        cls, images: Tensor, num_concepts: int, dim: int = 1, *, concepts: Tensor | None = None, **kwargs: object
    ) -> Self:
        """Makes a decoder for such images, that starts from what can be seen in them; see :meth:`initialise`.

        Args:
            images: Training images ``[N, C, H, W]`` in [0, 1] or uint8.
            num_concepts: Number of concepts ``n``.
            dim: Dimensions of each concept.
            concepts: See :meth:`initialise`.
            **kwargs: Passed on to the class. Without ``sprites`` it gets one for each part found, or the default if none is.
        """
        check_images(images, "images")
        cls(tuple(images.shape[1:]), num_concepts, dim, **{**kwargs, "sprites": 1})._check_images(images)  # type: ignore[arg-type]
        return cls.started(images, num_concepts, dim, concepts=concepts, **kwargs)[0]

    @classmethod
    def started(
        cls, images: Tensor, num_concepts: int, dim: int = 1, *, concepts: Tensor | None = None, **kwargs: object
    ) -> tuple[Self, Start]:
        """:meth:`from_images`, with the same arguments, and the :class:`Start` that it has seen in the images."""
        if concepts is not None:
            check_concepts(concepts, len(images), num_concepts, dim)
        shape = tuple(images.shape[1:])
        decoder, start, unexplained = best_start(
            images,
            concepts,
            lambda start: cls.from_start(start, shape, num_concepts, dim, concepts=concepts, **kwargs),
            in_place=cls._in_place,
        )
        decoder.unexplained_at_start, decoder.parts_at_start = unexplained, len(start.parts)
        return decoder, start

    @classmethod
    def from_start(
        cls,
        start: Start,
        image_shape: Sequence[int],
        num_concepts: int,
        dim: int = 1,
        *,
        concepts: Tensor | None = None,
        **kwargs: object,
    ) -> Self:
        """Makes a decoder that starts from what has been seen.

        Args:
            start: Of images of this shape; without ``sprites`` there is a layer for each of its parts.
            image_shape: See :class:`SpriteDecoder`, as for all not below.
            num_concepts: Number of concepts ``n``.
            dim: Dimensions of each concept.
            concepts: See :meth:`initialise`.
            **kwargs: Passed on to the class.
        """
        widths = {"sprites": len(start.parts) or cls._usual, **kwargs}
        decoder = cls(image_shape, num_concepts, dim, **widths)  # type: ignore[arg-type]
        decoder.begin(start, concepts)
        return decoder

    def take_layers(self, other: LayersDecoder, kept: Sequence[int], first: int = 0) -> None:
        """Becomes like another decoder, which differs in the number of its layers.

        Args:
            other: Made with the same arguments but for ``sprites``.
            kept: Which of its layers are taken, at most as many as there is room for; others here stay as they are.
            first: The first layer here to become one of them.
        """
        own = self.state_dict()
        with torch.no_grad():
            for name, value in other.state_dict().items():
                if name.split(".")[0] in _PER_LAYER:
                    own[name][first : first + len(kept)] = value[list(kept)]
                else:
                    own[name].copy_(value)

    def initialise_background(self, images: Tensor) -> None:
        """:meth:`initialise` without concepts."""
        self.initialise(images)

    def initialise(self, images: Tensor, concepts: Tensor | None = None) -> None:
        """Starts from what lies behind everything, with a sprite on each of the largest parts in front of it.

        A part is a region of one colour that is seen in many images. Its sprite gets its colour, shape, mean place, size and
        rotation. Where concepts are given too, the place, size and rotation in each image are regressed on at most two of
        them, which is where their linear effects start: a sprite that does not follow its part from the first steps on
        blurs over all of the part's places and fades away before it can learn to follow. Training changes all of this.
        Chance enters through torch's global generator.

        Args:
            images: ``[N, C, H, W]`` in [0, 1] or uint8.
            concepts: ``[N, n, d]``, e.g. ``prior(labels).mean``; images with any that is NaN do not count.
        """
        self._check_images(images)
        self.begin(find_start(images), concepts)

    def begin(self, start: Start, concepts: Tensor | None) -> None:
        """:meth:`initialise` from what has been seen already.

        Args:
            start: Of images of this shape.
            concepts: See :meth:`initialise`.
        """
        n, d = self.num_concepts, self.dim
        if concepts is not None:
            check_concepts(concepts, start.count, n, d)
        chosen = None if concepts is None else start.concepts(concepts)
        with torch.no_grad():
            self.background.copy_(torch.logit(start.background.clamp(4e-3, 1 - 4e-3)) / GAIN)
            for k, part in enumerate(start.parts[: self.sprites]):
                masks, z = part.masks, None
                if chosen is not None:
                    complete = ~np.isnan(chosen[part.images]).any((1, 2))
                    if complete.sum() > 10 * n * d:
                        masks, z = masks[complete], chosen[part.images][complete]
                self.colour[k] = torch.logit(torch.as_tensor(part.colour).clamp(0.02, 0.98)) / GAIN
                self._begin_layer(k, masks, z)

    def _begin_layer(self, k: int, masks: NDArray, z: NDArray | None) -> None:
        poses = find_poses(masks, self.opacity.shape[-1], z)
        values = poses.values
        if z is not None:
            usual = usual_poses(z, values)
            z, values = z[usual], values[usual]
        position, size, rotation = np.split(values.mean(0), [2, 4])
        self._shape_layer(k, poses.shape, size)
        self.base[k, 0, :2] = torch.as_tensor(position)
        self.base[k, 0, 4:5] = torch.as_tensor(rotation)
        if z is None:
            return
        effects = effects_on_poses(z, values)
        self.effects_of_concepts.linear[k, :, :, :5] += torch.as_tensor(effects).to(self.base)
        # What is seen in some images only has concepts whose mean is not zero.
        self.base[k, 0, :5] -= torch.as_tensor((effects * z.mean(0)[..., None]).sum((0, 1))).to(self.base)

    def _shape_layer(self, k: int, shape: NDArray, size: NDArray) -> None:
        self.opacity[k, 0] = torch.logit(torch.as_tensor(shape).clamp(5e-3, 1 - 5e-3)) / GAIN
        self.size[k, 0] = torch.as_tensor(size).clamp(0.06, 1.0)
