"""Pairs of classes that hardly any image shows: what an intervention asks of them, nothing has taught a model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

__all__ = ["UnseenPair", "asks_for", "pair_text", "unseen_pairs"]

#: A concept and its class, and another's: ``("gender", 0, "beard", 1)``.
UnseenPair = tuple[str, int, str, int]

# So many images teach a network something, however rare they are; of fewer it depends on what chance would give.
_ENOUGH, _SHARE_OF_CHANCE = 20, 0.2


def unseen_pairs(labels: Tensor, names: Sequence[str], classes: Sequence[bool]) -> list[UnseenPair]:
    """Finds pairs of classes of two labels without overlap (positivity; Rosenbaum & Rubin 1983).

    A pair counts if fewer than 20 images have it, and fewer than a fifth of those that would have it if the two labels were
    independent. Pairs rather than whole combinations: most combinations of many labels are rare, and networks generalise.

    Args:
        labels: ``[N, n]``, NaN where missing.
        names: Of the ``n`` concepts.
        classes: Which of them have classes (0 and 1, or whole numbers).
    """
    found: list[UnseenPair] = []
    for i, j in combinations([k for k, given in enumerate(classes) if given], 2):
        both = labels[~labels[:, [i, j]].isnan().any(1)][:, [i, j]]
        for a in both[:, 0].unique().tolist():
            for b in both[:, 1].unique().tolist():
                first, second = both[:, 0] == a, both[:, 1] == b
                count, chance = int((first & second).sum()), int(first.sum()) * int(second.sum()) / len(both)
                if count < min(_ENOUGH, _SHARE_OF_CHANCE * chance):
                    found.append((names[i], int(a), names[j], int(b)))
    return found


def asks_for(labels: Tensor, names: Sequence[str], pairs: Sequence[Sequence[Any]]) -> Tensor:
    """Which rows have which of the pairs, ``[N, number of pairs]``.

    Args:
        labels: ``[N, n]``, NaN where missing, which is in no pair; between two classes the nearer one counts.
        names: Of the ``n`` concepts.
        pairs: What :func:`unseen_pairs` found.
    """
    near, index = labels.round(), list(names).index
    if not pairs:
        return torch.zeros(len(labels), 0, dtype=torch.bool, device=labels.device)
    return torch.stack([(near[:, index(i)] == a) & (near[:, index(j)] == b) for i, a, j, b in pairs], 1)


def pair_text(pair: Sequence[Any]) -> str:
    """A pair in words, e.g. ``gender 0 with beard 1``."""
    first, a, second, b = pair
    return f"{first} {a} with {second} {b}"
