"""Sprites that also change their look, over a background that does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from causalvae_pyro.networks.displacement import Displacement
from causalvae_pyro.networks.fields import Fields
from causalvae_pyro.networks.sprites.base import GAIN
from causalvae_pyro.networks.sprites.decoder import SpriteDecoder
from causalvae_pyro.networks.sprites.effects import AdditiveEffects
from causalvae_pyro.networks.sprites.orbits import find_orbit
from causalvae_pyro.networks.sprites.poses import blur, find_poses

__all__ = ["SceneDecoder"]

# Of logits: a change of 4 takes a pixel from dark to bright, as one of 1 in a place takes a layer through half of the image.
_LOGITS = 0.25

# A part that turns on its orbit is at most so much more blurred than as it is found without one.
_BLURRED = 1.5

# Black and white have no slope, and yet fields change them.
_SLOPE = 0.05
# The slopes that displacements meet are of so many images.
_SOME = 16


class SceneDecoder(SpriteDecoder):
    """:class:`SpriteDecoder` whose layers also change colour and opacity, over a background that the concepts change.

    ::

        colour_k  += sum_j c_kj(z_j)        in logits
        opacity_k += sum_j o_kj(z_j)        in logits, on the layer's canvas
        background = b + Fields(z, eps_x)   in logits, see below
        background(p) <- background(p + w(p; z, eps_x))   where it is displaced

    What travels is for the layers, what brightens, tints, fades, bends or opens where it is for
    :class:`~causalvae_pyro.networks.Fields`. There can be no layer at all.

    With noise of the image's own each ``dim`` of its numbers switch on fields as a concept does, by themselves and together with
    each concept: a face whose colour, width and hair are another one's in each image still opens its mouth. They also act on
    where the layers are, like one more concept. What moves and has a look of its own in each image is for
    :class:`~causalvae_pyro.networks.Displacement`, which moves what the fields have drawn.

    Args:
        image_shape: See :class:`SpriteDecoder`, as for all not below.
        num_concepts: Number of concepts ``n``.
        dim: Dimensions of each concept.
        noise_dim: Dimensions of ``eps_x``, a multiple of ``dim``.
        fields: See :class:`~causalvae_pyro.networks.Fields`.
        pair_fields: See :class:`~causalvae_pyro.networks.Fields`.
        sprites: Number of layers, >= 0.
        canvas: Pixels of a sprite along each side.
        hidden: Width of the layers' networks.
        slides: Whether layers also slide along their own axes, as a bead on an arm that swings: where they lie is
            ``t + R(r) u``, and ``u`` is a sum of functions of the concepts as ``t`` and ``r`` are. In half image sides: for
            square images.
        displaces: Whether concepts and noise also displace the background; see
            :class:`~causalvae_pyro.networks.Displacement`.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_concepts: int,
        dim: int = 1,
        *,
        noise_dim: int = 0,
        fields: int = 24,
        pair_fields: int = 8,
        sprites: int = 6,
        canvas: int = 32,
        hidden: int = 16,
        slides: bool = False,
        displaces: bool = False,
    ) -> None:
        if noise_dim % dim:
            raise ValueError(f"noise_dim: got {noise_dim}; must be a multiple of dim, {dim}")
        super().__init__(image_shape, num_concepts, dim, noise_dim=noise_dim, sprites=sprites, canvas=canvas, hidden=hidden)
        own = noise_dim // dim
        self.fields = Fields(self.image_shape, num_concepts + own, dim, fields=fields, pair_fields=pair_fields, noise=own)
        self.displacement = Displacement(self.image_shape, num_concepts + own, dim, noise=own) if displaces else None
        self.slides_of_concepts = AdditiveEffects(sprites, num_concepts, dim, hidden, 2) if slides else None
        self.slide = nn.Parameter(torch.zeros(sprites, 1, 2)) if slides else None
        self.tints_of_concepts = AdditiveEffects(sprites, num_concepts, dim, hidden, self.image_shape[0] + 1)

    fewest = 0
    _usual = 0
    _in_place = True

    def effects(self, z: Tensor) -> Tensor:
        """Each concept's effect on each layer, ``[K, N, n, 6 + C + 1]``: as :class:`SpriteDecoder` has it, colour and opacity.

        Two more along the layer's own axes where it slides, in half image sides.
        """
        found = [super().effects(z), _LOGITS * self.tints_of_concepts(z)]
        return torch.cat(found if self.slides_of_concepts is None else [*found, self.slides_of_concepts(z)], -1)

    def field_sizes(self, z: Tensor) -> Tensor:
        """How much each concept alone and each pair changes each pixel of the background, ``[n + pairs, C * H * W]``.

        Noise counts as more concepts, drawn from its prior. In units of the pixels' range; see :meth:`Fields.sizes`. Where the
        background is displaced, as many rows more say by how much that changes it (:meth:`Displacement.sizes`).
        :class:`~causalvae_pyro.objectives.EffectSparsity` penalises it.
        """
        concepts = self._with_noise(z, torch.randn(len(z), self.noise_dim).to(z))
        bright = (self.background.detach() * GAIN).sigmoid().flatten()
        sizes = self.fields.sizes(concepts) * (bright * (1 - bright)).clamp(min=_SLOPE)
        if self.displacement is None:
            return sizes
        with torch.no_grad():
            behind = (self.background * GAIN + self.fields(concepts[:_SOME])).sigmoid()
        return torch.cat([sizes, self.displacement.sizes(behind, concepts)])

    def _begin_layer(self, k: int, masks: NDArray, z: NDArray | None) -> None:
        orbit = None
        if self.slides_of_concepts is not None and self.slide is not None and z is not None:
            orbit = find_orbit(masks, self.opacity.shape[-1], z)
            # What goes around without turning looks blurred if it is turned.
            if orbit and blur(orbit.shape) > _BLURRED * blur(find_poses(masks, self.opacity.shape[-1], z).shape):
                orbit = None
        if orbit is None or self.slides_of_concepts is None or self.slide is None:
            super()._begin_layer(k, masks, z)
            return
        self._shape_layer(k, orbit.shape, orbit.size)
        self.base[k, 0, :2] = torch.as_tensor(orbit.point)
        self.base[k, 0, 4] = orbit.angle
        self.slide[k, 0] = torch.as_tensor(orbit.arm)
        self.effects_of_concepts.linear[k, :, :, 4] += torch.as_tensor(orbit.turns).to(self.base)
        self.slides_of_concepts.linear[k] += torch.as_tensor(orbit.slides).to(self.base)

    def _slid(self, concepts: Tensor, placement: Tensor) -> Tensor:
        if self.slides_of_concepts is None or self.slide is None:
            return placement
        along, across = (self.slide + self.slides_of_concepts(concepts).sum(2)).split(1, -1)
        cos, sin = placement[..., 4:5].cos(), placement[..., 4:5].sin()
        moved = torch.cat([cos * along - sin * across, sin * along + cos * across], -1)
        return torch.cat([placement[..., :2] + moved, placement[..., 2:]], -1)

    def _changed(self, behind: Tensor, concepts: Tensor, noise: Tensor) -> Tensor:
        both = self._with_noise(concepts, noise)
        behind = behind + self.fields(both)
        return behind if self.displacement is None else self.displacement(behind, both)

    def _tints(self, concepts: Tensor) -> Tensor | None:
        return self.tints_of_concepts(concepts).sum(2)

    def _with_noise(self, concepts: Tensor, noise: Tensor) -> Tensor:
        return torch.cat([concepts, noise.unflatten(1, (-1, self.dim))], 1) if self.noise_dim else concepts
