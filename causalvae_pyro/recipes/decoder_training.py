"""A decoder trained by itself, on known concepts and without a guide."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from causalvae_pyro.networks import SpriteDecoder
from causalvae_pyro.objectives.sparsity import EffectSparsity
from causalvae_pyro.training.optimizers import parameter_groups
from causalvae_pyro.utils.images import scale_images

__all__ = ["train_decoder"]

_BATCH = 32


@torch.inference_mode(False)
def train_decoder(
    decoder: nn.Module,
    images: Tensor,
    concepts: Tensor,
    rows: Tensor,
    *,
    steps: int,
    lr: float = 2e-3,
    weight: float = 2000.0,
    growth: float = 1.0,
) -> None:
    """Trains a decoder in place, for a short while. Chance enters through torch's global generator.

    Args:
        decoder: From concepts to logits, on the CPU.
        images: ``[N, C, H, W]``, uint8 or in [0, 1].
        concepts: ``[N, n, d]``.
        rows: Which of them to train on, indices.
        steps: Of 32 images each.
        lr: See :func:`~causalvae_pyro.fit`.
        weight: See :class:`~causalvae_pyro.recipes.Recipe`, for decoders that have effects.
        growth: See :class:`~causalvae_pyro.recipes.Recipe`.
    """
    sparsity = EffectSparsity(weight)
    groups = parameter_groups([decoder], [p for p in decoder.parameters() if p.requires_grad], lr)
    adam = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, [group["lr"] for group in groups], total_steps=steps, pct_start=0.1)
    # As the likelihood's: the error so far, above a grey level.
    error = torch.tensor(0.01)
    for step in range(steps):
        batch = rows[torch.randint(len(rows), (_BATCH,))]
        x = scale_images(images[batch.to(images.device)]).float().cpu()
        z = concepts[batch.to(concepts.device)].float().cpu()
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
