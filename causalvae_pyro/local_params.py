"""Keeping a module's parameters its own, out of Pyro's process-wide parameter store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
from pyro.nn import PyroModule
from pyro.poutine.messenger import unwrap
from torch import nn

__all__ = ["local_params"]


@contextmanager
def local_params(*modules: Any) -> Iterator[None]:
    """Runs Pyro modules on their own parameters.

    By default, running a :class:`~pyro.nn.PyroModule` copies its weights into a process-wide store, keyed by name: a
    second model of the same name silently gets the first one's weights. Pyro's setting ``module_local_params`` avoids
    that, but raises with ``SVI`` and wants modules that were made under it; this context switches it on for a while and
    makes ready the modules that were made without.

    Args:
        *modules: Models and guides that will run, as modules or wrapped by handlers; other callables are left alone.
    """
    for module in modules:
        module = unwrap(module)
        if isinstance(module, nn.Module):
            for part in module.modules():
                if isinstance(part, PyroModule) and not hasattr(part._pyro_context, "param_state"):
                    part._pyro_context.param_state = {"params": {}, "constraints": {}}
    with pyro.settings.context(module_local_params=True):
        yield
