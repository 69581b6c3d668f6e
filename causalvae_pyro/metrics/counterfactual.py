"""How close counterfactual images come to the true ones."""

from __future__ import annotations

import torch
from torch import Tensor

from causalvae_pyro.utils.images import scale_images

__all__ = ["cf_errors", "cf_score", "cf_score_of_errors"]


def cf_score(images: Tensor, true: Tensor, factual: Tensor) -> float:
    """``1 - E ||x_cf - x_true||^2 / E ||x_factual - x_true||^2``.

    1 is the true counterfactual, 0 no better than returning the factual image, negative worse than that. The score's
    ceiling for a model is the same with the error of its plain reconstructions:
    ``1 - E ||x_rec - x||^2 / E ||x_factual - x_true||^2`` = ``cf_score(x_true + x_rec - x, x_true, x)``.

    Args:
        images: The model's counterfactuals ``[N, C, H, W]``, in units of the pixel's range or, as all three may be, uint8.
        true: The true counterfactuals, same shape.
        factual: The factual images, same shape.

    Raises:
        ValueError: If the shapes differ, or the true counterfactuals equal the factual images, so that there is nothing
            to score.

    Example:
        >>> x, y = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
        >>> cf_score(y, y, x), cf_score(x, y, x)
        (1.0, 0.0)
    """
    return cf_score_of_errors(*cf_errors(images, true, factual))


def cf_errors(images: Tensor, true: Tensor, factual: Tensor) -> tuple[Tensor, Tensor]:
    """The two errors per image whose ratio is the score, for intervals over images and for means over interventions.

    Args:
        images: See :func:`cf_score`.
        true: See :func:`cf_score`.
        factual: See :func:`cf_score`.

    Returns:
        Mean squared errors per pixel and channel, of the counterfactual and of the factual image against the true one, each
        ``[N]`` float64. ``1 - error.sum() / baseline.sum()`` is the score.

    Raises:
        ValueError: If the shapes differ.
    """
    if not images.shape == true.shape == factual.shape:
        raise ValueError(f"images: got {list(images.shape)} beside true {list(true.shape)} and factual {list(factual.shape)}")
    # Beyond [0, 1] may lie what a model draws, and a true image plus an error.
    images, true, factual = scale_images(images, "images"), scale_images(true, "true"), scale_images(factual, "factual")
    pixels = true[0].numel()
    error, baseline = ((x - true).square().flatten(1).sum(1, dtype=torch.float64) / pixels for x in (images, factual))
    return error, baseline


def cf_score_of_errors(error: Tensor, baseline: Tensor) -> float:
    """:func:`cf_score` from what :func:`cf_errors` returns.

    Args:
        error: ``[N]``.
        baseline: ``[N]``.

    Raises:
        ValueError: If the baseline is 0 for every image.
    """
    if baseline.sum() == 0:
        raise ValueError("true: equals the factual images everywhere; the score is undefined where nothing changes")
    return 1 - (error.sum() / baseline.sum()).item()
