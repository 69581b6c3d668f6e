"""The entry point: finds the command, and turns what can go wrong into one line and an exit status."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    arguments = parse(argv)
    try:
        # PyTorch is imported here, so that the help and the errors above take no time.
        with _ctrl_c_exits():
            command = import_module(f"causalvae_pyro.cli.{arguments.command}")
        command.run(arguments)
    except KeyboardInterrupt:
        on = "; the same command with --resume continues from here" if arguments.command == "train" else ""
        print(f"{_INTERRUPTED}{on}", file=sys.stderr)
        return 130
    except FloatingPointError as error:
        # NonFiniteLossError, which cannot be imported without PyTorch.
        print(f"causalvae: error: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError, ModuleNotFoundError) as error:
        # Messages of libraries may go on for many lines.
        print(f"causalvae: error: {(str(error) or type(error).__name__).splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


_INTERRUPTED = "causalvae: interrupted"


@contextmanager
def _ctrl_c_exits() -> Iterator[None]:
    """While modules are imported, Ctrl-C ends the process at once.

    Raised within an import, KeyboardInterrupt may come out as another error or be lost. There is nothing to clean up yet.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def stop(number: int, frame: Any) -> None:
        os.write(2, f"{_INTERRUPTED}\n".encode())
        os._exit(130)

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
