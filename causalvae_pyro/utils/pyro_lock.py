"""One thread at a time in Pyro: its stack of handlers is one for the whole process."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["one_at_a_time", "pyro_lock"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: Held while this package runs a Pyro program: counterfactuals, effects, a training step, the live page. It is reentrant. Take it
#: round your own Pyro programs if other threads use the package meanwhile: ``with pyro_lock: ...``.
pyro_lock = threading.RLock()


def one_at_a_time(function: _Function) -> _Function:
    """The same function, which holds :data:`pyro_lock` while it runs; not for generators, which would hold it between values."""

    @functools.wraps(function)
    def locked(*args: Any, **kwargs: Any) -> Any:
        with pyro_lock:
            return function(*args, **kwargs)

    return locked  # type: ignore[return-value]
