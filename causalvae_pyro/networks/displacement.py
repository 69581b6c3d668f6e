"""Displacement fields: what moves, grows and bends in an image without being cut out of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from causalvae_pyro.networks.fields import Fields
from causalvae_pyro.networks.sampling import sample_images
from causalvae_pyro.networks.shapes import check_at_least, check_image_shape

__all__ = ["Displacement"]

# Half image sides for one unit of a field: its numbers are then as large as those of fields that are logits.
_REACH = 0.1


class Displacement(nn.Module):
    """Warps an image by fields whose amounts are functions of one concept or of a pair.

    ::

        w(p) = 0.1 Fields(z)(p)         in half image sides; two numbers at each of grid x grid places, smoothly in between
        y(p) = x(p + w(p))              bilinear; beyond its edges the image goes on as it ends

    A flower whose colour is another one in each image still leans: its colour goes where the displacement takes it, while
    :class:`Fields` that brighten and darken would need one for each place and colour. Starts as the identity.

    Args:
        image_shape: ``(C, H, W)`` with 1, 3 or 4 channels.
        num_concepts: Number of concepts ``n``.
        dim: Dimensions of each concept.
        fields: Of each concept, >= 0; see :class:`Fields`, as for those below.
        pair_fields: Of each pair, >= 0.
        noise: How many of the concepts, the last ones, are independent noise.
        grid: Places along each side, >= 2.

    Raises:
        ValueError: For another ``image_shape`` or numbers.

    Source: deforming autoencoders, Shu et al. 2018; spatial transformers, Jaderberg et al. 2015.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_concepts: int,
        dim: int = 1,
        *,
        fields: int = 8,
        pair_fields: int = 4,
        noise: int = 0,
        grid: int = 16,
    ) -> None:
        check_image_shape(image_shape, 1)
        check_at_least(2, grid=grid)
        super().__init__()
        self.fields = Fields((2, grid, grid), num_concepts, dim, fields=fields, pair_fields=pair_fields, noise=noise)
        _, height, width = image_shape
        x, y = ((2 * torch.arange(side) + 1) / side - 1 for side in (width, height))
        self.register_buffer("places", torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], -1), persistent=False)
        for name, side in (("down", height), ("along", width)):
            self.register_buffer(name, _cubic(grid, side), persistent=False)

    places: Tensor
    down: Tensor
    along: Tensor

    def displacements(self, concepts: Tensor) -> Tensor:
        """From where each pixel is taken, relative to itself, for concepts ``[N, n, d]``.

        Returns:
            Along x and y in half image sides, ``[N, H, W, 2]``.
        """
        return _REACH * self._between(self.fields(concepts)).movedim(1, -1)

    def sizes(self, images: Tensor, concepts: Tensor) -> Tensor:
        """How much each concept alone, and each pair, changes each pixel by what it displaces, ``[n + pairs, C * H * W]``.

        Standard deviations over concepts that vary independently, as :meth:`Fields.sizes`, in the units of images
        ``[N, C, H, W]``: to first order, along x and y apart, by the images' mean squared slopes.
        """
        grid = self.along.shape[1]
        moves = _REACH * self._between(self.fields.pictures.unflatten(1, (2, grid, grid)))
        spread = self.fields.sizes(concepts, moves.flatten(1)).unflatten(1, moves.shape[1:])
        squared = spread.new_zeros(())
        for axis, moved in zip((-1, -2), spread.square().unbind(1), strict=True):
            side = images.shape[axis]
            slopes = torch.gradient(images, spacing=2 / side, dim=axis)[0] if side > 1 else torch.zeros_like(images)
            squared = squared + slopes.square().sum(0) / max(1, len(images)) * moved[:, None]
        # Not of zero, where the root has no derivative.
        return squared.add(1e-12).sqrt().flatten(1)

    def forward(self, images: Tensor, concepts: Tensor) -> Tensor:
        """Images ``[N, C, H, W]`` as concepts ``[N, n, d]`` displace them."""
        return sample_images(images, self.places + self.displacements(concepts), border=True)

    def _between(self, numbers: Tensor) -> Tensor:
        """Those of the grid's places at each pixel, ``[..., grid, grid]`` to ``[..., H, W]``."""
        return self.down @ numbers @ self.along.T


def _cubic(count: int, side: int) -> Tensor:
    """Cubic interpolation of ``count`` numbers at the middles of ``side`` pixels, ``[side, count]``.

    A matrix: the gradient of PyTorch's own is not the same in each run on CUDA.
    """
    each = torch.eye(count)[None, :, :, None]
    return nn.functional.interpolate(each, (side, 1), mode="bicubic")[0, :, :, 0].T.contiguous()
