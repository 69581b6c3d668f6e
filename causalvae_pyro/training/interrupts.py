"""Ctrl-C that waits for the end of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["CtrlC"]


class CtrlC:
    """Whether Ctrl-C has been pressed.

    Attributes:
        pressed: Whether it was, within :meth:`deferred`.
    """

    def __init__(self) -> None:
        self.pressed = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A first Ctrl-C is only noted here; a second one raises ``KeyboardInterrupt``. Only the main thread gets any."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: Any) -> None:
            if self.pressed:
                raise KeyboardInterrupt
            self.pressed = True

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
