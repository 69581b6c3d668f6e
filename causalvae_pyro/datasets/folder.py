"""Your own data: a folder of images, a table of labels and a graph."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from causalvae_pyro.datasets.splits import check_split, random_fifth
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.utils.files import ends_with_line_break, open_table
from causalvae_pyro.utils.images import scale_images

__all__ = ["FolderDataset", "read_graph"]

_MODES = ("L", "RGB", "RGBA")
GraphLike = CausalGraph | Mapping[str, Sequence[str]] | Iterable[tuple[str, str]] | str | os.PathLike


def read_graph(graph: GraphLike, names: Sequence[str] | None = None) -> CausalGraph:
    """A causal graph from any of the forms that people write one in.

    Args:
        graph: A :class:`~causalvae_pyro.CausalGraph`; a mapping from each concept to its parents; pairs ``(cause, effect)``;
            or the path of a file: ``.json``, ``.yaml`` or ``.yml`` with such a mapping, or ``.csv`` with an adjacency matrix
            whose first row and first column name the concepts (entry in row ``j``, column ``i``: edge ``j -> i``).
        names: The concepts' order; for pairs, where no other order is given.

    Raises:
        ValueError: If the graph has a cycle or names an unknown concept, or the file is malformed.
        FileNotFoundError: If the file is missing.
    """
    if isinstance(graph, CausalGraph):
        return graph
    if isinstance(graph, (str, os.PathLike)):
        path = Path(graph)
        if not path.is_file():
            raise FileNotFoundError(f"graph: {path} does not exist")
        try:
            graph = _read_adjacency(path) if path.suffix == ".csv" else _read_mapping(path)
            return read_graph(graph, names)
        except ValueError as error:
            raise ValueError(f"graph: {path}: {error}") from None
    if isinstance(graph, Mapping):
        parents = {}
        for name, causes in graph.items():
            causes = [causes] if isinstance(causes, str) else causes or ()
            if not isinstance(name, str) or not isinstance(causes, Iterable) or not all(isinstance(c, str) for c in causes):
                raise ValueError(f"graph: expected names of concepts, each with a list of its causes, got {name!r}: {causes!r}")
            parents[name] = list(causes)
        return CausalGraph.from_dict(parents)
    edges = [tuple(edge) for edge in graph]
    for edge in edges:
        if len(edge) != 2:
            raise ValueError(f"graph: expected pairs (cause, effect), got {edge!r}")
    if names is None:
        names = list(dict.fromkeys(name for edge in edges for name in edge))
    return CausalGraph(names, edges)  # type: ignore[arg-type]


class FolderDataset(Dataset):
    """Images from a folder with labels from a CSV table, in memory as uint8.

    The table has a header; one column names the image files, relative to the folder, and every concept of the graph is a column
    of numbers. Other columns are ignored.

    Args:
        images: The folder.
        labels: The CSV file.
        graph: See :func:`read_graph`.
        split: ``"train"``, ``"test"`` (a random fifth) or ``"all"``.
        transform: Optional callable on the float image ``[C, H, W]`` that indexing returns.
        file_column: Column with the file names; the first one by default.
        size: Side to which images are resized (shorter side) and centre-cropped; ``None`` takes them as they are, which then
            have to be of one size.
        seed: Fixes the split.
        units: The unit of each concept's label, or of some; figures show them.

    Attributes:
        images: ``[N, C, H, W]`` uint8; one channel for grey images, three for RGB, four for RGBA.
        labels: ``[N, n]`` float32.
        files: Names of the ``N`` files.
        units: The unit of each label, empty where none is given.

    Raises:
        FileNotFoundError: If the folder, the table or an image is missing.
        ValueError: If the table lacks a concept's column, a label is missing or no finite number, a column is constant, a
            file occurs twice, the table seems to be cut off (its last line is not ended, and there are images that it does not
            name), an image cannot be decoded, or images differ in size or mode; the message names the file, row and column.
            If ``units`` is no such mapping, or names a concept that the graph does not have.
    """

    def __init__(
        self,
        images: str | os.PathLike,
        labels: str | os.PathLike,
        graph: GraphLike,
        split: str = "train",
        transform: Callable[[Tensor], Tensor] | None = None,
        *,
        file_column: str | None = None,
        size: int | None = None,
        seed: int = 0,
        units: Mapping[str, str] | None = None,
    ) -> None:
        check_split(split)
        folder, table = Path(images), Path(labels)
        if not folder.is_dir():
            raise FileNotFoundError(f"images: the folder {folder} does not exist")
        if not table.is_file():
            raise FileNotFoundError(f"labels: {table} does not exist")
        header = _header(table)
        file_column = header[0] if file_column is None else file_column
        self.graph = read_graph(graph, [name for name in header if name != file_column])
        self.split, self.transform, self.seed = split, transform, seed
        self.units = _units(units, self.graph.names)
        files, values = _read_table(table, file_column, self.graph.names)
        _check_end(table, folder, files)
        if len(files) < 2:
            raise ValueError(f"labels: {table} has {len(files)} rows; need at least 2")
        constant = [name for name, column in zip(self.graph.names, values.T, strict=True) if bool((column == column[0]).all())]
        if constant:
            raise ValueError(f"labels: {table}, column {constant[0]!r} is constant; a concept has to vary")
        index = random_fifth(len(files), split, seed)
        self.files = [files[i] for i in index.tolist()]
        self.labels = values[index]
        self.images = _load(folder, self.files, size)

    @property
    def concepts(self) -> tuple[str, ...]:
        """The names of the labels' columns."""
        return self.graph.names

    def __len__(self) -> int:
        return len(self.files)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(split={self.split!r}, concepts={list(self.graph.names)}, seed={self.seed}: "
            f"{len(self)} images, {_describe(self.images.shape)})"
        )

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = scale_images(self.images[index])
        return (self.transform(image) if self.transform else image), self.labels[index]


