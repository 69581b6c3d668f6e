"""Splits of a user's own table: as a column says, by groups, or at random."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from causalvae_pyro.datasets.splits import random_fifth, random_fifth_of_groups

__all__ = ["SPLIT_WORDS", "number_groups", "split_rows"]

#: Words of a table's column for the splits.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
}


def number_groups(cells: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Numbers groups in the order in which they come.

    Args:
        cells: The group of each row, as the table calls it.

    Returns:
        The number of each row's group, ``[N]`` int64, and the groups' names.
    """
    number = {name: i for i, name in enumerate(dict.fromkeys(cells))}
    return torch.tensor([number[cell] for cell in cells]), tuple(number)


def split_rows(
    count: int, seed: int, *, given: Sequence[str] | None = None, groups: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Sorted indices of each split.

    Args:
        count: Number of rows.
        seed: Fixes what is random.
        given: The split of each row, where that is known.
        groups: A group for each row; no group is in two splits. Without ``given`` a random fifth of the groups is for ``"test"``.

    Returns:
        From ``"train"`` and ``"test"``, and from ``"valid"`` where it is given, to indices.

    Raises:
        ValueError: If a split would be empty, or a group is in two.
    """
    if given is not None:
        known: dict[str, str] = {}
        for group, split in zip(groups or (), given, strict=groups is not None):
            if known.setdefault(group, split) != split:
                raise ValueError(f"{group!r} is in two splits, {known[group]} and {split}")
        rows = {name: torch.tensor([i for i, split in enumerate(given) if split == name]) for name in ("train", "test", "valid")}
        if empty := [name for name in ("train", "test") if not len(rows[name])]:
            raise ValueError(f"no row is for {empty[0]!r}")
        return {name: index for name, index in rows.items() if len(index)}
    if groups is None:
        return {name: random_fifth(count, name, seed) for name in ("train", "test")}
    numbers, names = number_groups(groups)
    if len(names) < 2:
        raise ValueError(f"there is one group only, {names[0]!r}; it takes at least 2 to hold one out")
    return {name: random_fifth_of_groups(numbers, name, seed) for name in ("train", "test")}
