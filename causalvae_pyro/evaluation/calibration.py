"""How often intervals of the guide hold the labels of test images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.distributions import prior_mean
from causalvae_pyro.guides import CalibratedGuide, PosteriorGuide
from causalvae_pyro.interventions.abduction import abduct_for, moved
from causalvae_pyro.metrics import interval_coverage
from causalvae_pyro.utils.local_params import local_params
from causalvae_pyro.utils.modes import evaluation_mode
from causalvae_pyro.utils.random_state import kept_rng_state

__all__ = ["LEVELS", "calibration_scores"]

#: Nominal levels of the intervals.
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
# Ends of a 95 % interval then lie within half a percent of the level.
_SAMPLES = 400
_BATCH = 128


@torch.no_grad()
def calibration_scores(run: Run, x: Tensor, labels: Tensor, names: Sequence[str], *, seed: int = 0) -> dict[str, Any]:
    """Coverage of the guide's central intervals of ``z``, where a label stands for the prior's mean ``lambda1``.

    Args:
        run: The trained pair.
        x: Test images ``[N, C, H, W]`` in [0, 1].
        labels: Their labels ``[N, n]`` in the run's order, NaN where missing.
        names: The concepts wanted.
        seed: Of the samples. Global generators stay as they were.

    Returns:
        A JSON-able mapping: ``levels``, the nominal ones; ``guide``, by concept the share of the labels covered at each, averaged
        over the concept's dimensions, ``None`` where no label is known; ``uncalibrated``, where the guide is a
        :class:`~causalvae_pyro.guides.CalibratedGuide`, the same of the guide in it.
    """
    model, guides = run.model, {"guide": run.guide}
    if isinstance(run.guide, CalibratedGuide):
        guides["uncalibrated"] = run.guide.guide
    with evaluation_mode(model):
        truth = prior_mean(model.prior(labels.to(model.zero).nan_to_num()))
    truth = truth.masked_fill(labels.isnan().to(truth.device)[..., None], torch.nan).flatten(1)
    result: dict[str, Any] = {"levels": list(LEVELS)}
    for key, guide in guides.items():
        with kept_rng_state(model.zero.device):
            torch.manual_seed(seed)
            z = model.scm.to_endogenous(_samples(model, guide, x, labels))
        shares = interval_coverage(z.flatten(2), truth, level=LEVELS).unflatten(1, z.shape[2:]).mean(-1)
        columns = dict(zip(run.graph.names, shares.T.tolist(), strict=True))
        result[key] = {name: [None if share != share else share for share in columns[name]] for name in names}
    return result


def _samples(model: Any, guide: Any, x: Tensor, labels: Tensor) -> Tensor:
    """Samples of ``eps``, ``[k, N, n, d]``."""
    if not isinstance(guide, PosteriorGuide):
        return abduct_for(model, guide, x, labels, _SAMPLES)["eps"]
    # Without the image's own noise: of a hierarchical guide so many samples of that take gigabytes and half an hour.
    parts = []
    with evaluation_mode(model, guide), local_params(model, guide):
        for images, known in zip(x.split(_BATCH), labels.split(_BATCH), strict=True):
            parts.append(guide.posterior(*moved(images, known, model))["eps"].sample((_SAMPLES,)))
    return torch.cat(parts, 1)