def _units(units: Mapping[str, str] | None, concepts: Sequence[str]) -> tuple[str, ...]:
    units = {} if units is None else units
    if not isinstance(units, Mapping) or not all(isinstance(unit, str) for unit in units.values()):
        raise ValueError(f"units: expected names of concepts, each with its unit, got {units!r}")
    if unknown := [name for name in units if name not in concepts]:
        raise ValueError(f"units: got one for {unknown[0]!r}; the concepts are {', '.join(concepts)}")
    return tuple(units.get(name, "") for name in concepts)


def _header(table: Path) -> list[str]:
    with open_table(table, f"labels: {table}") as file:
        header = next(csv.reader(file), [])
    if not header:
        raise ValueError(f"labels: {table} is empty")
    return header


def _read_table(table: Path, file_column: str, concepts: Sequence[str]) -> tuple[list[str], Tensor]:
    header = _header(table)
    for column in (file_column, *concepts):
        if header.count(column) != 1:
            raise ValueError(f"labels: {table} has {header.count(column)} columns named {column!r}; its columns are {header}")
    files: dict[str, int] = {}
    rows: list[list[float]] = []
    with open_table(table, f"labels: {table}") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            name = row[file_column]
            if not name:
                raise ValueError(f"labels: {table}, line {line}, column {file_column!r}: no file name")
            if name in files:
                raise ValueError(f"labels: {table}, line {line}: file {name!r} occurs in line {files[name]} already")
            files[name] = line
            rows.append([])
            for column in concepts:
                try:
                    value = float(row[column])
                except (TypeError, ValueError):
                    raise ValueError(
                        f"labels: {table}, line {line}, column {column!r}: {row[column]!r} is not a number"
                    ) from None
                if not abs(value) < float("inf"):
                    raise ValueError(f"labels: {table}, line {line}, column {column!r}: {row[column]!r} is not finite")
                rows[-1].append(value)
    return list(files), torch.tensor(rows).reshape(len(rows), len(concepts))


def _check_end(table: Path, folder: Path, files: Sequence[str]) -> None:
    """Refuses a table whose last line is not ended while there are images that it does not name: it has been cut off."""
    if ends_with_line_break(table):
        return
    named = {folder / name for name in files}
    kinds = {path.suffix for path in named}
    folders = sorted({path.parent for path in named if path.parent.is_dir()})
    others = [path for parent in folders for path in sorted(parent.iterdir()) if path.suffix in kinds and path not in named]
    if others:
        raise ValueError(
            f"labels: {table} seems to be cut off: its last line is not ended, and it does not name {others[0]} ({len(others)} "
            f"of {len(others) + len(named)} images are not named); copy it again, or, if it is whole, end its last line"
        )


def _load(folder: Path, files: Sequence[str], size: int | None) -> Tensor:
    result: Tensor | None = None
    for position, name in enumerate(files):
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"images: {path} does not exist, but the table names it")
        image = _read_image(path, size)
        if result is None:
            result = torch.empty(len(files), *image.shape, dtype=torch.uint8)
        if image.shape != result.shape[1:]:
            hint = "" if size is not None else "; size=... resizes all of them"
            first = f"{folder / files[0]} is {_describe(result.shape[1:])}"
            raise ValueError(f"images: {path} is {_describe(image.shape)}, {first}; all must agree{hint}")
        result[position] = image
    assert result is not None
    return result


def _read_image(path: Path, size: int | None) -> Tensor:
    try:
        image: Image.Image
        with Image.open(path) as image:
            if image.mode not in _MODES:
                raise _ModeError(f"images: {path} has mode {image.mode}; valid: {', '.join(_MODES)}")
            if size is not None:
                # Shorter side to size, then the middle.
                image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
            pixels = np.array(image)
    except _ModeError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        # Pillow's readers of other formats raise ValueError where a file has been cut off.
        raise ValueError(f"images: {path} cannot be decoded ({(str(error) or type(error).__name__).splitlines()[0]})") from None
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).movedim(-1, 0)


class _ModeError(ValueError):
    pass


def _describe(shape: torch.Size) -> str:
    return f"{shape[2]} x {shape[1]} with {shape[0]} channels"


def _read_mapping(path: Path) -> Mapping[str, Sequence[str]]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        content = json.loads(text)
    elif path.suffix in (".yaml", ".yml"):
        import yaml

        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"not valid YAML ({' '.join(str(error).split())})") from None
    else:
        raise ValueError(f"unknown kind of file {path.suffix!r}; valid: .json, .yaml, .yml, .csv")
    if not isinstance(content, dict):
        raise ValueError(f"expected a mapping from each concept to its parents, got {type(content).__name__}")
    return content


def _read_adjacency(path: Path) -> CausalGraph:
    with open_table(path, "the file") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows:
        raise ValueError("the file is empty")
    names = [name.strip() for name in rows[0][1:]]
    if [row[0].strip() for row in rows[1:]] != names:
        raise ValueError(f"the first column must name the concepts in the order of the first row, {names}")
    matrix = torch.zeros(len(names), len(names))
    for j, row in enumerate(rows[1:]):
        for i, (name, text) in enumerate(zip(names, row[1:], strict=False)):
            try:
                matrix[j, i] = float(text)
            except ValueError:
                raise ValueError(f"row {names[j]!r}, column {name!r}: {text!r} is not a number") from None
        if len(row) != len(names) + 1:
            raise ValueError(f"row {names[j]!r} has {len(row) - 1} entries, expected {len(names)}")
    return CausalGraph.from_adjacency(names, matrix)
