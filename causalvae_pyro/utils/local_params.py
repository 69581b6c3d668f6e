"""Keeping a module's parameters its own, out of Pyro's process-wide parameter store."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
from pyro.nn import PyroModule
from pyro.poutine.messenger import unwrap
from torch import nn

from causalvae_pyro.utils.compat import ensure_local_params, is_pyro_attribute, random_attributes, rename_root

__all__ = ["LocalParamModule", "local_params", "sample_attributes"]


class _Quiet(threading.local):
    """One flag per thread: a training run in one thread must not silence the handlers of another."""

    on = False


_quiet = _Quiet()
_numbers = itertools.count()
# Pyro's setting is the process's. The first who needs it switches it on, and the last puts back what was there, in whatever
# order threads come and go.
_guard = threading.Lock()
_users, _before = 0, False


class LocalParamModule(PyroModule):
    """A :class:`~pyro.nn.PyroModule` with local parameters, whose attribute access can emit no param statements.

    Each access to a module or parameter of a ``PyroModule`` emits a param statement for every parameter below it, dozens in a
    training step. Under ``local_params(..., quiet=True)`` attribute access emits none.

    Pyro's parameter store is keyed by a root's name, so each module gets a name that no other in the process has, and a deep
    copy one of its own: under one name, the second of two models would silently train the first.

    Args:
        kind: What the name begins with.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(f"{kind}_{next(_numbers)}")
        self._kind, self._root = kind, self._pyro_name

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        new = memo[id(self)] = type(self).__new__(type(self))
        new.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        if self._pyro_name == self._root:  # the parts of another module are named by it
            new._root = f"{self._kind}_{next(_numbers)}"
            rename_root(new, self._root, new._root)
        return new

    def __getattr__(self, name: str) -> Any:
        if _quiet.on and not is_pyro_attribute(self, name):
            found = nn.Module.__getattr__(self, name)
            if not isinstance(found, PyroModule):
                return found
        return super().__getattr__(name)


def sample_attributes(module: Any) -> None:
    """Draws all attributes of a module and its parts that are a :class:`pyro.nn.PyroSample`; later access gets the same values.

    Args:
        module: A module, or anything else, which has none.
    """
    for part, name in random_attributes(module):
        getattr(part, name)


@contextmanager
def local_params(*modules: Any, quiet: bool = False) -> Iterator[None]:
    """Runs Pyro modules on their own parameters.

    By default, running a :class:`~pyro.nn.PyroModule` copies its weights into a process-wide store, keyed by name: a
    second model of the same name silently gets the first one's weights. Pyro's setting ``module_local_params`` avoids
    that, but raises with ``SVI`` and wants modules that were made under it; this context switches it on for a while and
    makes ready the modules that were made without.

    Args:
        *modules: Models and guides that will run, as modules or wrapped by handlers; other callables are left alone.
        quiet: Emit no param statements for a :class:`LocalParamModule`. Safe only if no handler needs them.
    """
    global _users, _before
    for module in modules:
        module = unwrap(module)
        if isinstance(module, nn.Module):
            ensure_local_params(module)
    before, _quiet.on = _quiet.on, quiet
    with _guard:
        _users += 1
        if _users == 1:
            _before = pyro.settings.get("module_local_params")
            pyro.settings.set(module_local_params=True)
    try:
        yield
    finally:
        with _guard:
            _users -= 1
            if not _users:
                pyro.settings.set(module_local_params=_before)
        _quiet.on = before
