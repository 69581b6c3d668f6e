"""Sprites that also change their look, over a background that does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import Self

from causalvae_pyro.networks.fields import Fields
from causalvae_pyro.networks.sprites.decoder import _GAIN, SpriteDecoder, _AdditiveEffects
from causalvae_pyro.utils.images import check_images, scale_images

__all__ = ["SceneDecoder"]

# Of logits: a change of 4 takes a pixel from dark to bright, as one of 1 in a place takes a layer through half of the image.
_LOGITS = 0.25

# Black and white have no slope, and yet fields change them.
_SLOPE = 0.05

_FEWEST = 50
# Each layer is left out in turn, on so many images.
_ASKED = 100


class SceneDecoder(SpriteDecoder):
    """:class:`SpriteDecoder` whose layers also change colour and opacity, over a background that the concepts change.

    ::

        colour_k  += sum_j c_kj(z_j)        in logits
        opacity_k += sum_j o_kj(z_j)        in logits, on the layer's canvas
        background = b + Fields(z)          in logits, see below

    What travels is for the layers, what brightens, tints, fades, bends or opens where it is for
    :class:`~causalvae_pyro.networks.Fields`. There can be no layer at all.

    Args:
        image_shape: See :class:`SpriteDecoder`, as for all not below.
        num_concepts: Number of concepts ``n``.
        dim: Dimensions of each concept.
        fields: See :class:`~causalvae_pyro.networks.Fields`.
        pair_fields: See :class:`~causalvae_pyro.networks.Fields`.
        sprites: Number of layers, >= 0.
        canvas: Pixels of a sprite along each side.
        hidden: Width of the layers' networks.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_concepts: int,
        dim: int = 1,
        *,
        fields: int = 24,
        pair_fields: int = 8,
        sprites: int = 6,
        canvas: int = 32,
        hidden: int = 16,
    ) -> None:
        super().__init__(image_shape, num_concepts, dim, sprites=sprites, canvas=canvas, hidden=hidden)
        self.fields = Fields(self.image_shape, num_concepts, dim, fields=fields, pair_fields=pair_fields)
        self.tints_of_concepts = _AdditiveEffects(sprites, num_concepts, dim, hidden, self.image_shape[0] + 1)

    _fewest = 0
    _usual = 0
    _in_place = True

    @classmethod
    def from_images(  # type: ignore[override]
        cls, images: Tensor, num_concepts: int, dim: int = 1, *, concepts: Tensor | None = None, **kwargs: object
    ) -> Self:
        """Makes a decoder for such images, with a sprite on each part found that makes their reconstruction better.

        Args:
            images: Training images ``[N, C, H, W]`` in [0, 1] or uint8.
            num_concepts: Number of concepts ``n``.
            dim: Dimensions of each concept.
            concepts: See :meth:`SpriteDecoder.initialise`.
            **kwargs: Passed on to the class.
        """
        check_images(images, "images")
        if "sprites" in kwargs:
            decoder = cls(tuple(images.shape[1:]), num_concepts, dim, **kwargs)  # type: ignore[arg-type]
            decoder.initialise(images, concepts)
            return decoder
        decoder, start = cls._best(images, num_concepts, dim, concepts, kwargs)
        while concepts is not None and start.parts:
            sample = concepts[start.chosen.to(concepts.device)].to(decoder.base)
            known = ~sample.isnan().flatten(1).any(1)
            seen = scale_images(images[start.chosen.to(images.device)]).to(decoder.base)[known]
            kept = decoder._useful(seen, sample[known])
            if len(kept) == len(start.parts):
                break
            start.parts = [start.parts[k] for k in kept]
            decoder = cls._begun(start, images, num_concepts, dim, concepts, kwargs)
            variance = (seen - seen.mean(0)).square().mean().clamp(min=1e-12)
            decoder.unexplained_at_start = decoder._error(seen, sample[known]) / variance.item()
            decoder.parts_at_start = len(start.parts)
        return decoder

    def effects(self, z: Tensor) -> Tensor:
        """Each concept's effect on each layer, ``[K, N, n, 6 + C + 1]``: as :class:`SpriteDecoder` has it, colour and opacity."""
        return torch.cat([super().effects(z), _LOGITS * self.tints_of_concepts(z)], -1)

    def field_sizes(self, z: Tensor) -> Tensor:
        """How much each concept alone and each pair changes each pixel of the background, ``[n + pairs, C * H * W]``.

        In units of the pixels' range; see :meth:`Fields.sizes`. :class:`~causalvae_pyro.objectives.EffectSparsity` penalises it.
        """
        bright = (self.background.detach() * _GAIN).sigmoid().flatten()
        return self.fields.sizes(z) * (bright * (1 - bright)).clamp(min=_SLOPE)

    def _appearance(self, concepts: Tensor) -> tuple[Tensor | float, Tensor | None]:
        return self.fields(concepts), self.tints_of_concepts(concepts).sum(2)

    def _useful(self, images: Tensor, concepts: Tensor) -> list[int]:
        """The layers to keep: all but the one that only does harm."""
        every = list(range(self.sprites))
        if len(images) < _FEWEST:
            return every
        with torch.no_grad():
            images, concepts = images[:_ASKED], concepts[:_ASKED]
            error, opacity, without = self._error(images, concepts), self.opacity.clone(), []
            for k in every:
                self.opacity[k] = -1.0
                without.append(self._error(images, concepts))
                self.opacity.copy_(opacity)
        worst = min(every, key=lambda k: without[k])
        return every if without[worst] >= error else [k for k in every if k != worst]

    def _error(self, images: Tensor, concepts: Tensor) -> float:
        return (self(concepts).sigmoid() - images).square().mean().item()
