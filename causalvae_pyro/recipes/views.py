"""Which small changes of an image leave its labels as they are?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from causalvae_pyro.networks import RandomView
from causalvae_pyro.utils.images import scale_images
from causalvae_pyro.utils.numbers import evenly_spaced
from causalvae_pyro.utils.random_state import kept_rng_state

__all__ = ["VIEWS", "telling_changes", "view"]

#: Of :class:`~causalvae_pyro.networks.RandomView`, those beside mirroring.
VIEWS = ("shift", "turn", "zoom", "light")
# Attributes of faces have at most 0.023, which none of these touches; places under shifts 0.05 to 0.07, a brightness under light
# 0.5, angles under turns 0.3 to 0.4.
_SHARE = 0.03
_SIDE, _QUANTILES = 12, 11
_FEWEST = 200


def telling_changes(images: Tensor, labels: Tensor, *, count: int = 2000) -> list[str]:
    """Which of :data:`VIEWS` change what the labels say.

    A linear predictor of each label learns from randomly changed images: small ones, with the quantiles of their pixels. Its
    errors on others, changed as well, are regressed on what was done to them. A change that leaves the label as it is says
    nothing of the errors. One that does not, such as a shift where the label is a place, or a change of light where it is a
    brightness, makes them: it counts if it explains more than 0.03 of their variance.

    Args:
        images: ``[N, C, H, W]``, uint8 or in [0, 1].
        labels: ``[N, n]``, NaN where missing. Columns of which fewer than 200 are known do not count.
        count: Use so many images, evenly spaced.
    """
    # Not where the names are imported: it takes a second.
    from sklearn.linear_model import LinearRegression, RidgeCV

    found: set[str] = set()
    for column in labels.T:
        known = (~column.isnan()).nonzero().squeeze(1)
        if len(known) < _FEWEST:
            continue
        rows = known[evenly_spaced(min(count, len(known)), len(known))]
        with kept_rng_state("cpu"):
            torch.manual_seed(0)
            rows = rows[torch.randperm(len(rows))]
            x, y, half = scale_images(images[rows]).float().cpu(), column[rows].cpu(), len(rows) // 2
            # Each image of the first half twice.
            seen = torch.cat([x[:half], x[:half]])
            sampler = RandomView(mirror=False)
            changes = sampler.sample_changes(x[half:])
            learnt = _features(sampler.apply_changes(seen, sampler.sample_changes(seen)))
            held = _features(sampler.apply_changes(x[half:], changes))
        predictor = RidgeCV(alphas=(0.1, 1.0, 10.0, 100.0)).fit(learnt, torch.cat([y[:half], y[:half]]).numpy())
        errors = y[half:].numpy() - predictor.predict(held)
        for name in VIEWS:
            done = changes[name].numpy()
            if LinearRegression().fit(done, errors).score(done, errors) > _SHARE:
                found.add(name)
    return [name for name in VIEWS if name in found]


def view(mirror: bool, views: Sequence[str] = VIEWS, **options: float) -> RandomView:
    """Random changes of images, of which only those of ``views`` and, where ``mirror`` is true, mirroring."""
    return RandomView(mirror=mirror, **{**options, **{name: 0.0 for name in VIEWS if name not in views}})


def _features(x: Tensor) -> Any:
    small = F.adaptive_avg_pool2d(x, (min(_SIDE, x.shape[-2]), min(_SIDE, x.shape[-1]))).flatten(1)
    return torch.cat([small, x.flatten(1).quantile(torch.linspace(0, 1, _QUANTILES), 1).T], 1).numpy()
