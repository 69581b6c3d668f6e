"""Classifiers of the labels, trained beside the model on real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalvae_pyro.metrics.label_weights import LabelWeights
from causalvae_pyro.objectives.terms import Weight
from causalvae_pyro.utils.label_columns import label_widths, one_label_each
from causalvae_pyro.utils.missing_labels import any_missing

__all__ = ["ClassifierFit", "label_loss", "reserved"]

_RESERVED = 3


class ClassifierFit(nn.Module):
    """Trains classifiers of the labels on the real images of each batch, for :class:`ClassifierConsistency` to use.

    ::

        sum_i -log p_r(u_i | view(x))        Bernoulli for binary labels, N(u_i; r_i, scale_i^2) for others

    summed over the classifiers ``r``. A third of the images, chosen by their content (:func:`reserved`), is left out:
    classifiers and discriminators never see them, so that judges can be trained on them. Missing
    labels (NaN) do not count. Labels that go together in the data help to read each other; to a balanced classifier each image
    counts so often that they do not (:class:`~causalvae_pyro.metrics.LabelWeights`).

    Args:
        classifiers: Modules from images ``[N, C, H, W]`` to ``[N, n]``: logits for binary labels, standardised values for others.
        augmentations: Random changes of images that leave the labels as they are, one for each classifier.
        binary: Which labels are binary (0 or 1), ``n`` of them.
        balanced: Which of the classifiers are balanced; by default none.
        kinds: For each label the number of its kinds where it is a category, else 0; for balanced classifiers.
    """

    name = "classifier_fit"
    weight: Weight = 1.0
    binary: Tensor

    def __init__(
        self,
        classifiers: Sequence[nn.Module],
        *,
        augmentations: Sequence[Callable[[Tensor], Tensor]],
        binary: Sequence[bool],
        balanced: Sequence[bool] = (),
        kinds: Sequence[int] = (),
    ) -> None:
        super().__init__()
        check_classifiers(classifiers, augmentations)
        if balanced and len(balanced) != len(classifiers):
            raise ValueError(f"balanced: got {len(balanced)} for {len(classifiers)} classifiers; need one for each")
        self.balanced = list(balanced) or [False] * len(classifiers)
        self.weights = LabelWeights(binary, kinds) if any(self.balanced) else None
        self.classifiers, self.augmentations = nn.ModuleList(classifiers), list(augmentations)
        self.register_buffer("binary", torch.tensor(list(binary), dtype=torch.bool))

    def forward(self, model: Any, trace: Any, labels: Tensor | None) -> Tensor:
        x = trace.nodes["x"]["value"]
        if labels is None:
            return x.new_zeros(())
        keep = ~reserved(x)
        x, target = x[keep], labels[keep]
        # One row has no batch statistics.
        if len(x) < 2:
            return trace.nodes["z"]["value"].new_zeros(())
        loss, weights = x.new_zeros(()), x.new_ones(())
        if self.weights is not None:
            # Validation has no part in the training.
            if self.training:
                self.weights.update(target)
            weights = self.weights(target)
        for classifier, view, balanced in zip(self.classifiers, self.augmentations, self.balanced, strict=True):
            errors = label_loss(classifier(view(x)), target, model.prior, self.binary)
            loss = loss + (errors * weights if balanced else errors).sum()
        return loss * (len(keep) / len(x))


def check_classifiers(classifiers: Sequence[Any], augmentations: Sequence[Any]) -> None:
    """Refuses classifiers without augmentations."""
    if not classifiers or len(augmentations) != len(classifiers):
        raise ValueError(f"classifiers: got {len(classifiers)} and {len(augmentations)} augmentations; need one for each")


def label_loss(read: Tensor, labels: Tensor, prior: Any, binary: Tensor) -> Tensor:
    """Minus the log-probability of each label up to a constant, ``[N, n]``; 0 where it is missing.

    Args:
        read: A classifier's output ``[N, n]``; with ``k`` logits in the place of a category of ``k`` kinds.
        labels: ``[N, n]``, NaN where missing.
        prior: Its ``shift`` and ``scale`` standardise labels.
        binary: ``[n]``.
    """
    one_label_each(prior, "a classifier's term")
    known = ~labels.isnan() if any_missing(labels) else None
    target = labels if known is None else labels.nan_to_num()
    read, crossed = _categories(read, target, prior)
    squared = 0.5 * (read - (target - prior.shift) / prior.scale).square()
    loss = torch.where(binary, F.binary_cross_entropy_with_logits(read, target.clamp(0, 1), reduction="none"), squared)
    loss = loss if crossed is None else torch.where(torch.tensor(prior.kinds, device=loss.device) > 0, crossed, loss)
    return loss if known is None else loss * known


def _categories(read: Tensor, target: Tensor, prior: Any) -> tuple[Tensor, Tensor | None]:
    """Of the output one column per label, and the cross-entropies of the categories in theirs; ``None`` where there is none."""
    kinds = getattr(prior, "kinds", ())
    if not any(kinds):
        return read, None
    parts = read.split(label_widths(prior, len(kinds)), -1)
    crossed = [
        F.cross_entropy(part, label.long(), reduction="none") if k else part.new_zeros(len(part))
        for part, label, k in zip(parts, target.unbind(-1), kinds, strict=True)
    ]
    return torch.stack([part[:, 0] for part in parts], -1), torch.stack(crossed, -1)


def reserved(images: Tensor) -> Tensor:
    """Which images are left to judges, ``[N]``: a third of them, by the sum of their grey levels.

    It depends on nothing but the pixels: the same for an image in any batch, order and run, as uint8 or in [0, 1].

    Args:
        images: ``[N, C, H, W]``.
    """
    levels = images if images.dtype == torch.uint8 else (images * 255).round()
    return levels.flatten(1).sum(1, dtype=torch.int64) % _RESERVED == 0
