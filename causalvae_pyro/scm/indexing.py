"""Some of the concepts, without a wait for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["take"]


def take(tensor: Tensor, index: Sequence[int] | None, dim: int = 0) -> Tensor:
    """These entries along one dimension; all of them for ``None``.

    Indexing with a list copies the list to the tensor's device, and a GPU is waited for meanwhile. Here it never is.

    Args:
        tensor: Any tensor.
        index: Which entries, in this order.
        dim: The dimension.
    """
    if index is None:
        return tensor
    if tensor.device.type == "cpu":
        return tensor.index_select(dim, torch.tensor(index, dtype=torch.long))
    first = index[0] if index else 0
    if list(index) == list(range(first, first + len(index))):
        return tensor.narrow(dim, first, len(index))
    return torch.stack([tensor.select(dim, i) for i in index], dim)
