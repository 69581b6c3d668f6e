"""Which small changes of an image leave its labels as they are?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from causalvae_pyro.metrics import Predictor
from causalvae_pyro.networks import RandomView
from causalvae_pyro.utils.images import scale_images
from causalvae_pyro.utils.label_columns import is_binary
from causalvae_pyro.utils.numbers import evenly_spaced
from causalvae_pyro.utils.random_state import kept_rng_state

__all__ = ["VIEWS", "misread_after", "telling_changes", "told_shares", "view"]

#: Of :class:`~causalvae_pyro.networks.RandomView`, those beside mirroring.
VIEWS = ("shift", "turn", "zoom", "light")
# Attributes of faces have at most 0.023, which none of these touches; places under shifts 0.05 to 0.07, a brightness under light
# 0.5, angles under turns 0.3 to 0.4.
_SHARE = 0.03
_SIDE, _QUANTILES = 12, 11
_FEWEST = 200
_MISREAD, _MATTERS = 1.5, 0.005


def telling_changes(images: Tensor, labels: Tensor, *, count: int = 2000) -> list[str]:
    """Which of :data:`VIEWS` change what the labels say: those of which :func:`told_shares` has more than 0.03 for any label.

    Args:
        images: ``[N, C, H, W]``, uint8 or in [0, 1].
        labels: ``[N, n]``, NaN where missing.
        count: Use so many images, evenly spaced.
    """
    shares = told_shares(images, labels, count=count)
    return [name for name in VIEWS if any(share[name] > _SHARE for share in shares.values())]


def told_shares(images: Tensor, labels: Tensor, *, count: int = 2000) -> dict[int, dict[str, float]]:
    """How much each of :data:`VIEWS` tells of the errors of a predictor of each label that learns from images changed at random.

    The predictor is linear, of small images and the quantiles of their pixels. Its errors on other images, changed as well, are
    regressed on what was done to them. A change that leaves the label as it is says nothing of the errors. One that does not,
    such as a shift where the label is a place, or a change of light where it is a brightness, makes them.

    Args:
        images: See :func:`telling_changes`.
        labels: See :func:`telling_changes`.
        count: See :func:`telling_changes`.

    Returns:
        By the label's column, if at least 200 of the images used have it, and by the change: its share of the errors' variance;
        0 if chance alone gives as much in one of a thousand cases.
    """
    # Not where the names are imported: it takes a second.
    from sklearn.linear_model import LinearRegression, RidgeCV

    some = (~labels.isnan()).any(1).nonzero().squeeze(1)
    some = some[evenly_spaced(min(count, len(some)), len(some))]
    if len(some) < _FEWEST:
        return {}
    with kept_rng_state("cpu"):
        torch.manual_seed(0)
        rows = some[torch.randperm(len(some))]
        x, half = scale_images(images[rows.to(images.device)]).float().cpu(), len(rows) // 2
        # Each image of the first half twice.
        seen, sampler = torch.cat([x[:half], x[:half]]), RandomView(mirror=False)
        changes = sampler.sample_changes(x[half:])
        learnt = _features(sampler.apply_changes(seen, sampler.sample_changes(seen)))
        held = _features(sampler.apply_changes(x[half:], changes))
    shares: dict[int, dict[str, float]] = {}
    for column, known in enumerate((~labels[rows].isnan()).T.cpu()):
        if int(known.sum()) < _FEWEST:
            continue
        y, first, rest = labels[rows, column].cpu().numpy(), known[:half].numpy(), known[half:].numpy()
        twice = np.concatenate([first, first])
        predictor = RidgeCV(alphas=(0.1, 1.0, 10.0, 100.0)).fit(learnt[twice], np.tile(y[:half], 2)[twice])
        errors = y[half:][rest] - predictor.predict(held[rest])
        done = {name: changes[name].numpy()[rest] for name in VIEWS}
        found = {name: LinearRegression().fit(done[name], errors).score(done[name], errors) for name in VIEWS}
        shares[column] = {name: share if share > _by_chance(*done[name].shape) else 0.0 for name, share in found.items()}
    return shares


def misread_after(images: Tensor, labels: Tensor, views: Sequence[str], *, count: int = 1500) -> list[int]:
    """Which labels a small network reads clearly worse, in images as they are, if it has learnt from changed ones.

    Images that are turned, zoomed or shifted by parts of a pixel are resampled, which blurs them: thin strokes lose brightness.
    Labels that are measured exactly are read with a bias then. And a change can tell of a label that no linear predictor reads
    (:func:`told_shares`).

    Args:
        images: ``[N, C, H, W]``, uint8 or in [0, 1], their sides divisible by 4, or none is found.
        labels: ``[N, n]``, NaN where missing.
        views: Of :data:`VIEWS`.
        count: Use so many images, evenly spaced.

    Returns:
        Columns of labels that are numbers whose squared error is more than 1.5 times what it is without the changes, and by
        more than half a hundredth of the label's variance.
    """
    columns = [k for k, classes in enumerate(is_binary(labels)) if not classes]
    some = (~labels.isnan().any(1)).nonzero().squeeze(1)
    some = some[evenly_spaced(min(count, len(some)), len(some))]
    if not columns or not views or len(some) < 2 * _FEWEST or any(side % 4 for side in images.shape[-2:]):
        return []
    with kept_rng_state("cpu"):
        torch.manual_seed(0)
        rows = some[torch.randperm(len(some))]
        x, y = images[rows.to(images.device)].cpu(), labels[rows].float().cpu()[:, columns]
        held = len(rows) // 5
        errors = []
        for augment in (None, view(False, views)):
            torch.manual_seed(0)
            predictor = Predictor(x.shape[1:], len(columns))
            predictor.fit(x[held:], y[held:], epochs=8, batch_size=32, augment=augment)
            errors.append((predictor.predict(x[:held]) - y[:held]).square().mean(0))
    plain, changed = errors
    worse = (changed > _MISREAD * plain) & (changed - plain > _MATTERS * y.var(0))
    return [k for k, so in zip(columns, worse.tolist(), strict=True) if so]


def view(mirror: bool, views: Sequence[str] = VIEWS, **options: float) -> RandomView:
    """Random changes of images, of which only those of ``views`` and, where ``mirror`` is true, mirroring."""
    return RandomView(mirror=mirror, **{**options, **{name: 0.0 for name in VIEWS if name not in views}})


def _by_chance(count: int, width: int) -> float:
    """The share that a regression of so many errors on so many columns explains by chance once in a thousand cases."""
    from scipy.stats import beta

    return float(beta.ppf(0.999, width / 2, (count - width - 1) / 2))


def _features(x: Tensor) -> Any:
    small = F.adaptive_avg_pool2d(x, (min(_SIDE, x.shape[-2]), min(_SIDE, x.shape[-1]))).flatten(1)
    return torch.cat([small, x.flatten(1).quantile(torch.linspace(0, 1, _QUANTILES), 1).T], 1).numpy()
