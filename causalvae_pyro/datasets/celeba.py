"""CelebA with the concept groups of CausalVAE and DEAR."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from causalvae_pyro.datasets.cache import UndecodableError, fill_cache, open_cache
from causalvae_pyro.datasets.celeba_files import ARCHIVE, FOLDER, check_images, open_files
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.utils.images import scale_images

__all__ = ["CELEBA_GROUPS", "CelebA", "ConceptGroup"]

_CROP = 128
_SIZE = (178, 218)


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


class CelebA(Dataset):
    """CelebA (Liu et al. 2015) through :class:`torchvision.datasets.CelebA`, with a group of attributes as concepts.

    Images are centre-cropped to 128 and resized. They are decoded once, by several processes, into a cache beside the data: a
    memory-mapped uint8 array, written under another name and renamed when it is whole. Labels are 0 or 1; give the model
    ``FixedPrior(n, shift=0.5, scale=0.5)``, whose ``lambda1`` maps them to -1 and +1.

    Args:
        root: As for torchvision: the folder that holds ``celeba/``.
        group: A name from :data:`CELEBA_GROUPS` or a :class:`ConceptGroup` of your own.
        split: ``"train"``, ``"valid"``, ``"test"`` or ``"all"``.
        transform: Optional callable on the float image ``[3, size, size]`` that indexing returns.
        size: 64 or 128, or any side up to 128.
        download: Download with torchvision what is missing or damaged (takes the package gdown), and unpack the images.
        workers: Processes that decode while the cache is made; by default one per core that this process may use.
        progress: Show a progress bar while the cache is made.

    Attributes:
        images: ``[N, 3, size, size]`` uint8, memory-mapped.
        labels: ``[N, n]`` float32.

    Raises:
        ValueError: If the group or an attribute is unknown, the size is out of range, a table has another checksum than the
            published one, an image cannot be decoded or the cache is damaged.
        FileNotFoundError: If the data, or some of the images, are not there.
        OSError: If a file cannot be downloaded, or the cache or the unpacked images cannot be written.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        group: str | ConceptGroup = "smile",
        split: str = "train",
        transform: Callable[[Tensor], Tensor] | None = None,
        *,
        size: int = 64,
        download: bool = False,
        workers: int | None = None,
        progress: bool = True,
    ) -> None:
        if isinstance(group, str):
            if group not in CELEBA_GROUPS:
                raise ValueError(f"group: got {group!r}; valid: {list(CELEBA_GROUPS)}, or a ConceptGroup")
            group = CELEBA_GROUPS[group]
        if split not in ("train", "valid", "test", "all"):
            raise ValueError(f"split: got {split!r}; valid: ['train', 'valid', 'test', 'all']")
        if not 8 <= size <= _CROP:
            raise ValueError(f"size: got {size}; must lie between 8 and {_CROP}")
        root = Path(root).expanduser()
        files = open_files(root, split, _Prepare(size), download=download)
        self.graph, self.split, self.transform = group.graph, split, transform
        names = [name for name in files.attr_names if name]
        columns = []
        for concept in group.graph.names:
            attribute = group.attributes[concept]
            if attribute.removeprefix("-") not in names:
                raise ValueError(f"group: CelebA has no attribute {attribute.removeprefix('-')!r}; valid: {names}")
            column = files.attr[:, names.index(attribute.removeprefix("-"))].float()
            columns.append(1 - column if attribute.startswith("-") else column)
        self.labels = torch.stack(columns, 1)
        cache = root / FOLDER / f"cache_{split}_{size}_{len(files)}.npy"
        if not cache.is_file():
            check_images(cache.parent, files.filename)
            _fill(cache, files, size, workers, progress)
        self.images = open_cache(cache, (len(files), 3, size, size), "root")

    @property
    def concepts(self) -> tuple[str, ...]:
        """The names of the labels' columns."""
        return self.graph.names

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = scale_images(self.images[index])
        return (self.transform(image) if self.transform else image), self.labels[index]


class _Prepare:
    """Centre crop, resize, uint8 tensor; a class, so that worker processes can be handed it."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Any) -> Tensor:
        from torchvision.transforms import functional

        if image.mode != "RGB" or image.size != _SIZE:
            raise OSError(
                f"a {image.mode} image of {image.size[0]} x {image.size[1]}; CelebA's are RGB of {_SIZE[0]} x {_SIZE[1]}"
            )
        cropped = functional.center_crop(image, [_CROP, _CROP])
        return functional.pil_to_tensor(functional.resize(cropped, [self.size, self.size], antialias=True))


class _Decoded(Dataset):
    """The images alone; an error names the file."""

    def __init__(self, files: Any) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        try:
            return self.files[index][0]
        except OSError as error:
            raise UndecodableError(f"{self.files.filename[index]}: {error}") from None


def _fill(cache: Path, files: Any, size: int, workers: int | None, progress: bool) -> None:
    try:
        return fill_cache(cache, _Decoded(files), (3, size, size), workers=workers, progress=progress)
    except UndecodableError as error:
        reason = str(error)
    raise ValueError(f"root: an image of {cache.parent} cannot be decoded ({reason}); unpack it again from {ARCHIVE}")
