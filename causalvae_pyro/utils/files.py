"""Files that users name, and files written such that a reader sees the old content or the new, never half of one."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

__all__ = ["ends_with_line_break", "input_file", "open_table", "user_path", "write_bytes", "write_text"]


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
    """Writes a file atomically: under another name in the same directory, flushed to disk, then renamed."""
    target = Path(path)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """As :func:`write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())
