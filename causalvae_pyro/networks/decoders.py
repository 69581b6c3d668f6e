"""Decoders: from concepts (and the image's own noise) to what a likelihood takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import Self

from causalvae_pyro.networks.shapes import check_any_image_shape, check_image_shape
from causalvae_pyro.utils.configurable import Configurable
from causalvae_pyro.utils.images import check_images, scale_images

__all__ = ["ConvDecoder", "FiLMDecoder", "MLPDecoder"]


class _Decoder(Configurable, nn.Module):
    def __init__(self, image_shape: Sequence[int], num_concepts: int, dim: int, noise_dim: int) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.num_concepts, self.dim, self.noise_dim = num_concepts, dim, noise_dim
        self.in_features = num_concepts * dim + noise_dim
        self.background = nn.Parameter(torch.zeros(self.image_shape))

    @classmethod
    def from_images(cls, images: Tensor, num_concepts: int, dim: int = 1, **kwargs: object) -> Self:
        """Makes a decoder for such images, with their mean as its initial background.

        Args:
            images: Training images ``[N, C, H, W]`` in [0, 1] or uint8.
            num_concepts: Number of concepts ``n``.
            dim: Dimensions of each concept.
            **kwargs: Passed on to the class.
        """
        check_images(images, "images")
        decoder = cls(tuple(images.shape[1:]), num_concepts, dim, **kwargs)  # type: ignore[arg-type]
        decoder.initialise_background(images)
        return decoder

    def _flat(self, z: Tensor, eps_x: Tensor | None) -> tuple[Tensor, torch.Size]:
        inputs = z.flatten(-2)
        if self.noise_dim:
            if eps_x is None:
                raise ValueError(f"eps_x: this decoder has noise_dim={self.noise_dim} and needs eps_x, got None")
            lead = torch.broadcast_shapes(inputs.shape[:-1], eps_x.shape[:-1])
            inputs = torch.cat([inputs.expand(*lead, -1), eps_x.expand(*lead, -1)], -1)
        # Convolutions take one leading dimension; particles, worlds and batch become one.
        return inputs.reshape(-1, self.in_features), inputs.shape[:-1]

    def initialise_background(self, images: Tensor) -> None:
        """Sets the output's bias to the mean image, in logits.

        Scenes are mostly background. Without this, the first steps push all logits far out to one side, where their
        gradient vanishes, and training sits on a plateau for hundreds of steps.

        Args:
            images: ``[N, C, H, W]`` in [0, 1] or uint8.
        """
        self._check_images(images)
        sums = [scale_images(part, dtype=torch.float64).sum(0) for part in images.split(1024)]
        mean = torch.stack(sums).sum(0) / len(images)
        with torch.no_grad():
            self.background.copy_(torch.logit(mean.clamp(1e-3, 1 - 1e-3)))

    def _check_images(self, images: Tensor) -> None:
        check_images(images, "images")
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(f"images: expected shape [N, {', '.join(map(str, self.image_shape))}], got {list(images.shape)}")


class _GrowingDecoder(_Decoder):
    """From a hidden layer to an eighth of the resolution, whence convolutions go on."""

    def _make_bottom(self, hidden: int, channels: Sequence[int]) -> None:
        if len(channels) != 3:
            raise ValueError(f"channels: expected 3 numbers, got {list(channels)}")
        _, height, width = self.image_shape
        self._start = (channels[0], height // 8, width // 8)
        self.hidden = nn.Sequential(
            nn.Linear(self.in_features, hidden), nn.SiLU(), nn.Linear(hidden, torch.Size(self._start).numel()), nn.SiLU()
        )


class ConvDecoder(_GrowingDecoder):
    """A hidden layer and three upsampling convolutions, each doubling the resolution, plus a learned background.

    Args:
        image_shape: ``(C, H, W)`` with 1, 3 or 4 channels; ``H`` and ``W`` are multiples of 16.
        num_concepts: Number of concepts ``n``.
        dim: Dimensions of each concept.
        noise_dim: Dimensions of ``eps_x``.
        hidden: Width of the hidden layer.
        channels: Channels at 1/8, 1/4 and 1/2 of the resolution.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_concepts: int,
        dim: int = 1,
        *,
        noise_dim: int = 0,
        hidden: int = 256,
        channels: Sequence[int] = (64, 64, 32),
    ) -> None:
        check_image_shape(image_shape)
        super().__init__(image_shape, num_concepts, dim, noise_dim)
        colours = image_shape[0]
        self._make_bottom(hidden, channels)
        self.convolutions = nn.Sequential(
            nn.ConvTranspose2d(channels[0], channels[1], 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(channels[1], channels[2], 4, stride=2, padding=1),
            nn.SiLU(),
            # At half the resolution with four times the channels: a quarter of the work of a full-size layer.
            nn.Conv2d(channels[2], 4 * colours, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, z: Tensor, eps_x: Tensor | None = None) -> Tensor:
        inputs, lead = self._flat(z, eps_x)
        h = self.hidden(inputs).reshape(-1, *self._start)
        return (self.convolutions(h) + self.background).reshape(*lead, *self.image_shape)


class MLPDecoder(_Decoder):
    """Two hidden layers to all pixels at once, or to vectors.

    Args:
        image_shape: ``(C, H, W)``, of any size, or ``(G,)`` for vectors.
        num_concepts: Number of concepts ``n``.
        dim: Dimensions of each concept.
        noise_dim: Dimensions of ``eps_x``.
        hidden: Width of the hidden layers.
    """

    def __init__(
        self, image_shape: Sequence[int], num_concepts: int, dim: int = 1, *, noise_dim: int = 0, hidden: int = 256
    ) -> None:
        check_any_image_shape(image_shape)
        super().__init__(image_shape, num_concepts, dim, noise_dim)
        self.layers = nn.Sequential(
            nn.Linear(self.in_features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, torch.Size(image_shape).numel()),
        )

    def forward(self, z: Tensor, eps_x: Tensor | None = None) -> Tensor:
        inputs, lead = self._flat(z, eps_x)
        return self.layers(inputs).reshape(*lead, *self.image_shape) + self.background


class FiLMDecoder(_GrowingDecoder):
    """A convolutional decoder in which the concepts also scale and shift every layer's channels.

    The concepts enter at the bottom with ``eps_x``, and once more in each layer, so that they can act on the whole
    image alike (feature-wise linear modulation, Perez et al. 2018).

    Args:
        image_shape: ``(C, H, W)`` with 1, 3 or 4 channels; ``H`` and ``W`` are multiples of 8.
        num_concepts: Number of concepts ``n``.
        dim: Dimensions of each concept.
        noise_dim: Dimensions of ``eps_x``.
        hidden: Width of the hidden layer.
        channels: Channels at 1/8, 1/4 and 1/2 of the resolution.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_concepts: int,
        dim: int = 1,
        *,
        noise_dim: int = 0,
        hidden: int = 256,
        channels: Sequence[int] = (64, 64, 48),
    ) -> None:
        check_image_shape(image_shape, 8)
        super().__init__(image_shape, num_concepts, dim, noise_dim)
        colours = image_shape[0]
        self._make_bottom(hidden, channels)
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(channels[0], 4 * channels[1], 3, padding=1),
                nn.Conv2d(channels[1], 4 * channels[2], 3, padding=1),
                nn.Conv2d(channels[2], 32, 3, padding=1),
            ]
        )
        self._widths = [channels[1], channels[2], 32]
        last = nn.Linear(64, 2 * sum(self._widths))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.modulation = nn.Sequential(nn.Linear(num_concepts * dim, 64), nn.SiLU(), last)
        self.output = nn.Conv2d(32, 4 * colours, 3, padding=1)
        self.upsample = nn.PixelShuffle(2)

    def forward(self, z: Tensor, eps_x: Tensor | None = None) -> Tensor:
        inputs, lead = self._flat(z, eps_x)
        h = self.hidden(inputs).reshape(-1, *self._start)
        concepts = inputs[:, : self.num_concepts * self.dim]
        modulations = self.modulation(concepts)[:, :, None, None].split([2 * width for width in self._widths], 1)
        for level, (convolution, modulation) in enumerate(zip(self.convolutions, modulations, strict=True)):
            h = convolution(h)
            h = self.upsample(h) if level < 2 else h
            scale, shift = modulation.chunk(2, 1)
            h = nn.functional.silu(h * (1 + scale) + shift)
        return (self.upsample(self.output(h)) + self.background).reshape(*lead, *self.image_shape)
