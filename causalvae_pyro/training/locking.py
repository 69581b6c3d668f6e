"""One training run per directory."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from causalvae_pyro.utils.files import write_text

__all__ = ["DirectoryLock"]

# What file systems without locks answer.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
# Seconds to wait for a holder that is just leaving.
_PATIENCE = 0.5


class DirectoryLock:
    """A :class:`filelock.FileLock` on a directory that names its holder and leaves nothing behind.

    The operating system releases the lock when its process ends, however it ends; the files that are then left block nobody.
    The holder's process number stands in a second file, since the lock file itself is locked on Windows. Where the file system
    has no locks, nobody is kept out.

    Args:
        path: The lock file, in the directory; the holder's file has the suffix ``.holder``. The directory is made where it is
            missing, and removed again if nothing is put in it.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.holder = self.path.with_suffix(".holder")
        self._lock = filelock.FileLock(self.path)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lock for a while; its holder may take it again.

        Raises:
            ValueError: If another holds it (the message names the process), or the lock file is a symbolic link.
        """
        if self._lock.is_locked:
            yield
            return
        made = [folder for folder in (self.path.parent, *self.path.parents[1:]) if not folder.exists()]
        owner = os.getpid()
        try:
            self._take(owner)
            yield
        finally:
            # A forked child has no part in it.
            if owner == os.getpid():
                self._leave()
                with suppress(OSError):  # There is something in it.
                    for folder in made:
                        folder.rmdir()

    def _take(self, owner: int) -> None:
        while not self._lock.is_locked:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._lock.acquire(timeout=_PATIENCE)
            except FileNotFoundError:
                # Another has just left, and taken along the directory that it had made.
                continue
            except filelock.Timeout:
                raise ValueError(
                    f"checkpoint: {self._name()} is training into {self.path.parent}; wait for its end, or give another directory"
                ) from None
            except OSError as error:
                if self.path.is_symlink():
                    raise ValueError(f"checkpoint: {self.path} is a symbolic link; remove it") from None
                if error.errno not in _NO_LOCKS:
                    raise
                self.path.unlink(missing_ok=True)
                return
        write_text(self.holder, f"process {owner} on {socket.gethostname()}\n")

    def _name(self) -> str:
        try:
            return self.holder.read_text(encoding="utf-8", errors="replace").strip()[:200] or "another process"
        except OSError:
            return "another process"

    def _leave(self) -> None:
        if not self._lock.is_locked:
            return
        self.holder.unlink(missing_ok=True)
        with suppress(OSError):  # Windows keeps a file that is open; filelock removes it there.
            # While it is held: filelock takes no lock on a file that has been removed.
            self.path.unlink()
        self._lock.release()
