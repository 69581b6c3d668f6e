"""CelebA with the concept groups of CausalVAE and DEAR."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from causalvae_pyro.datasets.cache import UndecodableError, cache_folder, digest, fill_cache, open_cache
from causalvae_pyro.datasets.celeba_files import WIDTH, FaceImages, find_folder, find_images
from causalvae_pyro.datasets.celeba_tables import ATTRIBUTES, SPLITS, choose_split, find_table, read_attributes
from causalvae_pyro.datasets.labelled_images import LabelledImages
from causalvae_pyro.datasets.labels import check_varies
from causalvae_pyro.graph import CausalGraph

__all__ = ["CELEBA_GROUPS", "CelebA", "ConceptGroup"]


@dataclass(frozen=True)
class ConceptGroup:
    """Some of CelebA's attributes as concepts.

    Args:
        graph: The causal graph over the concepts.
        attributes: For each concept the attribute of CelebA that is its label; a leading ``-`` means its opposite.
    """

    graph: CausalGraph
    attributes: Mapping[str, str]

    def __post_init__(self) -> None:
        if set(self.attributes) != set(self.graph.names):
            raise ValueError(f"attributes: expected one for each of {list(self.graph.names)}, got {list(self.attributes)}")


def _group(attributes: dict[str, str], parents: dict[str, list[str]]) -> ConceptGroup:
    edges = [(cause, effect) for effect, causes in parents.items() for cause in causes]
    return ConceptGroup(CausalGraph(list(attributes), edges), attributes)


#: SMILE and BEARD: Yang et al. 2021. The other two: DEAR, Shen et al. 2022.
CELEBA_GROUPS: dict[str, ConceptGroup] = {
    "smile": _group(
        {"gender": "Male", "smile": "Smiling", "eyes_open": "-Narrow_Eyes", "mouth_open": "Mouth_Slightly_Open"},
        {"eyes_open": ["gender", "smile"], "mouth_open": ["smile"]},
    ),
    "beard": _group(
        {"age": "Young", "gender": "Male", "bald": "Bald", "beard": "-No_Beard"},
        {"bald": ["age", "gender"], "beard": ["age", "gender"]},
    ),
    "dear_smile": _group(
        {
            "smile": "Smiling",
            "gender": "Male",
            "cheekbones": "High_Cheekbones",
            "mouth_open": "Mouth_Slightly_Open",
            "narrow_eyes": "Narrow_Eyes",
            "chubby": "Chubby",
        },
        {"cheekbones": ["smile"], "mouth_open": ["smile"], "narrow_eyes": ["smile", "gender"], "chubby": ["smile"]},
    ),
    "dear_age": _group(
        {
            "young": "Young",
            "gender": "Male",
            "receding_hairline": "Receding_Hairline",
            "makeup": "Heavy_Makeup",
            "chubby": "Chubby",
            "eye_bags": "Bags_Under_Eyes",
        },
        {
            "receding_hairline": ["young", "gender"],
            "makeup": ["young", "gender"],
            "chubby": ["young"],
            "eye_bags": ["young"],
        },
    ),
}


class CelebA(LabelledImages):
    """CelebA (Liu et al. 2015), all of it or some, with a group of attributes as concepts.

    Accepted are torchvision's layout and Kaggle's, images in a folder or in ``img_align_celeba.zip``, at 178 x 218 or scaled from
    that, and tables that name more images than are there. Splits are CelebA's own partition where it leaves neither training nor
    test empty; else by person where ``identity_CelebA`` is there, a fifth of the persons for testing; else at random.

    Images are cropped around the middle and resized. They are decoded once, by several threads, into a cache beside the data
    (or in the user's folder for caches, where nothing can be written there): a memory-mapped uint8 array, written under another
    name and renamed when it is whole, and another one where an image has changed. Labels are 0 or 1; the model's
    ``FixedPrior(n, shift=0.5, scale=0.5)`` maps them to -1, +1.

    Args:
        root: The folder that holds the files, or holds them in ``celeba/``, as for torchvision.
        group: A name from :data:`CELEBA_GROUPS`; a mapping from each concept to its parents; or a :class:`ConceptGroup`.
        split: ``"train"``, ``"valid"`` (of CelebA's own partition only), ``"test"`` or ``"all"``.
        transform: Optional callable on the float image ``[3, size, size]`` that indexing returns.
        attributes: With a mapping: the attribute for each concept that is not called like it; see :class:`ConceptGroup`.
        crop: Side of the square that is kept, in pixels of the published images: 128 (Yang et al. 2021), 150 (Melistas et al.
            2024), or another.
        size: Side of the images, at most ``crop``; smaller copies are enlarged for it, which :attr:`summary` says.
        seed: Of a split that is not CelebA's own.
        download: Download with torchvision what is missing or not as published (takes the package gdown).
        workers: Threads that decode while the cache is made, 0 as 1; by default one per core that this process may use.
        progress: Say in one line, on the standard error, how many of the table's images are there and how they are split, and
            show a progress bar while the cache is made.

    Attributes:
        images: ``[N, 3, size, size]`` uint8, memory-mapped.
        labels: ``[N, n]`` float32.
        concepts: The names of the labels' columns.
        files: Names of the ``N`` images.
        groups: Who is in each image, ``[N]`` int64; ``None`` without ``identity_CelebA``.
        summary: The line that ``progress`` prints.

    Raises:
        ValueError: If the group or an attribute is unknown, ``crop`` or ``size`` is out of range, a table is damaged or does not
            name an image that is there, a split is empty, an attribute is constant in the split ``"train"``, an image cannot be
            decoded, is not RGB or has another size than the others, the zip holds two files of one name, or it or the cache is
            damaged.
        FileNotFoundError: If the table of attributes or the images are not there.
        OSError: If a file cannot be downloaded, or the cache cannot be written.

    Example:
        >>> graph = {"smile": [], "Chubby": ["smile"]}
        >>> data = CelebA("faces", graph, attributes={"smile": "Smiling"})  # doctest: +SKIP
    """

    def __init__(
        self,
        root: str | os.PathLike,
        group: str | Mapping[str, Sequence[str]] | ConceptGroup = "smile",
        split: str = "train",
        transform: Callable[[Tensor], Tensor] | None = None,
        *,
        attributes: Mapping[str, str] | None = None,
        crop: int = 128,
        size: int = 64,
        seed: int = 0,
        download: bool = False,
        workers: int | None = None,
        progress: bool = True,
    ) -> None:
        group = _read_group(group, attributes)
        if split not in SPLITS:
            raise ValueError(f"split: got {split!r}; valid: {list(SPLITS)}")
        if not 8 <= crop <= WIDTH:
            raise ValueError(f"crop: got {crop}; must lie between 8 and {WIDTH}, the width of the published images")
        if not 8 <= size <= crop:
            raise ValueError(f"size: got {size}; must lie between 8 and {crop}, the crop")
        if workers is not None and workers < 0:
            raise ValueError(f"workers: got {workers}; must be at least 0")
        self.graph, self.split, self.transform, self.crop, self.size = group.graph, split, transform, crop, size
        folder = find_folder(Path(root).expanduser(), download=download)
        wanted = [group.attributes[name] for name in self.graph.names]
        # A table was found, or the line above has raised.
        table: Any = find_table(folder, ATTRIBUTES)
        rows = read_attributes(table, [attribute.removeprefix("-") for attribute in wanted])
        source = find_images(folder, rows)
        names = [name for name in rows if name in source.names]
        chosen, how, self.groups = choose_split(names, folder, split, seed)
        self.files = [names[i] for i in chosen.tolist()]
        opposite = torch.tensor([float(attribute.startswith("-")) for attribute in wanted])
        self.labels = (torch.tensor([rows[name] for name in self.files], dtype=torch.float32) - opposite).abs()
        self.summary = f"{len(names)} of the {len(rows)} images in {table.name} are there, {how}: {len(self.files)} in {split!r}"
        faces = FaceImages(source, names, size, crop)
        if (side := round(faces.side)) < size:
            self.summary += f", enlarged from {side} to {size} pixels"
        if progress:
            print(f"CelebA: {self.summary}", file=sys.stderr)
        if split == "train":
            where = f" in the {len(self.files)} images for 'train'"
            check_varies(self.labels, [attribute.removeprefix("-") for attribute in wanted], f"root: {table}", where)
        files = faces.select(self.files)
        key = digest(str(source.path.resolve()), faces.shape, self.files, source.states(self.files))
        cache = cache_folder(folder) / f"cache_{split}_{crop}_{size}_{key}.npy"
        if not cache.is_file():
            _fill(cache, files, size, workers, progress)
        self.images = open_cache(cache, (len(files), 3, size, size), "root")

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(split={self.split!r}, concepts={list(self.concepts)}, crop={self.crop}, size={self.size}: "
            f"{len(self)} images, {self.summary})"
        )


def _read_group(group: str | Mapping[str, Sequence[str]] | ConceptGroup, attributes: Mapping[str, str] | None) -> ConceptGroup:
    if not isinstance(group, (str, Mapping, ConceptGroup)) or (isinstance(group, str) and group not in CELEBA_GROUPS):
        raise ValueError(
            f"group: got {group!r}; valid: {list(CELEBA_GROUPS)}, a mapping from each concept to its parents, or a ConceptGroup"
        )
    if isinstance(group, Mapping):
        odd = next((name for name in group if not name.isidentifier()), None)
        if odd is not None:
            raise ValueError(
                f"group: {odd!r} is no identifier; call the concept otherwise and say attributes={{'shadow': {odd!r}}}"
            )
        parents = {name: [causes] if isinstance(causes, str) else list(causes or ()) for name, causes in group.items()}
        return ConceptGroup(CausalGraph.from_dict(parents), {name: name for name in group} | dict(attributes or {}))
    if attributes is not None:
        raise ValueError("attributes: got some beside a group that has its own; they are for a group that is a mapping")
    return CELEBA_GROUPS[group] if isinstance(group, str) else group


def _fill(cache: Path, files: FaceImages, size: int, workers: int | None, progress: bool) -> None:
    try:
        fill_cache(cache, files, (3, size, size), workers=workers, progress=progress)
    except UndecodableError as error:
        raise ValueError(str(error)) from None
