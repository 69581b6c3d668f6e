"""One thread at a time in Pyro: its stack of handlers is one for the whole process."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["one_at_a_time", "pyro_lock"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: Held by whatever runs a Pyro program in this package: counterfactuals and the like, a step of a training, the live page. Who
#: holds it may take it again. Programs of one's own that run in a thread beside these take it too: ``with pyro_lock: ...``.
pyro_lock = threading.RLock()


def one_at_a_time(function: _Function) -> _Function:
    """The same function, which holds :data:`pyro_lock` while it runs; not for generators, which would hold it between values."""

    @functools.wraps(function)
    def locked(*args: Any, **kwargs: Any) -> Any:
        with pyro_lock:
            return function(*args, **kwargs)

    return locked  # type: ignore[return-value]
