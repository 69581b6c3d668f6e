"""Morpho-MNIST: real handwriting whose thickness and intensity follow a known causal process."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from causalvae_pyro.datasets.labelled_images import LabelledImages
from causalvae_pyro.datasets.splits import check_split, random_fifth
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.utils.files import user_path
from causalvae_pyro.utils.images import as_images, bright_part
from causalvae_pyro.utils.tables import read_table

__all__ = ["MorphoMNIST"]

_IMAGES, _LABELS = 2051, 2049
_SIDE = 28
_COLUMNS = ("index", "thickness", "intensity")
# More than were published, fewer than fill the memory.
_MOST = 10**6


class MorphoMNIST(LabelledImages):
    """MNIST digits with thickness and intensity set by the DeepSCM process (Castro et al. 2018; Pawlowski et al. 2020).

    ``thickness = 0.5 + Gamma(10, 5)`` in pixels and ``intensity = 191 sigmoid(0.5 e + 2 thickness - 5) + 64`` in grey levels,
    ``e ~ N(0, 1)``. The handwriting is no concept: it belongs to the image's own noise. So does the digit, unless ``digit=True``
    makes it a third concept of ten kinds without causes and effects: the graph of Melistas et al. 2024.

    The published layout is expected in ``root``: ``NAME-images-idx3-ubyte.gz``, ``NAME-labels-idx1-ubyte.gz`` (each with or
    without ``.gz``) and ``NAME-morpho.csv`` with the columns ``index, thickness, intensity``.

    Args:
        root: The folder.
        split: ``"train"``, ``"test"`` or ``"all"``.
        transform: Optional callable on the float image ``[1, size, size]`` that indexing returns.
        source: ``NAME`` of the files: ``"t10k"`` or ``"train"``. A random fifth of them is the test split; for the
            published split use all of ``"train"`` and all of ``"t10k"``.
        size: Height and width; the 28 x 28 images are padded with black.
        seed: Fixes the split.
        digit: Make the digit a concept.

    Attributes:
        images: ``[N, 1, size, size]`` uint8.
        labels: ``[N, 2]`` float32: thickness (pixels), intensity (grey levels); with ``digit`` a third column.
        concepts: The names of the labels' columns.
        kinds: ``{"digit": 10}`` with ``digit``, else empty.
        digits: ``[N]`` int64.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or the tables do not fit together; the message names the file, row and column.
    """

    graph = CausalGraph(["thickness", "intensity"], [("thickness", "intensity")])
    units: tuple[str, ...] = ("px", "grey levels")

    def __init__(
        self,
        root: str | os.PathLike,
        split: str = "train",
        transform: Callable[[Tensor], Tensor] | None = None,
        *,
        source: str = "t10k",
        size: int = 32,
        seed: int = 0,
        digit: bool = False,
    ) -> None:
        check_split(split)
        if size < _SIDE:
            raise ValueError(f"size: got {size}; the digits are 28 x 28, size must be at least 28")
        self.split, self.size, self.seed, self.transform = split, size, seed, transform
        folder = user_path(root)
        images = _read_idx(_find(folder, f"{source}-images-idx3-ubyte"), _IMAGES)
        digits = _read_idx(_find(folder, f"{source}-labels-idx1-ubyte"), _LABELS)
        table = folder / f"{source}-morpho.csv"
        labels = _read_csv(table, len(images))
        if len(digits) != len(images):
            raise ValueError(f"root: {folder} holds {len(images)} {source} images but {len(digits)} digits")
        index = random_fifth(len(images), split, seed)
        margin = size - _SIDE
        padding = (margin // 2, margin - margin // 2) * 2
        self.images = torch.nn.functional.pad(images[index][:, None], padding)
        self.labels = labels[index]
        self.digits = digits[index].long()
        self.kinds: dict[str, int] = {}
        if digit:
            self.graph, self.units = CausalGraph([*self.graph.names, "digit"], self.graph.edges), (*self.units, "")
            self.labels, self.kinds = torch.cat([self.labels, self.digits[:, None].float()], 1), {"digit": 10}

    @staticmethod
    def noise(labels: Tensor) -> Tensor:
        """Abducts ``e`` from thickness and intensity, ``[..., 2]`` to ``[...]``."""
        fraction = ((labels[..., 1].double() - 64) / 191).clamp(1e-9, 1 - 1e-9)
        return (torch.logit(fraction) - 2 * labels[..., 0].double() + 5) / 0.5

    @staticmethod
    def measure_intensity(images: Tensor) -> Tensor:
        """The intensity of any image by its definition: the median of the pixels at least half way from darkest to brightest.

        Args:
            images: ``[N, 1, H, W]``, uint8 or in [0, 1].

        Returns:
            ``[N]`` in grey levels, 0 to 255. On the published images it agrees with the label to 0.6 on average.

        Source: Pawlowski et al. 2020, who set the intensity by it.
        """
        return bright_part(as_images(images, "images") * 255)

    @classmethod
    def counterfactual_labels(cls, labels: Tensor, do: Mapping[str, float | Tensor]) -> Tensor:
        """The true counterfactual labels, in closed form: the intensity follows a new thickness, its noise kept.

        Args:
            labels: Factual labels ``[N, 2]``, or ``[N, 3]`` with the digit.
            do: A number or ``[N]`` values for some of ``thickness``, ``intensity`` and, with three columns, ``digit``.

        Returns:
            As ``labels``.
        """
        names = (*cls.graph.names, "digit")[: labels.shape[1]]
        for name in do:
            if name not in names:
                raise ValueError(f"do: unknown concept {name!r}; known: {list(names)}")
        result = labels.clone()
        if "thickness" in do:
            result[:, 0] = torch.as_tensor(do["thickness"], dtype=labels.dtype)
            argument = 0.5 * cls.noise(labels) + 2 * result[:, 0].double() - 5
            result[:, 1] = (191 * torch.sigmoid(argument) + 64).to(labels.dtype)
        if "intensity" in do:
            result[:, 1] = torch.as_tensor(do["intensity"], dtype=labels.dtype)
        if "digit" in do:
            result[:, 2] = torch.as_tensor(do["digit"], dtype=labels.dtype)
        return result

    def __repr__(self) -> str:
        return f"{type(self).__name__}(split={self.split!r}, size={self.size}, seed={self.seed}: {len(self)} images)"


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise FileNotFoundError(f"root: neither {name}.gz nor {name} exists in {folder}; expected the published Morpho-MNIST layout")


def _read_idx(path: Path, magic: int) -> Tensor:
    dimensions = magic % 256
    header = 4 + 4 * dimensions
    try:
        with cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else open(path, "rb")) as file:
            start = file.read(header)
            found = int.from_bytes(start[:4], "big")
            if found != magic:
                raise _IdxError(f"is not the IDX file that its name says: its magic number is {found}, expected {magic}")
            shape = [int.from_bytes(start[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
            if len(start) == header and (shape[0] > _MOST or shape[1:] not in ([], [_SIDE, _SIDE])):
                sides = " x ".join(map(str, shape))
                raise _IdxError(f"announces {sides}; Morpho-MNIST has at most {_MOST} images of {_SIDE} x {_SIDE}")
            expected = torch.Size(shape).numel()
            # Not all of it: a small file may unpack to more than the memory holds.
            content = file.read(expected + 1)
    except _IdxError as error:
        raise ValueError(f"root: {path} {error}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"root: {path} is damaged ({error}); copy or download it again") from None
    if len(start) < header or len(content) != expected:
        given = f"{len(start) + len(content)} bytes" + " or more" * (len(content) > expected)
        raise ValueError(
            f"root: {path} is truncated or too long: {given}, its header announces {header + expected}; copy or download it again"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(shape)


class _IdxError(Exception):
    """What is wrong with an IDX file, without its name."""


def _read_csv(path: Path, count: int) -> Tensor:
    if not path.is_file():
        raise FileNotFoundError(f"root: {path} does not exist; expected the published Morpho-MNIST layout")
    labels = torch.full((count, 2), torch.nan)
    header, rows = read_table(path, f"root: {path}")
    for column in _COLUMNS:
        if column not in header:
            raise ValueError(f"root: {path} has no column {column!r}; it has {header}")
    for line, cells in rows:
        row = dict(zip(header, cells, strict=True))
        for column in _COLUMNS:
            try:
                value = float(row[column])
            except ValueError:
                raise ValueError(f"root: {path}, line {line}, column {column!r}: {row[column]!r} is not a number") from None
            if not abs(value) < float("inf"):
                raise ValueError(f"root: {path}, line {line}, column {column!r}: {row[column]!r} is not finite")
        index = int(float(row["index"]))
        if not 0 <= index < count:
            raise ValueError(f"root: {path}, line {line}: index {index} has no image; there are {count}")
        if not labels[index].isnan().all():
            raise ValueError(f"root: {path}, line {line}: index {index} occurs twice")
        labels[index] = torch.tensor([float(row["thickness"]), float(row["intensity"])])
    missing = labels[:, 0].isnan().nonzero().flatten()
    if len(missing):
        raise ValueError(f"root: {path} has no row for image {missing[0].item()} ({len(missing)} of {count} rows are missing)")
    return labels
