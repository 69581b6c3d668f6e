"""A baseline of Extended Yale B that is given the light: other persons' residuals, combined like the photograph's, carried over.

The photograph's difference from the mean training face under its light is written as a ridge combination of the training persons'
differences under that light, mirrored ones too, and the same combination of theirs under the new light is added to the mean face.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from causalvae_pyro.metrics.counterfactual import cf_errors, cf_score_of_errors
from causalvae_pyro.utils.images import scale_images

__all__ = ["scores"]

# Found on persons of the training set held out; of a pixel.
_PENALTY = 0.03


def scores(train: Any, test: Any, seed: int = 0) -> dict[str, float]:
    """CF-scores on the pairs of photographs that the score card draws.

    Args:
        train: :class:`~causalvae_pyro.datasets.YaleB`.
        test: The same, of other persons.
        seed: The score card's.

    Returns:
        Of the ridge combination and, to compare with the score card's, of the mean training face.
    """
    generator = torch.Generator().manual_seed(seed)
    choices = map(test.counterfactual_targets, range(len(test)))
    other = torch.stack([rows[torch.randint(len(rows), (), generator=generator)] for rows in choices])
    x, true = scale_images(test.images), scale_images(test.images[other])
    lights, mean, residuals = _table(train)
    at, to = (_light(lights, labels) for labels in (test.labels, test.labels[other]))
    answers = []
    for image, i, j in zip(x, at.tolist(), to.tolist(), strict=True):
        own, difference = residuals[:, i].flatten(1), (image - mean[i]).flatten()
        penalty = _PENALTY * own.shape[1] * torch.eye(len(own))
        weights = torch.linalg.solve(own @ own.T + penalty, own @ difference)
        answers.append(mean[j] + torch.einsum("g,gchw->chw", weights, residuals[:, j]))
    named = {"ridge": torch.stack(answers).clamp(0, 1), "mean training face": test.counterfactual_baselines(test.labels[other])}
    named["mean training face"] = named["mean training face"]["mean training face"]
    return {name: cf_score_of_errors(*cf_errors(images, true, x)) for name, images in named.items()}


def _table(train: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Lights, mean faces, and residuals ``[persons and mirrored persons, lights, C, H, W]``, 0 where there is no photograph."""
    x, lights = scale_images(train.images), train.labels.unique(dim=0)
    column = _light(lights, train.labels)
    mean = torch.stack([x[column == k].mean(0) for k in range(len(lights))])
    persons, row = train.subjects.unique(return_inverse=True)
    table = torch.zeros(len(persons), len(lights), *x.shape[1:])
    table[row, column] = x - mean[column]
    turned = _light(lights, lights * torch.tensor([-1.0, 1.0]))
    return lights, mean, torch.cat([table, table.flip(-1)[:, turned]])


def _light(lights: Tensor, labels: Tensor) -> Tensor:
    return torch.cdist(labels, lights).argmin(1)
