"""Sprites before a background that is another one in each image."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from causalvae_pyro.networks.hierarchy import HierarchicalDecoder
from causalvae_pyro.networks.sprites.decoder import SpriteDecoder
from causalvae_pyro.networks.sprites.inpainting import fill_in
from causalvae_pyro.networks.sprites.start import check_concepts, find_moving_start
from causalvae_pyro.utils.configurable import Configurable
from causalvae_pyro.utils.images import check_images

__all__ = ["BackdropDecoder"]

# The share of a pixel from which a layer covers it, and pixels that count with it: a margin for soft edges and for concepts
# that are not read exactly.
_COVERED, _MARGIN = 0.05, 3


class BackdropDecoder(Configurable, nn.Module):
    """Sprites, which the concepts move, over what the image's own noise alone draws.

    ::

        b = backdrop(eps_x)                               in logits, [..., C, H, W]
        x = sum_k softmax(a_0, a_1(z), .. a_K(z))_k c_k   with c_0 = sigmoid(b), see SpriteDecoder

    What the concepts say is in the layers, what they do not say is behind them. So ``do`` moves the layers and leaves the
    background as it is, what they hid included: it is drawn behind them too. One decoder of concepts *and* noise would have to
    learn that, and draws moving things with the noise instead.

    Args:
        scene: The layers, a :class:`SpriteDecoder` (or :class:`SceneDecoder`) without noise. Its own background is not drawn and
            does not learn.
        backdrop: A :class:`~causalvae_pyro.networks.HierarchicalDecoder` that is blind to the concepts (``concept_scale=0``), of
            the same image shape and for the same concepts.

    Attributes:
        noise_dim: Length of ``eps_x``; give it to the model.

    Raises:
        TypeError: If one of them is another decoder.
        ValueError: If the scene has noise, the backdrop sees concepts, or their shapes differ.

    Source: layers, spatial transformers, Jaderberg et al. 2015, and sprites over a background, Monnier et al. 2021; the
    background's noise as in :class:`~causalvae_pyro.networks.HierarchicalDecoder`.
    """

    def __init__(self, scene: nn.Module, backdrop: nn.Module) -> None:
        super().__init__()
        if not isinstance(scene, SpriteDecoder):
            raise TypeError(f"scene: got a {type(scene).__name__}; must be a SpriteDecoder")
        if not isinstance(backdrop, HierarchicalDecoder):
            raise TypeError(f"backdrop: got a {type(backdrop).__name__}; must be a HierarchicalDecoder")
        if scene.noise_dim:
            raise ValueError(f"scene: got noise_dim={scene.noise_dim}; must be 0, since the noise is the backdrop's")
        if bool(backdrop.concept_scale.any()):
            raise ValueError("backdrop: got one that concepts change; make it with concept_scale=0")
        for name in ("image_shape", "num_concepts", "dim"):
            mine, other = getattr(scene, name), getattr(backdrop, name)
            if mine != other:
                raise ValueError(f"backdrop: got {name}={other}; the scene has {mine}")
        self.scene, self.backdrop = scene, backdrop
        self.scene.background.requires_grad_(False)
        self.image_shape: tuple[int, ...] = scene.image_shape
        self.num_concepts: int = scene.num_concepts
        self.dim: int = scene.dim
        self.noise_dim: int = backdrop.noise_dim

    @classmethod
    def from_images(
        cls,
        images: Tensor,
        num_concepts: int,
        dim: int = 1,
        *,
        concepts: Tensor,
        canvas: int = 32,
        hidden: int = 16,
        **kwargs: Any,
    ) -> Self:
        """Makes a decoder for such images, with a sprite on each part that the concepts move, before their mean.

        Parts are found by :func:`~causalvae_pyro.networks.sprites.moving_parts.find_moving_parts`, and start as
        :meth:`SpriteDecoder.initialise` says. Chance enters through torch's global generator.

        Args:
            images: Training images ``[N, C, H, W]`` in [0, 1] or uint8.
            num_concepts: Number of concepts ``n``.
            dim: Dimensions of each concept.
            concepts: ``[N, n, d]``, e.g. ``prior(labels).mean``; images with any that is NaN do not count.
            canvas: See :class:`SpriteDecoder`.
            hidden: See :class:`SpriteDecoder`.
            **kwargs: Of the backdrop: ``channels``, ``noise_channels`` and ``blocks``.

        Raises:
            ValueError: If an argument does not fit, or no part is found.
        """
        check_images(images, "images")
        check_concepts(concepts, len(images), num_concepts, dim)
        backdrop = HierarchicalDecoder.from_images(images, num_concepts, dim, concept_scale=0.0, **kwargs)
        start = find_moving_start(images, concepts)
        if not start.parts:
            raise ValueError(
                "images: nothing of one colour in them moves, grows or turns as the concepts say; "
                "use a HierarchicalDecoder (decoder 'hierarchical')"
            )
        shape, sprites = tuple(images.shape[1:]), len(start.parts)
        scene = SpriteDecoder(shape, num_concepts, dim, sprites=sprites, canvas=canvas, hidden=hidden)
        scene.begin(start, concepts)
        return cls(scene, backdrop)

    @property
    def noise_decoder(self) -> nn.Module:
        """The part that draws the noise."""
        return self.backdrop

    def uncovered(self, x: Tensor, z: Tensor) -> Tensor:
        """Images without what the layers cover, which is filled in from around it: what the noise may see of them.

        Noise that sees where a layer lies can draw the layer as well. Then both do, the layer turns transparent, and an
        intervention that moves it leaves the other one where it was.

        Args:
            x: Images ``[N, C, H, W]`` in [0, 1].
            z: The concepts that they are explained with, ``[..., N, n, d]``.

        Returns:
            ``[..., N, C, H, W]``; no gradient reaches the layers.
        """
        with torch.no_grad():
            shape = (*z.shape[:-2], *self.image_shape)
            hidden = (self.scene.uncovered_share(z).reshape(-1, 1, *shape[-2:]) < 1 - _COVERED).to(x)
            hidden = F.max_pool2d(hidden, _MARGIN, 1, _MARGIN // 2)
            return fill_in(x.expand(shape).reshape(-1, *self.image_shape), hidden).reshape(shape)

    def effects(self, z: Tensor) -> Tensor:
        """What each concept does to each layer; see :meth:`SpriteDecoder.effects`."""
        return self.scene.effects(z)

    def effect_sizes(self, z: Tensor) -> Tensor:
        """How much each concept does to each layer; see :meth:`SpriteDecoder.effect_sizes`."""
        return self.scene.effect_sizes(z)

    def forward(self, z: Tensor, eps_x: Tensor | None = None) -> Tensor:
        return self.scene.draw(z, background=self.backdrop(z, eps_x))
