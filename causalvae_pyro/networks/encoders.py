"""Encoders: from images (and labels) to features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from causalvae_pyro.networks.shapes import check_any_image_shape, check_at_least, check_image_shape
from causalvae_pyro.utils.configurable import Configurable
from causalvae_pyro.utils.images import scale_images
from causalvae_pyro.utils.modes import evaluation_mode

__all__ = ["AugmentedEncoder", "Backbone", "ConvEncoder", "MLPEncoder", "PooledEncoder", "SpatialEncoder"]


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
            self.register_buffer("label_shift", shift.clone())
            self.register_buffer("label_scale", scale.clone())

    def _flat(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-len(self.image_shape) :]) != self.image_shape:
            what = "images" if len(self.image_shape) == 3 else "x"
            raise ValueError(f"x: expected {what} of shape [..., {', '.join(map(str, self.image_shape))}], got {list(x.shape)}")
        dtype = next(self.parameters()).dtype
        x = scale_images(x, dtype=dtype) if x.dtype == torch.uint8 else x
        if x.dtype != dtype:
            raise ValueError(f"x: expected {dtype}, as the encoder has it, got {x.dtype}")
        return x.reshape(-1, *self.image_shape)

    def _labels(self, labels: Tensor | None, lead: torch.Size) -> Tensor:
        if labels is None:
            raise ValueError("labels: this encoder is q(eps | x, u) and needs labels, got None; use label_dim=0 for q(eps | x)")
        if labels.shape[-1] != self.label_dim:
            raise ValueError(f"labels: expected shape [..., {self.label_dim}], got {list(labels.shape)}")
        standard = (labels - self.label_shift) / self.label_scale
        return standard.expand(*lead, self.label_dim).reshape(-1, self.label_dim)

    def _read(self, layer: nn.Module, features: Tensor, labels: Tensor | None, lead: torch.Size) -> Tensor:
        """A last layer on the features ``[batch, f]`` and, where the encoder uses them, the labels."""
        if self.label_dim:
            features = torch.cat([features, self._labels(labels, lead)], -1)
        return torch.relu(layer(features)).reshape(*lead, -1)


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
        check_image_shape(image_shape)
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
        return self._read(self.hidden, self.convolutions(self._flat(x)).flatten(1), labels, x.shape[:-3])


class MLPEncoder(_Encoder):
    """Two hidden layers on the flattened image, as in the paper's code; or on vectors.

    Args:
        image_shape: ``(C, H, W)``, of any size, or ``(G,)`` for vectors. Counts that span orders of magnitude are read better
            with ``log1p``.
        out_features: Width of the output.
        hidden: Width of the first layer.
        label_dim: See :class:`ConvEncoder`.
        label_shift: See :class:`ConvEncoder`.
        label_scale: See :class:`ConvEncoder`.
        log1p: Take the logarithm of ``1 + x`` first, for counts.
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
        log1p: bool = False,
    ) -> None:
        check_any_image_shape(image_shape)
        super().__init__(image_shape, label_dim, label_shift, label_scale)
        self.out_features, self.log1p = out_features, log1p
        self.layers = nn.Sequential(
            nn.Linear(torch.Size(image_shape).numel() + label_dim, hidden), nn.ReLU(), nn.Linear(hidden, out_features), nn.ReLU()
        )

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        lead = x.shape[: -len(self.image_shape)]
        h = self._flat(x).flatten(1)
        if self.log1p:
            h = h.log1p()
        if self.label_dim:
            h = torch.cat([h, self._labels(labels, lead)], -1)
        return self.layers(h).reshape(*lead, -1)


class Backbone(Configurable, nn.Module):
    """Any network as an encoder ``q(eps | x)``: a torchvision model as it is, a transformer, a multilayer perceptron.

    Its outputs, flattened, are the features; a dry run counts them. It sees one leading dimension, and no labels.

    Args:
        network: A module from ``x [batch, *x_shape]`` to a tensor ``[batch, ...]``.
        x_shape: Shape of an image, or of whatever ``x`` is.

    Raises:
        ValueError: If the network does not take such ``x``, or returns no tensor with one row for each.

    Example:
        >>> Backbone(nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU()), (3, 16, 16)).out_features
        128
    """

    label_dim = 0

    def __init__(self, network: nn.Module, x_shape: Sequence[int]) -> None:
        super().__init__()
        self.network, self.x_shape = network, tuple(x_shape)
        if len(self.x_shape) == 3:
            self.image_shape = self.x_shape
        like = next(network.parameters(), torch.zeros(()))
        try:
            with torch.no_grad(), evaluation_mode(network):
                output = network(torch.zeros(2, *self.x_shape, dtype=like.dtype, device=like.device))
        except (RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"network: it does not take x of shape [2, {', '.join(map(str, self.x_shape))}]: {reason}") from None
        if not isinstance(output, Tensor) or output.shape[:1] != (2,):
            given = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"network: it returned {given} for a batch of 2; must return a tensor [2, ...]")
        self.out_features = output[0].numel()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        lead = x.shape[: x.ndim - len(self.x_shape)]
        x = scale_images(x) if x.dtype == torch.uint8 else x
        return self.network(x.reshape(-1, *self.x_shape)).reshape(*lead, self.out_features)


