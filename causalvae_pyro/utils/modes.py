"""Modules in evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.poutine.messenger import unwrap
from torch import Tensor, nn

__all__ = ["evaluation_mode", "frozen", "gradients", "keeps_gradients"]


def keeps_gradients(grad: bool | None, *values: Any) -> bool:
    """Whether to record gradients: as told, else where the grad mode is on and one of the values requires a gradient."""
    if grad is not None:
        return grad
    return torch.is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in values)


def gradients(grad: bool | None, *values: Any) -> Any:
    """A context that records gradients, or does not; see :func:`keeps_gradients`."""
    return torch.set_grad_enabled(keeps_gradients(grad, *values))


@contextmanager
def evaluation_mode(*modules: Any) -> Iterator[None]:
    """Modules and all their parts in evaluation mode; afterwards each part is in the mode that it was in.

    Batch normalisation, dropout and augmentation then treat each image independently, use no random numbers and update nothing,
    also if this is called during a training run.

    Args:
        *modules: Modules, as they are or wrapped by Pyro's handlers; other callables are left alone.
    """
    roots = [root for root in map(unwrap, modules) if isinstance(root, nn.Module)]
    training = [part for root in roots for part in root.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """As :func:`evaluation_mode`, and the network's parameters out of the gradient's reach."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        with evaluation_mode(network):
            yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
