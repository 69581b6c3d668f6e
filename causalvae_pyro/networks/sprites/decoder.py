"""A scene as layers: a few learned sprites that the concepts move, turn and stretch, over a background."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import Self

from causalvae_pyro.networks.decoders import _Decoder
from causalvae_pyro.networks.shapes import check_at_least, check_image_shape
from causalvae_pyro.networks.sprites.compositing import OUTSIDE, Layers, Sprites, composite, render_layers, shares
from causalvae_pyro.networks.sprites.effects import AdditiveEffects
from causalvae_pyro.networks.sprites.pose_effects import effects_on_poses, usual_poses
from causalvae_pyro.networks.sprites.poses import find_poses
from causalvae_pyro.networks.sprites.start import Start, best_start, check_concepts, find_start
from causalvae_pyro.utils.images import check_images

__all__ = ["SpriteDecoder"]

# Adam's steps are about as long as its learning rate whatever the gradient. Pixels, in logits, have further to go than weights.
_GAIN = 20.0

# Attributes whose first dimension numbers the layers.
_PER_LAYER = frozenset(
    (
        *("opacity", "texture", "colour", "base", "level", "size", "slide"),
        *("effects_of_concepts", "effects_of_noise", "tints_of_concepts", "slides_of_concepts"),
    )
)


class SpriteDecoder(_Decoder):
    """Layers composited by learned opacities; what a concept does to a layer is to move it.

    ::

        e_kj    = f_kj(z_j)                               effect of concept j on layer k: six numbers
        t, s, r, h = base_k + sum_j e_kj                  position, size, rotation, shear
        q       = S(s, h)^-1 R(r)^-1 (p - t)              where pixel p lies on the layer's canvas
        l_k, c_k = canvas_k(q)                            opacity (in logits) and colour
        a_k     = b_k + (l_k - b_k) g_k                   g_k: how far the layer is stretched across its outline
        x       = sum_k softmax(a_0, a_1, .. a_K)_k c_k   with the background as layer 0

    Each ``f_kj`` is linear plus a small network. The decoder thus has three biases that a convolutional one lacks. Concepts act
    on a layer *additively*, so that what one does can be learned from scenes in which others follow it, and carries over to
    those in which they do not. They act by *geometry*, so that a length outside of the range seen still stretches. And it
    can be said how much each concept does to each layer (:meth:`effect_sizes`), which
    :class:`~causalvae_pyro.objectives.EffectSparsity` penalises: pixels that a concept and its parents explain equally well are
    then cheapest explained by the concept alone.

    Interpolating logits keeps edges sharp at any position and size. Beyond the level ``b_k``, which is learned, distances are
    in pixels of the image rather than of the canvas: the outline scales with the sprite and what is around it does not, so
    that edges stay as sharp (``b_k = 0``) and lines as wide (``b_k`` the logit at their middle) as they are. The stretch is
    the ratio of two slopes ``|grad_p l|``, of the canvas at its usual size and as it lies.

    The background has an opacity ``a_0`` at each pixel, 0 at the start. Where it grows it occludes the layers, as the frame of an
    image does.

    Scenes that are not made of a few moving parts need another decoder.

    Args:
        image_shape: ``(C, H, W)`` with 1, 3 or 4 channels, of any size.
        num_concepts: Number of concepts ``n``.
        dim: Dimensions of each concept.
        noise_dim: Dimensions of ``eps_x``, which acts on the layers like one more concept.
        sprites: Number of layers ``K`` besides the background.
        canvas: Pixels of a sprite along each side.
        hidden: Width of the networks ``f_kj``.

    Source: spatial transformers, Jaderberg et al. 2015; sprites, Monnier et al. 2021; additive decoders, Lachapelle et al.
    2023.
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
        self.opacity = nn.Parameter((opacity / _GAIN).expand(sprites, 1, -1, -1).clone())
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
            image_shape: See the class, as for all not below.
            num_concepts: Number of concepts ``n``.
            dim: Dimensions of each concept.
            concepts: See :meth:`initialise`.
            **kwargs: Passed on to the class.
        """
        widths = {"sprites": len(start.parts) or cls._usual, **kwargs}
        decoder = cls(image_shape, num_concepts, dim, **widths)  # type: ignore[arg-type]
        decoder.begin(start, concepts)
        return decoder

    def take_layers(self, other: SpriteDecoder, kept: Sequence[int], first: int = 0) -> None:
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
            self.background.copy_(torch.logit(start.background.clamp(4e-3, 1 - 4e-3)) / _GAIN)
            for k, part in enumerate(start.parts[: self.sprites]):
                masks, z = part.masks, None
                if chosen is not None:
                    complete = ~np.isnan(chosen[part.images]).any((1, 2))
                    if complete.sum() > 10 * n * d:
                        masks, z = masks[complete], chosen[part.images][complete]
                self.colour[k] = torch.logit(torch.as_tensor(part.colour).clamp(0.02, 0.98)) / _GAIN
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
        self.opacity[k, 0] = torch.logit(torch.as_tensor(shape).clamp(5e-3, 1 - 5e-3)) / _GAIN
        self.size[k, 0] = torch.as_tensor(size).clamp(0.06, 1.0)

    def effects(self, z: Tensor) -> Tensor:
        """What each concept does to each layer, ``[K, N, n, 6]`` for ``z [N, n, d]``.

        In the last dimension: position (2) and size (2) in half image sides, rotation in radians, and shear. Where height and
        width differ these units do too, and a rotation also shears.
        """
        return self.effects_of_concepts(z)

    def effect_sizes(self, z: Tensor) -> Tensor:
        """How much each concept does to each layer, ``[K, n, 6]``: the standard deviation over ``z [N, n, d]`` of each effect."""
        effects = self.effects(z)
        if not effects.shape[1]:
            return effects.new_zeros(self.sprites, *effects.shape[2:])
        centred = effects - effects.mean(1, keepdim=True)
        # Not of zero, where the root has no derivative.
        return (centred.square().mean(1) + 1e-8).sqrt()

    def forward(self, z: Tensor, eps_x: Tensor | None = None) -> Tensor:
        return self.draw(z, eps_x)

    def draw(self, z: Tensor, eps_x: Tensor | None = None, *, background: Tensor | None = None) -> Tensor:
        """The image in logits, over the decoder's own background or over another one.

        Args:
            z: Concepts ``[..., n, d]``.
            eps_x: Noise ``[..., r]``, for a decoder that has some.
            background: What lies behind the layers, in logits, ``[..., C, H, W]``; instead of the decoder's own. The leading
                dimensions of all three broadcast.

        Returns:
            ``[..., C, H, W]``.
        """
        # Half precision knows places to an eighth of a pixel only.
        with torch.autocast(z.device.type, enabled=False):
            return self._compose(z, eps_x, background)

    def _compose(self, z: Tensor, eps_x: Tensor | None, background: Tensor | None) -> Tensor:
        if background is not None:
            z = z.expand(*torch.broadcast_shapes(z.shape[:-2], background.shape[:-3]), -1, -1)
        concepts, noise, lead = self._parts(z, eps_x)
        behind = self.background * _GAIN
        if background is not None:
            behind = background.to(behind.dtype).expand(*lead, *self.image_shape).reshape(-1, *self.image_shape)
        behind = behind + self._changes(concepts, noise)
        if not self.sprites:
            return behind.expand(len(concepts), *self.image_shape).reshape(*lead, *self.image_shape)
        image = composite(behind.sigmoid().flatten(-2), (self.frame * _GAIN).flatten(), self._layers(concepts, noise))
        # The likelihood takes logits.
        return torch.logit(image, eps=1e-6).reshape(*lead, *self.image_shape)

    def uncovered_share(self, z: Tensor, eps_x: Tensor | None = None) -> Tensor:
        """How much of each pixel is the background, as no layer covers it: ``[..., H, W]`` in [0, 1].

        Args:
            z: Concepts ``[..., n, d]``.
            eps_x: Noise ``[..., r]``, for a decoder that has some.
        """
        with torch.autocast(z.device.type, enabled=False):
            concepts, noise, lead = self._parts(z, eps_x)
            if not self.sprites:
                return z.new_ones(*lead, *self.image_shape[1:])
            share = shares((self.frame * _GAIN).flatten(), self._layers(concepts, noise))[0]
            return share.reshape(*lead, *self.image_shape[1:])

    def _parts(self, z: Tensor, eps_x: Tensor | None) -> tuple[Tensor, Tensor, torch.Size]:
        """Concepts ``[N, n, d]``, noise ``[N, r]`` and what they were before they were flat."""
        inputs, lead = self._flat(z, eps_x)
        numbers = self.num_concepts * self.dim
        return inputs[:, :numbers].reshape(-1, self.num_concepts, self.dim), inputs[:, numbers:], lead

    def _layers(self, concepts: Tensor, noise: Tensor) -> list[Layers]:
        placement = self.base + self.effects_of_concepts(concepts).sum(2)
        if self.effects_of_noise is not None:
            placement = placement + self.effects_of_noise(noise[:, None])[:, :, 0]
        placement = self._slid(concepts, placement)
        sprites = Sprites(self._canvas(), self.size, self.level.flatten() * _GAIN, placement, self._tints(concepts))
        return render_layers(sprites, self.pixels_x, self.pixels_y)

    def _slid(self, concepts: Tensor, placement: Tensor) -> Tensor:
        """Where the layers lie, ``[K, N, 6]``, after they have slid along their own axes."""
        return placement

    def _changes(self, concepts: Tensor, noise: Tensor) -> Tensor | float:
        """What concepts and noise do to the look of the background, in logits."""
        return 0.0

    def _tints(self, concepts: Tensor) -> Tensor | None:
        """What concepts do to the look of the layers, as :class:`Sprites` holds it."""
        return None

    def _canvas(self) -> Tensor:
        """``[K, C + 3, S, S]``: colours and opacity in logits, the latter from ``OUTSIDE`` on, and its slopes along x and y."""
        logit = self.opacity * _GAIN - OUTSIDE
        around = nn.functional.pad(logit, (1, 1, 1, 1))
        pixels = logit.shape[-1] / 4
        slope_x = pixels * (around[..., 1:-1, 2:] - around[..., 1:-1, :-2])
        slope_y = pixels * (around[..., 2:, 1:-1] - around[..., :-2, 1:-1])
        return torch.cat([(self.texture + self.colour[..., None, None]) * _GAIN, logit, slope_x, slope_y], 1)
