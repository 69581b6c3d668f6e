"""Fréchet distance between two sets of images, by torchmetrics (extra ``fid``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from causalvae_pyro.utils.images import check_images, scale_images

__all__ = ["FID", "fid"]

_LAYERS = (64, 192, 768, 2048)
_INSTALL = "install the extra: pip install 'causalvae-pyro[fid]'"


class FID:
    """Fréchet distances of sets of images from one reference, whose features are computed once; see :func:`fid`.

    Args:
        images: The reference.
        feature: As in :func:`fid`.
        batch_size: As in :func:`fid`.
    """

    def __init__(self, images: Tensor, *, feature: int | Callable[[Tensor], Tensor] = 2048, batch_size: int = 64) -> None:
        _check("images", images)
        if batch_size < 1:
            raise ValueError(f"batch_size: got {batch_size}; must be at least 1")
        self._shape, self._inception, self._batch_size = images.shape[1:], not callable(feature), batch_size
        if self._inception and images.shape[1] not in (1, 3):
            raise ValueError(f"images: got {images.shape[1]} channels; InceptionV3 takes 1 or 3, other features any number")
        self._metric = _metric(feature, images)
        self._add(images, real=True)

    def __call__(self, other: Tensor) -> float:
        """The distance of ``other`` from the reference."""
        _check("other", other)
        if other.shape[1:] != self._shape:
            raise ValueError(f"other: got images of shape {list(other.shape[1:])}; valid: that of images, {list(self._shape)}")
        # The reference stays.
        self._metric.reset()
        self._add(other, real=False)
        # Rounding leaves the distance of a set from itself on either side of 0.
        return max(0.0, self._metric.compute().item())

    def _add(self, images: Tensor, *, real: bool) -> None:
        for part in images.split(self._batch_size):
            x = scale_images(part)
            if self._inception:
                # InceptionV3 takes bytes, and torchmetrics would truncate instead of rounding.
                x = (255 * x).round().byte().expand(-1, 3, -1, -1).to(self._metric.device)
            self._metric.update(x, real=real)


def fid(images: Tensor, other: Tensor, *, feature: int | Callable[[Tensor], Tensor] = 2048, batch_size: int = 64) -> float:
    """Fréchet (Inception) distance: how far apart two sets of images are as a whole, through the features of a network.

    ``|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))`` of the features' means and covariances. Which image belongs to
    which, and whether an image shows what it was meant to, does not matter. Estimated covariances bias it upwards, the more so
    the more features and the fewer images: compare only distances that share both.

    Args:
        images: The reference ``[N, C, H, W]``, uint8 or in [0, 1], ``N >= 2``.
        other: The images to compare ``[M, C, H, W]``, likewise, of the same shape.
        feature: 64, 192, 768 or 2048: the layer of that many features of an InceptionV3 trained on photographs, whose weights
            are downloaded once; 2048 is the FID of the literature. Grey images are given three equal channels. Or a function,
            e.g. a module in evaluation mode, from images ``[N, C, H, W]`` in [0, 1] to features ``[N, ...]``, for data unlike
            photographs: ``features`` of a :class:`~causalvae_pyro.metrics.Predictor`, say.
        batch_size: Images that go through the network at once.

    Returns:
        A number >= 0 in squared units of the features; 0 is best.

    Raises:
        ValueError: If there are fewer than two images on a side, shapes do not fit, pixels are out of range, or ``feature`` is
            unknown.
        ModuleNotFoundError: Without torchmetrics or, for InceptionV3, torch-fidelity (extra ``fid``).
        OSError: If InceptionV3's weights are not there and cannot be downloaded.

    Source: Heusel et al. 2017.
    """
    return FID(images, feature=feature, batch_size=batch_size)(other)


class _Features(nn.Module):
    """A function as torchmetrics takes it: a module whose features are flat, and in float64 so that the distance is."""

    def __init__(self, function: Callable[[Tensor], Tensor], num_features: int) -> None:
        super().__init__()
        # In a list, a module keeps its device and its mode.
        self.function, self.num_features = [function], num_features

    def forward(self, x: Tensor) -> Tensor:
        return self.function[0](x).flatten(1).cpu().double()


def _metric(feature: int | Callable[[Tensor], Tensor], images: Tensor) -> Any:
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance  # slow to import
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"fid: needs torchmetrics ({error}); {_INSTALL}") from None
    if callable(feature):
        with torch.no_grad():
            count = feature(scale_images(images[:1])).flatten(1).shape[1]
        return FrechetInceptionDistance(_Features(feature, count), reset_real_features=False)
    if feature not in _LAYERS:
        raise ValueError(f"feature: got {feature!r}; valid: {', '.join(map(str, _LAYERS))}, or a function of images")
    try:
        metric = FrechetInceptionDistance(feature, reset_real_features=False)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"feature: InceptionV3 needs torch-fidelity; {_INSTALL}") from None
    except OSError as error:
        raise OSError(
            f"feature: InceptionV3's weights cannot be downloaded ({error}); give a function of images instead"
        ) from None
    # Not to every device: its sums are in float64.
    return metric.to(images.device) if images.is_cuda else metric


def _check(name: str, images: Tensor) -> None:
    check_images(images, name)
    if len(images) < 2:
        raise ValueError(f"{name}: got {len(images)} image; must be at least 2")
