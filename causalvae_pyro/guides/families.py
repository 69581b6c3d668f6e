"""Variational families over ``[n, d]``: the Gaussian ones, and the base class of them all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from causalvae_pyro.distributions import BlockNormal
from causalvae_pyro.utils.configurable import Configurable

__all__ = ["BlockDiagonalNormal", "DiagonalNormal", "Family", "FullRankNormal"]


class Family(Configurable, ABC):
    """Base class: an amortised variational family, ``features -> distribution`` over ``[n, d]``.

    A family holds options only; the weights are its head's. It serves guides over ``eps`` and over ``z`` alike. Subclasses
    define :meth:`distribution`, and :meth:`head` where the parameters are others than a location and a scale.
    """

    def head(self, features: int, shape: tuple[int, int], init_scale: float, min_scale: float) -> nn.Module:
        """The module from features ``[..., features]`` to the tuple of parameters of :meth:`distribution`.

        By default locations and scales ``[..., n, d]``, each linear in the features, the scales in their logarithm.

        Args:
            features: Length of the features.
            shape: ``(n, d)``.
            init_scale: Standard deviation at the start.
            min_scale: Its lower bound.
        """
        return GaussianHead(features, shape, init_scale, min_scale)

    @abstractmethod
    def distribution(self, *parameters: Any) -> Any:
        """The distribution over ``[n, d]`` with the head's parameters."""

    def __repr__(self) -> str:
        args = getattr(self, "init_args", {})
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in args.items())})"


class DiagonalNormal(Family):
    """Mean-field Gaussian: ``N(m(h), diag(s(h)^2))``."""

    def distribution(self, *parameters: Any) -> Any:
        return dist.Normal(*parameters).to_event(2)


class BlockDiagonalNormal(Family):
    """Gaussian with one full covariance per concept: ``prod_i N(m_i(h), L_i(h) L_i(h)^T)``.

    The same as :class:`DiagonalNormal` for ``d = 1``. ``min_scale`` bounds the diagonal of ``L_i``.
    """

    def head(self, features: int, shape: tuple[int, int], init_scale: float, min_scale: float) -> nn.Module:
        return CholeskyHead(features, shape, shape[0], init_scale, min_scale)

    def distribution(self, *parameters: Any) -> Any:
        return BlockNormal(*parameters)


class FullRankNormal(BlockDiagonalNormal):
    """Gaussian with a full covariance: ``N(m(h), L(h) L(h)^T)`` with one Cholesky factor ``L`` of all ``n d`` dimensions.

    Two concepts that explain the same pixels have a correlated posterior, which a mean-field Gaussian cannot express. It starts
    as :class:`DiagonalNormal` does, with zeros off the diagonal. The head has about ``(n d)^2 / 2`` outputs.
    """

    def head(self, features: int, shape: tuple[int, int], init_scale: float, min_scale: float) -> nn.Module:
        return CholeskyHead(features, shape, 1, init_scale, min_scale)


class GaussianHead(nn.Module):
    """Means and standard deviations, each linear in the features; the latter's logarithm, above the floor.

    Args:
        features: Length of the features.
        event_shape: Shape of the latent.
        init_scale: Standard deviation at the start, the same for all features.
        min_scale: Its floor.
    """

    def __init__(self, features: int, event_shape: tuple[int, ...], init_scale: float, min_scale: float) -> None:
        super().__init__()
        self.event_shape, self.min_scale = event_shape, min_scale
        size = torch.Size(event_shape).numel()
        self.loc = nn.Linear(features, size)
        self.log_scale = nn.Linear(features, size)
        nn.init.zeros_(self.log_scale.weight)
        nn.init.constant_(self.log_scale.bias, torch.tensor(init_scale - min_scale).log().item())

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``[..., *event_shape]``."""
        shape = features.shape[:-1] + self.event_shape
        # Clamped above only against overflow in the first steps.
        scale = self.min_scale + self.log_scale(features).clamp(max=5.0).exp()
        return self.loc(features).reshape(shape), scale.reshape(shape)


class CholeskyHead(GaussianHead):
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
