"""Distributions over concepts ``[n, d]`` that neither torch nor Pyro has."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import (
    AffineTransform,
    Independent,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    constraints,
    register_kl,
)

__all__ = ["BlockNormal", "TopDownNormal", "mean_of", "prior_mean", "sample_detached", "with_mean"]

_FALLBACK_SAMPLES = 64


class BlockNormal(TorchDistribution):
    """A Gaussian over ``[n, d]`` whose dimensions, flattened, fall into ``k`` blocks: full covariance within, none between.

    ``k = 1`` is the full covariance of all ``n d`` dimensions, ``k = n`` that of each concept's ``d``.

    Args:
        loc: Means ``[..., n, d]``.
        scale_tril: The blocks' Cholesky factors ``[..., k, m, m]`` with ``k m = n d``: lower triangular, positive diagonal.
        validate_args: As in every distribution.

    Raises:
        ValueError: If the blocks do not make up the dimensions.
    """

    arg_constraints = {  # noqa: RUF012 (as torch declares it)
        "loc": constraints.independent(constraints.real, 2),
        "scale_tril": constraints.independent(constraints.lower_cholesky, 1),
    }
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(self, loc: Tensor, scale_tril: Tensor, validate_args: bool | None = None) -> None:
        event_shape, blocks = loc.shape[-2:], scale_tril.shape[-3:]
        if len(event_shape) < 2 or len(blocks) < 3 or blocks[1] != blocks[2] or blocks[0] * blocks[1] != event_shape.numel():
            raise ValueError(
                f"scale_tril: got shape {list(scale_tril.shape)} for loc {list(loc.shape)}; "
                "need loc [..., n, d] and scale_tril [..., k, m, m] with k * m = n * d"
            )
        batch_shape = torch.broadcast_shapes(loc.shape[:-2], scale_tril.shape[:-3])
        self.loc = loc.expand(batch_shape + event_shape)
        self.scale_tril = scale_tril.expand(batch_shape + blocks)
        super().__init__(batch_shape, event_shape, validate_args=validate_args)
        rows = self.loc.reshape(batch_shape + blocks[:2])
        self._blocks = Independent(MultivariateNormal(rows, scale_tril=self.scale_tril, validate_args=False), 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> BlockNormal:
        return type(self)(self.loc.expand(Size(batch_shape) + self.event_shape), self.scale_tril, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """``[..., n, d]``."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """``[..., n, d]``."""
        return self.scale_tril.square().sum(-1).reshape(self.loc.shape)

    @property
    def factor(self) -> Tensor:
        """``F [..., n, d, n d]`` with ``eps = loc + F xi`` for standard normal ``xi [..., n d]``."""
        eye = torch.eye(self.scale_tril.shape[-3], dtype=self.loc.dtype, device=self.loc.device)
        dense = torch.einsum("...kij,kl->...kilj", self.scale_tril, eye)
        return dense.reshape(*self.loc.shape, -1)

    @property
    def covariance_matrix(self) -> Tensor:
        """``[..., n d, n d]``, the dimensions in the order of ``flatten``."""
        factor = self.factor.flatten(-3, -2)
        return factor @ factor.mT

    @property
    def log_volume(self) -> Tensor:
        """``log |det F|``, ``[...]``."""
        return self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum((-2, -1))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self._blocks.rsample(sample_shape).reshape(self._extended_shape(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self._blocks.log_prob(value.reshape(value.shape[:-2] + self.scale_tril.shape[-3:-1]))

    def entropy(self) -> Tensor:
        return self.log_volume + 0.5 * self.event_shape.numel() * (1 + math.log(2 * math.pi))


def _kl_terms(q: Any, p: Independent) -> Tensor:
    """Of each dimension, but for the logarithm of ``q``'s volume."""
    if not isinstance(p.base_dist, Normal) or p.event_shape != q.event_shape:
        # Pyro's way to say that this pair has no closed form; it is sampled then.
        raise NotImplementedError
    loc, scale = p.base_dist.loc, p.base_dist.scale
    return 0.5 * ((q.variance + (q.loc - loc).square()) / scale.square() - 1) + scale.log()


@register_kl(BlockNormal, Independent)
def _kl_block_normal(q: BlockNormal, p: Independent) -> Tensor:
    return _kl_terms(q, p).sum((-2, -1)) - q.log_volume


