"""Decoders tried for a short while, and compared on the images that interventions are most like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from causalvae_pyro.distributions import prior_mean
from causalvae_pyro.priors import FixedPrior
from causalvae_pyro.recipes.decoder_training import train_decoder
from causalvae_pyro.utils.images import scale_images

__all__ = ["try_decoders", "unusual"]

# Of the images: as many as interventions are scored on, and enough to train on are left.
_HELD = 0.2


def unusual(labels: Tensor, share: float = _HELD) -> Tensor:
    """Which images have effects that their causes predict least: the nearest to interventions that there are in the data.

    For each concept, the residual of its linear regression on all others, in its standard deviations. It counts by how much the
    others explain of the concept, so that the ends of a root's range are not unusual. No graph is needed.

    Args:
        labels: ``[N, n]``, all known.
        share: Of the images, in (0, 1).

    Returns:
        ``[N]`` bool.
    """
    u = labels.double()
    u = (u - u.mean(0)) / u.std(0).clamp(min=1e-12)
    # A ridge: labels can determine each other.
    precision = torch.linalg.inv(u.T @ u / len(u) + 1e-4 * torch.eye(u.shape[1], dtype=u.dtype, device=u.device))
    inflation = precision.diagonal().clamp(min=1.0)
    score = ((u @ precision).square() / inflation * (1 - 1 / inflation)).sum(1)
    # Where no concept follows from others all are equally usual.
    score = score + 1e-9 * torch.rand(len(u), generator=torch.Generator().manual_seed(0), dtype=u.dtype).to(u.device)
    return score >= score.quantile(1 - share)


@torch.inference_mode(False)
def try_decoders(
    decoders: Mapping[str, nn.Module],
    images: Tensor,
    concepts: Tensor,
    held: Tensor,
    *,
    steps: int = 150,
    lr: float = 2e-3,
    weight: float = 2000.0,
    growth: float = 1.0,
) -> dict[str, float]:
    """The error of each decoder on images held out, after a short training on the others, with known concepts and no guide.

    Args:
        decoders: By name, from concepts to logits; they are trained in place.
        images: ``[N, C, H, W]``, uint8 or in [0, 1].
        concepts: ``[N, n, d]``.
        held: Which images are held out, ``[N]`` bool.
        steps: Of 32 images each. Where a decoder's start has taken some, the others take as many more.
        lr: See :func:`~causalvae_pyro.fit`.
        weight: See :class:`~causalvae_pyro.recipes.Recipe`, for decoders that have effects.
        growth: See :class:`~causalvae_pyro.recipes.Recipe`.

    Returns:
        Mean squared error per pixel and channel, in [0, 1] units, by name.
    """
    rows, out = (~held).nonzero().squeeze(1), held.nonzero().squeeze(1)
    errors, taken = {}, {name: getattr(decoder, "steps_at_start", 0) for name, decoder in decoders.items()}
    most = max(taken.values(), default=0)
    for name, decoder in decoders.items():
        # As the start that took the most: its steps end with short ones, and begin with long ones again.
        if before := most - taken[name]:
            train_decoder(decoder, images, concepts, rows, steps=before, lr=lr, weight=weight, growth=1.0)
        train_decoder(decoder, images, concepts, rows, steps=steps, lr=lr, weight=weight, growth=growth)
        with torch.no_grad():
            parts = [
                (decoder(concepts[part].float()).sigmoid() - scale_images(images[part]).float()).square().flatten(1).mean(1)
                for part in out.split(256)
            ]
        errors[name] = torch.cat(parts).mean().item()
    return errors


def known_concepts(labels: Tensor, dim: int, std: float) -> Tensor:
    """What the labels ``[N, n]`` mean in the latent space, ``[N, n, d]``."""
    prior: Any = FixedPrior.from_labels(labels, dim, std=std)
    return prior_mean(prior(labels)).detach()
