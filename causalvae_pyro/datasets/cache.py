"""Images that are decoded once, into a memory-mapped file that is there whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from causalvae_pyro.utils.progress import Progress

__all__ = ["UndecodableError", "cache_folder", "cores", "digest", "file_states", "fill_cache", "open_cache"]


# Images that a thread takes at a time: one by one takes 1.4 times as long. So many of them are in memory for each thread.
_CHUNK, _CHUNKS = 64, 4


class UndecodableError(Exception):
    """An image of a cache cannot be decoded; the message, one line, names its file."""


def cores() -> int:
    """Cores that this process may use; containers and job schedulers often grant fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_folder(folder: Path) -> Path:
    """Where decoded images are kept: beside the data, or in the user's folder for caches where nothing can be written there."""
    if os.access(folder, os.W_OK):
        return folder
    result = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "causalvae_pyro"
    result.mkdir(parents=True, exist_ok=True)
    return result


def file_states(paths: Iterable[str | os.PathLike]) -> list[tuple[int, int]]:
    """Size (bytes) and time of change (nanoseconds) of files, which tell whether they are still those that a cache is of."""
    return [((found := os.stat(path)).st_size, found.st_mtime_ns) for path in paths]


def digest(*parts: object) -> str:
    """What a cache is of, as 16 hexadecimal digits for its name: its images' folder, names and :func:`file_states`, options."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def fill_cache(cache: Path, images: Dataset, shape: Sequence[int], *, workers: int | None = None, progress: bool = True) -> None:
    """Writes images under another name, and renames the file when it is whole.

    Args:
        cache: The ``.npy`` file to make.
        images: Data set of ``N`` uint8 tensors ``[C, H, W]``; raises :class:`UndecodableError` for those that it cannot read.
        shape: ``(C, H, W)``.
        workers: Threads that decode; by default :func:`cores`.
        progress: Show a progress bar.

    Raises:
        UndecodableError: If an image cannot be decoded.
        OSError: If the file cannot be written.
    """
    temporary = cache.with_name(f"{cache.name}.{os.getpid()}.tmp")
    count = len(images)  # type: ignore[arg-type]
    threads = max(1, cores() if workers is None else workers)
    at_once = threads * _CHUNKS * _CHUNK
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    try:
        # Not through a memory map: on a full disk that ends the process with SIGBUS instead of raising.
        with (
            open(temporary, "wb") as file,
            Progress(count, f"decoding {cache.name}", unit="image", every=count // 10, show=progress) as bar,
            # Threads, not processes: Pillow reads and resizes without Python's lock, and none is left behind by an error.
            ThreadPoolExecutor(threads) as pool,
        ):
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, count, at_once):
                rows = range(start, min(start + at_once, count))
                chunks = [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
                for chunk in pool.map(lambda chunk: torch.stack([images[i] for i in chunk]), chunks):
                    file.write(chunk.numpy().tobytes())
                    bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, cache)
    finally:
        temporary.unlink(missing_ok=True)


def open_cache(cache: Path, shape: Sequence[int], argument: str) -> Tensor:
    """The cached images ``[N, C, H, W]``, memory-mapped.

    Args:
        cache: The ``.npy`` file.
        shape: ``(N, C, H, W)``.
        argument: Which argument an error names.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        # Copy on write: torch refuses tensors on read-only memory, and nobody writes here.
        array = np.load(cache, mmap_mode="c")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{argument}: the cache {cache} is damaged ({error}); delete it to have it made again") from None
    if array.shape != tuple(shape) or array.dtype != np.uint8:
        raise ValueError(f"{argument}: the cache {cache} is damaged (it holds {array.shape}); delete it to have it made again")
    return torch.from_numpy(array)
