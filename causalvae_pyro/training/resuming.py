"""The state of a training run in one file, from which it resumes exactly."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from causalvae_pyro.training.locking import DirectoryLock
from causalvae_pyro.utils.files import write_bytes

__all__ = ["LOCK", "STATE", "TrainingCheckpoint", "read_state"]

STATE, LOCK = "training.pt", "training.lock"
FORMAT = 2


class TrainingCheckpoint:
    """Where, and how often, :func:`~causalvae_pyro.fit` keeps the state of the training.

    The file holds weights, optimiser, random numbers, place in the data, history and what callbacks and terms remember. It is
    written under another name and then renamed, so that at any moment there is a whole one, the last or the one before.
    While a training goes on, ``training.lock`` beside it keeps other trainings out of the directory; it is void when the process
    that holds it has ended, and does not concern those who only read.

    Args:
        path: The directory; the file is ``training.pt`` in it.
        every: Steps between two writes. A state is also written after every epoch.
        settings: What makes this training this one beside what ``fit`` knows (most of its arguments, and what the data look
            like), such as the recipe: numbers, strings, lists and dictionaries of these. A state with others is refused.
    """

    def __init__(self, path: str | os.PathLike, *, every: int = 200, settings: Mapping[str, Any] | None = None) -> None:
        if every < 1:
            raise ValueError(f"every: got {every}; must be at least 1")
        self.file, self.every, self.settings = Path(path) / STATE, every, dict(settings or {})
        self._lock = DirectoryLock(Path(path) / LOCK)

    def lock(self) -> AbstractContextManager[None]:
        """Keeps every other training out of the directory for a while; :func:`~causalvae_pyro.fit` does so itself.

        Raises:
            ValueError: On entry, if another training is there; the message says which process.
        """
        return self._lock.held()

    def write(self, state: Mapping[str, Any]) -> None:
        """Writes a state, atomically."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        content = {"format": None, **_plain(state)}
        torch.save({**content, "format": FORMAT, "digest": _digest(content)}, buffer)
        write_bytes(self.file, buffer.getvalue())

    def remove(self) -> None:
        """Removes what an earlier training has left."""
        self.file.unlink(missing_ok=True)

    def read(self) -> dict[str, Any] | None:
        """The state that was written last; ``None`` if there is none.

        Raises:
            ValueError: If the file is damaged, or not such a file.
        """
        return read_state(self.file) if self.file.is_file() else None


def _plain(value: Any, where: str = "state") -> Any:
    """The same of types that can be read without unpickling anything else.

    Raises:
        ValueError: If there is something of another type in it.
    """
    if isinstance(value, torch.Tensor) or value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {_plain(key, where): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(item, f"{where}[{i}]") for i, item in enumerate(value))
    raise ValueError(
        f"checkpoint: {where} is of type {type(value).__name__}; a state takes tensors, numbers, strings, lists, dicts"
    )


def _digest(value: Any) -> str:
    """Of a plain state, with all types, shapes and orders in it."""
    digest = hashlib.blake2b()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            add([str(value.dtype), list(value.shape)])
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, (dict, list, tuple)):
            digest.update(f"{type(value).__name__} {len(value)}\n".encode())
            for item in value.items() if isinstance(value, dict) else value:
                add(item)
        else:
            digest.update(f"{value!r}\n".encode(errors="surrogatepass"))

    add(value)
    return digest.hexdigest()


def read_state(file: str | os.PathLike) -> dict[str, Any]:
    """Reads what :class:`TrainingCheckpoint` has written; nothing but tensors and plain values is unpickled.

    Raises:
        ValueError: If the file is damaged, not such a file, or not as it was written.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        whole = isinstance(state, dict) and state.pop("digest", None) == _digest({**state, "format": None})
    except Exception as error:
        # Of many types, depending on where the damage lies.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"resume: {file} is truncated or not a training state ({reason})") from None
    if not isinstance(state, dict) or "format" not in state:
        raise ValueError(f"resume: {file} is not a training state")
    if state["format"] != FORMAT:
        raise ValueError(f"resume: {file} has format {state['format']!r}; this version reads format {FORMAT}")
    if not whole:
        # What does not fit would show in the middle of a step, in words of PyTorch's.
        raise ValueError(f"resume: {file} has been changed since it was written; train anew, or copy it again")
    return state
