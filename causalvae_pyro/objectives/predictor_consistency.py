"""Consistency of decoded counterfactuals with predictors that were trained on real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalvae_pyro.objectives.consistency import decode_swapped, ramp
from causalvae_pyro.utils.label_columns import label_widths, one_label_each
from causalvae_pyro.utils.modes import frozen

__all__ = ["PredictorConsistency"]


class PredictorConsistency:
    """Consistency with frozen predictors: they must recover, from a decoded counterfactual, the labels that it was decoded from.

    ::

        E ||(r(x') - u') / s||^2 / (2 std^2),    x' = decoder(z', eps_x),    u' = the labels that z' stands for

    ``z'`` takes each concept, with probability 1/2, from another image of the batch; ``s`` is the labels' standard deviation.
    The gradient reaches the decoder, and with ``train_guide`` the noise's posterior. A guide adapts to the blur of its own
    model's images, and :class:`~causalvae_pyro.objectives.CounterfactualConsistency` with it; predictors that have only seen real
    images do not. Use it for concepts that vary independently enough in real images for a predictor to tell them apart, or that
    an augmentation makes so. Where a child is a function of its parents, predictors confuse the two: use
    :class:`~causalvae_pyro.objectives.SleepPhase`.

    A decoder may find changes that satisfy one network and mean nothing. So each step uses another of several predictors and
    augments the image at random. Judge the result with networks that had no part in training.

    Where the prior has ``kinds`` (:class:`~causalvae_pyro.priors.CategoricalPrior`), a predictor returns ``k`` logits in place of
    the label of a concept of ``k`` kinds, and minus the log-probability of the kind, ``category_weight`` times over, is in place
    of its squared error.

    Args:
        predictors: Modules from images ``[N, C, H, W]`` in [0, 1] to labels ``[N, n]``, e.g. trained
            :class:`~causalvae_pyro.metrics.Predictor`. They are moved to the model's device, and are not changed.
        std: Tolerated error of the predictors, > 0, in label standard deviations. Half the squared error counts in nats, so it
            competes with the likelihood: a smaller ``std`` renders concepts more accurately and images a little less.
        augmentation: Random change of images that leaves the labels as they are, e.g.
            :class:`~causalvae_pyro.networks.RandomSymmetry`.
        weight: Factor in the loss. By default it starts after a tenth of the training and is full after a quarter.
        category_weight: See above, >= 0.
        train_guide: Train the guide's ``eps_x`` by this term too, so that it leaves out what would show through a counterfactual,
            such as the shape of the factual digit.
        reference_scale: Scale of the likelihood at which the term counts once, > 0; it counts ``(reference_scale / scale)^2``
            times, in proportion to a pixel's squared error. Else predictors count for ever less beside details as these are
            explained. Needs a likelihood with a scale. By default it counts once at any scale.

    Source: De Sousa Ribeiro et al. 2023 (counterfactual fine-tuning), who train so with predictors of the parents.
    """

    name = "predictor_consistency"

    def __init__(
        self,
        predictors: Sequence[nn.Module],
        *,
        std: float = 0.02,
        augmentation: Callable[[Tensor], Tensor] | None = None,
        weight: float | Callable[[float], float] | None = None,
        category_weight: float = 20.0,
        train_guide: bool = False,
        reference_scale: float | None = None,
    ) -> None:
        if not predictors:
            raise ValueError("predictors: got none")
        if not std > 0:
            raise ValueError(f"std: got {std}; must be > 0")
        if not category_weight >= 0:
            raise ValueError(f"category_weight: got {category_weight}; must be >= 0")
        if reference_scale is not None and not reference_scale > 0:
            raise ValueError(f"reference_scale: got {reference_scale}; must be > 0")
        self.reference_scale = reference_scale
        self.category_weight, self.train_guide = category_weight, train_guide
        self.predictors, self.std, self.augmentation = list(predictors), std, augmentation
        self.weight = ramp if weight is None else weight

    def __call__(self, model: Any, trace: Any, labels: Tensor | None) -> Tensor:
        one_label_each(model.prior, "PredictorConsistency")
        z = trace.nodes["z"]["value"]
        images, swapped, *_ = decode_swapped(model, trace, detach_noise=not self.train_guide)
        # Chosen on the CPU, so that no device waits.
        predictor = self.predictors[int(torch.randint(len(self.predictors), ()))].to(z.device)
        with torch.no_grad():
            target = model.prior.to_labels(swapped).flatten(0, -2)
        with frozen(predictor):
            read = predictor(images if self.augmentation is None else self.augmentation(images))
        kinds, widths = getattr(model.prior, "kinds", (0,) * target.shape[-1]), label_widths(model.prior, target.shape[-1])
        expected = [len(images), sum(widths)]
        if list(read.shape) != expected:
            raise ValueError(f"predictors: expected labels {expected} for {len(images)} images, got {list(read.shape)}")
        total = read.new_zeros(len(read))
        for i, (k, part) in enumerate(zip(kinds, read.split(widths, -1), strict=True)):
            if k:
                total = total + self.category_weight * F.cross_entropy(part, target[:, i].long(), reduction="none")
            else:
                error = (part[:, 0] - target[:, i]) / model.prior.scale[i]
                total = total + error.square() / (2 * self.std**2)
        if self.reference_scale is not None:
            total = total * (self.reference_scale / model.likelihood.scale.detach()).square()
        # Summed over the batch, averaged over particles.
        return total.reshape(-1, z.shape[-3]).mean(0).sum()
