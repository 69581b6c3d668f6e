"""Scores of what is read of a category: accuracy, and F1 of each kind."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["kind_scores"]


def kind_scores(read: Tensor, labels: Tensor, kinds: int) -> dict[str, Any]:
    """How well the kinds ``0 ... k - 1`` of a category are read.

    Args:
        read: The kinds read ``[N]``.
        labels: The true ones ``[N]``, none missing.
        kinds: ``k``.

    Returns:
        ``accuracy``; ``f1_by_kind``, ``k`` numbers, ``None`` for a kind that is neither read nor there; ``f1``, the mean over the
        others (macro F1). All in [0, 1], higher is better. Always answering the commonest kind has the accuracy of its share, and
        a low F1.

    Raises:
        ValueError: If the shapes differ, or there are no rows.

    Example:
        >>> kind_scores(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1]), 3)["f1_by_kind"]
        [0.8, 0.6666666666666666, None]
    """
    from sklearn.metrics import f1_score  # slow to import

    if read.shape != labels.shape or not len(read):
        raise ValueError(f"read: expected the labels' shape {list(labels.shape)} with rows, got {list(read.shape)}")
    read, labels = read.long().cpu(), labels.long().cpu()
    each = f1_score(labels.numpy(), read.numpy(), labels=range(kinds), average=None, zero_division=0.0)
    there = [bool(((labels == k) | (read == k)).any()) for k in range(kinds)]
    shown = [float(f1) if known else None for f1, known in zip(each, there, strict=True)]
    known = [f1 for f1 in shown if f1 is not None]
    return {"accuracy": (read == labels).double().mean().item(), "f1": sum(known) / len(known), "f1_by_kind": shown}
