"""Conditional flows: each concept is an increasing function of its own noise, and the parents choose the function."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import AffineTransform, ComposeTransform, Transform
from zuko.transforms import MonotonicRQSTransform

from causalvae_pyro.graph import GraphLike
from causalvae_pyro.scm.indexing import take
from causalvae_pyro.scm.networks import NetworkLayer

__all__ = ["AffineFlowSCM", "ConditionalFlowLayer", "SplineFlowSCM"]


class ConditionalFlowLayer(NetworkLayer):
    """Layers of the form ``z_i = T(eps_i; h_i(A_i o z))`` with ``T`` increasing in ``eps_i``, dimension by dimension.

    ``h_i`` is one small network per concept; that of a root is a constant, so a root has a learned marginal. Subclasses
    define :meth:`transform` and pass on the number of parameters that ``T`` takes.

    Args:
        graph: The causal graph: ``h_i`` sees the parents of ``i`` only.
        dim: Dimensions of each concept.
        parameters: Parameters of ``T`` for each dimension.
        hidden: Width of each network's hidden layers.
    """

    def __init__(self, graph: GraphLike, dim: int, parameters: int, hidden: int) -> None:
        super().__init__(graph, dim, outputs=dim * parameters, hidden=hidden)

    @abstractmethod
    def transform(self, parameters: Tensor) -> Transform:
        """``T`` for unconstrained parameters ``[..., p]``, elementwise on ``[...]``; about the identity where they are 0."""

    def solve_level(self, level: list[int], eps: Tensor, z: Tensor) -> Tensor:
        return self._transform(z, level)(eps)

    def means(self, z: Tensor, concepts: list[int] | None = None) -> Tensor:
        return self._transform(z, concepts)(take(z.new_zeros(z.shape), concepts, -2))

    def to_exogenous(self, z: Tensor) -> Tensor:
        self._check_shape("z", z)
        return self._transform(z).inv(z)

    def log_abs_det_jacobian(self, eps: Tensor, z: Tensor) -> Tensor:
        return self._transform(z).log_abs_det_jacobian(eps, z).sum((-2, -1))

    def log_slopes(self, eps: Tensor, z: Tensor) -> Tensor:
        """Each concept's own part of :meth:`log_abs_det_jacobian`, ``[..., n]``."""
        return self._transform(z).log_abs_det_jacobian(eps, z).sum(-1)

    def _transform(self, z: Tensor, concepts: list[int] | None = None) -> Transform:
        return self.transform(self.networks(z, concepts).unflatten(-1, (self.dim, -1)))


class AffineFlowSCM(ConditionalFlowLayer):
    """``z_i = m_i(A_i o z) + s_i(A_i o z) eps_i``: additive noise whose scale depends on the parents too.

    A location-scale noise model. Use it where an effect varies more for some values of its causes than for others.

    Args:
        graph: The causal graph.
        dim: Dimensions of each concept.
        hidden: Width of each network's hidden layers.
        min_noise: Floor of the scales ``s_i``; deterministic children would drive them to zero.
    """

    def __init__(self, graph: GraphLike, dim: int = 1, *, hidden: int = 64, min_noise: float = 1e-2) -> None:
        super().__init__(graph, dim, parameters=2, hidden=hidden)
        self.min_noise = _check_noise(min_noise)

    def transform(self, parameters: Tensor) -> Transform:
        return _affine(parameters, self.min_noise)


class SplineFlowSCM(ConditionalFlowLayer):
    """``z_i = m_i(A_i o z) + s_i(A_i o z) spline(eps_i; A_i o z)``: noise of any shape.

    A monotonic rational-quadratic spline (Durkan et al. 2019, through zuko) on ``[-bound, bound]``, the identity outside,
    between the noise and the location and scale of :class:`AffineFlowSCM`.

    Args:
        graph: The causal graph.
        dim: Dimensions of each concept.
        hidden: Width of each network's hidden layers.
        bins: Pieces of the spline, >= 2.
        bound: The spline's range, > 0, in standard deviations of the noise.
        min_noise: Floor of the scales ``s_i``.
    """

    def __init__(
        self,
        graph: GraphLike,
        dim: int = 1,
        *,
        hidden: int = 64,
        bins: int = 8,
        bound: float = 5.0,
        min_noise: float = 1e-2,
    ) -> None:
        if bins < 2:
            raise ValueError(f"bins: got {bins}; must be at least 2")
        if not 0 < bound < math.inf:
            raise ValueError(f"bound: got {bound}; must be positive and finite")
        super().__init__(graph, dim, parameters=3 * bins + 1, hidden=hidden)
        self.bins, self.bound = bins, bound
        self.min_noise = _check_noise(min_noise)

    def transform(self, parameters: Tensor) -> Transform:
        affine, widths, heights, derivatives = parameters.split([2, self.bins, self.bins, self.bins - 1], -1)
        spline = _Spline(widths, heights, derivatives, bound=self.bound)
        return ComposeTransform([spline, _affine(affine, self.min_noise)])


class _Spline(MonotonicRQSTransform):
    """zuko's spline with an inverse that subtracts nothing it has just added.

    zuko takes the root of ``b^2 - 4 a c``, which in float32 can round to a negative number where a bin is far steeper than
    its ends (then ``eps`` is NaN). For ``u = (y - y0) / (y1 - y0)`` the same discriminant is a sum of squares.
    """

    def _inverse(self, y: Tensor) -> Tensor:
        inside, x0, x1, y0, y1, d0, d1, s = self.bin(self.searchsorted(self.vertical, y) - 1)
        clamped = torch.where(inside, y, y0)
        u, v = (clamped - y0) / (y1 - y0), (y1 - clamped) / (y1 - y0)
        root = ((d1 * u - d0 * v).square() + 4 * s.square() * u * v).sqrt()
        b = d0 * v - (d1 - 2 * s) * u
        # Either form of the quadratic's root, whichever adds.
        z = torch.where(b > 0, 2 * s * u / (b.clamp(min=0) + root), (root - b) / (2 * (s - b.clamp(max=0))))
        return torch.where(inside, x0 + z * (x1 - x0), y)


def _affine(parameters: Tensor, min_noise: float) -> Transform:
    loc, raw = parameters.unbind(-1)
    # 1 where raw = 0; for parents far from the data the scale grows no faster than the network.
    scale = min_noise + F.softplus(raw + math.log(math.expm1(1 - min_noise)))
    return AffineTransform(loc, scale)


def _check_noise(min_noise: float) -> float:
    if not 0 < min_noise < 1:
        raise ValueError(f"min_noise: got {min_noise}; must lie in (0, 1)")
    return min_noise
