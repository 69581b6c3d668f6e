"""CelebA's tables, as published (text) or as Kaggle has them (CSV), for all of the images or some, and the splits that follow."""

from __future__ import annotations

import csv
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from causalvae_pyro.datasets.image_sources import first
from causalvae_pyro.datasets.splits import random_fifth, random_fifth_of_groups
from causalvae_pyro.utils.files import ends_with_line_break, open_table

__all__ = ["ATTRIBUTES", "IDENTITY", "PARTITION", "SPLITS", "Split", "choose_split", "find_table", "read_attributes"]

ATTRIBUTES, IDENTITY, PARTITION = "list_attr_celeba", "identity_CelebA", "list_eval_partition"
#: Each with its number in the partition's table, but for all of it.
SPLITS = {"train": 0, "valid": 1, "test": 2, "all": -1}


class Split(NamedTuple):
    """Which images a split holds.

    Attributes:
        rows: Their places, ``[N]``.
        how: By what images are split, in words.
        persons: Who is in each of them, ``[N]``; ``None`` where no table says so.
    """

    rows: Tensor
    how: str
    persons: Tensor | None


def find_table(folder: Path, stem: str) -> Path | None:
    """The table as ``.txt`` or ``.csv``; ``None`` where there is neither."""
    return next((path for suffix in (".txt", ".csv") if (path := folder / f"{stem}{suffix}").is_file()), None)


def read_attributes(path: Path, attributes: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Some of the attributes of all images in the table.

    Args:
        path: ``list_attr_celeba``, with values -1 and 1 as published, or 0 and 1.
        attributes: Which.

    Returns:
        For each image's file the attributes, 0 or 1.

    Raises:
        ValueError: If there is no such attribute, or the table is damaged or separated otherwise; the message names the line and
            column.
    """
    rows = _rows(path)
    _, header = next(rows, (0, []))
    announced = int(header[0]) if len(header) == 1 and header[0].isdigit() else None
    if announced is not None:
        _, header = next(rows, (0, []))
    names = header[1:] if path.suffix == ".csv" else header
    unknown = next((attribute for attribute in attributes if attribute not in names), None)
    # A table that ends before its first row is not one with other attributes.
    if unknown is not None and next(rows, None) is not None:
        if not names or any(mark in names[0] for mark in ",;"):
            # One long cell is what a reader finds that looks for another separator.
            kind = "commas" if path.suffix == ".csv" else "spaces"
            raise ValueError(f"root: {path}: no columns found in the header {header[0][:40]!r}; valid: separated by {kind}")
        raise ValueError(f"group: CelebA has no attribute {unknown!r}; valid: {names}")
    columns = [] if unknown is not None else [names.index(attribute) + 1 for attribute in attributes]
    result: dict[str, tuple[int, ...]] = {}
    places: dict[str, tuple[int, str]] = {}
    counts = {"0": 0, "-1": 0, "1": 0}
    for line, row in rows:
        if len(row) != len(names) + 1:
            raise ValueError(f"root: {path}, line {line}: has {len(row)} entries, expected {len(names) + 1}; copy it again")
        if row[0] in result:
            raise ValueError(f"root: {path}, line {line}: {row[0]} occurs twice")
        values = [row[column] for column in columns]
        for attribute, value in zip(attributes, values, strict=True):
            if value not in counts:
                raise ValueError(f"root: {path}, line {line}, column {attribute!r}: got {value!r}; valid: -1 and 1, or 0 and 1")
            counts[value] += 1
            places.setdefault(value, (line, attribute))
        result[row[0]] = tuple(int(value == "1") for value in values)
    if counts["0"] and counts["-1"]:
        # What is rarer is out of place; where both are as frequent, what comes later.
        odd, usual = sorted(("0", "-1"), key=lambda value: (counts[value], -places[value][0]))
        line, attribute = places[odd]
        raise ValueError(
            f"root: {path}, line {line}, column {attribute!r}: got {odd!r}, elsewhere {usual!r}; valid: -1 and 1, or 0 and 1"
        )
    if not result or announced not in (None, len(result)):
        says = "" if announced is None else f", its first line says {announced}"
        raise ValueError(f"root: {path} is damaged: it has {len(result)} rows{says}; copy it again, or correct that line")
    return result


def choose_split(names: Sequence[str], folder: Path, split: str, seed: int) -> Split:
    """CelebA's own partition; without one, or where it leaves training or test empty, by person; else at random.

    Args:
        names: Files of the images that are there.
        folder: Where the tables lie.
        split: ``"train"``, ``"valid"`` (of CelebA's own partition only), ``"test"`` or ``"all"``.
        seed: Of a split by person or at random, a fifth of which is for testing.

    Raises:
        ValueError: If no image is in the split, or a table is damaged or does not name an image.
    """
    partition, identity = find_table(folder, PARTITION), find_table(folder, IDENTITY)
    persons = None if identity is None else _numbers(identity, names)
    why, how, valid = "", "", list(SPLITS)
    if partition is not None:
        parts = _numbers(partition, names, (0, 1, 2))
        empty = [name for name in ("train", "test") if not parts.eq(SPLITS[name]).any()]
        if empty:
            why = f" ({partition.name} leaves {' and '.join(empty)} without an image)"
        else:
            how = "split by CelebA's own partition"
            index = torch.arange(len(names)) if split == "all" else parts.eq(SPLITS[split]).nonzero().squeeze(1)
    if not how:
        valid.remove("valid")
        how = ("split at random" if persons is None else "split by person") + why
        if split not in valid:
            raise ValueError(f"split: got {split!r}, which only CelebA's own partition has; images are {how}; valid: {valid}")
        units = len(names) if persons is None else len(persons.unique())
        if units < 2 and split != "all":
            raise ValueError(f"split: {split!r} or its counterpart is empty: images are {how}, and only {units} is there")
        index = random_fifth(len(names), split, seed) if persons is None else random_fifth_of_groups(persons, split, seed)
    if not len(index):
        raise ValueError(f"split: no image is in {split!r}: of {len(names)} images, {how}, none is for it")
    return Split(index, how, None if persons is None else persons[index])


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and entries of each line that is not empty."""
    with open_table(path, f"root: {path}") as file:
        rows = csv.reader(file) if path.suffix == ".csv" else (line.split() for line in file)
        for line, row in enumerate(rows, start=1):
            if row:
                yield line, [entry.strip() for entry in row]


def _numbers(path: Path, names: Sequence[str], valid: Container[int] | None = None) -> Tensor:
    """The number that a table has for each of some images."""
    found: dict[str, int] = {}
    for line, row in _rows(path):
        if line == 1 and path.suffix == ".csv":
            continue
        number = row[1] if len(row) == 2 else ""
        if not number.isdigit() or (valid is not None and int(number) not in valid):
            what = "an image and a number" if valid is None else f"an image and one of {valid}"
            raise ValueError(f"root: {path}, line {line}: expected {what}, got {' '.join(row)!r}; copy it again")
        found[row[0]] = int(number)
    if valid is None and not ends_with_line_break(path):
        raise ValueError(
            f"root: {path} seems to be cut off: its last line is not ended; copy it again, or, if it is whole, end that line"
        )
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"root: {path} has no row for {len(missing)} of {len(names)} images: {first(missing)}")
    return torch.tensor([found[name] for name in names])
