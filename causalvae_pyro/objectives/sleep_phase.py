"""The sleep phase of wake-sleep, on interventional samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor, nn

from causalvae_pyro.distributions import sample_detached
from causalvae_pyro.objectives.consistency import swap_concepts
from causalvae_pyro.objectives.divergences import kl_endogenous
from causalvae_pyro.utils.label_columns import one_label_each
from causalvae_pyro.utils.missing_labels import any_missing, masked_prior

__all__ = ["SleepPhase"]


class SleepPhase:
    """Sleep phase of the wake-sleep algorithm (Hinton et al. 1995) on interventional samples: it trains the guide.

    ::

        KL(q(z | x') || p(z | u')) - log q(eps_x | x'),    z' ~ p(z | u'),   x' = E p(x | decoder(z', eps_x))

    ``u'`` takes each label, with probability 1/2, from another image of the batch, so it covers interventions that no real
    image shows. Where a child follows its parents in every real image, an encoder trained on real images alone infers the child
    from its parents' pixels.
    ``x'`` is the mean image, without the likelihood's noise: most of that noise stands for details that the decoder misses, and
    real images do not show it.
    The gradient reaches the guide, and through a guide over ``eps`` the causal layer, but never the decoder. This assumes a
    decoder in which each concept has its own effect (:class:`~causalvae_pyro.networks.SpriteDecoder`), and helps once its images
    are roughly right.

    Args:
        guide: The guide that is trained with the model.
        weight: Factor in the loss. By default it starts after a tenth of the training and is full after a fifth.
        noisy: Sample ``x'`` with the likelihood's noise, as in the original algorithm.
        noise: Whether the guide also learns to read the image's own noise, ``- log q(eps_x | x')``. Of noise in thousands of
            dimensions that term outweighs the concepts', and the real images teach it already.

    Source: the sleep phase of the wake-sleep algorithm, Hinton et al. 1995, on interventional distributions.
    """

    name = "sleep"

    def __init__(
        self, guide: nn.Module, *, weight: float | Callable[[float], float] | None = None, noisy: bool = False, noise: bool = True
    ) -> None:
        if weight is not None and not callable(weight) and not weight >= 0:
            raise ValueError(f"weight: got {weight}; must be >= 0")
        self.guide = guide
        self.weight = _ramp if weight is None else weight
        self.noisy, self.noise = noisy, noise

    def __call__(self, model: Any, trace: Any, labels: Tensor | None) -> Tensor:
        one_label_each(model.prior, "SleepPhase")
        complete: Any = slice(None)
        if labels is not None and any_missing(labels):
            complete = ~labels.isnan().any(-1)
            labels = labels[complete]
        if labels is None or not len(labels):
            return trace.nodes["z"]["value"].new_zeros(())
        swapped = swap_concepts(labels[..., None])[..., 0]
        with torch.no_grad():
            prior = masked_prior(model.prior, swapped)
            inputs: tuple[Tensor, ...] = (sample_detached(prior),)
            if "eps_x" in trace.nodes:
                noise = trace.nodes["eps_x"]["value"]
                inputs += (noise.reshape(-1, *noise.shape[-2:])[0][complete],)
            likelihood = model.likelihood(model.decoder(*inputs))
            images = likelihood.sample() if self.noisy else likelihood.mean
        with poutine.block(), poutine.trace() as tracer:
            self.guide(images, swapped)
        read: Any = tracer.trace.nodes
        eps = read["eps"]["value"]
        total = kl_endogenous(read["eps"]["fn"], prior, model.scm, eps, model.scm.to_endogenous(eps)).sum()
        if len(inputs) > 1 and self.noise:
            total = total - read["eps_x"]["fn"].log_prob(inputs[1]).sum()
        return total


def _ramp(progress: float) -> float:
    return min(1.0, max(0.0, (progress - 0.1) / 0.1))