class PooledEncoder(_Encoder):
    """Batch-normalised convolutions from full resolution on, read by mean and maximum over all positions.

    It knows what is in the image rather than where: for concepts such as thickness, brightness or a smile, of which it gives
    a finer reading than strided convolutions do, at several times their cost.

    Args:
        image_shape: ``(C, H, W)`` with 1, 3 or 4 channels; ``H`` and ``W`` are multiples of 4.
        out_features: Width of the output.
        channels: Channels at full resolution; twice as many at half and four times as many at a quarter of it.
        label_dim: See :class:`ConvEncoder`.
        label_shift: See :class:`ConvEncoder`.
        label_scale: See :class:`ConvEncoder`.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        out_features: int = 128,
        *,
        channels: int = 16,
        label_dim: int = 0,
        label_shift: float | Sequence[float] = 0.0,
        label_scale: float | Sequence[float] = 1.0,
    ) -> None:
        check_image_shape(image_shape, 4)
        super().__init__(image_shape, label_dim, label_shift, label_scale)
        check_at_least(1, channels=channels)
        c = channels
        layers = ((c, 3, 1), (2 * c, 3, 2), (2 * c, 3, 1), (4 * c, 3, 2), (4 * c, 3, 1))
        self.convolutions = _normalised(image_shape[0], layers)
        self.out_features = out_features
        self.hidden = nn.Linear(8 * c + label_dim, out_features)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        h = self.convolutions(self._flat(x))
        return self._read(self.hidden, torch.cat([h.mean((-2, -1)), h.amax((-2, -1))], -1), labels, x.shape[:-3])


class SpatialEncoder(_Encoder):
    """Batch-normalised convolutions down to a quarter of the resolution, every position of which is read.

    Finer than :class:`ConvEncoder`, and much larger: for the image's own noise, which has to hold all that the concepts leave
    out. The normalisation matters there: without it the posterior of ``eps_x`` collapses to its prior in some runs.

    Args:
        image_shape: ``(C, H, W)`` with 1, 3 or 4 channels; ``H`` and ``W`` are multiples of 4.
        out_features: Width of the output.
        channels: Channels of the first convolution; the others have twice as many.
        label_dim: See :class:`ConvEncoder`.
        label_shift: See :class:`ConvEncoder`.
        label_scale: See :class:`ConvEncoder`.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        out_features: int = 256,
        *,
        channels: int = 32,
        label_dim: int = 0,
        label_shift: float | Sequence[float] = 0.0,
        label_scale: float | Sequence[float] = 1.0,
    ) -> None:
        check_image_shape(image_shape, 4)
        super().__init__(image_shape, label_dim, label_shift, label_scale)
        check_at_least(1, channels=channels)
        c = channels
        self.convolutions = _normalised(image_shape[0], ((c, 5, 2), (2 * c, 3, 1), (2 * c, 3, 2), (2 * c, 3, 1)))
        self.out_features = out_features
        places = (image_shape[1] // 4) * (image_shape[2] // 4)
        self.hidden = nn.Linear(2 * c * places + label_dim, out_features)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self._read(self.hidden, self.convolutions(self._flat(x)).flatten(1), labels, x.shape[:-3])


class AugmentedEncoder(Configurable, nn.Module):
    """An encoder that sees randomly changed images in training and the images themselves in evaluation.

    The guide then is another one at each step, and each gives a bound: training maximises the mean of these bounds. What the
    model reconstructs is the image itself.

    Args:
        encoder: Any encoder.
        augmentation: Any module from images to images that leaves the concepts as they are.
    """

    def __init__(self, encoder: nn.Module, augmentation: nn.Module) -> None:
        super().__init__()
        self.encoder, self.augmentation = encoder, augmentation
        self.out_features = encoder.out_features

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.encoder(self.augmentation(x) if self.training else x, labels)


def _normalised(colours: int, layers: Sequence[tuple[int, int, int]]) -> nn.Sequential:
    """Convolutions ``(channels, kernel, stride)``, each batch-normalised and rectified."""
    modules: list[nn.Module] = []
    for channels, kernel, stride in layers:
        modules += [nn.Conv2d(colours, channels, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        colours = channels
    return nn.Sequential(*modules)
