"""A hierarchical decoder with exogenous noise at several resolutions, and the feature pyramid of its posterior."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalvae_pyro.networks.decoders import _Decoder
from causalvae_pyro.networks.shapes import check_image_shape
from causalvae_pyro.utils.configurable import Configurable

__all__ = ["FeaturePyramid", "HierarchicalDecoder"]

_EMBEDDING = 128


class HierarchicalDecoder(_Decoder):
    """Hierarchical decoder: spatial exogenous noise and residual blocks, modulated by the concepts, at each resolution.

    ::

        h_0 = start(z)                                          at the coarsest resolution
        h_l = blocks_l(grow(h_(l-1)) + W_l eps_l, z)            eps_l ~ N(0, I), a map of few channels
        x   = shuffle(conv(h_L)) + scene(z) + background

    The noise is exogenous at each level: standard normal, whatever lies above it. ``eps_x`` is all of it in one vector, from
    coarse to fine, so that it is one site of the model as for any other decoder; :meth:`split` takes it apart. In each residual
    block group normalisation is followed by a scale and a shift for each channel that depend on the concepts (Perez et al. 2018).
    ``scene`` is one dense layer: it learns in the first steps what the concepts alone explain, before the noise is informative.

    Args:
        image_shape: ``(C, H, W)`` with 1, 3 or 4 channels; sides are multiples of ``2 ** len(channels)``.
        num_concepts: Number of concepts ``n``.
        dim: Dimensions ``d`` of each concept.
        noise_channels: Channels of the noise at each resolution, from the coarsest on; later resolutions have none.
        channels: Channels at each resolution: the last is half the image's, each one before half of the next. Multiples of 8.
        blocks: Residual blocks at each resolution; one number or one per resolution.
        concept_scale: Factor of each concept before the first layer, >= 0; one number or one per concept. The ``d`` equal
            dimensions of a standardised number vary more than ``d`` times as much as a category's unit vector: ``d ** 0.5`` for
            the latter. With 0 the image depends on the noise alone, as that behind the layers of a
            :class:`~causalvae_pyro.networks.BackdropDecoder`.

    Attributes:
        noise_dim: Length of ``eps_x``; give it to the model.

    Source: hierarchical VAEs, Sønderby et al. 2016, Vahdat & Kautz 2020, Child 2021; as the mechanism of an image, De Sousa
    Ribeiro et al. 2023.
    """

    #: The context in which a guide uses the levels one by one; that of mixed precision in training.
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext
    concept_scale: Tensor

    def __init__(
        self,
        image_shape: Sequence[int],
        num_concepts: int,
        dim: int = 1,
        *,
        noise_channels: Sequence[int] = (32, 16, 8),
        channels: Sequence[int] = (96, 96, 64, 32),
        blocks: int | Sequence[int] = (2, 2, 2, 1),
        concept_scale: float | Sequence[float] = 1.0,
    ) -> None:
        check_image_shape(image_shape, 2 ** len(channels))
        if len(noise_channels) > len(channels) or any(c < 0 for c in noise_channels):
            raise ValueError(
                f"noise_channels: got {list(noise_channels)}; need at most {len(channels)} numbers, none of them negative"
            )
        if any(c < 8 or c % 8 for c in channels):
            raise ValueError(f"channels: got {list(channels)}; need multiples of 8")
        colours, height, width = image_shape
        sizes = [(height >> k, width >> k) for k in range(len(channels), 0, -1)]
        per_level = [*noise_channels, *[0] * (len(channels) - len(noise_channels))]
        shapes = [(c, *size) for c, size in zip(per_level, sizes, strict=True)]
        super().__init__(image_shape, num_concepts, dim, sum(torch.Size(shape).numel() for shape in shapes))
        self.noise_shapes, self.channels = shapes, tuple(channels)
        scale = torch.as_tensor(concept_scale, dtype=torch.get_default_dtype())
        if scale.shape not in ((), (num_concepts,)) or not bool((scale >= 0).all()):
            raise ValueError(f"concept_scale: got {concept_scale}; need a number >= 0, or {num_concepts} of them")
        self.register_buffer("concept_scale", scale.expand(num_concepts)[:, None].clone(), persistent=False)
        self._start = (channels[0], *sizes[0])
        depths = [blocks] * len(channels) if isinstance(blocks, int) else list(blocks)
        self.embedding = nn.Sequential(
            nn.Linear(num_concepts * dim, _EMBEDDING), nn.SiLU(), nn.Linear(_EMBEDDING, _EMBEDDING), nn.SiLU()
        )
        self.start = nn.Linear(_EMBEDDING, torch.Size(self._start).numel())
        before = [channels[0], *channels[:-1]]
        self.levels = nn.ModuleList(
            _Level(a, b, noise, depth, first=k == 0)
            for k, (a, b, noise, depth) in enumerate(zip(before, channels, per_level, depths, strict=True))
        )
        self.output = nn.Sequential(
            nn.GroupNorm(8, channels[-1]), nn.SiLU(), nn.Conv2d(channels[-1], 4 * colours, 3, padding=1), nn.PixelShuffle(2)
        )
        self.scene = nn.Linear(_EMBEDDING, torch.Size(self.image_shape).numel())
        # The first image is the background.
        for last in (cast(nn.Conv2d, self.output[2]), self.scene):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(cast(Tensor, last.bias))

    def split(self, eps_x: Tensor) -> list[Tensor | None]:
        """The noise ``[..., r]`` as maps ``[N, c, h, w]``, coarse to fine, leading dimensions flattened; ``None`` for none."""
        parts = eps_x.flatten(0, -2).split([torch.Size(shape).numel() for shape in self.noise_shapes], -1)
        return [part.unflatten(-1, shape) if shape[0] else None for part, shape in zip(parts, self.noise_shapes, strict=True)]

    def begin(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """From concepts ``[N, n, d]`` to their embedding and the coarsest features."""
        scaled = z.reshape(-1, self.num_concepts, self.dim) * self.concept_scale
        concepts = self.embedding(scaled.flatten(1))
        return concepts, self.start(concepts).reshape(-1, *self._start)

    def forward(self, z: Tensor, eps_x: Tensor | None = None) -> Tensor:
        inputs, lead = self._flat(z, eps_x)
        concepts, h = self.begin(inputs[:, : self.num_concepts * self.dim])
        noise = self.split(inputs[:, self.num_concepts * self.dim :])
        for level, own in zip(cast(Any, self.levels), noise, strict=True):
            h = level.render(level.grow(h), own, concepts)
        scene = self.scene(concepts).reshape(-1, *self.image_shape) + self.background
        return (self.output(h) + scene).reshape(*lead, *self.image_shape)


class _Level(nn.Module):
    """One resolution of a decoder."""

    def __init__(self, before: int, channels: int, noise_channels: int, blocks: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.change = nn.Identity() if before == channels else nn.Conv2d(before, channels, 1)
        self.noise = nn.Conv2d(noise_channels, channels, 1, bias=False) if noise_channels else None
        self.blocks = nn.ModuleList(_ModulatedBlock(channels) for _ in range(blocks))

    def grow(self, h: Tensor) -> Tensor:
        """The features of the resolution before, at this one."""
        h = self.change(h)
        return h if self.first else F.interpolate(h, scale_factor=2.0, mode="nearest")

    def render(self, h: Tensor, noise: Tensor | None, concepts: Tensor) -> Tensor:
        """The features with the level's own noise, after its blocks."""
        if self.noise is not None:
            h = h + self.noise(noise)
        for block in self.blocks:
            h = block(h, concepts)
        return h


