"""The variational family of any shape: a conditional normalising flow, through zuko."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Size, Tensor, nn
from torch.distributions import Transform, constraints
from zuko.flows import MAF
from zuko.transforms import ComposedTransform, MonotonicAffineTransform

from causalvae_pyro.guides.families import Family
from causalvae_pyro.scm.flows import _Spline

__all__ = ["NormalizingFlow"]


class NormalizingFlow(Family):
    """Conditional inverse autoregressive flow (Kingma et al. 2016): ``m(h) + s(h) flow(xi; h)`` with ``xi ~ N(0, I)``.

    ``h`` are the encoder's features. Each of the ``n d`` dimensions is a spline, scaled and shifted, of its own ``xi``, whose
    parameters networks compute from ``h`` and the preceding ``xi``; the order is reversed from one transform to the next. A
    sample and its density take one pass; the density of any other value takes ``n d`` passes of each transform. It starts as
    :class:`DiagonalNormal` does. Of several modes, training may keep one. Its mean has no closed form:
    :func:`~causalvae_pyro.abduct` without samples takes the image of ``xi = 0``. ``min_scale`` bounds ``s``; the flow may go
    below it.

    Args:
        transforms: Number of autoregressive transforms, >= 1.
        hidden: Width of the two hidden layers of their networks, >= ``n d``.
        bins: Number of bins of the splines, >= 2.

    Source: Kingma et al. 2016; rational-quadratic splines: Durkan et al. 2019.
    """

    def __init__(self, *, transforms: int = 2, hidden: int = 64, bins: int = 8) -> None:
        if transforms < 1:
            raise ValueError(f"transforms: got {transforms}; must be at least 1")
        if bins < 2:
            raise ValueError(f"bins: got {bins}; must be at least 2")
        self.transforms, self.hidden, self.bins = transforms, hidden, bins

    def head(self, features: int, shape: tuple[int, int], init_scale: float, min_scale: float) -> nn.Module:
        gaussian = super().head(features, shape, init_scale, min_scale)
        return _FlowHead(gaussian, features, math.prod(shape), self.transforms, self.hidden, self.bins)

    def distribution(self, *parameters: Any) -> Any:
        loc, scale, flow = parameters
        base = dist.Normal(torch.zeros_like(loc).flatten(-2), 1.0).to_event(1)
        return dist.TransformedDistribution(base, [_FlowTransform(loc, scale, flow)])


class _FlowHead(nn.Module):
    """Mean and scale from the Gaussian's head, and the flow at these features, which is the identity at the start."""

    def __init__(self, gaussian: nn.Module, features: int, size: int, transforms: int, hidden: int, bins: int) -> None:
        super().__init__()
        if hidden < size:
            raise ValueError(f"hidden: got {hidden}; each of the n * d = {size} dimensions needs a unit of its own")
        self.gaussian = gaussian
        self.flow = MAF(
            size,
            features,
            transforms=transforms,
            univariate=_spline_and_affine,
            shapes=((), (), (bins,), (bins,), (bins - 1,)),
            hidden_features=(hidden, hidden),
        ).transform
        for transform in self.flow.transforms:
            last = transform.hyper[-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Transform]:
        return *self.gaussian(features), self.flow(features)


def _spline_and_affine(shift: Tensor, scale: Tensor, widths: Tensor, heights: Tensor, derivatives: Tensor) -> Transform:
    return ComposedTransform(_Spline(widths, heights, derivatives), MonotonicAffineTransform(shift, scale))


class _FlowTransform(Transform):
    """From ``xi [..., n d]`` to ``loc + scale * flow(xi)``, ``[..., n, d]``."""

    domain = constraints.independent(constraints.real, 1)
    codomain = constraints.independent(constraints.real, 2)
    bijective = True

    def __init__(self, loc: Tensor, scale: Tensor, flow: Any) -> None:
        # With the cache a fresh sample's density needs no inverse, and with its determinant no second pass.
        super().__init__(cache_size=1)
        self.loc, self.scale, self.flow = loc, scale, flow
        self._fresh: Any = None, None

    def _call(self, xi: Tensor) -> Tensor:
        value, log_det = self.flow.call_and_ladj(xi)
        self._fresh = xi, log_det
        return self.loc + self.scale * value.unflatten(-1, self.loc.shape[-2:])

    def _inverse(self, eps: Tensor) -> Tensor:
        return self.flow.inv(((eps - self.loc) / self.scale).flatten(-2))

    def log_abs_det_jacobian(self, xi: Tensor, eps: Tensor) -> Tensor:
        fresh, log_det = self._fresh
        if fresh is not xi:
            log_det = self.flow.call_and_ladj(xi)[1]
        return log_det + self.scale.log().sum((-2, -1))

    def forward_shape(self, shape: Size) -> Size:
        return shape[:-1] + self.loc.shape[-2:]

    def inverse_shape(self, shape: Size) -> Size:
        return Size((*shape[:-2], shape[-2:].numel()))
