"""Keeping a module's parameters its own, out of Pyro's process-wide parameter store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
from pyro.nn import PyroModule
from pyro.poutine.messenger import unwrap
from torch import nn

from causalvae_pyro.utils.compat import ensure_local_params, is_pyro_attribute

__all__ = ["LocalParamModule", "local_params"]

_quiet = False


class LocalParamModule(PyroModule):
    """A :class:`~pyro.nn.PyroModule` that can be looked at without a word.

    Every look at a module or parameter of a ``PyroModule`` is a Pyro statement for each parameter behind it. Under
    ``local_params(..., quiet=True)`` there are none: nobody listens, and a training step has dozens.
    """

    def __getattr__(self, name: str) -> Any:
        if _quiet and not is_pyro_attribute(self, name):
            found = nn.Module.__getattr__(self, name)
            if not isinstance(found, PyroModule):
                return found
        return super().__getattr__(name)


@contextmanager
def local_params(*modules: Any, quiet: bool = False) -> Iterator[None]:
    """Runs Pyro modules on their own parameters.

    By default, running a :class:`~pyro.nn.PyroModule` copies its weights into a process-wide store, keyed by name: a
    second model of the same name silently gets the first one's weights. Pyro's setting ``module_local_params`` avoids
    that, but raises with ``SVI`` and wants modules that were made under it; this context switches it on for a while and
    makes ready the modules that were made without.

    Args:
        *modules: Models and guides that will run, as modules or wrapped by handlers; other callables are left alone.
        quiet: No statements for the parameters of a :class:`LocalParamModule`, for whoever runs them with no handler of such.
    """
    global _quiet
    for module in modules:
        module = unwrap(module)
        if isinstance(module, nn.Module):
            ensure_local_params(module)
    before, _quiet = _quiet, quiet
    try:
        with pyro.settings.context(module_local_params=True):
            yield
    finally:
        _quiet = before
