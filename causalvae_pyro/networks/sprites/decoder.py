"""A scene as layers: a few learned sprites that the concepts move, turn and stretch, over a background."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from causalvae_pyro.networks.sprites.base import GAIN, LayersDecoder
from causalvae_pyro.networks.sprites.compositing import OUTSIDE, Layers, Sprites, composite, render_layers, shares

__all__ = ["SpriteDecoder"]


class SpriteDecoder(LayersDecoder):
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
            background: What lies behind the layers, in logits, ``[..., C, H, W]``; instead of the decoder's own, and changed as
                that is. The leading dimensions of all three broadcast.

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
        behind = self.background * GAIN
        if background is not None:
            behind = background.to(behind.dtype).expand(*lead, *self.image_shape).reshape(-1, *self.image_shape)
        behind = self._changed(behind, concepts, noise)
        if not self.sprites:
            return behind.expand(len(concepts), *self.image_shape).reshape(*lead, *self.image_shape)
        image = composite(behind.sigmoid().flatten(-2), (self.frame * GAIN).flatten(), self._layers(concepts, noise))
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
            share = shares((self.frame * GAIN).flatten(), self._layers(concepts, noise))[0]
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
        sprites = Sprites(self._canvas(), self.size, self.level.flatten() * GAIN, placement, self._tints(concepts))
        return render_layers(sprites, self.pixels_x, self.pixels_y)

    def _slid(self, concepts: Tensor, placement: Tensor) -> Tensor:
        """Where the layers lie, ``[K, N, 6]``, after they have slid along their own axes."""
        return placement

    def _changed(self, behind: Tensor, concepts: Tensor, noise: Tensor) -> Tensor:
        """The background, in logits, as concepts and noise change its look."""
        return behind

    def _tints(self, concepts: Tensor) -> Tensor | None:
        """What concepts do to the look of the layers, as :class:`Sprites` holds it."""
        return None

    def _canvas(self) -> Tensor:
        """``[K, C + 3, S, S]``: colours and opacity in logits, the latter from ``OUTSIDE`` on, and its slopes along x and y."""
        logit = self.opacity * GAIN - OUTSIDE
        around = nn.functional.pad(logit, (1, 1, 1, 1))
        pixels = logit.shape[-1] / 4
        slope_x = pixels * (around[..., 1:-1, 2:] - around[..., 1:-1, :-2])
        slope_y = pixels * (around[..., 2:, 1:-1] - around[..., :-2, 1:-1])
        return torch.cat([(self.texture + self.colour[..., None, None]) * GAIN, logit, slope_x, slope_y], 1)
