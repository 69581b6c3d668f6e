"""What a command says while it works: the stage that it is in, and how long each has taken."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from causalvae_pyro.utils.progress import is_terminal, say

__all__ = ["Stages"]

_GREEN, _PLAIN, _ERASE = "\x1b[32m", "\x1b[0m", "\r\x1b[K"


class Stages:
    """Says one line for each stage.

    Scores for scripts have standard output to themselves; what is said then goes to standard error.

    Args:
        quiet: Say nothing.
        scores: Print the scores as JSON.
    """

    def __init__(self, *, quiet: bool = False, scores: bool = False) -> None:
        self.quiet, self.scores = quiet, scores
        self.started = time.perf_counter()
        self._stream = sys.stderr if scores else sys.stdout
        self._watched = is_terminal(self._stream) and os.environ.get("TERM") != "dumb"
        # https://no-color.org
        self._coloured = self._watched and not os.environ.get("NO_COLOR")
        self._announced = ""

    @property
    def seconds(self) -> float:
        """Since the command began."""
        return time.perf_counter() - self.started

    def say(self, text: str) -> None:
        """Says a line."""
        if self.quiet:
            return
        self._write(_ERASE if self._announced else "")
        say(text, self._stream)
        self._write(self._announced)

    @contextmanager
    def stage(self, name: str, *, bars: bool = False) -> Iterator[Callable[[str], None]]:
        """Says what a stage has done, and its seconds, when it is over.

        Args:
            name: Of the stage.
            bars: It shows bars of its own while it goes on. Without, a terminal shows its name meanwhile.

        Yields:
            What takes the notes for the line.
        """
        notes: list[str] = []
        began = time.perf_counter()
        if not bars and self._watched and not self.quiet:
            self._announced = f"{name} ..."
            self._write(self._announced)
        try:
            yield notes.append
        finally:
            self._write(_ERASE if self._announced else "")
            self._announced = ""
        head = f"{name:<9}"
        head = f"{_GREEN}{head}{_PLAIN}" if self._coloured else head
        self.say(f"{head} {', '.join(notes)} ({time.perf_counter() - began:.1f} s)")

    def finish(self, scores: Mapping[str, Any], table: str, page: str | os.PathLike | None) -> None:
        """Shows the scores: as a table, or as JSON.

        Args:
            scores: From :func:`~causalvae_pyro.evaluation.evaluate`.
            table: The same for a reader.
            page: The report, where there is one.
        """
        if self.scores:
            print(json.dumps(scores, indent=1), flush=True)
            return
        self.say(f"\n{table}")
        if page is not None:
            self.say(f"\nFigures, scores and settings: {page}")

    def _write(self, text: str) -> None:
        if text:
            self._stream.write(text)
            self._stream.flush()
