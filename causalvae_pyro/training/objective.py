"""The loss of a training run as one module."""

from __future__ import annotations

from pyro.infer import ELBO
from torch import Tensor, nn

__all__ = ["Objective"]


class Objective(nn.Module):
    """The loss of model and guide as one module, with those of its terms that have parameters.

    Args:
        objective: The ELBO.
        model: The model.
        guide: The guide.
    """

    def __init__(self, objective: ELBO, model: nn.Module, guide: nn.Module) -> None:
        super().__init__()
        self.objective = objective
        self.pair = objective(model, guide)
        #: Extra terms of the objective may learn too, such as the mechanisms of a graph search.
        self.terms = list(getattr(objective, "terms", ()))
        self.learning = nn.ModuleList(term for term in self.terms if isinstance(term, nn.Module))

    @property
    def roots(self) -> list[nn.Module]:
        """The modules that are trained."""
        return [self.pair, *self.learning]

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """The loss of a batch, summed over its images."""
        return self.pair(x, labels)