class _ModulatedBlock(nn.Module):
    """Residual block: two convolutions, each after a group normalisation whose scale and shift depend on the concepts (FiLM)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(8, channels, affine=False) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.modulation = nn.Linear(_EMBEDDING, 4 * channels)
        nn.init.normal_(self.modulation.weight, std=0.02)
        nn.init.zeros_(self.modulation.bias)
        nn.init.zeros_(cast(nn.Conv2d, self.convolutions[1]).weight)

    def forward(self, h: Tensor, concepts: Tensor) -> Tensor:
        r = h
        parts = self.modulation(concepts)[:, :, None, None].chunk(4, 1)
        for k, (norm, convolution) in enumerate(zip(self.norms, self.convolutions, strict=True)):
            r = convolution(F.silu(torch.addcmul(parts[2 * k + 1], norm(r), 1 + parts[2 * k])))
        return h + r


class FeaturePyramid(Configurable, nn.Module):
    """Features of an image at each resolution of a :class:`HierarchicalDecoder`, from coarse to fine.

    Args:
        image_shape: As the decoder's.
        channels: As the decoder's.
    """

    def __init__(self, image_shape: Sequence[int], channels: Sequence[int] = (96, 96, 64, 32)) -> None:
        check_image_shape(image_shape, 2 ** len(channels))
        super().__init__()
        self.image_shape, self.channels = tuple(image_shape), tuple(channels)
        widths = list(channels)[::-1]
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * image_shape[0], widths[0], 3, padding=1))
        self.downs = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(8, a), nn.SiLU(), nn.Conv2d(a, b, 3, 2, 1), _Block(b))
            for a, b in itertools.pairwise(widths)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """``[N, C, H, W]`` to maps ``[N, c, h, w]``."""
        h = self.stem(2 * x - 1)
        maps = [h]
        for down in self.downs:
            h = down(h)
            maps.append(h)
        return maps[::-1]


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)),
            *(nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)
