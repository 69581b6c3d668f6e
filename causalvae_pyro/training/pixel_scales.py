"""The scales of a likelihood with one for each pixel, fitted after the mean."""

from __future__ import annotations

from typing import Any, cast

import pyro.distributions as dist
import torch
from torch import Tensor

from causalvae_pyro.interventions import reconstruct
from causalvae_pyro.training.schedules import cosine_schedule
from causalvae_pyro.utils.configurable import check_count
from causalvae_pyro.utils.images import scale_observations
from causalvae_pyro.utils.modes import evaluation_mode

__all__ = ["fit_pixel_scales"]


@torch.inference_mode(False)
def fit_pixel_scales(
    model: Any,
    guide: Any,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    epochs: int = 4,
    batch_size: int = 64,
    lr: float = 5e-3,
    seed: int = 0,
) -> list[float]:
    """Fits the scales to what reconstructions leave unexplained, by maximum likelihood; the mean stays as it is.

    The residuals are those of the posterior mean, as in a counterfactual that keeps pixel noise. Where the model has learned its
    training images by heart, give it others: scales that are too small make too much of what is kept.

    Args:
        model: A :class:`~causalvae_pyro.CausalVAE` whose likelihood is a
            :class:`~causalvae_pyro.likelihoods.PixelwiseGaussianLikelihood`. Nothing but that is changed.
        guide: Its guide.
        images: ``[N, C, H, W]``, uint8 or in [0, 1].
        labels: ``[N, n]``, for guides that use them.
        epochs: Passes over the images, >= 1.
        batch_size: Images per step; an incomplete batch at the end of an epoch is left out, unless it is the only one.
        lr: Learning rate of Adam at first; it falls to 0 along a cosine.
        seed: Fixes the order of the images.

    Returns:
        The mean negative log-likelihood of an image in each epoch, in nats.

    Raises:
        ValueError: If the likelihood is of another kind, or an argument is not as stated.
    """
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    likelihood = model.likelihood
    if not callable(getattr(likelihood, "scales", None)):
        raise ValueError(f"model: its likelihood is {type(likelihood).__name__}; must be a PixelwiseGaussianLikelihood")
    parameters = [p for p in likelihood.parameters() if p.requires_grad]
    device, dtype = parameters[0].device, parameters[0].dtype
    means = reconstruct(model, guide, images, labels).detach()
    generator = torch.Generator().manual_seed(seed)
    size = min(batch_size, len(images))
    steps = len(images) // size
    optimizer = torch.optim.Adam(parameters, lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: cosine_schedule(k / (epochs * steps)))
    history = []
    with torch.enable_grad(), evaluation_mode(likelihood):
        for _ in range(epochs):
            total = 0.0
            for rows in torch.randperm(len(images), generator=generator)[: steps * size].split(size):
                x = scale_observations(images[rows].to(device), True, dtype=dtype)
                mean = means[rows].to(device)
                loss = -cast(Tensor, dist.Normal(mean, likelihood.scales(mean), validate_args=False).log_prob(x)).sum() / size
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.item()
            history.append(total / steps)
    return history
