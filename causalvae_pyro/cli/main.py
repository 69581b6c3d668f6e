"""The entry point: finds the command, and turns what can go wrong into one line and an exit status."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from causalvae_pyro.cli.arguments import parse

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console command.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        The exit status: 0, 2 for bad input, 1 for a failed training, 130 after Ctrl-C.
    """
    command = ""
    with _CtrlC() as ctrl_c:
        try:
            arguments = parse(argv)
            command = arguments.command
            # PyTorch is imported here, so that the help and the errors above take no time.
            ctrl_c.importing = True
            module = import_module(f"causalvae_pyro.cli.{command}")
            ctrl_c.importing = False
            module.run(arguments)
        except Exception as error:
            # What is imported later, and other libraries, make errors of their own of an interruption.
            if not ctrl_c.pressed:
                return _failed(error)
        except KeyboardInterrupt:
            pass
        else:
            return 0
        ctrl_c.ended = True
        on = "; the same command with --resume continues from here" if command == "train" else ""
        print(f"{_INTERRUPTED}{on}", file=sys.stderr)
        return 130


def _failed(error: Exception) -> int:
    """One line for what can go wrong, and its exit status; everything else is raised again."""
    if isinstance(error, FloatingPointError):
        # NonFiniteLossError, which cannot be imported without PyTorch.
        print(f"causalvae: error: {error}", file=sys.stderr)
        return 1
    if isinstance(error, (ValueError, OSError, ModuleNotFoundError)):
        # Messages of libraries may go on for many lines.
        print(f"causalvae: error: {(str(error) or type(error).__name__).splitlines()[0]}", file=sys.stderr)
        return 2
    raise error


_INTERRUPTED = "causalvae: interrupted"


class _CtrlC:
    """Ctrl-C while the command runs: it raises KeyboardInterrupt as ever, which is noted.

    Raised within the import of PyTorch it may come out as another error, or be lost. Then the process ends at once; there is
    nothing to clean up yet.
    """

    def __init__(self) -> None:
        self.importing = self.pressed = self.ended = False

    def __enter__(self) -> _CtrlC:
        here = threading.current_thread() is threading.main_thread()
        # Whoever has a handler of their own keeps it.
        self.installed = here and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self.installed:
            signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self.installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _press(self, number: int, frame: Any) -> None:
        if self.importing:
            os.write(2, f"{_INTERRUPTED}\n".encode())
            os._exit(130)
        self.pressed = True
        if not self.ended:
            raise KeyboardInterrupt
