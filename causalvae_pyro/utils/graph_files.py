"""Causal graphs as people write them into files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from causalvae_pyro.utils.documents import read_document
from causalvae_pyro.utils.files import input_file
from causalvae_pyro.utils.tables import read_table

__all__ = ["read_graph_file"]


def read_graph_file(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, str]]:
    """Reads a graph.

    Args:
        path: ``.json``, ``.yaml`` or ``.yml`` with a mapping from each concept to its causes; or ``.csv`` with an adjacency
            matrix whose first row and first column name the concepts (entry in row ``j``, column ``i``: edge ``j -> i``).
            Beside the concepts a mapping may have ``rename``, a mapping from columns of the table of labels to concepts.

    Returns:
        What the file says of each concept's causes, not checked yet, and what it renames.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is malformed; the message names the file.
    """
    path = input_file(path, "graph")
    try:
        return _read_adjacency(path) if path.suffix == ".csv" else _read_mapping(path)
    except ValueError as error:
        raise ValueError(f"graph: {path}: {str(error).removeprefix('graph: ')}") from None


def _read_mapping(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    content = read_document(path)
    if not isinstance(content, dict):
        raise ValueError(f"expected a mapping from each concept to its parents, got {type(content).__name__}")
    # A concept of that name has a list.
    rename = content.pop("rename") if isinstance(content.get("rename"), dict) else {}
    return content, rename


def _read_adjacency(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    header, rows = read_table(path, "graph: the file")
    names = [name.strip() for name in header[1:]]
    if [cells[0].strip() for _, cells in rows] != names:
        raise ValueError(f"the first column must name the concepts in the order of the first row, {names}")
    if len(set(names)) < len(names):
        raise ValueError(f"a concept is named twice, in {names}")
    parents: dict[str, list[str]] = {name: [] for name in names}
    for cause, (_, cells) in zip(names, rows, strict=True):
        for effect, text in zip(names, cells[1:], strict=True):
            try:
                if float(text):
                    parents[effect].append(cause)
            except ValueError:
                raise ValueError(f"row {cause!r}, column {effect!r}: {text!r} is not a number") from None
    return dict(parents), {}
