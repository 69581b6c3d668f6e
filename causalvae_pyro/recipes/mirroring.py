"""Do mirrored images keep their labels, or change the sign of some?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from causalvae_pyro.utils.images import scale_images
from causalvae_pyro.utils.numbers import evenly_spaced

__all__ = ["left_right_matters", "mirrored_labels"]

_SIDE = 12
# Mirrored pictures of tilted heads, or of a light that is not quite in the middle, are read a little worse.
_LOSS = 0.1
# The predictor has learnt from one side of each image only.
_LOSS_OF_SIGN = 0.2
# A middle so near to zero, in standard deviations of the label, is zero.
_ZERO = 0.1
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
    return [column for column, as_is, turned, _ in _readings(images, labels, count) if as_is - turned > _LOSS]


def mirrored_labels(images: Tensor, labels: Tensor, *, count: int = 2000) -> Tensor | None:
    """The labels of the mirrored images: a label that is read worse from them, but well with its sign changed, gets that.

    The sign changes about the middle that fits best, as that of an angle of light does, or of a place.

    Args:
        images: See :func:`left_right_matters`.
        labels: See :func:`left_right_matters`.
        count: See :func:`left_right_matters`.

    Returns:
        ``[N, n]``, or ``None`` where a label is read worse either way: mirrored images show something else.
    """
    result = labels.clone()
    for column, as_is, turned, (changed, middle) in _readings(images, labels, count):
        if as_is - turned <= _LOSS:
            continue
        if as_is - changed > _LOSS_OF_SIGN:
            return None
        result[:, column] = 2 * middle - labels[:, column]
    return result


def _readings(images: Tensor, labels: Tensor, count: int) -> Iterator[tuple[int, float, float, tuple[float, float]]]:
    """For each label that enough images have: its column; how well images, mirror images and, the sign changed, these tell it."""
    # Not where the names are imported: it takes a second.
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import r2_score

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
        as_is = r2_score(y[half:], predictor.predict(plain[half:]))
        read = predictor.predict(mirrored[half:])
        middle = float((read + y[half:]).mean() / 2)
        middle = 0.0 if abs(middle) < _ZERO * float(y.std()) else middle
        yield column, as_is, r2_score(y[half:], read), (r2_score(2 * middle - y[half:], read), middle)
