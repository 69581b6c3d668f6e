"""Consistency of decoded counterfactuals with classifiers of binary labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalvae_pyro.distributions import prior_mean
from causalvae_pyro.objectives.consistency import ramp
from causalvae_pyro.utils.modes import frozen

__all__ = ["ClassifierConsistency"]


class ClassifierConsistency:
    """Consistency with frozen classifiers of binary labels: they must recover the labels from the decoded counterfactual.

    ::

        mean_i BCE(r_i(x'), u'_i),    x' = decoder(lambda1(u'), eps_x),    u' = labels, some of them from other images

    Each label comes, with probability ``share``, from another image of the batch; the noise is the image's own. The gradient
    reaches the decoder only. Each step uses one of the classifiers, chosen at random, on images changed by its augmentation.

    A decoder may find changes that satisfy one network and mean nothing. Use several, of different kinds, and judge with others.

    Args:
        classifiers: Modules from images ``[N, C, H, W]`` to logits ``[N, n]``.
        augmentations: Random changes of images that leave the labels as they are, one for each classifier.
        share: Probability that a label comes from another image, in (0, 1].
        rows: Share of the batch that takes part, in (0, 1]: the first rows.
        weight: Factor in the loss. By default it starts after a tenth of the training and is full after a quarter.

    Source: De Sousa Ribeiro et al. 2023 (counterfactual fine-tuning), who train so with predictors of the parents.
    """

    name = "classifier_consistency"

    def __init__(
        self,
        classifiers: Sequence[nn.Module],
        *,
        augmentations: Sequence[Callable[[Tensor], Tensor]],
        share: float = 0.5,
        rows: float = 1.0,
        weight: float | Callable[[float], float] | None = None,
    ) -> None:
        if not classifiers or len(augmentations) != len(classifiers):
            raise ValueError(f"classifiers: got {len(classifiers)} and {len(augmentations)} augmentations; need one for each")
        for argument, value in (("share", share), ("rows", rows)):
            if not 0 < value <= 1:
                raise ValueError(f"{argument}: got {value}; must lie in (0, 1]")
        self.classifiers, self.augmentations = list(classifiers), list(augmentations)
        self.share, self.rows = share, rows
        self.weight = ramp if weight is None else weight

    def __call__(self, model: Any, trace: Any, labels: Tensor | None) -> Tensor:
        if labels is None:
            return trace.nodes["z"]["value"].new_zeros(())
        eps_x = trace.nodes["eps_x"]["value"].detach()
        count = max(1, round(self.rows * len(labels)))
        target = self._swapped(labels[:count])
        z, noise = prior_mean(model.prior(target)), eps_x.reshape(-1, *eps_x.shape[-2:])[0, :count]
        images = model.likelihood(model.decoder(z, noise)).mean
        # Chosen on the CPU, which costs no device sync.
        which = int(torch.randint(len(self.classifiers), ()))
        classifier = self.classifiers[which].to(images.device)
        with frozen(classifier):
            logits = classifier(self.augmentations[which](images))
        return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") * (len(labels) / count)

    def _swapped(self, labels: Tensor) -> Tensor:
        other = torch.stack([column[torch.randperm(len(column), device=labels.device)] for column in labels.unbind(-1)], -1)
        return torch.where(torch.rand_like(labels) < self.share, other, labels)
