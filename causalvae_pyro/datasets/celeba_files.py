"""CelebA's images on disk, unpacked or not, all of them or some; what was cut off in a download is never taken for whole."""

from __future__ import annotations

import copy
import io
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from causalvae_pyro.datasets.cache import UndecodableError
from causalvae_pyro.datasets.celeba_tables import ATTRIBUTES, IDENTITY, PARTITION, find_table
from causalvae_pyro.datasets.image_sources import FolderImages, ZippedImages, first

__all__ = [
    "ARCHIVE",
    "FOLDER",
    "IMAGES",
    "WIDTH",
    "FaceImages",
    "find_folder",
    "find_images",
]

FOLDER, IMAGES, ARCHIVE = "celeba", "img_align_celeba", "img_align_celeba.zip"
#: Pixels of the published images, which smaller copies are scaled from.
WIDTH, HEIGHT = 178, 218
# Where they are aligned: the darkest places of their mean.
_EYES = ((69.6, 111.1), (108.6, 111.1))
# Images that are looked at for the size of all: one alone may be the odd one.
_LOOKED_AT = 9


class FaceImages(Dataset):
    """Some of the images, decoded; ``UndecodableError`` says what is wrong with one of them.

    Args:
        source: Where they lie.
        names: Their files.
        size: Side of the result.
        crop: Side of the square around the middle that is kept, in pixels of the published 178 x 218.

    Attributes:
        shape: Width and height of the files' images: of some that are evenly spaced, what most have.
        side: Of the square, in pixels of the files' images.

    Raises:
        ValueError: If no image that is looked at can be read, or none has the shape of the published ones.
    """

    def __init__(self, source: FolderImages | ZippedImages, names: Sequence[str], size: int, crop: int) -> None:
        self.source, self.names, self.size = source, names, size
        self.like, self.shape = self._common(names[:: max(1, len(names) // _LOOKED_AT)])
        width, height = self.shape
        self.side = crop * width / WIDTH
        half = self.side / 2
        self.box = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)

    def select(self, names: Sequence[str]) -> FaceImages:
        """Others of the same images."""
        result = copy.copy(self)
        result.names = names
        return result

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        name = self.names[index]
        try:
            image = self._open(name)
            if fault := self._fault(name, image):
                raise UndecodableError(f"root: {name} of {self.source.path} is {fault}")
            # Pillow's bilinear filter is as wide as the reduction asks for: no aliasing.
            square = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=self.box)
        except (OSError, SyntaxError, ValueError) as error:
            raise UndecodableError(self._damaged(name, error)) from None
        return torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).view(self.size, self.size, 3).movedim(-1, 0)

    def _common(self, names: Sequence[str]) -> tuple[str, tuple[int, int]]:
        """The size that most images of the published shape have, and the first of them."""
        sizes: dict[str, tuple[int, int]] = {}
        errors: dict[str, Exception] = {}
        for name in names:
            try:
                sizes[name] = self._open(name).size
            except OSError as error:
                errors[name] = error
        if not sizes:
            raise ValueError(self._damaged(*next(iter(errors.items()))))
        valid = [size for size in sizes.values() if abs(size[1] - size[0] * HEIGHT / WIDTH) <= 1]
        if not valid:
            name, (width, height) = next(iter(sizes.items()))
            raise ValueError(
                f"root: {name} of {self.source.path} is {width} x {height}; CelebA's aligned images are {WIDTH} x {HEIGHT}, or "
                "scaled from that"
            )
        size = Counter(valid).most_common(1)[0][0]
        return next(name for name in sizes if sizes[name] == size), size

    def _fault(self, name: str, image: Image.Image) -> str | None:
        if image.size != self.shape:
            width, height = self.shape
            return f"{image.width} x {image.height}, {self.like} is {width} x {height}; all must agree"
        if image.mode != "RGB":
            return f"{'grey (L)' if image.mode == 'L' else image.mode}; valid: RGB"
        return None

    def _damaged(self, name: str, error: Exception) -> str:
        path = self.source.path
        if isinstance(self.source, ZippedImages):
            again = "copy or download the zip again"
        else:
            # Kaggle's images lie one folder deeper.
            unpacked = any((folder / ARCHIVE).is_file() for folder in (path.parent, path.parent.parent))
            again = f"unpack it again from {ARCHIVE}" if unpacked else "copy it again"
        return f"root: an image of {path} cannot be decoded ({name}: {error}); {again}"

    def _open(self, name: str) -> Image.Image:
        try:
            return Image.open(io.BytesIO(self.source.read(name)))
        except (SyntaxError, ValueError) as error:
            raise OSError(str(error)) from None
        except Image.UnidentifiedImageError:
            raise OSError("not an image") from None


