"""Do mirrored images keep their labels?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from causalvae_pyro.utils.images import scale_images
from causalvae_pyro.utils.numbers import evenly_spaced

__all__ = ["left_right_matters"]

_SIDE = 12
# Mirrored pictures of tilted heads, or of a light that is not quite in the middle, are read a little worse.
_LOSS = 0.1
_FEWEST = 40


def left_right_matters(images: Tensor, labels: Tensor, *, count: int = 2000) -> list[int]:
    """Which labels are read worse from mirrored images: those of a linear predictor on small images.

    One half of the images trains it, the other half and their mirror images are read. A label counts if its coefficient of
    determination falls by more than 0.1. A label that such a predictor cannot read at all is not found.

    Args:
        images: ``[N, C, H, W]``, uint8 or in [0, 1].
        labels: ``[N, n]``, NaN where missing.
        count: Use so many images, evenly spaced.

    Returns:
        The numbers of those labels, none where fewer than 40 images have one.
    """
    # Not where the names are imported: it takes a second.
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import r2_score

    found = []
    for column in range(labels.shape[1]):
        known = (~labels[:, column].isnan()).nonzero().squeeze(1)
        if len(known) < _FEWEST:
            continue
        rows = known[evenly_spaced(min(count, len(known)), len(known))]
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
        x = scale_images(images[rows]).float()
        size = (min(_SIDE, x.shape[-2]), min(_SIDE, x.shape[-1]))
        plain, mirrored = (F.adaptive_avg_pool2d(view, size).flatten(1).numpy() for view in (x, x.flip(-1)))
        y, half = labels[rows, column].numpy(), len(rows) // 2
        predictor = RidgeCV(alphas=(0.1, 1.0, 10.0, 100.0)).fit(plain[:half], y[:half])
        as_is, turned = (r2_score(y[half:], predictor.predict(part[half:])) for part in (plain, mirrored))
        if as_is - turned > _LOSS:
            found.append(column)
    return found
