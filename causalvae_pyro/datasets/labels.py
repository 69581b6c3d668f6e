"""A table of labels: which images there are, what is known of them, and which belong together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from causalvae_pyro.datasets.image_files import SUFFIXES
from causalvae_pyro.datasets.table_splits import SPLIT_WORDS
from causalvae_pyro.utils.files import ends_with_line_break

__all__ = ["SPLIT", "LabelTable", "check_varies", "renamed", "unnamed_images"]

#: Cells that say that a label is missing.
MISSING = ("", "na", "nan")
#: The column that assigns rows to splits, where a table has it.
SPLIT = "split"
#: Each kind takes a dimension of every concept.
_MOST_KINDS = 100


@dataclass(frozen=True)
class LabelTable:
    """What a table says of the images.

    Args:
        files: The images' names, one per row.
        labels: ``[N, n]`` float32, NaN where a label is missing.
        splits: ``"train"``, ``"test"`` or ``"valid"`` for each row, where the table says so.
        columns: Cells of the other columns that were asked for.
        kinds: For each concept that is a category, its words in the order of their numbers, or the number of its kinds.
        recoded: Concepts whose column holds nothing but -1 and 1, for which ``labels`` has 0 and 1.
    """

    files: list[str]
    labels: Tensor
    splits: list[str] | None
    columns: dict[str, list[str]]
    kinds: dict[str, tuple[str, ...] | int]
    recoded: tuple[str, ...] = ()

    @classmethod
    def from_rows(
        cls,
        table: Path,
        header: Sequence[str],
        rows: Sequence[tuple[int, list[str]]],
        folder: Path,
        file_column: str,
        concepts: Sequence[str],
        others: Sequence[str] = (),
        categories: Sequence[str] = (),
    ) -> LabelTable:
        """Reads and checks the rows of a table.

        A column in which no cell is a number is a category, and its labels are the numbers of its words in alphabetical order.

        Args:
            table: The CSV file that they are of.
            header: Names of its columns; see :func:`renamed`.
            rows: Line numbers and cells; see :func:`~causalvae_pyro.utils.tables.read_table`.
            folder: Where the images lie.
            file_column: The column of the images' names.
            concepts: The columns of labels.
            others: Columns of which every cell must be filled.
            categories: Columns of labels that are categories though some or all of their cells are numbers: whole numbers stay
                as they are, of anything else the cells are words.

        Raises:
            ValueError: See :class:`~causalvae_pyro.datasets.FolderDataset`.
        """
        what = f"labels: {table}"
        for column in (file_column, *concepts, *others):
            if header.count(column) != 1:
                raise ValueError(f"{what} has {header.count(column)} columns named {column!r}; its columns are {list(header)}")
        place = {column: position for position, column in enumerate(header)}
        by_split = SPLIT in header and SPLIT not in (file_column, *concepts)
        others = [*others, *([SPLIT] if by_split else [])]
        files: list[str] = []
        seen: dict[str, int] = {}
        values = np.empty((len(rows), len(concepts)))
        if unknown := [column for column in categories if column not in concepts]:
            raise ValueError(f"categories: got {unknown[0]!r}; the concepts are {', '.join(concepts)}")
        kinds: dict[str, tuple[str, ...] | int] = {}
        words: dict[str, dict[str, int]] = {}
        for column in concepts:
            found = _kinds(
                [cells[place[column]].strip() for _, cells in rows], column in categories, f"{what}, column {column!r}"
            )
            if found is not None:
                kinds[column] = found
                words[column] = {word: k for k, word in enumerate(found)} if isinstance(found, tuple) else {}
        columns: dict[str, list[str]] = {column: [] for column in others}
        for row, (line, cells) in enumerate(rows):
            name = cells[place[file_column]]
            if not name:
                raise ValueError(f"{what}, line {line}, column {file_column!r}: no file name")
            # One image under two names would be in two splits.
            path = os.path.realpath(folder / name)
            if path in seen:
                raise ValueError(f"{what}, line {line}: file {name!r} occurs in line {seen[path]} already")
            seen[path] = line
            files.append(name)
            for i, column in enumerate(concepts):
                cell = cells[place[column]].strip()
                code = words.get(column, {}).get(cell)
                values[row, i] = _number(cell, f"{what}, line {line}, column {column!r}") if code is None else code
            for column in others:
                cell = cells[place[column]].strip()
                if not cell:
                    raise ValueError(f"{what}, line {line}, column {column!r}: the cell is empty")
                if column == SPLIT and by_split and cell.lower() not in SPLIT_WORDS:
                    valid = ", ".join(SPLIT_WORDS)
                    raise ValueError(
                        f"{what}, line {line}, column {column!r}: got {cell!r}; valid: {valid}; or rename the column"
                    )
                columns[column].append(cell)
        _check_end(table, folder, files, cut_off=bool(rows) and rows[-1][1][-1] == "")
        if len(files) < 2:
            raise ValueError(f"{what} has {len(files)} rows; need at least 2")
        for column, known in zip(concepts, values.T, strict=True):
            _check_precision(known, f"{what}, column {column!r}")
        labels = torch.from_numpy(values).float()
        check_varies(labels, concepts, what)
        signs = [not words.get(column) and _is_signs(known) for column, known in zip(concepts, values.T, strict=True)]
        labels = torch.where(torch.tensor(signs), (labels + 1) / 2, labels)
        splits = [SPLIT_WORDS[word.lower()] for word in columns[SPLIT]] if by_split else None
        recoded = tuple(column for column, sign in zip(concepts, signs, strict=True) if sign)
        return cls(files, labels, splits, columns, kinds, recoded)


def renamed(header: Sequence[str], table: Path, *renames: Mapping[str, str]) -> list[str]:
    """Names of a table's columns, some of them by other names.

    Args:
        header: The columns.
        table: The file, for errors.
        renames: From columns to the names that they get; what comes later counts.

    Raises:
        ValueError: If there is no such column, or ``rename`` is no such mapping.
    """
    names: dict[str, str] = {}
    for rename in renames:
        if not isinstance(rename, Mapping) or not all(isinstance(name, str) for pair in rename.items() for name in pair):
            raise ValueError(f"rename: expected columns, each with the name that it gets, got {rename!r}")
        names.update(rename)
    if unknown := [column for column in names if column not in header]:
        raise ValueError(f"rename: {table} has no column {unknown[0]!r}; its columns are {list(header)}")
    return [names.get(column, column) for column in header]


def check_varies(labels: Tensor, concepts: Sequence[str], what: str, where: str = "") -> None:
    """Raises ``ValueError`` unless each column of ``labels`` has two values at least that are known and differ."""
    for column, values in zip(concepts, labels.T, strict=True):
        known = values[~values.isnan()]
        if not len(known):
            raise ValueError(f"{what}, column {column!r} holds no known value{where}")
        if bool((known == known[0]).all()):
            raise ValueError(f"{what}, column {column!r} is constant{where}; a concept has to vary")


def _kinds(cells: Sequence[str], declared: bool, what: str) -> tuple[str, ...] | int | None:
    """The kinds of a column's cells, or how many there are of whole numbers from 0 on; ``None`` for a column of numbers."""
    known = sorted({cell for cell in cells if cell.lower() not in MISSING})
    if not known or (not declared and any(_is_number(cell) for cell in known)):
        return None
    if numbers := [cell for cell in known if _is_number(cell)]:
        # As a word, 1 would be the name of a kind, and to ``do`` the place of another.
        if words := [cell for cell in known if not _is_number(cell)]:
            raise ValueError(f"{what}: got the word {words[0]!r} and the number {numbers[0]!r}; a category takes either")
        if set(map(float, numbers)) == {-1.0, 1.0}:
            # They become 0 and 1.
            return 2
        if odd := [cell for cell in numbers if not float(cell).is_integer() or float(cell) < 0]:
            raise ValueError(f"{what}: got {odd[0]!r}; a category takes words, or whole numbers from 0 to {_MOST_KINDS - 1}")
        count = int(max(map(float, numbers))) + 1
        if not 1 < count <= _MOST_KINDS:
            raise ValueError(
                f"{what}: got whole numbers up to {count - 1}; a category takes them from 0 to {_MOST_KINDS - 1} at most"
            )
        return count
    if len(known) > _MOST_KINDS:
        raise ValueError(
            f"{what}: got {len(known)} different words, e.g. {known[0]!r}; a category has at most {_MOST_KINDS} kinds"
        )
    return tuple(known)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(cell: str, what: str) -> float:
    if cell.lower() in MISSING:
        return float("nan")
    try:
        value = float(cell)
    except ValueError:
        raise ValueError(f"{what}: {cell!r} is not a number") from None
    if not abs(value) < float("inf"):
        raise ValueError(f"{what}: {cell!r} is not finite")
    return value


