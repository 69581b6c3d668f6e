"""How far a long job is, on standard error: a bar on a terminal or in a notebook, a line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TextIO

from tqdm.auto import tqdm

__all__ = ["Progress", "is_terminal", "say", "tracked"]


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody watches a stream as it is written, so that a line may be written over."""
    return stream is not None and hasattr(stream, "isatty") and not stream.closed and stream.isatty()


def say(text: str, stream: TextIO | None = None) -> None:
    """Writes a line at once; a bar that is being shown stays whole, below it.

    Args:
        text: The line.
        stream: Where to; standard error by default.
    """
    stream = sys.stderr if stream is None else stream
    tqdm.write(text, file=stream)
    stream.flush()


class Progress:
    """Counts units of a long job and shows how many there are.

    Log files and pipes would hold every update of a bar. There it is a line each ``every`` units and one at the end, with the
    seconds since the start and an estimate of those that are left.

    Args:
        total: Units in all.
        what: What the job is.
        unit: What is counted.
        initial: Units that are done already.
        every: Units between two lines; without there are none.
        show: Whether to show anything.
    """

    def __init__(
        self, total: int, what: str, *, unit: str = "step", initial: int = 0, every: int | None = None, show: bool = True
    ) -> None:
        self.total, self.what, self.unit, self.initial, self.done = total, what, unit, initial, initial
        self.every = max(1, every or 1)
        bar = show and (is_terminal(sys.stderr) or "ipykernel" in sys.modules)
        self._lines = show and not bar and every is not None
        self._started = time.perf_counter()
        # Not tqdm's own disable=None: its notebook widgets need no terminal.
        self._bar = tqdm(
            total=total, initial=initial, desc=what, unit=unit, disable=not bar, dynamic_ncols=True, mininterval=0.5, leave=True
        )

    def describe(self, what: str) -> None:
        """Says what the job is about now."""
        self.what = what
        self._bar.set_description(what, refresh=False)

    def update(self, count: int = 1, note: str = "") -> None:
        """Counts.

        Args:
            count: Units that have been done.
            note: Shown behind the count.
        """
        before, self.done = self.done, self.done + count
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
        if self._lines and (self.done // self.every > before // self.every or before < self.total <= self.done):
            say(self._line(note))

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _line(self, note: str) -> str:
        seconds = time.perf_counter() - self._started
        left = seconds * (self.total - self.done) / max(1, self.done - self.initial)
        parts = [f"{self.done}/{self.total} {self.unit}s", note, f"{seconds:.0f} s", f"{left:.0f} s left" if left >= 0.5 else ""]
        return f"{self.what}: {', '.join(part for part in parts if part)}"


def tracked(count: int, what: str, *, unit: str = "step", show: bool = True) -> Iterator[int]:
    """``range(count)`` with its progress, ten lines of it where there is no bar.

    Args:
        count: See :class:`Progress`, as for the others.
        what: What the job is.
        unit: What is counted.
        show: Whether to show anything.
    """
    with Progress(count, what, unit=unit, every=count // 10, show=show) as progress:
        for i in range(count):
            yield i
            progress.update()
