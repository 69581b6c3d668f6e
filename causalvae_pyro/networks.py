"""Encoders and decoders.

An encoder maps images (and labels) to features: ``(x [..., C, H, W], labels [..., n] or None) -> [..., out_features]``.
A decoder maps concepts (and the image's own noise) to what a likelihood takes:
``(z [..., n, d], eps_x [..., r]) -> [..., C, H, W]``. Any module of that form can stand in for these.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import Self

from causalvae_pyro.config import Configurable

__all__ = ["ConvDecoder", "ConvEncoder", "MLPDecoder", "MLPEncoder"]


class _Encoder(Configurable, nn.Module):
    label_shift: Tensor
    label_scale: Tensor

    def __init__(self, image_shape: Sequence[int], label_dim: int, label_shift: object, label_scale: object) -> None:
        super().__init__()
        self.image_shape, self.label_dim = tuple(image_shape), label_dim
        if label_dim:
            for argument, value in (("label_shift", label_shift), ("label_scale", label_scale)):
                tensor = torch.as_tensor(value)
                if tensor.shape not in ((), (label_dim,)) or (argument == "label_scale" and not bool((tensor > 0).all())):
                    bound = " > 0" if argument == "label_scale" else ""
                    raise ValueError(f"{argument}: expected a number{bound} or {label_dim} of them, got {tensor.tolist()}")
            shift = torch.as_tensor(label_shift, dtype=torch.get_default_dtype()).expand(label_dim)
            scale = torch.as_tensor(label_scale, dtype=torch.get_default_dtype()).expand(label_dim)
            self.register_buffer("label_shift", shift.clone(), persistent=False)
            self.register_buffer("label_scale", scale.clone(), persistent=False)

    def _flat(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-3:]) != self.image_shape:
            raise ValueError(f"x: expected images of shape [..., {', '.join(map(str, self.image_shape))}], got {list(x.shape)}")
        return x.reshape(-1, *self.image_shape)

    def _labels(self, labels: Tensor | None, lead: torch.Size) -> Tensor:
        if labels is None:
            raise ValueError("labels: this encoder is q(eps | x, u) and needs labels, got None; use label_dim=0 for q(eps | x)")
        if labels.shape[-1] != self.label_dim:
            raise ValueError(f"labels: expected shape [..., {self.label_dim}], got {list(labels.shape)}")
        standard = (labels - self.label_shift) / self.label_scale
        return standard.expand(*lead, self.label_dim).reshape(-1, self.label_dim)


class ConvEncoder(_Encoder):
    """Four strided convolutions and a hidden layer.

    Args:
        image_shape: ``(C, H, W)`` with 1, 3 or 4 channels; ``H`` and ``W`` are multiples of 16.
        out_features: Width of the output.
        channels: Channels after each convolution.
        label_dim: Number of labels that the encoder sees beside the image: 0 for ``q(eps | x)``, ``n`` for
            ``q(eps | x, u)``.
        label_shift: Subtracted from the labels; one number or one per label.
        label_scale: Divides the labels; one number or one per label.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        out_features: int = 128,
        *,
        channels: Sequence[int] = (16, 32, 32, 64),
        label_dim: int = 0,
        label_shift: float | Sequence[float] = 0.0,
        label_scale: float | Sequence[float] = 1.0,
    ) -> None:
        _check_image_shape(image_shape)
        super().__init__(image_shape, label_dim, label_shift, label_scale)
        if len(channels) != 4:
            raise ValueError(f"channels: expected 4 numbers, got {list(channels)}")
        colours, height, width = image_shape
        layers: list[nn.Module] = []
        for before, after in zip([colours, *channels], channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.out_features = out_features
        self.hidden = nn.Linear(channels[-1] * (height // 16) * (width // 16) + label_dim, out_features)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        lead = x.shape[:-3]
        h = self.convolutions(self._flat(x)).flatten(1)
        if self.label_dim:
            h = torch.cat([h, self._labels(labels, lead)], -1)
        return torch.relu(self.hidden(h)).reshape(*lead, -1)


class MLPEncoder(_Encoder):
    """Two hidden layers on the flattened image, as in the paper's code.

    Args:
        image_shape: ``(C, H, W)``, of any size.
        out_features: Width of the output.
        hidden: Width of the first layer.
        label_dim: See :class:`ConvEncoder`.
        label_shift: See :class:`ConvEncoder`.
        label_scale: See :class:`ConvEncoder`.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        out_features: int = 128,
        *,
        hidden: int = 256,
        label_dim: int = 0,
        label_shift: float | Sequence[float] = 0.0,
        label_scale: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__(image_shape, label_dim, label_shift, label_scale)
        self.out_features = out_features
        self.layers = nn.Sequential(
            nn.Linear(torch.Size(image_shape).numel() + label_dim, hidden), nn.ReLU(), nn.Linear(hidden, out_features), nn.ReLU()
        )

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        lead = x.shape[:-3]
        h = self._flat(x).flatten(1)
        if self.label_dim:
            h = torch.cat([h, self._labels(labels, lead)], -1)
        return self.layers(h).reshape(*lead, -1)


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
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(f"images: expected shape [N, {', '.join(map(str, self.image_shape))}], got {list(images.shape)}")
        scale = 255 if images.dtype == torch.uint8 else 1
        total = sum(part.double().sum(0) for part in images.split(1024))
        mean = total / (len(images) * scale)
        with torch.no_grad():
            self.background.copy_(torch.logit(mean.clamp(1e-3, 1 - 1e-3)))


class ConvDecoder(_Decoder):
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
        _check_image_shape(image_shape)
        super().__init__(image_shape, num_concepts, dim, noise_dim)
        if len(channels) != 3:
            raise ValueError(f"channels: expected 3 numbers, got {list(channels)}")
        colours, height, width = image_shape
        self._start = (channels[0], height // 8, width // 8)
        self.hidden = nn.Sequential(
            nn.Linear(self.in_features, hidden), nn.SiLU(), nn.Linear(hidden, torch.Size(self._start).numel()), nn.SiLU()
        )
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
    """Two hidden layers to all pixels at once.

    Args:
        image_shape: ``(C, H, W)``, of any size.
        num_concepts: Number of concepts ``n``.
        dim: Dimensions of each concept.
        noise_dim: Dimensions of ``eps_x``.
        hidden: Width of the hidden layers.
    """

    def __init__(
        self, image_shape: Sequence[int], num_concepts: int, dim: int = 1, *, noise_dim: int = 0, hidden: int = 256
    ) -> None:
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


def _check_image_shape(image_shape: Sequence[int]) -> None:
    if len(image_shape) != 3 or image_shape[0] not in (1, 3, 4) or any(side < 16 or side % 16 for side in image_shape[1:]):
        raise ValueError(
            f"image_shape: got {tuple(image_shape)}; expected (channels, height, width) "
            "with 1, 3 or 4 channels and sides that are multiples of 16"
        )
