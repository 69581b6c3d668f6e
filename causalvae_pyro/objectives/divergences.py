"""Divergences between a guide and a model that a causal layer connects, in closed form where there is one."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from causalvae_pyro.distributions import BlockNormal, TopDownNormal
from causalvae_pyro.scm import LinearSCM
from causalvae_pyro.scm.base import endogenous_base
from causalvae_pyro.utils.compat import mask_of

__all__ = ["kl", "kl_endogenous", "kl_exogenous", "kl_linear_gaussian"]


def kl(q: Distribution, p: Distribution, value: Tensor) -> Tensor:
    """``KL(q || p)`` per batch element: the registered closed form, or else its one-sample estimate at ``value ~ q``.

    For a :class:`~causalvae_pyro.distributions.TopDownNormal` each level has its closed form, given ``value`` at the others.
    """
    if isinstance(q, TopDownNormal):
        q = q.given(value)
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return q.log_prob(value) - p.log_prob(value)


def kl_exogenous(q: Distribution, p: Distribution, scm: Any, eps: Tensor) -> Tensor:
    """``KL(q(eps) || p(eps))`` per batch element, for ``eps ~ q``."""
    base = endogenous_base(q, scm)
    if base is not None and isinstance(scm, LinearSCM) and _is_gaussian(base) and _is_diagonal(p):
        return kl_linear_gaussian(base, torch.linalg.inv(scm.matrix()), p)
    return kl(q, p, eps)


def kl_endogenous(q: Distribution, p: Distribution, scm: Any, eps: Tensor, z: Tensor) -> Tensor:
    """``KL(f#q || p)`` per batch element: the push-forward of ``q(eps)`` through the causal layer against ``p(z | u)``.

    Args:
        q: The guide's distribution of ``eps``.
        p: The conditional prior of ``z``.
        scm: The causal layer ``f``.
        eps: A sample of ``q``.
        z: ``f(eps)``.
    """
    if isinstance(p, MaskedDistribution):
        return scale_and_mask(kl_endogenous(q, p.base_dist, scm, eps, z), mask=mask_of(p))
    base = endogenous_base(q, scm)
    if base is not None:
        # z as it was drawn, where eps is fresh: a flow's density of any other value costs its inverse.
        return kl(base, p, q.transforms[0].inv(eps))  # type: ignore[attr-defined]
    if isinstance(scm, LinearSCM) and _is_gaussian(q) and _is_diagonal(p):
        return kl_linear_gaussian(q, scm.matrix(), p)
    # log f#q(z) = log q(eps) - log |det df/deps|
    return q.log_prob(eps) - scm.log_abs_det_jacobian(eps, z) - p.log_prob(z)


def kl_linear_gaussian(q: Distribution, matrix: Tensor, p: Distribution) -> Tensor:
    """``KL(M#q || p)`` for Gaussians ``q = N(h, S)``, ``p = N(m, l^2)`` over ``[n, d]`` and ``y = M eps``, exactly.

    ``1/2 [tr(diag(l^-2) M S M^T) + sum((M h - m)^2 / l^2 - 1 + 2 log l) - log det S] - d log |det M|``, where ``M`` acts on
    concepts, alike in each of their dimensions.

    Args:
        q: A diagonal Gaussian, or a :class:`~causalvae_pyro.distributions.BlockNormal`.
        matrix: ``M [n, n]``.
        p: A diagonal Gaussian.
    """
    loc = q.mean
    target, width = p.base_dist.loc, p.base_dist.scale  # type: ignore[attr-defined]
    if isinstance(q, BlockNormal):
        mixed = torch.einsum("ij,...jdk->...idk", matrix, q.factor)
        variance, log_volume = mixed.square().sum(-1), q.log_volume
    else:
        scale = q.base_dist.scale  # type: ignore[attr-defined]
        variance, log_volume = matrix.square() @ scale.square(), scale.log().sum((-2, -1))
    terms = (variance + (matrix @ loc - target).square()) / width.square() - 1 + 2 * width.log()
    return 0.5 * terms.sum((-2, -1)) - log_volume - loc.shape[-1] * torch.linalg.slogdet(matrix).logabsdet


def _is_gaussian(distribution: Distribution) -> bool:
    return isinstance(distribution, BlockNormal) or _is_diagonal(distribution)


def _is_diagonal(distribution: Distribution) -> bool:
    return (
        isinstance(distribution, Independent)
        and isinstance(distribution.base_dist, Normal)
        and len(distribution.event_shape) == 2
    )
