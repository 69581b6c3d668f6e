"""A decoder that is linear in the image's own noise, with a basis that depends on the concepts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from causalvae_pyro.networks.shapes import check_any_image_shape
from causalvae_pyro.utils.configurable import Configurable, check_count
from causalvae_pyro.utils.images import check_images, scale_images

__all__ = ["BilinearDecoder", "Reduced"]

# Relative to the images' own part of a group's mean at an anchor; keeps the solutions finite, and little more.
_RIDGE = 1e-3
# Standard deviation of the displacement that the basis allows for, in sides of the image.
_DISPLACEMENT = 1 / 32
_MOST_GROUPS = 64
_FEWEST_GROUPS = 3


class BilinearDecoder(Configurable, nn.Module):
    """Bilinear decoder (asymmetric: Tenenbaum & Freeman 2000): linear in ``eps_x``, with a basis that the concepts choose.

    ::

        x(p) = m_z(p) + sum_k a_k(p) B_k,z(p)        for each pixel p and channel, k = 1 ... rank
        a_k  = U eps_k V^T                           eps_k ~ N(0, I), [cells, cells]; U, V smooth windows
        m_z  = sum_j w_j(z) m_j,   B_z = sum_j w_j(z) B_j       interpolated between anchors z_j

    So the coefficients of the basis images change smoothly over the image: a face may have one person's nose and another's chin.
    The weights ``w(z)`` are those of Gaussian process regression with a Matern kernel (smoothness 3/2): at an anchor its own
    images result, far from all of them the mean image. Under a Gaussian likelihood with ``bounded=False`` the posterior of
    ``eps_x`` given image and concepts is Gaussian, in closed form (:class:`~causalvae_pyro.guides.BilinearGuide`).

    :meth:`from_groups` estimates mean and basis in closed form. With ``learn`` they are trained with all else.

    Args:
        image_shape: ``(C, H, W)``.
        num_concepts: Number of concepts ``n``.
        dim: Dimensions ``d`` of each concept.
        anchors: Places in the space of the concepts at which there are images.
        rank: Basis images at each of them.
        cells: Coefficients of a basis image along height and along width.
        length_scale: Of the kernel, > 0, in units of ``z``.
        learn: Whether mean and basis are parameters.

    Attributes:
        noise_dim: Length of ``eps_x``, ``rank * cells ** 2``; give it to the model.
        holds_training_images: That those of :meth:`from_groups` can be made out in the weights: who shares these, shares them.

    Raises:
        ValueError: If an argument is out of range.
    """

    holds_training_images = True

    anchors: Tensor
    inverse: Tensor
    mean: Tensor
    basis: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        image_shape: Sequence[int],
        num_concepts: int,
        dim: int = 1,
        *,
        anchors: int = 64,
        rank: int = 36,
        cells: int = 4,
        length_scale: float = 1.0,
        learn: bool = True,
    ) -> None:
        super().__init__()
        check_any_image_shape(image_shape)
        if len(image_shape) != 3:
            raise ValueError(f"image_shape: got {tuple(image_shape)}; expected (channels, height, width)")
        for name, count in (("anchors", anchors), ("rank", rank), ("cells", cells)):
            check_count(name, count)
        if not (0 < length_scale < math.inf):
            raise ValueError(f"length_scale: got {length_scale}; must be > 0")
        self.image_shape, self.num_concepts, self.dim = tuple(image_shape), num_concepts, dim
        self.rank, self.cells, self.length_scale = rank, cells, length_scale
        self.noise_dim = rank * cells**2
        places = torch.randn(anchors, num_concepts * dim)
        self.register_buffer("anchors", places)
        self.register_buffer("inverse", self._inverse(places))
        for name, value in (
            ("mean", torch.full((anchors, *self.image_shape), 0.5)),
            ("basis", 0.1 / math.sqrt(rank) * torch.randn(anchors, rank, *self.image_shape)),
        ):
            if learn:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        self.register_buffer("rows", _windows(image_shape[1], cells), persistent=False)
        self.register_buffer("columns", _windows(image_shape[2], cells), persistent=False)

    @classmethod
    def from_groups(
        cls,
        images: Tensor,
        concepts: Tensor,
        groups: Tensor,
        *,
        anchors: int = 64,
        rank: int = 36,
        cells: int = 4,
        length_scale: float = 1.0,
        learn: bool = False,
    ) -> Self:
        """A decoder whose basis spans what images of one group share beside their concepts, in closed form.

        The mean is that of all images, at each anchor; the anchors are the concepts themselves where these are few. What a
        group's images differ by from it, at all anchors, is one vector per group; so are the derivatives of these images along
        height and width, for groups that are displaced. The basis images are the principal components of these vectors, as long
        as their standard deviation: those of probabilistic principal component analysis without its noise.

        Args:
            images: Training images ``[N, C, H, W]``, uint8 or in [0, 1].
            concepts: What each shows, ``[N, n, d]``.
            groups: The group (person, scene) of each image, ``[N]``; of more than 64 those with the most images count.
            anchors: The most there may be.
            rank: The most basis images there may be.
            cells: See the class.
            length_scale: See the class.
            learn: See the class.

        Raises:
            ValueError: If shapes do not agree, or there are fewer than 3 groups.
        """
        check_images(images, "images")
        if concepts.ndim != 3 or len(concepts) != len(images) or not bool(concepts.isfinite().all()):
            raise ValueError(f"concepts: got {list(concepts.shape)}; must be finite, [{len(images)}, n, d]")
        if tuple(groups.shape) != (len(images),):
            raise ValueError(f"groups: got shape {list(groups.shape)}; expected [{len(images)}], the group of each image")
        names, sizes = groups.unique(return_counts=True)
        if len(names) < _FEWEST_GROUPS:
            raise ValueError(f"groups: got {len(names)}; a basis takes at least {_FEWEST_GROUPS}")
        names = names[sizes.argsort(descending=True, stable=True)[:_MOST_GROUPS]]
        z = concepts.flatten(1).to(torch.float32)
        places = _spread_out(z, anchors)
        rank = min(rank, 3 * len(names))
        shape, (n, d) = tuple(images.shape[1:]), concepts.shape[1:]
        decoder = cls(shape, n, d, anchors=len(places), rank=rank, cells=cells, length_scale=length_scale, learn=learn)
        decoder.anchors.copy_(places)
        decoder.inverse.copy_(decoder._inverse(places))
        x = scale_images(images).to(torch.float32).flatten(1)
        centre = x.mean(0)
        mean = centre + decoder._at_anchors(z, x - centre)
        residual = x - decoder._interpolated(z, mean)
        tables = torch.stack([decoder._at_anchors(z[own := groups == name], residual[own]) for name in names])
        with torch.no_grad():
            decoder.mean.copy_(mean.view(-1, *shape))
            decoder.basis.copy_(_principal(tables.unflatten(2, shape), rank))
        return decoder

    def weights(self, z: Tensor) -> Tensor:
        """``w(z)`` of concepts ``[N, n, d]`` or ``[N, n d]``, ``[N, anchors]``; they need not add up to 1."""
        return self._kernel(z.reshape(len(z), -1), self.anchors) @ self.inverse

    def components(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``[N, C, H, W]`` and basis ``[N, rank, C, H, W]`` at concepts ``[N, n, d]``."""
        weights = self.weights(z)
        basis = (weights @ self.basis.flatten(1)).view(-1, self.rank, *self.image_shape)
        return self._blend(weights, self.mean.flatten(1)).view(-1, *self.image_shape), basis

    def coefficients(self, eps_x: Tensor) -> Tensor:
        """``a`` of noise ``[N, r]``: ``[N, rank, H, W]``, of variance 1 in each pixel."""
        return self.rows @ eps_x.view(-1, self.rank, self.cells, self.cells) @ self.columns.T

    def forward(self, z: Tensor, eps_x: Tensor | None = None) -> Tensor:
        if eps_x is None:
            raise ValueError(f"eps_x: this decoder has noise_dim={self.noise_dim} and needs eps_x, got None")
        lead = torch.broadcast_shapes(z.shape[:-2], eps_x.shape[:-1])
        z = z.expand(*lead, *z.shape[-2:]).reshape(-1, self.num_concepts, self.dim)
        mean, basis = self.components(z)
        own = self.coefficients(eps_x.expand(*lead, -1).reshape(-1, self.noise_dim))
        return (mean + torch.einsum("krhw,krchw->kchw", own, basis)).reshape(*lead, *self.image_shape)

    def mean_image(self, z: Tensor) -> Tensor:
        """``m_z`` at concepts ``[N, n, d]``, ``[N, C, H, W]``: what the concepts say without the noise."""
        return self._interpolated(z, self.mean.flatten(1)).view(-1, *self.image_shape)

    def check_reduction(self, reduction: int) -> None:
        """Refuses what does not divide both sides of the image."""
        check_count("reduction", reduction)
        if any(side % reduction for side in self.image_shape[1:]):
            raise ValueError(
                f"reduction: got {reduction}; must divide both sides of images {self.image_shape[1]} x {self.image_shape[2]}"
            )

    def _kernel(self, a: Tensor, b: Tensor) -> Tensor:
        # A square root has no derivative where a place meets its anchor.
        squares = (a[:, None] - b[None]).square().sum(-1)
        distance = math.sqrt(3) / self.length_scale * (squares + 1e-12).sqrt()
        return (1 + distance) * (-distance).exp()

    def _inverse(self, places: Tensor) -> Tensor:
        kernel = self._kernel(places.double(), places.double())
        kernel.diagonal().add_(1e-6)
        return torch.linalg.inv(kernel).to(places)

    def _blend(self, weights: Tensor, images: Tensor) -> Tensor:
        centre = images.mean(0)
        return centre + weights @ (images - centre)

    def _interpolated(self, z: Tensor, images: Tensor) -> Tensor:
        return self._blend(self.weights(z), images)

    def _at_anchors(self, z: Tensor, values: Tensor) -> Tensor:
        """The regression of ``values [N, p]`` at places ``[N, n d]``, at the anchors: ``[anchors, p]``."""
        kernel, own = (self._kernel(a.double(), self.anchors.double()) for a in (z, self.anchors))
        square = kernel.T @ kernel + _RIDGE * own + 1e-9 * torch.eye(len(own), dtype=own.dtype)
        solution = torch.linalg.solve(square, kernel.T)
        return (own @ solution).to(values) @ values


