"""Extended Yale B: photographs of persons under measured light, so that true counterfactual photographs exist."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from causalvae_pyro.datasets.image_sources import FolderImages, ZippedImages, first
from causalvae_pyro.datasets.labelled_images import LabelledImages
from causalvae_pyro.datasets.splits import check_split, random_fifth_of_groups
from causalvae_pyro.datasets.structural import check_do
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.utils.files import open_table, user_path
from causalvae_pyro.utils.images import scale_images

__all__ = ["YaleB"]

_COLUMNS = ("file", "azimuth", "elevation", "subject")


class YaleB(LabelledImages):
    """Faces under measured directions of light (Georghiades et al. 2001; cropped: Lee et al. 2005), grey, in memory.

    The light's azimuth and elevation are two concepts without an edge: one direction, in two numbers that act together. The
    person is no concept: it belongs to the image's own noise. For ``do(azimuth, elevation)`` the true counterfactual is the
    photograph of the same person under that light, where there is one.

    In ``root`` are expected ``labels.csv`` with the columns ``file, azimuth, elevation, subject``, and the photographs in
    ``images.zip`` or ``images/``.

    Args:
        root: The folder.
        split: ``"train"``, ``"test"`` (a random fifth of the persons, none of whom is in ``"train"``) or ``"all"``.
        transform: Optional callable on the float image ``[1, size, size]`` that indexing returns.
        size: Height and width; of a photograph that is not square, the middle.
        seed: Fixes the split.

    Attributes:
        images: ``[N, 1, size, size]`` uint8.
        labels: ``[N, 2]`` float32: azimuth (-180 to 180) and elevation (-90 to 90) of the light, in degrees.
        concepts: The names of the labels' columns.
        files: Names of the ``N`` files.
        subjects: The person in each image, ``[N]`` int64, counted over all of ``root``.
        persons: What the table calls each person.

    Raises:
        FileNotFoundError: If the table or the photographs are missing.
        ValueError: If the table is damaged (the message names line and column), it and the photographs do not match, a person has
            two photographs under one light or only one, there are fewer than 2 persons, a photograph cannot be decoded, is not
            grey or of another size, or ``size`` is out of range.
    """

    graph = CausalGraph(["azimuth", "elevation"])
    units = ("degrees", "degrees")

    def __init__(
        self,
        root: str | os.PathLike,
        split: str = "train",
        transform: Callable[[Tensor], Tensor] | None = None,
        *,
        size: int = 64,
        seed: int = 0,
    ) -> None:
        check_split(split)
        self.split, self.size, self.seed, self.transform = split, size, seed, transform
        folder = user_path(root)
        files, labels, people = _read_table(folder / "labels.csv")
        self.persons = tuple(dict.fromkeys(people))
        if len(self.persons) < 2:
            raise ValueError(f"root: {folder / 'labels.csv'} has {len(self.persons)} person; a split needs at least 2")
        subjects = torch.tensor([self.persons.index(person) for person in people])
        images = _decode(_find(folder), files, size)
        train = random_fifth_of_groups(subjects, "train", seed)
        self._lights = labels[train].unique(dim=0)
        self._means = (
            torch.stack([images[train][(labels[train] == light).all(1)].float().mean(0) for light in self._lights]) / 255
        )
        rows = random_fifth_of_groups(subjects, split, seed)
        self.files = [files[i] for i in rows.tolist()]
        self.images, self.labels, self.subjects = images[rows], labels[rows], subjects[rows]

    @property
    def groups(self) -> Tensor:
        """The person in each image, as a group of images that share more than the labels say."""
        return self.subjects

    def counterfactual(self, index: int | Tensor, do: Mapping[str, float | Tensor]) -> tuple[Tensor, Tensor]:
        """The true counterfactual photographs.

        Args:
            index: Which images of this data set, a number or ``[N]``.
            do: For ``azimuth``, ``elevation`` or both a number or ``[N]``, in degrees; the other stays as it is.

        Returns:
            Their labels ``[N, 2]`` and photographs ``[N, 1, size, size]`` in [0, 1].

        Raises:
            ValueError: If a photograph does not exist: the message names the person and the nearest light that there is. If there
                is no such image, or ``do`` names an unknown concept or has a wrong shape.

        Example:
            >>> labels, photographs = YaleB("yaleb", "test").counterfactual(0, {"azimuth": 50, "elevation": 0})  # doctest: +SKIP
        """
        rows = torch.as_tensor(index).reshape(-1)
        if rows.is_floating_point() or not ((rows >= 0) & (rows < len(self))).all():
            shown = f"{rows.dtype} of shape {list(rows.shape)}" if len(rows) > 1 else index
            raise ValueError(f"index: got {shown}; expected images of this data set by their number, 0 to {len(self) - 1}")
        check_do(self.graph, do, len(rows))
        lights = self.counterfactual_labels(self.labels[rows], do)
        found = []
        for row, light in zip(rows.tolist(), lights, strict=True):
            own = (self.subjects == self.subjects[row]).nonzero().squeeze(1)
            nearest = own[_nearest(self.labels[own], light[None])[0]]
            if not torch.equal(self.labels[nearest], light):
                person, known = self.persons[int(self.subjects[row])], self.labels[nearest].tolist()
                raise ValueError(
                    f"do: no photograph of person {person} has azimuth {light[0]:g}, elevation {light[1]:g}; the nearest has "
                    f"azimuth {known[0]:g}, elevation {known[1]:g}"
                )
            found.append(nearest)
        chosen = torch.stack(found) if found else rows
        return self.labels[chosen], scale_images(self.images[chosen])

    def counterfactual_targets(self, index: int) -> Tensor:
        """The other photographs of the same person: each is the true counterfactual of an image for its own light.

        Args:
            index: An image of this data set.

        Returns:
            Their numbers ``[M]``, by azimuth and then elevation.
        """
        others = self.subjects == self.subjects[index]
        others[index] = False
        rows = others.nonzero().squeeze(1).tolist()
        return torch.tensor(sorted(rows, key=lambda row: self.labels[row].tolist()))

    @classmethod
    def counterfactual_labels(cls, labels: Tensor, do: Mapping[str, float | Tensor]) -> Tensor:
        """Labels ``[N, 2]`` after an intervention: neither angle has an effect on the other."""
        result = labels.clone()
        for name, value in do.items():
            result[:, cls.graph.index(name)] = torch.as_tensor(value, dtype=labels.dtype)
        return result

    def counterfactual_baselines(self, labels: Tensor) -> dict[str, Tensor]:
        """What a system that knows nothing of the image would answer: the mean of the training persons under that light.

        Args:
            labels: Of the counterfactuals, ``[N, 2]``; for a light that no training person has, the nearest one counts.

        Returns:
            By name, images ``[N, 1, size, size]`` in [0, 1].
        """
        return {"mean training face": self._means[_nearest(self._lights, labels)]}

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(split={self.split!r}, size={self.size}, seed={self.seed}: {len(self)} images of "
            f"{len(self.subjects.unique())} of {len(self.persons)} persons)"
        )


def _nearest(lights: Tensor, wanted: Tensor) -> Tensor:
    """For each of ``wanted`` ``[N, 2]`` the place of the light that is the smallest angle away, ``[N]``."""

    def directions(labels: Tensor) -> Tensor:
        azimuth, elevation = labels.double().deg2rad().unbind(-1)
        return torch.stack([elevation.cos() * azimuth.sin(), elevation.sin(), elevation.cos() * azimuth.cos()], -1)

    # Straight from above every azimuth is the same direction: among equals the one with the nearest numbers.
    distance = torch.cdist(directions(wanted), directions(lights)).round(decimals=6)
    return (distance + 1e-9 * torch.cdist(wanted.double(), lights.double())).argmin(1)


def _read_table(path: Path) -> tuple[list[str], Tensor, list[str]]:
    if not path.is_file():
        raise FileNotFoundError(f"root: {path} does not exist; expected a table with the columns {', '.join(_COLUMNS)}")
    files: list[str] = []
    lights: list[list[float]] = []
    people: list[str] = []
    known: dict[tuple, int] = {}
    with open_table(path, f"root: {path}") as file:
        reader = csv.DictReader(file)
        for column in _COLUMNS:
            if column not in (reader.fieldnames or ()):
                raise ValueError(f"root: {path} has no column {column!r}; it has {reader.fieldnames}")
        for line, row in enumerate(reader, start=2):
            light = []
            for column, limit in (("azimuth", 180), ("elevation", 90)):
                try:
                    light.append(float(row[column]))
                except (TypeError, ValueError):
                    raise ValueError(f"root: {path}, line {line}, column {column!r}: {row[column]!r} is not a number") from None
                if not abs(light[-1]) <= limit:
                    raise ValueError(
                        f"root: {path}, line {line}, column {column!r}: got {row[column]}; valid: -{limit} to {limit}"
                    )
            if not row["file"] or not row["subject"]:
                raise ValueError(f"root: {path}, line {line}: has no {'subject' if row['file'] else 'file'}; copy it again")
            for key in ((row["file"],), (row["subject"], *light)):
                if key in known:
                    what = "file" if len(key) == 1 else "person under this light"
                    raise ValueError(f"root: {path}, line {line}: the same {what} as in line {known[key]}")
                known[key] = line
            files.append(row["file"])
            lights.append(light)
            people.append(row["subject"])
    alone = [person for person in dict.fromkeys(people) if people.count(person) == 1]
    if alone:
        raise ValueError(f"root: {path} has one photograph only of {len(alone)} persons, {first(alone)}; need at least 2 of each")
    return files, torch.tensor(lights).reshape(-1, 2), people


def _find(folder: Path) -> FolderImages | ZippedImages:
    if (folder / "images").is_dir():
        return FolderImages(folder / "images")
    if (folder / "images.zip").is_file():
        return ZippedImages(folder / "images.zip")
    raise FileNotFoundError(f"root: {folder} has neither images.zip nor images")


def _decode(source: FolderImages | ZippedImages, files: list[str], size: int) -> Tensor:
    missing, unnamed = [name for name in files if name not in source.names], sorted(source.names - set(files))
    if missing:
        raise ValueError(f"root: {len(missing)} of {len(files)} photographs are not in {source.path}: {first(missing)}")
    if unnamed:
        raise ValueError(f"root: {len(unnamed)} photographs in {source.path} have no row in labels.csv: {first(unnamed)}")
    images, shape = torch.empty(len(files), 1, size, size, dtype=torch.uint8), None
    for place, name in zip(images, files, strict=True):
        try:
            image = Image.open(io.BytesIO(source.read(name)))
            image.load()
        except (OSError, SyntaxError, ValueError) as error:
            reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else error
            raise ValueError(f"root: {name} in {source.path} cannot be decoded ({reason}); copy it again") from None
        shape = shape or image.size
        if image.mode != "L":
            raise ValueError(f"root: {name} in {source.path} is {image.mode}; valid: grey (L)")
        if image.size != shape:
            raise ValueError(
                f"root: {name} in {source.path} is {image.width} x {image.height}, {files[0]} is {shape[0]} x {shape[1]}; "
                "all must agree"
            )
        side = min(shape)
        if not 8 <= size <= side:
            raise ValueError(f"size: got {size}; must lie between 8 and {side}, the shorter side of the photographs")
        left, top = (shape[0] - side) / 2, (shape[1] - side) / 2
        # Pillow's bilinear filter is as wide as the reduction asks for: no aliasing.
        square = image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
        place[0] = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).view(size, size)
    return images
