"""One process at a time in a directory, by a lock that dies with it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["DirectoryLock"]

# What file systems say that have no locks.
_UNKNOWN = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class DirectoryLock:
    """Keeps others that ask for the same lock out of a directory, whether in this process or another.

    The operating system lets go of the lock when its process ends, however it ends; the file that is then left behind holds
    nobody up. It says who has the lock. Where the system or the file system has no such locks, nobody is kept out.

    Args:
        path: The file, in the directory. The directory is made where it is missing, and removed again if nothing is put in it.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._depth = self._owner = 0
        self._descriptor: int | None = None
        self._made: list[Path] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lock for a while; who holds it already may do so again.

        Raises:
            ValueError: If another holds it; the message says which process.
        """
        if not self._depth:
            self._take()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._leave()

    def _take(self) -> None:
        directory = self.path.parent
        self._made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
        self._owner = os.getpid()
        try:
            self._lock()
        except BaseException:
            self._tidy()
            raise

    def _lock(self) -> None:
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if fcntl is None:
                return
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:
                # Another has just left, and taken along the directory that it had made.
                continue
            try:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
                    raise ValueError(
                        f"checkpoint: {holder} is training into {self.path.parent}; wait for its end, or give another directory"
                    ) from None
                except OSError as error:
                    if error.errno not in _UNKNOWN:
                        raise
                    self.path.unlink(missing_ok=True)
                    os.close(descriptor)
                    return
                # Who had it before may have removed the file meanwhile, and another may have made it anew.
                if self._is_file(descriptor):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"process {self._owner} on {socket.gethostname()}\n".encode())
                    self._descriptor = descriptor
                    return
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _is_file(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _leave(self) -> None:
        # A process that was forked off meanwhile has no part in it.
        if self._owner != os.getpid():
            return
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None
        self._tidy()

    def _tidy(self) -> None:
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:
                # There is something in it.
                return