def _is_signs(values: np.ndarray) -> bool:
    return bool((np.isnan(values) | (np.abs(values) == 1)).all())


def _check_precision(values: np.ndarray, what: str) -> None:
    """Refuses labels whose differences float32 rounds away, such as seconds since 1970."""
    known = values[~np.isnan(values)]
    if not len(known):
        return
    with np.errstate(over="ignore", invalid="ignore"):
        error, spread = np.abs(known.astype(np.float32).astype(np.float64) - known).max(), known.std()
    if error == np.inf or error > 1e-3 * spread > 0:
        raise ValueError(
            f"{what}: float32 rounds its values by up to {error:.3g}, and their standard deviation is {spread:.3g}; subtract an "
            "offset from the column, or change its unit"
        )


def _check_end(table: Path, folder: Path, files: Sequence[str], *, cut_off: bool) -> None:
    """Refuses a table whose last line is not ended, and lacks its last cell or leaves images unnamed: it has been cut off."""
    if ends_with_line_break(table):
        return
    if cut_off:
        raise ValueError(
            f"labels: {table} seems to be cut off: its last line is not ended, and its last cell is empty; copy it again, or, if "
            "it is whole, end its last line"
        )
    # Whole sub-folders, and all files of another kind, may be left out on purpose.
    alike = {_kind(folder, name) for name in files}
    if others := [name for name in unnamed_images(folder, files) if _kind(folder, name) in alike]:
        raise ValueError(
            f"labels: {table} seems to be cut off: its last line is not ended, and it does not name {folder / others[0]} "
            f"({len(others)} of {len(others) + len(files)} images are not named); copy it again, or, if it is whole, end its "
            "last line"
        )