class Reduced:
    """Mean and basis at several places, averaged over blocks of pixels, and the normal equations of the noise there.

    Args:
        decoder: Whose windows count.
        mean: ``[N, C, H, W]``.
        basis: ``[N, rank, C, H, W]``.
        reduction: Sides of the blocks; with 1 nothing is averaged.
    """

    def __init__(self, decoder: BilinearDecoder, mean: Tensor, basis: Tensor, reduction: int = 1) -> None:
        self.reduction = reduction
        self.mean = self.images(mean)
        self.basis = self.images(basis.flatten(1, 2)).unflatten(1, basis.shape[1:3])
        self.rows, self.columns = (windows.unflatten(0, (-1, reduction)).mean(1) for windows in (decoder.rows, decoder.columns))

    def images(self, x: Tensor) -> Tensor:
        """The same of images ``[N, C, H, W]``."""
        return F.avg_pool2d(x, self.reduction) if self.reduction > 1 else x

    def variance(self, pixel: Any) -> Any:
        """Of a block's average, where that of a pixel is given."""
        return pixel / self.reduction**2

    def project(self, basis: Tensor, residual: Tensor) -> Tensor:
        """``F^T r`` of residuals ``[N, C, h, w]``, each with its own basis or all with one: ``[N, r]``."""
        # In two steps: pixels times windows, for all basis images, would be large.
        products = torch.einsum("krchw,kchw->krhw", basis.expand(len(residual), *basis.shape[1:]), residual)
        return (self.rows.T @ products @ self.columns).flatten(1)

    def scaled_precision(self, pixel: Any) -> Tensor:
        """``v I + F^T F`` at all places, ``[N, r, r]``, for a pixel's variance."""
        rank, cells = self.basis.shape[1], self.rows.shape[1]
        vertical, horizontal = ((w[:, :, None] * w[:, None]).flatten(1) for w in (self.rows, self.columns))
        first, second = torch.tril_indices(rank, rank, device=self.basis.device)
        found = []
        # One by one: the products of all basis images are large.
        for basis in self.basis:
            pooled = vertical.T @ ((basis[first] * basis[second]).sum(1) @ horizontal)
            blocks = pooled.new_zeros(rank, rank, cells**2, cells**2).index_put((first, second), pooled)
            blocks = blocks.index_put((second, first), pooled).view(rank, rank, *[cells] * 4)
            found.append(blocks.permute(0, 2, 4, 1, 3, 5).reshape(rank * cells**2, -1))
        gram = torch.stack(found)
        return gram + self.variance(pixel) * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)


