"""Decoders tried for a short while, and compared on the images that interventions are most like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from causalvae_pyro.distributions import prior_mean
from causalvae_pyro.networks import SpriteDecoder
from causalvae_pyro.objectives.sparsity import EffectSparsity
from causalvae_pyro.priors import FixedPrior
from causalvae_pyro.training.optimizers import parameter_groups
from causalvae_pyro.utils.images import scale_images

__all__ = ["try_decoders", "unusual"]

# Of the images: as many as interventions are scored on, and enough to train on are left.
_HELD = 0.2
_BATCH = 32


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
    growth: float = 20.0,
) -> dict[str, float]:
    """The error of each decoder on images held out, after a short training on the others, with known concepts and no guide.

    Args:
        decoders: By name, from concepts to logits; they are trained in place.
        images: ``[N, C, H, W]``, uint8 or in [0, 1].
        concepts: ``[N, n, d]``.
        held: Which images are held out, ``[N]`` bool.
        steps: Of 32 images each.
        lr: See :func:`~causalvae_pyro.fit`.
        weight: See :class:`~causalvae_pyro.recipes.Recipe`, for decoders that have effects.
        growth: See :class:`~causalvae_pyro.recipes.Recipe`.

    Returns:
        Mean squared error per pixel and channel, in [0, 1] units, by name.
    """
    rows, out = (~held).nonzero().squeeze(1), held.nonzero().squeeze(1)
    errors = {}
    for name, decoder in decoders.items():
        sparsity = EffectSparsity(weight)
        groups = parameter_groups([decoder], list(decoder.parameters()), lr)
        adam = torch.optim.Adam(groups)
        schedule = torch.optim.lr_scheduler.OneCycleLR(adam, [group["lr"] for group in groups], total_steps=steps, pct_start=0.1)
        # As the likelihood's: the error so far, above a grey level.
        error = torch.tensor(0.01)
        for step in range(steps):
            batch = rows[torch.randint(len(rows), (_BATCH,))]
            x, z = scale_images(images[batch]).float(), concepts[batch].float()
            squares = (decoder(z).sigmoid() - x).square().flatten(1).sum(1)
            error = 0.9 * error + 0.1 * squares.detach().mean() / x[0].numel()
            loss = squares.mean() / (2 * (error + 255.0**-2))
            if isinstance(decoder, SpriteDecoder):
                sizes = decoder.effect_sizes(z)
                loss = loss + weight * growth ** (step / steps) * sparsity.scale * torch.log1p(sizes / sparsity.scale).sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
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
