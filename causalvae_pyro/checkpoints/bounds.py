"""A bound on the memory that a configuration from elsewhere can ask for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

__all__ = ["BoundedMemory"]

#: What makes tensors of the sizes that are its numbers.
_MAKERS = ("arange", "empty", "eye", "linspace", "ones", "rand", "randn", "tril_indices", "triu_indices", "zeros")
#: What makes so many copies of a tensor as its numbers say.
_COPIERS = ("repeat", "tile")


class BoundedMemory(TorchFunctionMode):
    """Refuses to make tensors beyond a sum of bytes, before their memory is taken.

    PyTorch's meta device would tell every size exactly, but takes seconds to import: what an operation is going to make is
    estimated from its arguments instead, and what it has made is counted.

    Args:
        limit: Bytes of all tensors together that are made within, views not counted.

    Raises:
        MemoryError: Where an operation would go beyond the limit.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.left = limit

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        self._check(_estimate(getattr(func, "__name__", ""), args))
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not result._is_view() and not any(result is argument for argument in args):
            self.left -= result.numel() * result.element_size()
            self._check(0)
        return result

    def _check(self, more: int) -> None:
        if more > self.left:
            raise MemoryError("its modules take far more memory than the weights beside it")


def _estimate(name: str, args: Sequence[Any]) -> int:
    """About the bytes of what an operation makes."""
    shapes = [argument.shape for argument in args if isinstance(argument, Tensor)]
    numbers = math.prod(max(1, abs(number)) for number in tree_leaves(list(args)) if type(number) is int)
    if not shapes:
        count = numbers if name in _MAKERS else 0
        return 4 * (count**2 if name == "eye" else count)
    # As broadcasting has it; torch.broadcast_shapes takes seconds to import.
    count = math.prod(map(max, zip_longest(*map(reversed, shapes), fillvalue=1)))
    return 4 * count * (numbers if name in _COPIERS else 1)
