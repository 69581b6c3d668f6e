"""Where image files lie: in a folder, or in a zip that is not unpacked."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from causalvae_pyro.datasets.cache import file_states

__all__ = ["FolderImages", "ZippedImages", "first"]


class FolderImages:
    """Image files in a folder.

    Attributes:
        names: Of the files.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.names = path, {name for name in os.listdir(path) if _is_image(name)}

    def read(self, name: str) -> bytes:
        """What is in a file."""
        return (self.path / name).read_bytes()

    def states(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """What a cache of some files goes by; see :func:`~causalvae_pyro.datasets.cache.file_states`."""
        return file_states(os.path.join(self.path, name) for name in names)


class ZippedImages:
    """Image files in a zip, in whatever folder there.

    Attributes:
        names: Of the files, without their folder.

    Raises:
        ValueError: If it is no zip, the end of it is missing, or two of its folders hold files of one name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise ValueError(f"root: {path} is damaged ({error}); copy or download it again") from None
        self._members: dict[str, str] = {}
        for member in self._zip.namelist():
            name = member.rpartition("/")[2]
            if _is_image(name) and self._members.setdefault(name, member) != member:
                raise ValueError(
                    f"root: {self.path} holds two files named {name}: {self._members[name]} and {member}; valid: one of each name"
                )
        self.names = set(self._members)

    def read(self, name: str) -> bytes:
        """What is in a file; ``OSError`` where it is damaged."""
        try:
            return self._zip.read(self._members[name])
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise OSError(f"damaged in the zip ({error})") from None

    def states(self, names: Sequence[str]) -> list[tuple[int, int]]:
        """As of :class:`FolderImages`, but of the whole zip: it changes with every file in it."""
        return file_states([self.path])


def first(names: list[str]) -> str:
    """The first three names, for messages."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _is_image(name: str) -> bool:
    # macOS puts a hidden file beside each in a zip.
    return name.lower().endswith((".jpg", ".jpeg", ".png")) and not name.startswith(".")
