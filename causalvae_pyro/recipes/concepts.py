"""What labels mean in the latent space."""

from __future__ import annotations

import torch
from torch import Tensor

from causalvae_pyro.distributions import prior_mean
from causalvae_pyro.priors import LabelPrior

__all__ = ["label_concepts"]


def label_concepts(prior: LabelPrior, labels: Tensor) -> Tensor:
    """The concepts ``[N, n, d]`` of labels ``[N, n]``, NaN where one is missing."""
    known = ~labels.isnan()
    return torch.where(known[..., None], prior_mean(prior(labels.nan_to_num())), torch.nan)
