"""What each concept does to each layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["AdditiveEffects"]


class AdditiveEffects(nn.Module):
    """A function of each concept alone for each layer, ``[N, n, d]`` to ``[K, N, n, outputs]``: linear plus a small network."""

    # Adam moves all weights of a network by a step at once. A sprite that these steps throw off its part, which may be two
    # pixels wide, does not come back.
    lr_factor = 0.6

    def __init__(self, layers: int, concepts: int, dim: int, hidden: int, outputs: int = 6) -> None:
        super().__init__()
        self.linear = nn.Parameter(1e-3 * torch.randn(layers, concepts, dim, outputs) / math.sqrt(dim))
        self.first = nn.Parameter(torch.randn(layers, concepts, dim, hidden) / math.sqrt(dim))
        self.first_bias = nn.Parameter(torch.randn(layers, concepts, 1, hidden))
        self.second = nn.Parameter(torch.zeros(layers, concepts, hidden, outputs))

    def forward(self, z: Tensor) -> Tensor:
        columns = z.transpose(0, 1)
        hidden = torch.tanh(columns @ self.first + self.first_bias)
        return (columns @ self.linear + hidden @ self.second / hidden.shape[-1]).transpose(1, 2)