def unnamed_images(folder: Path, files: Sequence[str]) -> list[str]:
    """Images under a folder, by their suffix, that a table does not name; hidden ones are none.

    Args:
        folder: Where the images lie, sub-folders included.
        files: The table's names, relative to it.

    Returns:
        Their names, relative to the folder, sorted within each sub-folder.
    """
    named = {_place(folder, name) for name in files}
    suffixes = {*SUFFIXES, *(os.path.splitext(path)[1].lower() for path in named)}
    parents = {os.path.dirname(path) for path in named}
    # A folder that links lead to is called as in the table. Folders are resolved, not files: there may be 200,000 of these.
    places = {os.path.realpath(place): place for place in (*_folders(folder), *parents)}
    real = {place: os.path.realpath(place) for place in parents}
    known = {os.path.join(real[os.path.dirname(path)], os.path.basename(path)) for path in named}
    others = {
        os.path.join(path, name): os.path.join(place, name)
        for path, place in sorted(places.items(), key=lambda item: item[1])
        for name in sorted(next(os.walk(path), ("", [], []))[2])
        if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes
    }
    for path in known & others.keys():
        del others[path]
    if others:
        # What a link in the table leads to is named, too.
        for path in named:
            if os.path.islink(path):
                others.pop(os.path.realpath(path), None)
    return [os.path.relpath(path, folder) for path in others.values()]


def _folders(folder: Path) -> Iterator[str]:
    """It and all in it that are not hidden; links are not followed, as they may lead round in circles."""
    for place, inner, _ in os.walk(os.path.abspath(folder)):
        inner[:] = [name for name in inner if not name.startswith(".")]
        yield place


def _kind(folder: Path, name: str) -> tuple[str, str]:
    path, suffix = os.path.splitext(_place(folder, name))
    return os.path.dirname(path), suffix.lower()


def _place(folder: Path, name: str) -> str:
    return os.path.abspath(os.path.join(folder, name))
