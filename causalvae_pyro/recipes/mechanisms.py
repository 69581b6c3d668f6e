"""The causal layer, fitted to labels alone."""

from __future__ import annotations

import torch
from torch import Tensor

from causalvae_pyro.model import CausalVAE
from causalvae_pyro.objectives.terms import LabelFit
from causalvae_pyro.utils.label_columns import one_label_each

__all__ = ["fit_mechanisms"]


@torch.inference_mode(False)
def fit_mechanisms(model: CausalVAE, labels: Tensor, *, steps: int = 1000, lr: float = 1e-2) -> None:
    """Fits the causal layer to labels alone, by maximum likelihood, as the paper does before it turns to images.

    With few labels the mechanisms are then known from the first image on: they tell what a cause says about its effects in
    images without labels. Learned along with the encoder they start as noise, which lets those images teach them its errors.

    Args:
        model: The model; only its causal layer changes.
        labels: ``[N, n]``, NaN where missing; images with all their labels count.
        steps: Steps of Adam, on all labels at once.
        lr: Its learning rate, > 0.

    Raises:
        ValueError: If an argument is out of range, or fewer than 2 images have all their labels.
    """
    if steps < 1:
        raise ValueError(f"steps: got {steps}; must be at least 1")
    if not lr > 0:
        raise ValueError(f"lr: got {lr}; must be > 0")
    one_label_each(model.prior, "fit_mechanisms")
    labels = labels[~labels.isnan().any(1)].to(model.zero)
    if len(labels) < 2:
        raise ValueError(f"labels: {len(labels)} images have all of them; mechanisms take at least 2")
    optimizer = torch.optim.Adam([p for p in model.scm.parameters() if p.requires_grad], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (LabelFit()(model, None, labels) / len(labels)).backward()
        optimizer.step()
