"""Files that users name; and files written so that a reader sees the old content or the new, never half of one."""

from __future__ import annotations

import csv
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "check_target",
    "check_writable",
    "ends_with_line_break",
    "first_of",
    "input_file",
    "open_table",
    "user_path",
    "write_bytes",
    "write_text",
]

#: Names of files that are being written: nobody can foretell them, and nobody else gives them.
_TEMPORARY = re.compile(r"\.causalvae-[0-9a-f]{16}\.tmp")
#: Seconds after which such a file is looked at; by then who writes it has locked it.
_YOUNG = 2.0
#: Seconds after which it is taken for left behind where there are no locks.
_OLD = 86400.0
_KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}


def user_path(path: str | os.PathLike) -> Path:
    """A path that a user gave; ``~`` is the home folder, as in a shell."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        # Of a user who has none: a file of that name.
        return Path(path)


def input_file(path: str | os.PathLike, argument: str) -> Path:
    """A file to read, more than once if need be.

    Args:
        path: As the user gave it.
        argument: Which argument an error names.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no regular file: a folder, or a pipe, which could be read once and may never end.
    """
    path = user_path(path)
    if path.is_file():
        return path
    if path.is_dir():
        raise ValueError(f"{argument}: {path} is a folder; expected a file")
    if path.exists():
        raise ValueError(f"{argument}: {path} is a pipe or a device; expected a file: write what it holds into one")
    raise FileNotFoundError(f"{argument}: {path} does not exist")


@contextmanager
def open_table(path: str | os.PathLike, what: str) -> Iterator[TextIO]:
    """Opens a CSV file. What is no table, to Python's reader or by its encoding, is a ``ValueError`` on ``what``."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            yield file
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{what} is not a CSV table ({error})") from None


def ends_with_line_break(path: str | os.PathLike) -> bool:
    """Whether the last line of a file is ended. That of a table that was cut off seldom is, and its last number lacks digits."""
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(file.tell() - 1, 0))
        return file.read() in (b"\n", b"\r")


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file atomically: under another name in the same directory, flushed to disk, then renamed.

    A file that is replaced keeps its permissions, a new one has those that the process gives. A symbolic link is replaced, and
    what it points to stays as it is. What killed processes have left half written in the directory is removed.

    Raises:
        ValueError: If there is something else than a file: a directory, a device, a pipe.
        OSError: If it cannot be written.
    """
    target = Path(path)
    check_target(target)
    _remove_left_over(target.parent)
    with _temporary(target.parent) as (file, temporary):
        if hasattr(os, "fchmod") and target.is_file() and not target.is_symlink():
            os.fchmod(file.fileno(), target.stat().st_mode & 0o777)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        if fcntl is None:
            # Windows renames no open file. Elsewhere an open one is locked, by which others know that it is being written.
            file.close()
        os.replace(temporary, target)


def write_text(path: str | os.PathLike, text: str) -> None:
    """As :func:`write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


def check_target(path: str | os.PathLike, what: str = "path") -> None:
    """Tells before any work whether :func:`write_bytes` would refuse a path for what is there now.

    Args:
        path: The file to be written.
        what: What the message calls it.

    Raises:
        ValueError: If there is something else than a file: a directory, a device, a pipe.
    """
    target = Path(path)
    try:
        kind = _KINDS.get(stat.S_IFMT(target.stat().st_mode))
    except OSError:
        # Nothing is there, or writing says more about it.
        return
    # The standard output is a link in /dev, even where it leads to a file: renaming would replace the link, for everybody.
    if kind is None and target.is_symlink() and Path(os.path.realpath(target.parent)).parts[1:2] in (("dev",), ("proc",)):
        kind = "device"
    if kind is not None:
        raise ValueError(f"{what}: {path} is a {kind}; give the name of a file")


def check_writable(directory: str | os.PathLike, what: str = "path") -> None:
    """Tells before any work whether files can be written into a directory, or the directory made, by writing an empty one.

    Args:
        directory: The directory; it is not made.
        what: What the message calls it.

    Raises:
        OSError: If not, with the reason in words and as ``errno``.
    """
    place = Path(directory).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with _temporary(place):
            pass
    except OSError as error:
        refusal = type(error)(f"{what}: {directory} cannot be written ({error.strerror})")
        refusal.errno = error.errno
        raise refusal from None


@contextmanager
def _temporary(directory: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file, locked while it is open and removed afterwards; mode "x" follows no link and takes no file that is there."""
    path = directory / f".causalvae-{secrets.token_hex(8)}.tmp"
    try:
        with open(path, "xb") as file:
            _lock(file.fileno())
            yield file, path
    finally:
        path.unlink(missing_ok=True)


def _remove_left_over(directory: Path) -> None:
    """Removes what processes that were killed have left half written, and nothing that is being written."""
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if not _TEMPORARY.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
                continue
            age = time.time() - entry.stat(follow_symlinks=False).st_mtime
            # Of the young ones the lock may be about to be taken.
            if age > _OLD or (age > _YOUNG and _is_free(entry.path)):
                os.unlink(entry.path)


def _is_free(path: str) -> bool:
    """Whether nobody has the file locked, as far as the system knows."""
    if fcntl is None:
        return False
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Takes the lock of an open file; false where another has it, or there are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def first_of(names: Sequence[str]) -> str:
    """The first three names of several, and that there are more."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
