"""Your own data: a folder of images, a table of labels and a graph."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from causalvae_pyro.datasets.image_files import MODES
from causalvae_pyro.datasets.image_stack import ImageStack, describe_shape
from causalvae_pyro.datasets.labelled_images import LabelledImages
from causalvae_pyro.datasets.labels import SPLIT, LabelTable, check_varies, renamed, unnamed_images
from causalvae_pyro.datasets.table_splits import number_groups, split_rows
from causalvae_pyro.graph import GraphLike, as_graph
from causalvae_pyro.utils.files import first_of, input_file, user_path
from causalvae_pyro.utils.graph_files import read_graph_file
from causalvae_pyro.utils.images import scale_images
from causalvae_pyro.utils.tables import read_table

__all__ = ["AUGMENTATIONS", "FolderDataset"]

#: Random changes of images that a user can say leave the labels as they are.
AUGMENTATIONS = ("mirror", "shift")
SPLITS = ("train", "test", "valid", "all")


class FolderDataset(LabelledImages):
    """Images from a folder with labels from a CSV table, as uint8.

    The table has a header; one column names the image files, relative to the folder, sub-folders included, and every concept
    of the graph is a column of numbers, or of words: then it is a category, and its labels are the numbers of the words in
    alphabetical order. An empty cell, ``NA`` or ``nan`` is a missing label. Where a column of the whole table holds nothing but
    -1 and 1, as CelebA's attributes do, its labels are 0 and 1. Other columns are ignored, but for one called
    ``split``, unless it is a concept: it says ``train``, ``test`` or ``validation`` for each row, where else the split is random.

    Opened for ``"train"``, it also reads the images that are held out, so that what is wrong with them shows before a
    training and not after it. How images are decoded: :func:`~causalvae_pyro.datasets.image_files.decode_image`.

    Args:
        images: The folder. In this and the other paths ``~`` is the home folder.
        labels: The CSV file.
        graph: See :func:`~causalvae_pyro.graph.as_graph`; a file may rename columns too.
        split: ``"train"``, ``"test"`` (a random fifth, if the table does not say), ``"valid"`` (if the table says) or ``"all"``.
        transform: Optional callable on the float image ``[C, H, W]`` that indexing returns.
        file_column: Column with the file names; the first one by default.
        size: Side to which images are resized (shorter side) and centre-cropped; ``None`` takes them as they are, which then
            have to be of one size.
        seed: Fixes the split.
        units: The unit of each concept's label, or of some; figures show them.
        mode: ``"L"`` (grey), ``"RGB"`` or ``"RGBA"``, to which all images are converted, transparency laid on white; ``None``
            takes them as they are, which then have to agree.
        split_by: Column of a group (a person, a patient, a scene) that is never in two splits; a random fifth of the groups
            is held out, if the table does not say.
        group_by: Column of the groups that :attr:`groups` numbers.
        rename: Other names for columns, by their name in the table, such as ``{"5_o_Clock_Shadow": "shadow"}``. All other
            arguments use the new names.
        augment: What does not change the labels: ``"mirror"`` (left and right), ``"shift"`` (by 1/16 of the side at most), or
            both. In the split ``"train"`` indexing then changes images so at random; :attr:`images` never changes.
        categories: Concepts that are categories though their column holds numbers, such as the digit of an image: whole
            numbers from 0 on. Labels 0 and 1 need not be.
        cache: Folder for a memory-mapped file of the decoded images. By default they are in memory, and only if they take
            more than 2 GiB in such a file beside the images (or in the user's folder for caches, where nothing can be written
            there).

    Attributes:
        images: ``[N, C, H, W]`` uint8; one channel for grey images, three for RGB, four for RGBA.
        labels: ``[N, n]`` float32, NaN where a label is missing.
        concepts: The names of the labels' columns.
        files: Names of the ``N`` files.
        groups: ``[N]`` int64, the group of each image, counted from 0 in the table's order; ``None`` without ``group_by``.
        group_names: What each group is called in the table.
        units: The unit of each label, empty where none is given.
        unnamed: Images under the folder, by their suffix, that the table does not name, and that are left out.
        kinds: For each concept that is a category its words, in the order of their numbers, or the number of its kinds.
        recoded: Concepts whose -1 and 1 have become 0 and 1.
        has_validation: Whether the table has rows for validation.

    Raises:
        FileNotFoundError: If the folder, the table or an image is missing.
        ValueError: If the table lacks a concept's column, a label is no finite number, a column has no known label or is
            constant (in the training or the held-out images, too), float32 cannot tell a column's values apart, an image
            occurs twice, a row has more or fewer cells than the header, the table seems to be cut off (its last line is not
            ended, and there are images that it does not name), a split would be empty or a group be in two, an image cannot
            be decoded or is too large, or images differ in size or mode; the message names the file, row and column. If an
            argument is not valid.
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
        mode: str | None = None,
        split_by: str | None = None,
        group_by: str | None = None,
        rename: Mapping[str, str] | None = None,
        augment: Sequence[str] = (),
        categories: Sequence[str] = (),
        cache: str | os.PathLike | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split: got {split!r}; valid: {list(SPLITS)}")
        if mode is not None and mode not in MODES:
            raise ValueError(f"mode: got {mode!r}; valid: {', '.join(MODES)}, or None")
        if isinstance(augment, str) or not set(augment) <= set(AUGMENTATIONS):
            raise ValueError(f"augment: got {augment!r}; valid: a list of {', '.join(AUGMENTATIONS)}")
        if size is not None and size < 1:
            raise ValueError(f"size: got {size}; must be at least 1")
        folder, table = user_path(images), input_file(labels, "labels")
        if not folder.is_dir():
            raise FileNotFoundError(f"images: the folder {folder} does not exist")
        what = f"labels: {table}"
        header, rows = read_table(table, what)
        in_file = read_graph_file(graph)[1] if isinstance(graph, (str, os.PathLike)) else {}
        header = renamed(header, table, in_file, {} if rename is None else rename)
        file_column = header[0] if file_column is None else file_column
        others = list(dict.fromkeys(column for column in (split_by, group_by) if column is not None))
        self.graph = as_graph(graph, [name for name in header if name not in (file_column, SPLIT, *others)])
        self.split, self.transform, self.seed, self.augment = split, transform, seed, tuple(augment)
        self.units = _units(units, self.graph.names)
        found = LabelTable.from_rows(table, header, rows, folder, file_column, self.graph.names, others, categories)
        self.kinds, self.recoded = found.kinds, found.recoded
        splits = self._split(found, split_by, what)
        self.has_validation = "valid" in splits
        index = splits[split]
        self.files = [found.files[i] for i in index.tolist()]
        self.labels = found.labels[index]
        self.groups: Tensor | None = None
        self.group_names: tuple[str, ...] = ()
        if group_by is not None:
            numbers, self.group_names = number_groups(found.columns[group_by])
            self.groups = numbers[index]
        # What a training needs, and what its scores will need.
        needed = ["train", *(name for name in splits if name not in ("train", "all"))] if split == "train" else [split]
        names = {name: [found.files[i] for i in splits[name].tolist()] for name in needed}
        _check_there(folder, table, [name for part in names.values() for name in part])
        self.unnamed = tuple(unnamed_images(folder, found.files))
        for name in needed:
            if split == "train":
                check_varies(
                    found.labels[splits[name]], self.graph.names, what, f" in the {len(names[name])} images for {name!r}"
                )
        place = None if cache is None else user_path(cache)
        for name in reversed(needed):
            stack = ImageStack(folder, names[name], mode, size, like=found.files[0] if split == "train" else self.files[0])
            loaded = stack.load(place, name, keep=name == split)
        assert loaded is not None
        self.images = loaded

    def _split(self, found: LabelTable, split_by: str | None, what: str) -> dict[str, Tensor]:
        groups = None if split_by is None else found.columns[split_by]
        try:
            splits = split_rows(len(found.files), self.seed, given=found.splits, groups=groups)
        except ValueError as error:
            column = SPLIT if split_by is None else split_by
            raise ValueError(f"{what}, column {column!r}: {error}") from None
        splits["all"] = torch.arange(len(found.files))
        if self.split not in splits:
            raise ValueError(f"split: got {self.split!r}, but {what.removeprefix('labels: ')} has no row for validation")
        return splits

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(split={self.split!r}, concepts={list(self.graph.names)}, seed={self.seed}: "
            f"{len(self)} images, {describe_shape(self.images.shape[1:])})"
        )

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = scale_images(self.images[index])
        if self.split == "train":
            image = _augmented(image, self.augment)
        return (self.transform(image) if self.transform else image), self.labels[index]


