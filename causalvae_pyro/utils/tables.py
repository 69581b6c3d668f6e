"""CSV tables, read such that no row is lost, shifted or swallowed without a word."""

from __future__ import annotations

import csv
import os

from causalvae_pyro.utils.files import input_file, open_table

__all__ = ["read_table"]


def read_table(path: str | os.PathLike, what: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Reads a CSV file with a header. Blank lines are skipped.

    Args:
        path: The file, in UTF-8.
        what: What an error starts with: the argument and the path.

    Returns:
        The header's cells, and for each row its line number (from 1, that of its first line) and its cells, as many as in the
        header.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no regular file, no CSV in UTF-8 or empty, a row has more or fewer cells than the header, or a
            quotation mark that is not closed would swallow rows; the message names the line.
    """
    with open_table(input_file(path, what.partition(":")[0]), what) as file:
        lines = list(file)
        reader, first = csv.reader(lines, strict=True), 1
        rows: list[tuple[int, list[str]]] = []
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                raise csv.Error(f"line {first}: {error}; is a quotation mark not closed?") from None
            # A cell may hold line breaks, but a line inside that is a row by itself has been swallowed.
            for line in range(first, reader.line_num):
                if rows and _cells(lines[line]) == len(rows[0][1]):
                    raise csv.Error(f"line {first}: a quotation mark is closed only in line {reader.line_num}")
            if cells:
                rows.append((first, cells))
            first = reader.line_num + 1
    if not rows:
        raise ValueError(f"{what} is empty")
    header = rows[0][1]
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            hint = "; is a comma part of a number or of a name?" if len(cells) > len(header) else ""
            raise ValueError(f"{what}, line {line} has {len(cells)} cells, the header has {len(header)}{hint}")
    return header, rows[1:]


def _cells(line: str) -> int:
    try:
        return len(next(csv.reader([line]), []))
    except csv.Error:
        return 0