def eye_places(crop: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where the eyes lie in a square around the middle, the one further left first: shares of its width and height.

    Args:
        crop: See :class:`FaceImages`.
    """
    left, top = (WIDTH - crop) / 2, (HEIGHT - crop) / 2
    first, second = (((x - left) / crop, (y - top) / crop) for x, y in _EYES)
    return first, second


def find_folder(root: Path, *, download: bool) -> Path:
    """The folder with CelebA's files: ``root`` itself, or ``celeba/`` in it, as for torchvision.

    Args:
        root: The user's folder.
        download: Fetch what is missing or damaged.

    Raises:
        FileNotFoundError: If there is no table of attributes.
        OSError: If a file cannot be downloaded.
    """
    folders = [root / FOLDER, root]
    folder = next((folder for folder in folders if find_table(folder, ATTRIBUTES) is not None), None)
    if download:
        folder = folder or folders[0]
        _download(folder)
    if folder is None:
        raise FileNotFoundError(
            f"root: no CelebA in {root}: neither {folders[0]} nor {root} has {ATTRIBUTES}.txt or {ATTRIBUTES}.csv; put the "
            "published or Kaggle's files there, or have them fetched with download=True"
        )
    return folder


def find_images(folder: Path, table: Iterable[str]) -> FolderImages | ZippedImages:
    """The images: in a folder, in Kaggle's folder in a folder, or in a zip; the one with the most of them, unpacked first.

    Args:
        folder: See :func:`find_folder`.
        table: The images that the table of attributes names.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If there is an image that the table does not name, or the zip is damaged.
    """
    named, found = set(table), None
    for path in (folder / IMAGES, folder / IMAGES / IMAGES, folder / ARCHIVE):
        if path.exists() and not (found is not None and named <= found.names):
            source = FolderImages(path) if path.is_dir() else ZippedImages(path)
            found = source if found is None or len(source.names) > len(found.names) else found
    if found is None or not found.names:
        raise FileNotFoundError(
            f"root: no images in {folder}: put {IMAGES} there, or {ARCHIVE}, which need not be unpacked, or have it fetched with "
            "download=True"
        )
    unnamed = sorted(found.names - named)
    if unnamed:
        raise ValueError(
            f"root: {len(unnamed)} of {len(found.names)} images in {found.path} have no row in {find_table(folder, ATTRIBUTES)}: "
            f"{first(unnamed)}"
        )
    return found


def _download(folder: Path) -> None:
    # Not torchvision's own method: it unpacks, and stopped in that it takes the images that are there for all of them ever after.
    from torchvision.datasets import CelebA
    from torchvision.datasets.utils import check_integrity, download_file_from_google_drive

    def is_there(name: str, checksum: str) -> bool:
        if name == ARCHIVE:
            return (folder / IMAGES).is_dir() or zipfile.is_zipfile(folder / name)
        return find_table(folder, Path(name).stem) == folder / f"{Path(name).stem}.csv" or check_integrity(
            folder / name, checksum
        )

    for identifier, checksum, name in CelebA.file_list:
        if name != ARCHIVE and Path(name).stem not in (ATTRIBUTES, IDENTITY, PARTITION):
            continue
        if is_there(name, checksum):
            continue
        try:
            download_file_from_google_drive(identifier, str(folder), name, checksum)
        except Exception as error:
            # gdown's errors have no common class below Exception; a wrong checksum is torchvision's RuntimeError.
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise OSError(
                f"root: {folder / name} cannot be downloaded ({reason}); try again, a day later where Google's limit is reached, "
                "or put the published file there"
            ) from error
