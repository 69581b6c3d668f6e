"""Gaussian guides whose dimensions are correlated: all of them, or those of each concept."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from causalvae_pyro.distributions import BlockNormal
from causalvae_pyro.guides.base import AmortizedGuide, EndogenousGuide, ExogenousGuide, GaussianHead

__all__ = ["BlockEndogenousGuide", "BlockExogenousGuide", "FullRankEndogenousGuide", "FullRankExogenousGuide"]


class _CorrelatedGuide(AmortizedGuide):
    """A :class:`~causalvae_pyro.distributions.BlockNormal` in place of the diagonal Gaussian; the floor is the diagonal's."""

    @property
    @abstractmethod
    def _blocks(self) -> int:
        """Number of blocks."""

    def make_head(self, features: int, init_scale: float) -> nn.Module:
        return _CholeskyHead(features, (self.num_concepts, self.dim), self._blocks, init_scale, self.min_scale)

    def family(self, *parameters: Any) -> Any:
        return BlockNormal(*parameters)


class _FullRankGuide(_CorrelatedGuide):
    @property
    def _blocks(self) -> int:
        return 1


class _BlockGuide(_CorrelatedGuide):
    @property
    def _blocks(self) -> int:
        return self.num_concepts


class FullRankExogenousGuide(_FullRankGuide, ExogenousGuide):
    """``q(eps | x, u) = N(m(x, u), L(x, u) L(x, u)^T)`` with one Cholesky factor ``L`` of all ``n d`` dimensions.

    Takes what :class:`ExogenousGuide` takes. Where two concepts explain the same pixels their posterior is correlated, and a
    diagonal Gaussian falls short of the evidence by what it cannot express. Starts as :class:`ExogenousGuide` does: the
    diagonal at ``init_scale``, nothing off it. The head has ``(n d)^2 / 2`` outputs more or less.
    """


class FullRankEndogenousGuide(_FullRankGuide, EndogenousGuide):
    """``q(z | x, u) = N(m(x, u), L(x, u) L(x, u)^T)``, mapped back to ``eps = f^-1(z)``; see :class:`FullRankExogenousGuide`.

    Takes what :class:`EndogenousGuide` takes.
    """


class BlockExogenousGuide(_BlockGuide, ExogenousGuide):
    """``q(eps | x, u) = prod_i N(m_i(x, u), L_i(x, u) L_i(x, u)^T)``: full covariance within each concept, none between them.

    Takes what :class:`ExogenousGuide` takes, and is the same as it for ``d = 1``.
    """


class BlockEndogenousGuide(_BlockGuide, EndogenousGuide):
    """``q(z | x, u) = prod_i N(m_i(x, u), L_i(x, u) L_i(x, u)^T)``, mapped back to ``eps = f^-1(z)``.

    Takes what :class:`EndogenousGuide` takes, and is the same as it for ``d = 1``.
    """


class _CholeskyHead(GaussianHead):
    """Means and Cholesky factors ``diag(s) (I + strictly lower)``: entries off the diagonal are in units of its row's ``s``."""

    index: Tensor

    def __init__(self, features: int, event_shape: tuple[int, ...], blocks: int, init_scale: float, min_scale: float) -> None:
        super().__init__(features, event_shape, init_scale, min_scale)
        self.blocks, self.size = blocks, torch.Size(event_shape).numel() // blocks
        self.register_buffer("index", torch.tril_indices(self.size, self.size, -1), persistent=False)
        # Blocks of one dimension have nothing off the diagonal.
        self.lower = nn.Linear(features, blocks * self.index.shape[1]) if self.size > 1 else None
        if self.lower is not None:
            nn.init.zeros_(self.lower.weight)
            nn.init.zeros_(self.lower.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``[..., n, d]`` and Cholesky factors ``[..., k, m, m]``."""
        loc, scale = super().forward(features)
        scale = scale.reshape(*features.shape[:-1], self.blocks, self.size)
        unit = torch.diag_embed(torch.ones_like(scale))
        if self.lower is not None:
            unit[..., self.index[0], self.index[1]] = self.lower(features).unflatten(-1, (self.blocks, -1))
        return loc, scale[..., None] * unit
