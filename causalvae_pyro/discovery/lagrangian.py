"""The augmented Lagrangian of one equality constraint."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["AugmentedLagrangian"]


class AugmentedLagrangian(nn.Module):
    """``alpha h + rho/2 h^2`` for the constraint ``h = 0``, its state kept in buffers and so in the ``state_dict``.

    Args:
        penalty: ``rho`` at the start, > 0.
        growth: Factor of ``rho`` after a round that brought ``h`` down too little, > 1.
        progress: ``h`` must fall below this share of its last value, in (0, 1), or ``rho`` grows.
        max_penalty: ``rho`` stays at or below it, >= ``penalty``: beyond, rounding errors rule the gradient.
        tolerance: Below or at it ``h`` counts as zero, > 0.

    Source: Zheng et al. 2018, section 4, with their constants.

    Example:
        >>> lagrangian = AugmentedLagrangian()
        >>> lagrangian.update(0.5), lagrangian.update(0.25)
        (False, False)
        >>> lagrangian.multiplier.item(), lagrangian.penalty.item()
        (0.75, 10.0)
    """

    multiplier: Tensor
    penalty: Tensor
    last: Tensor

    def __init__(
        self,
        *,
        penalty: float = 1.0,
        growth: float = 10.0,
        progress: float = 0.25,
        max_penalty: float = 1e8,
        tolerance: float = 1e-8,
    ) -> None:
        super().__init__()
        for argument, value, valid, limits in (
            ("penalty", penalty, penalty > 0, "> 0"),
            ("growth", growth, growth > 1, "> 1"),
            ("progress", progress, 0 < progress < 1, "in (0, 1)"),
            ("max_penalty", max_penalty, max_penalty >= penalty, f">= penalty = {penalty}"),
            ("tolerance", tolerance, tolerance > 0, "> 0"),
        ):
            if not valid:
                raise ValueError(f"{argument}: got {value}; must be {limits}")
        self.growth, self.progress, self.max_penalty, self.tolerance = growth, progress, max_penalty, tolerance
        self.register_buffer("multiplier", torch.zeros(()))
        self.register_buffer("penalty", torch.tensor(float(penalty)))
        self.register_buffer("last", torch.tensor(torch.inf))

    def forward(self, h: Tensor) -> Tensor:
        """The term to add to what is minimised, a scalar."""
        return self.multiplier.to(h) * h + 0.5 * self.penalty.to(h) * h * h

    def update(self, h: Tensor | float) -> bool:
        """Ends a round: raises the multiplier by ``rho h``, and ``rho`` where ``h`` came down too little.

        Args:
            h: The constraint's value at the end of the round.

        Returns:
            Whether it holds, ``h <= tolerance``.
        """
        value = float(h)
        self.multiplier += self.penalty * value
        if value > self.progress * self.last and value > self.tolerance:
            self.penalty.mul_(self.growth).clamp_(max=self.max_penalty)
        self.last.fill_(value)
        return value <= self.tolerance
