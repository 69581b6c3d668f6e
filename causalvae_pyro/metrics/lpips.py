"""Learned perceptual image patch similarity, by torchmetrics (extra ``fid``), with a backbone of the user's."""

from __future__ import annotations

import os
import pickle

import torch
from torch import Tensor

from causalvae_pyro.utils.compat import lpips_network
from causalvae_pyro.utils.files import user_path
from causalvae_pyro.utils.images import as_images

__all__ = ["lpips"]

# Of fewer nothing is left after AlexNet's pooling.
_SIDE = 32


@torch.no_grad()
def lpips(images: Tensor, other: Tensor, weights: str | os.PathLike, *, batch_size: int = 128) -> Tensor:
    """How different two images look: distances of AlexNet's features, weighted by what people find alike (Zhang et al. 2018).

    Args:
        images: ``[N, C, H, W]`` with 1 or 3 channels and at least 32 pixels a side, uint8 or in [0, 1]; a grey channel is given
            three times.
        other: Images to compare them with one by one, likewise.
        weights: File with AlexNet's weights trained on ImageNet, as torchvision publishes them
            (``alexnet-owt-7be5be79.pth``). The weights of the features are torchmetrics'.
        batch_size: Images per pass.

    Returns:
        ``[N]``, >= 0; 0 for the same image, lower is more alike.

    Raises:
        ValueError: If shapes or pixels are not as stated, or the file holds no such weights.
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: Without torchmetrics (extra ``fid``).

    Source: Zhang et al. 2018.
    """
    images, other = as_images(images, "images"), as_images(other, "other")
    if images.shape != other.shape or images.shape[1] not in (1, 3):
        raise ValueError(
            f"other: got {list(other.shape)} beside images' {list(images.shape)}; must be alike, with 1 or 3 channels"
        )
    if min(images.shape[-2:]) < _SIDE:
        raise ValueError(f"images: got {images.shape[-2]} x {images.shape[-1]} pixels; AlexNet takes at least {_SIDE} a side")
    path = user_path(weights)
    if not path.is_file():
        raise FileNotFoundError(f"weights: {path} does not exist; expected torchvision's file of AlexNet's weights")
    try:
        network = lpips_network(torch.load(path, map_location=images.device, weights_only=True)).to(images.device)
    except (RuntimeError, KeyError, AttributeError, EOFError, pickle.UnpicklingError):
        raise ValueError(f"weights: {path} does not hold AlexNet's weights; expected torchvision's file of them") from None
    parts = zip(images.split(batch_size), other.split(batch_size), strict=True)
    found = [network(2 * a.expand(-1, 3, -1, -1) - 1, 2 * b.expand(-1, 3, -1, -1) - 1) for a, b in parts]
    return torch.cat(found).reshape(-1)
