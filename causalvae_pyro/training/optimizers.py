"""The default optimiser."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from torch import nn

__all__ = ["parameter_groups"]


def parameter_groups(modules: Iterable[nn.Module], parameters: Iterable[nn.Parameter], lr: float) -> list[dict[str, Any]]:
    """Adam's parameter groups, one for each ``lr_factor``; of nested modules that have one, the innermost counts."""
    factor: dict[nn.Parameter, float] = {}
    for module in chain.from_iterable(m.modules() for m in modules):
        # From the module's own dictionaries: access to a PyroModule's attribute emits a Pyro statement.
        own = vars(module).get("lr_factor", getattr(type(module), "lr_factor", None))
        if own is not None:
            factor.update(dict.fromkeys(module.parameters(), float(own)))
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(factor.get(parameter, 1.0), []).append(parameter)
    # The gradients of parts that run ahead fall by orders of magnitude within an epoch; Adam's usual memory of 1,000 steps
    # would hold them back for as long.
    return [{"params": group, "lr": lr * size, "betas": (0.9, 0.999 if size == 1.0 else 0.99)} for size, group in groups.items()]