def _augmented(image: Tensor, augment: Sequence[str]) -> Tensor:
    # From torch's generator, like all sampling, so that a seed fixes it.
    if "mirror" in augment and torch.rand(()) < 0.5:
        image = image.flip(-1)
    if "shift" in augment:
        reach = [max(1, side // 16) for side in image.shape[-2:]]
        padded = torch.nn.functional.pad(image[None], (reach[1], reach[1], reach[0], reach[0]), mode="replicate")[0]
        top, left = (int(torch.randint(2 * most + 1, ())) for most in reach)
        image = padded[:, top : top + image.shape[-2], left : left + image.shape[-1]]
    return image


def _check_there(folder: Path, table: Path, files: Sequence[str]) -> None:
    missing = [name for name in files if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"images: {len(missing)} of the {len(files)} that {table} names are not in {folder}: {first_of(missing)}"
        )


def _units(units: Mapping[str, str] | None, concepts: Sequence[str]) -> tuple[str, ...]:
    units = {} if units is None else units
    if not isinstance(units, Mapping) or not all(isinstance(unit, str) for unit in units.values()):
        raise ValueError(f"units: expected names of concepts, each with its unit, got {units!r}")
    if unknown := [name for name in units if name not in concepts]:
        raise ValueError(f"units: got one for {unknown[0]!r}; the concepts are {', '.join(concepts)}")
    return tuple(units.get(name, "") for name in concepts)
