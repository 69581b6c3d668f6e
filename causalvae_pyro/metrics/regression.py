"""How well concepts predict their labels."""

from __future__ import annotations

from torch import Tensor

__all__ = ["r2_score"]


def r2_score(predicted: Tensor, target: Tensor) -> Tensor:
    """Coefficient of determination per column, without any refit.

    Args:
        predicted: ``[N, ...]``.
        target: ``[N, ...]``, same shape.

    Returns:
        ``[...]``, ``1 - sum (y - y')^2 / sum (y - mean y)^2``; 1 is perfect, 0 as good as the mean, negative worse.

    Raises:
        ValueError: If the shapes differ, or a target column is constant.

    Example:
        >>> r2_score(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0])).item()
        1.0
    """
    if predicted.shape != target.shape:
        raise ValueError(f"predicted: expected the target's shape {list(target.shape)}, got {list(predicted.shape)}")
    predicted, target = predicted.double(), target.double()
    total = (target - target.mean(0)).square().sum(0)
    if not bool((total > 0).all()):
        raise ValueError("target: a column is constant, its R^2 is undefined")
    return 1 - (target - predicted).square().sum(0) / total
