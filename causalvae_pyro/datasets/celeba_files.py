"""CelebA's files on disk: downloaded, unpacked and opened such that what was cut off is never taken for whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["ARCHIVE", "FOLDER", "IMAGES", "check_images", "open_files"]

FOLDER, IMAGES, ARCHIVE = "celeba", "img_align_celeba", "img_align_celeba.zip"


def open_files(root: str | os.PathLike, split: str, transform: Callable[[Any], Any], *, download: bool) -> Any:
    """Opens the files as :class:`torchvision.datasets.CelebA`.

    Args:
        root: The folder that holds ``celeba/``.
        split: As for torchvision.
        transform: Of the decoded image.
        download: Fetch what is missing or damaged.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file has another checksum than the published one.
        OSError: If a file cannot be downloaded or unpacked.
    """
    # Here and not above: its import takes two seconds.
    from torchvision.datasets import CelebA

    folder = Path(root) / FOLDER
    if download:
        _download(folder, CelebA.file_list)
    try:
        return CelebA(str(root), split=split, target_type="attr", transform=transform)
    except (RuntimeError, FileNotFoundError) as error:
        reason = str(error).splitlines()[0]
    _explain(folder, CelebA.file_list)
    raise FileNotFoundError(f"root: no CelebA in {root} ({reason})")


def check_images(folder: Path, names: Sequence[str]) -> None:
    """Refuses a folder without all of the images, before the first of them is decoded.

    Args:
        folder: ``celeba/``.
        names: The images' files.

    Raises:
        FileNotFoundError: If an image is missing.
    """
    there = set(os.listdir(folder / IMAGES))
    missing = [name for name in names if name not in there]
    if missing:
        raise FileNotFoundError(
            f"root: {folder / IMAGES / missing[0]} does not exist; {len(missing)} of {len(names)} images are missing. Delete "
            f"{folder / IMAGES} and unpack {ARCHIVE} again, as download=True does"
        )


def _explain(folder: Path, files: Sequence[tuple[str, str, str]]) -> None:
    """Raises for the first file that is damaged, or else for those that are missing; says nothing where all is well."""
    from torchvision.datasets.utils import check_integrity

    missing = [] if (folder / IMAGES).is_dir() else [IMAGES]
    for _, checksum, name in files:
        if name == ARCHIVE:
            continue
        if not (folder / name).is_file():
            missing.append(name)
        elif not check_integrity(folder / name, checksum):
            raise ValueError(
                f"root: {folder / name} is damaged, or not the published file: its MD5 checksum is not {checksum}; copy it "
                "again, or have it replaced with download=True"
            )
    if missing:
        raise FileNotFoundError(
            f"root: no CelebA in {folder.parent}: {folder} lacks {', '.join(missing)}; put the published files there, {ARCHIVE} "
            "unpacked, or have them fetched with download=True"
        )


def _download(folder: Path, files: Sequence[tuple[str, str, str]]) -> None:
    # Not torchvision's own method: stopped while it unpacks, it takes the images that are there for all of them ever after.
    from torchvision.datasets.utils import check_integrity, download_file_from_google_drive

    for identifier, checksum, name in files:
        path = folder / name
        if (name == ARCHIVE and (folder / IMAGES).is_dir()) or check_integrity(path, checksum):
            continue
        try:
            download_file_from_google_drive(identifier, str(folder), name, checksum)
        except Exception as error:
            # gdown's errors have no common class below Exception; a wrong checksum is torchvision's RuntimeError.
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise OSError(
                f"root: {path} cannot be downloaded ({reason}); try again, a day later where Google's limit is reached, or "
                "put the published file there"
            ) from error
    if not (folder / IMAGES).is_dir():
        _unpack(folder)


def _unpack(folder: Path) -> None:
    """Unpacks the archive under another name and renames the folder when it is whole."""
    from torchvision.datasets.utils import extract_archive

    temporary = folder / f"{IMAGES}.{os.getpid()}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        extract_archive(str(folder / ARCHIVE), str(temporary))
        os.replace(temporary / IMAGES, folder / IMAGES)
    except OSError:
        # Another process may have been faster; a folder that has its name is whole.
        if not (folder / IMAGES).is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
