"""What columns of labels hold, and of which concept they speak: one each, unless the prior has ``label_columns``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "check_categories",
    "is_binary",
    "kind_counts",
    "known_concepts",
    "label_columns",
    "label_features",
    "label_names",
    "label_widths",
    "one_hot_categories",
    "one_label_each",
]


def is_binary(labels: Tensor) -> list[bool]:
    """Which columns hold nothing but 0 and 1.

    Args:
        labels: ``[N, m]``, NaN where missing.
    """
    return [bool(((column == 0) | (column == 1) | column.isnan()).all()) for column in labels.T]


def kind_counts(kinds: Mapping[str, int | Sequence[str]], names: Sequence[str]) -> list[int]:
    """The number of kinds of each concept, 0 for a number.

    Args:
        kinds: For each category the number of its kinds, or their words.
        names: Of the concepts, in index order.

    Raises:
        ValueError: If ``kinds`` has another name.
    """
    if unknown := [name for name in kinds if name not in names]:
        raise ValueError(f"kinds: got some of {unknown[0]!r}; the concepts are {', '.join(names)}")
    found = [kinds.get(name, 0) for name in names]
    return [one if isinstance(one, int) else len(one) for one in found]


def label_columns(prior: Any, count: int) -> tuple[tuple[int, ...], ...]:
    """For each of ``count`` concepts its columns."""
    given = getattr(prior, "label_columns", None)
    return tuple((k,) for k in range(count)) if given is None else tuple(map(tuple, given))


def known_concepts(prior: Any, labels: Tensor) -> Tensor:
    """Which concepts have all their labels, ``[..., n]``; one without columns has none."""
    known = ~labels.isnan()
    if getattr(prior, "label_columns", None) is None:
        return known
    groups = label_columns(prior, 0)
    return torch.stack([known[..., list(group)].all(-1) if group else torch.zeros_like(known[..., 0]) for group in groups], -1)


def label_names(model: Any) -> tuple[str, ...] | None:
    """What each column is called in errors: by its concept. ``None`` for a model without a graph."""
    graph = getattr(getattr(model, "scm", None), "graph", None)
    prior = getattr(model, "prior", None)
    if graph is None or getattr(prior, "label_columns", None) is None:
        return None if graph is None else graph.names
    concepts = {column: name for name, group in zip(graph.names, label_columns(prior, 0), strict=True) for column in group}
    return tuple(concepts.get(column, f"covariate {column}") for column in range(prior.num_labels))  # type: ignore[union-attr]


def check_categories(model: Any, labels: Tensor | None) -> None:
    """Refuses labels ``[N, n]`` of which one is none of its concept's kinds, where the model's prior has categories.

    Raises:
        ValueError: If there is one.
    """
    prior = getattr(model, "prior", None)
    kinds = getattr(prior, "kinds", ())
    if labels is None or not any(kinds) or labels.shape[-1] != len(kinds):
        return
    names = label_names(model) or range(len(kinds))
    for i, (name, k) in enumerate(zip(names, kinds, strict=True)):
        if k:
            prior.codes(f"labels: the concept {name!r}", i, labels[..., i])  # type: ignore[union-attr]


def label_widths(prior: Any, count: int) -> list[int]:
    """How many outputs speak of each of ``count`` concepts: the number of its kinds for a category, else one."""
    return [max(1, k) for k in getattr(prior, "kinds", (0,) * count)]


def label_features(prior: Any, labels: Tensor) -> Tensor:
    """Standardised numbers, and categories one-hot: ``[..., n]`` to ``[..., sum of label_widths]``."""
    standard = (labels - prior.shift) / prior.scale
    kinds = getattr(prior, "kinds", None)
    if kinds is None or not any(kinds):
        return standard
    parts = [
        (label[..., None] == torch.arange(k, device=labels.device)).to(standard) if k else number[..., None]
        for k, label, number in zip(kinds, labels.unbind(-1), standard.unbind(-1), strict=True)
    ]
    return torch.cat(parts, -1)


def one_hot_categories(labels: Tensor, kinds: Sequence[int]) -> Tensor:
    """Labels in which each category is a column of 0 and 1 for each of its kinds; numbers stay as they are.

    Args:
        labels: ``[N, n]``, NaN where missing, and then in all columns of its kinds.
        kinds: For each label the number of its kinds, 0 for a number.

    Returns:
        ``[N, number of numbers and of kinds]``, in the labels' order.
    """
    parts = []
    for label, k in zip(labels.float().T, kinds, strict=True):
        hot = (label[:, None] == torch.arange(k, device=labels.device)).float()
        parts.append(hot.masked_fill(label.isnan()[:, None], torch.nan) if k else label[:, None])
    return torch.cat(parts, 1)


def one_label_each(prior: Any, what: str) -> None:
    """Refuses a prior whose labels are not one for each concept."""
    if getattr(prior, "label_columns", None) is not None:
        raise ValueError(f"prior: got {type(prior).__name__} with label_columns; {what} needs one label for each concept")
