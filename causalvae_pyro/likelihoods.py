"""Observation models: from the decoder's raw output ``[..., C, H, W]`` to a distribution over images."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from causalvae_pyro.utils.configurable import Configurable

__all__ = ["BernoulliLikelihood", "ContinuousBernoulliLikelihood", "GaussianLikelihood", "LaplaceLikelihood"]


class BernoulliLikelihood(Configurable, nn.Module):
    """Bernoulli pixels with the output as logits; for images whose pixels are exactly 0 or 1."""

    def forward(self, output: Tensor) -> dist.Distribution:
        return dist.Bernoulli(logits=output).to_event(3)


class ContinuousBernoulliLikelihood(Configurable, nn.Module):
    """Continuous Bernoulli (Loaiza-Ganem & Cunningham 2019) with the output as logits; for pixels in [0, 1]."""

    def forward(self, output: Tensor) -> dist.Distribution:
        return dist.ContinuousBernoulli(logits=output).to_event(3)


class _LocationScale(Configurable, nn.Module):
    log_scale: Tensor

    def __init__(
        self,
        scale: float = 0.1,
        *,
        learn_scale: bool = False,
        min_scale: float = 1e-3,
        bounded: bool = True,
        lr_factor: float = 1.0,
    ) -> None:
        super().__init__()
        if not lr_factor > 0:
            raise ValueError(f"lr_factor: got {lr_factor}; must be > 0")
        self.lr_factor = lr_factor
        if not 0 < min_scale < scale:
            raise ValueError(f"scale: got scale={scale}, min_scale={min_scale}; need 0 < min_scale < scale")
        self.min_scale, self.bounded = min_scale, bounded
        log_scale = torch.tensor(float(scale - min_scale)).log()
        if learn_scale:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    @property
    def scale(self) -> Tensor:
        """The scale, a scalar tensor."""
        return self.min_scale + self.log_scale.exp()

    def _parameters_for(self, output: Tensor) -> tuple[Tensor, Tensor]:
        return (output.sigmoid() if self.bounded else output), self.scale


class GaussianLikelihood(_LocationScale):
    """Gaussian pixels with mean ``sigmoid(output)`` and one standard deviation for all pixels.

    Args:
        scale: The standard deviation, > 0; the starting value where it is learned.
        learn_scale: Learn it by maximum likelihood (Rybkin et al. 2021, sigma-VAE).
        min_scale: Floor of the learned scale, which keeps the likelihood bounded.
        bounded: Squash the mean into [0, 1]; False for a decoder whose output already lies there.
        lr_factor: Steps of :func:`~causalvae_pyro.fit` are so many times longer for the learned scale, > 0.
    """

    def forward(self, output: Tensor) -> dist.Distribution:
        return _IsotropicNormal(*self._parameters_for(output))


class LaplaceLikelihood(_LocationScale):
    """Laplace pixels with location ``sigmoid(output)`` and one scale for all pixels.

    Args:
        scale: See :class:`GaussianLikelihood`.
        learn_scale: See :class:`GaussianLikelihood`.
        min_scale: See :class:`GaussianLikelihood`.
        bounded: See :class:`GaussianLikelihood`.
        lr_factor: See :class:`GaussianLikelihood`.
    """

    def forward(self, output: Tensor) -> dist.Distribution:
        return _IsotropicLaplace(*self._parameters_for(output))


class _Isotropic(dist.TorchDistribution):
    """Independent pixels ``[..., C, H, W]`` that share one scale.

    The same densities as ``Normal(loc, scale).to_event(3)`` and its like, which broadcast the scale and take a logarithm and a
    division for every single pixel, and check every pixel for NaN at every step: 15 % of a training step.
    """

    # Never checked; ChiRho finds the device by them.
    arg_constraints: ClassVar[dict] = {"loc": constraints.independent(constraints.real, 3), "scale": constraints.positive}
    support = constraints.independent(constraints.real, 3)
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape[:-3], loc.shape[-3:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Isotropic:
        return type(self)(self.loc.expand(torch.Size(batch_shape) + self.event_shape), self.scale)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.loc + self.scale * self._noise(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        # One scale for all pixels divides their sum: nothing as large as the images is kept for the gradient but they themselves.
        loc, value = torch.broadcast_tensors(self.loc, value)
        return self._log_density(loc, value) - math.prod(self.event_shape) * self.scale.log()

    @abstractmethod
    def _noise(self, shape: torch.Size) -> Tensor:
        """Standard noise."""

    @abstractmethod
    def _log_density(self, loc: Tensor, value: Tensor) -> Tensor:
        """Log-density of the standard noise ``(value - loc) / scale``, summed over an image."""


class _IsotropicNormal(_Isotropic):
    @property
    def variance(self) -> Tensor:
        return self.scale.square().expand(self.loc.shape)

    def _noise(self, shape: torch.Size) -> Tensor:
        return torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)

    def _log_density(self, loc: Tensor, value: Tensor) -> Tensor:
        squares = nn.functional.mse_loss(loc, value, reduction="none").sum((-3, -2, -1))
        return -0.5 * (squares / self.scale / self.scale + math.prod(self.event_shape) * math.log(2 * math.pi))


class _IsotropicLaplace(_Isotropic):
    @property
    def variance(self) -> Tensor:
        return 2 * self.scale.square().expand(self.loc.shape)

    def _noise(self, shape: torch.Size) -> Tensor:
        standard = torch.distributions.Laplace(torch.zeros_like(self.loc), torch.ones_like(self.loc))
        return standard.sample(shape[: len(shape) - self.loc.ndim])

    def _log_density(self, loc: Tensor, value: Tensor) -> Tensor:
        distances = nn.functional.l1_loss(loc, value, reduction="none").sum((-3, -2, -1))
        return -distances / self.scale - math.prod(self.event_shape) * math.log(2)