def _windows(side: int, cells: int) -> Tensor:
    """Smooth windows ``[side, cells]``; in each pixel their squares add up to 1."""
    if cells == 1:
        return torch.ones(side, 1)
    places, centres = (torch.arange(side) + 0.5) / side, torch.linspace(0, 1, cells)
    windows = torch.exp(-0.5 * ((places[:, None] - centres) * (cells - 1) / 0.7).square())
    return windows / windows.norm(dim=1, keepdim=True)


def _spread_out(z: Tensor, most: int) -> Tensor:
    """The distinct rows, or so many of them far from each other: each next one is the farthest from all before."""
    distinct = z.unique(dim=0)
    if len(distinct) <= most:
        return distinct
    chosen = [int((distinct - distinct.mean(0)).square().sum(1).argmin())]
    distance = torch.full((len(distinct),), torch.inf)
    while len(chosen) < most:
        distance = torch.minimum(distance, (distinct - distinct[chosen[-1]]).square().sum(1))
        chosen.append(int(distance.argmax()))
    return distinct[chosen]


def _principal(tables: Tensor, rank: int) -> Tensor:
    """Principal components of groups' images ``[g, anchors, C, H, W]`` and of their derivatives: ``[anchors, rank, C, H, W]``."""
    count = len(tables)

    def at(anchor: int) -> Tensor:
        own = tables[:, anchor]
        vertical, horizontal = torch.gradient(own, dim=(-2, -1)) if min(own.shape[-2:]) > 1 else (own * 0, own * 0)
        height, width = own.shape[-2:]
        return torch.cat([own, _DISPLACEMENT * height * vertical, _DISPLACEMENT * width * horizontal])

    # Of the vectors' products, which are few, in place of the vectors, which are long.
    products = sum((part := at(anchor).flatten(1).double()) @ part.T for anchor in range(tables.shape[1]))
    vectors = torch.linalg.eigh(products)[1].flip(-1)[:, :rank].to(tables) / math.sqrt(count)
    return torch.stack([torch.einsum("gr,g...->r...", vectors, at(anchor)) for anchor in range(tables.shape[1])])
