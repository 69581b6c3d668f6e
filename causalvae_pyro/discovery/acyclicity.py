"""Acyclicity functions: differentiable, >= 0, and zero exactly where the weights' nonzero entries form a DAG.

All take edge strengths ``[n, n]`` of any sign and see their squares ``A o A`` only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["exponential_acyclicity", "logdet_acyclicity", "polynomial_acyclicity"]


def polynomial_acyclicity(weights: Tensor, scale: float | None = None) -> Tensor:
    """The paper's ``H(A) = tr((I + (c/m) A o A)^n) - n``.

    Args:
        weights: ``[n, n]`` edge strengths.
        scale: The factor ``c/m``; ``1/n`` by default, which bounds the powers.

    Returns:
        A scalar >= 0, differentiable in ``weights``.

    Source: Yang et al. 2021, after Yu et al., DAG-GNN, 2019.

    Example:
        >>> polynomial_acyclicity(torch.tensor([[0.0, 2.0], [0.0, 0.0]])).item()
        0.0
    """
    n = _size(weights)
    scale = 1.0 / n if scale is None else scale
    return torch.trace(torch.linalg.matrix_power(_eye(weights) + scale * weights * weights, n)) - n


def exponential_acyclicity(weights: Tensor) -> Tensor:
    """NOTEARS' ``tr(exp(A o A)) - n``: every closed walk counts, long ones less.

    Args:
        weights: ``[n, n]`` edge strengths.

    Returns:
        A scalar >= 0, differentiable in ``weights``.

    Source: Zheng et al., DAGs with NO TEARS, 2018.

    Example:
        >>> exponential_acyclicity(torch.tensor([[0.0, 2.0], [0.0, 0.0]])).item()
        0.0
    """
    n = _size(weights)
    return torch.trace(torch.linalg.matrix_exp(weights * weights)) - n


def logdet_acyclicity(weights: Tensor, s: float = 1.0) -> Tensor:
    """DAGMA's ``-log det(s I - A o A) + n log s``, whose gradient does not vanish with long cycles.

    It is defined while the spectral radius of ``A o A`` lies below ``s``. The largest row sum bounds the radius, and so does the
    largest column sum: where both come near ``s`` or lie above it, ``s`` is raised to just above the smaller, without a gradient.
    So the function stays finite, and is zero on the same graphs.

    Args:
        weights: ``[n, n]`` edge strengths.
        s: Size of the domain, > 0.

    Returns:
        A scalar >= 0, differentiable in ``weights``.

    Source: Bello et al., DAGMA, 2022.

    Example:
        >>> logdet_acyclicity(torch.tensor([[0.0, 0.5], [0.0, 0.0]])).item()
        0.0
    """
    n = _size(weights)
    if not s > 0:
        raise ValueError(f"s: got {s}; must be > 0")
    squares = weights * weights
    with torch.no_grad():
        bound = torch.minimum(squares.sum(0).max(), squares.sum(1).max()).item()
    s = max(s, 1.01 * bound)
    return n * math.log(s) - torch.linalg.slogdet(s * _eye(weights) - squares).logabsdet


def _size(weights: Tensor) -> int:
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1]:
        raise ValueError(f"weights: expected a square matrix, got shape {list(weights.shape)}")
    return len(weights)


def _eye(like: Tensor) -> Tensor:
    return torch.eye(len(like), dtype=like.dtype, device=like.device)