@register_kl(MultivariateNormal, Independent)
def _kl_multivariate_normal(q: MultivariateNormal, p: Independent) -> Tensor:
    return _kl_terms(q, p).sum(-1) - q.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def sample_detached(distribution: Any) -> Tensor:
    """A sample without a gradient. ``Normal.sample`` tests its scales, which is a device sync; this does not."""
    return distribution.rsample().detach() if distribution.has_rsample else distribution.sample()


def mean_of(distribution: Any) -> Tensor:
    """A distribution's mean; of a transformed one the image of its base's mean, of one without a mean that of 64 samples."""
    return _mean(distribution, lambda base: base.sample((_FALLBACK_SAMPLES,)).mean(0))


def prior_mean(distribution: Any) -> Tensor:
    """``lambda1``: the mean of a conditional prior, or of a transformed one the image of its base's.

    Raises:
        ValueError: If the distribution has none in closed form.
    """
    return _mean(distribution, _refuse)


def _mean(distribution: Any, otherwise: Callable[[Any], Tensor]) -> Tensor:
    if isinstance(distribution, TransformedDistribution):
        value = _mean(distribution.base_dist, otherwise)
        for transform in distribution.transforms:
            value = transform(value)
        return value
    try:
        return distribution.mean
    except NotImplementedError:
        pass
    return otherwise(distribution)


def _refuse(distribution: Any) -> Tensor:
    raise ValueError(
        f"prior: its distribution, a {type(distribution).__name__}, has no mean; must have .mean, which says where a label lies: "
        "give the class one"
    )


def with_mean(distribution: Any, mean: Tensor) -> Any:
    """The distribution over ``[n, d]``, translated to another mean ``[..., n, d]``; a Gaussian stays one."""
    if isinstance(distribution, BlockNormal):
        return BlockNormal(mean, distribution.scale_tril)
    if isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal):
        return dist.Normal(mean, distribution.base_dist.scale).to_event(2)
    return dist.TransformedDistribution(distribution, [AffineTransform(mean - distribution.mean, 1.0, event_dim=2)])


Choice = Callable[[int, Tensor, Tensor], Tensor]
Walk = Callable[[Choice], tuple[Tensor, Tensor, Tensor]]


class TopDownNormal(TorchDistribution):
    """``q(e) = prod_l N(e_l; m_l(e_<l), s_l(e_<l)^2)`` over a vector ``[r]`` that holds all levels.

    Args:
        walk: Visits the levels from the top. It calls ``choice(level, loc, scale)`` for each level's value ``[*batch, k]`` and
            returns means, standard deviations and values of all levels, ``[*batch, r]`` each.
        batch_shape: The batch.
        size: ``r``.
    """

    arg_constraints = {}  # noqa: RUF012 (as torch declares it)
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, walk: Walk, batch_shape: Any, size: int) -> None:
        self.walk = walk
        # The last walk: its sample is scored without another one.
        self._last: tuple[Tensor, Tensor, Tensor] | None = None
        super().__init__(Size(batch_shape), Size([size]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TopDownNormal:
        if Size(batch_shape) != self.batch_shape:
            raise NotImplementedError("the levels above decide on the batch: expand what the walk starts from")
        return self

    @property
    def mean(self) -> Tensor:
        """Each level's mean, given that the levels above are at theirs, ``[*batch, r]``."""
        return self.walk(lambda level, loc, scale: loc)[2]

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        if Size(sample_shape):
            return torch.stack([self.rsample() for _ in range(Size(sample_shape).numel())]).unflatten(0, Size(sample_shape))
        self._last = self.walk(lambda level, loc, scale: loc + scale * torch.randn_like(loc))
        return self._last[2]

    def given(self, value: Tensor) -> Any:
        """Every level's distribution, given ``value`` at the levels above: independent normals over ``[r]``.

        Its density at ``value`` is this distribution's, and so is, on average over ``value``, its divergence from any
        distribution with independent dimensions.
        """
        if self._last is None or value is not self._last[2]:
            parts: dict[int, Tensor] = {}

            def choose(level: int, loc: Tensor, scale: Tensor) -> Tensor:
                start = sum(part.shape[-1] for part in parts.values())
                parts[level] = value[..., start : start + loc.shape[-1]]
                return parts[level]

            loc, scale, _ = self.walk(choose)
        else:
            loc, scale, _ = self._last
        return Independent(Normal(loc, scale, validate_args=False), 1)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.given(value).log_prob(value)
