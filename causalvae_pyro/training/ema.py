"""An exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = ["MovingAverage"]


class MovingAverage:
    """Keeps ``average = decay average + (1 - decay) weights``, corrected for its start as Adam's averages are.

    Args:
        parameters: The weights.
        decay: In (0, 1).

    Source: Polyak & Juditsky 1992.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema_decay: got {decay}; must lie in (0, 1)")
        self.parameters, self.decay, self.updates = list(parameters), decay, 0
        self.averages = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Takes a step's weights in."""
        self.updates += 1
        # Divided by what the weights of the average add up to so far.
        share = (1 - self.decay) / (1 - self.decay**self.updates)
        get_ema_multi_avg_fn(1 - share)(self.averages, [p.detach() for p in self.parameters], self.updates)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averages in place of the weights, for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def copy_to_weights(self) -> None:
        """The averages in place of the weights, for good."""
        for parameter, average in zip(self.parameters, self.averages, strict=True):
            parameter.copy_(average)

    def state_dict(self) -> dict[str, int | list[Tensor]]:
        """The averages and how many steps they are of."""
        return {"updates": self.updates, "averages": self.averages}

    def load_state_dict(self, state: dict) -> None:
        """Takes up what :meth:`state_dict` returned."""
        self.updates = state["updates"]
        for average, kept in zip(self.averages, state["averages"], strict=True):
            average.copy_(kept)

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self.parameters, self.averages, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)
