"""Observation models: from the decoder's raw output to a distribution over images ``[..., C, H, W]``, or vectors ``[..., G]``.

The event's dimensions are the likelihood's: ``event_dim=1`` for vectors. An attribute ``pixels`` says whether the package may
expect images, uint8 or in [0, 1]; a likelihood without it takes any real numbers.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from causalvae_pyro.utils.configurable import Configurable, check_count

__all__ = [
    "BernoulliLikelihood",
    "ContinuousBernoulliLikelihood",
    "GaussianLikelihood",
    "LaplaceLikelihood",
    "NegativeBinomialLikelihood",
    "PixelwiseGaussianLikelihood",
    "PoissonLikelihood",
]

# A brightest pixel that is next to none.
_BLACK = 1e-3


class _Likelihood(Configurable, nn.Module):
    """Base class.

    Args:
        event_dim: Dimensions of ``x``: 3 for images, 1 for vectors.
    """

    def __init__(self, *, event_dim: int = 3) -> None:
        super().__init__()
        check_count("event_dim", event_dim)
        self.event_dim = event_dim

    @property
    def pixels(self) -> bool:
        """Whether ``x`` are images, uint8 or in [0, 1]."""
        return self.event_dim == 3


class BernoulliLikelihood(_Likelihood):
    """Bernoulli pixels with the output as logits; for images whose pixels are exactly 0 or 1.

    Args:
        event_dim: Dimensions of ``x``: 3 for images, 1 for vectors.
    """

    def forward(self, output: Tensor) -> dist.Distribution:
        return dist.Bernoulli(logits=output).to_event(self.event_dim)


class ContinuousBernoulliLikelihood(_Likelihood):
    """Continuous Bernoulli (Loaiza-Ganem & Cunningham 2019) with the output as logits; for pixels in [0, 1].

    Args:
        event_dim: Dimensions of ``x``: 3 for images, 1 for vectors.
    """

    def forward(self, output: Tensor) -> dist.Distribution:
        return dist.ContinuousBernoulli(logits=output).to_event(self.event_dim)


class _Counts(_Likelihood):
    """Base class for counts, whose mean is the exponential of the decoder's output."""

    pixels = False

    def __init__(self, *, event_dim: int = 1) -> None:
        super().__init__(event_dim=event_dim)


class PoissonLikelihood(_Counts):
    """Poisson counts with mean ``exp(output)``.

    Args:
        event_dim: Dimensions of ``x``: 1 for vectors of counts, 3 for images of them.
    """

    def forward(self, output: Tensor) -> dist.Distribution:
        return dist.Poisson(output.exp()).to_event(self.event_dim)


class NegativeBinomialLikelihood(_Counts):
    """Counts with mean ``m = exp(output)`` and variance ``m + m^2 / r``: more spread than a Poisson's, as gene counts have it.

    Args:
        dispersion: ``r``, > 0; the starting value where it is learned.
        learn_dispersion: Learn it, one for all entries.
        event_dim: Dimensions of ``x``: 1 for vectors of counts, 3 for images of them.
    """

    log_dispersion: Tensor

    def __init__(self, dispersion: float = 10.0, *, learn_dispersion: bool = False, event_dim: int = 1) -> None:
        super().__init__(event_dim=event_dim)
        if not dispersion > 0:
            raise ValueError(f"dispersion: got {dispersion}; must be > 0")
        log_dispersion = torch.tensor(float(dispersion)).log()
        if learn_dispersion:
            self.log_dispersion = nn.Parameter(log_dispersion)
        else:
            self.register_buffer("log_dispersion", log_dispersion)

    def forward(self, output: Tensor) -> dist.Distribution:
        # In torch's terms: probability m / (m + r) of each of the failures before r successes.
        return dist.NegativeBinomial(self.log_dispersion.exp(), logits=output - self.log_dispersion).to_event(self.event_dim)


class _LocationScale(_Likelihood):
    log_scale: Tensor

    def __init__(
        self,
        scale: float = 0.1,
        *,
        learn_scale: bool = False,
        min_scale: float = 1e-3,
        bounded: bool = True,
        lr_factor: float = 1.0,
        event_dim: int = 3,
    ) -> None:
        super().__init__(event_dim=event_dim)
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

    def _parameters_for(self, output: Tensor) -> tuple[Tensor, Tensor, int]:
        return (output.sigmoid() if self.bounded else output), self.scale, self.event_dim


class GaussianLikelihood(_LocationScale):
    """Gaussian pixels with mean ``sigmoid(output)`` and one standard deviation for all pixels.

    Args:
        scale: The standard deviation, > 0; the starting value where it is learned.
        learn_scale: Learn it by maximum likelihood (Rybkin et al. 2021, sigma-VAE).
        min_scale: Floor of the learned scale, which keeps the likelihood bounded.
        bounded: Squash the mean into [0, 1]; False for a decoder whose output already lies there, and for real vectors.
        lr_factor: Steps of :func:`~causalvae_pyro.fit` are so many times longer for the learned scale, > 0.
        event_dim: Dimensions of ``x``: 3 for images, 1 for vectors.
    """

    def forward(self, output: Tensor) -> dist.Distribution:
        return _IsotropicNormal(*self._parameters_for(output))


class PixelwiseGaussianLikelihood(_LocationScale):
    """Gaussian pixels with mean ``m = sigmoid(output)`` and a standard deviation for each pixel, read from the mean image.

    ::

        s = min_scale + scale exp(h(m))                   h: three convolutions, 0 at first
        s = (min_scale + scale exp(h(m / b))) b           with relative=True; b is the brightest pixel of m

    A mean image tells where it is unsure: at the edges of what it shows, and not on the ground or within. So pixel noise that a
    counterfactual keeps (``pixel_noise`` of :func:`~causalvae_pyro.counterfactual`), ``x' = m' + s' (x - m) / s``, fades where
    the new image is sure, and with it the edges of the old one; one scale for all pixels pastes them over the new image.

    Learned together with the mean by maximum likelihood, pixels that are hard to explain are given up: the mean of a pixel counts
    in proportion to ``1 / s^2``. Learn the mean with one scale first, then :func:`~causalvae_pyro.training.fit_pixel_scales`.

    Args:
        channels: Of the images.
        scale: The standard deviation at first, > ``min_scale``.
        min_scale: Floor of the scales, > 0.
        relative: Noise in proportion to the brightness, for images on black ground: what makes the image brighter then makes
            its noise larger by the same factor, and a picture that keeps all of its noise is multiplied as a whole.
        hidden: Channels between the convolutions.
        bounded: See :class:`GaussianLikelihood`.
        lr_factor: See :class:`GaussianLikelihood`.

    Source: Kendall & Gal 2017 (a variance for each pixel, by a network).
    """

    def __init__(
        self,
        channels: int = 1,
        *,
        scale: float = 0.1,
        min_scale: float = 4e-3,
        relative: bool = False,
        hidden: int = 16,
        bounded: bool = True,
        lr_factor: float = 1.0,
    ) -> None:
        super().__init__(scale, learn_scale=True, min_scale=min_scale, bounded=bounded, lr_factor=lr_factor)
        check_count("channels", channels)
        check_count("hidden", hidden)
        self.relative = relative
        self.network = nn.Sequential(
            *(nn.Conv2d(channels, hidden, 3, padding=1), nn.SiLU(), nn.Conv2d(hidden, hidden, 3, padding=1), nn.SiLU()),
            nn.Conv2d(hidden, channels, 3, padding=1),
        )
        last: Any = self.network[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def scales(self, mean: Tensor) -> Tensor:
        """The standard deviations of mean images ``[..., C, H, W]``, of the same shape."""
        images = mean.reshape(-1, *mean.shape[-3:])
        top = images.amax((-3, -2, -1), keepdim=True).clamp(min=_BLACK) if self.relative else 1.0
        scales = self.min_scale + (self.log_scale + self.network(2 * images / top - 1)).exp()
        return (scales * top).reshape(mean.shape)

    def forward(self, output: Tensor) -> dist.Distribution:
        mean = output.sigmoid() if self.bounded else output
        return dist.Normal(mean, self.scales(mean), validate_args=False).to_event(3)


class LaplaceLikelihood(_LocationScale):
    """Laplace pixels with location ``sigmoid(output)`` and one scale for all pixels.

    Args:
        scale: See :class:`GaussianLikelihood`.
        learn_scale: See :class:`GaussianLikelihood`.
        min_scale: See :class:`GaussianLikelihood`.
        bounded: See :class:`GaussianLikelihood`.
        lr_factor: See :class:`GaussianLikelihood`.
        event_dim: See :class:`GaussianLikelihood`.
    """

    def forward(self, output: Tensor) -> dist.Distribution:
        return _IsotropicLaplace(*self._parameters_for(output))


class _Isotropic(dist.TorchDistribution):
    """Independent pixels ``[..., C, H, W]``, or the entries of vectors, that share one scale.

    The same densities as ``Normal(loc, scale).to_event(3)`` and its like, which broadcast the scale and take a logarithm and a
    division for every single pixel, and check every pixel for NaN at every step: 15 % of a training step.
    """

    # Never checked; ChiRho finds the device by them.
    arg_constraints: ClassVar[dict] = {"loc": constraints.real, "scale": constraints.positive}
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, event_dim: int = 3) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape[:-event_dim], loc.shape[-event_dim:], validate_args=False)

    @constraints.dependent_property
    def support(self) -> Any:
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        return self.loc

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Isotropic:
        return type(self)(self.loc.expand(torch.Size(batch_shape) + self.event_shape), self.scale, len(self.event_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.loc + self.scale * self._noise(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        # One scale for all pixels divides their sum: nothing as large as the images is kept for the gradient but they themselves.
        loc, value = torch.broadcast_tensors(self.loc, value)
        return self._log_density(loc, value) - math.prod(self.event_shape) * self.scale.log()

    def _summed(self, terms: Tensor) -> Tensor:
        return terms.sum(tuple(range(-len(self.event_shape), 0)))

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
        squares = self._summed(nn.functional.mse_loss(loc, value, reduction="none"))
        return -0.5 * (squares / self.scale / self.scale + math.prod(self.event_shape) * math.log(2 * math.pi))


class _IsotropicLaplace(_Isotropic):
    @property
    def variance(self) -> Tensor:
        return 2 * self.scale.square().expand(self.loc.shape)

    def _noise(self, shape: torch.Size) -> Tensor:
        standard = torch.distributions.Laplace(torch.zeros_like(self.loc), torch.ones_like(self.loc))
        return standard.sample(shape[: len(shape) - self.loc.ndim])

    def _log_density(self, loc: Tensor, value: Tensor) -> Tensor:
        distances = self._summed(nn.functional.l1_loss(loc, value, reduction="none"))
        return -distances / self.scale - math.prod(self.event_shape) * math.log(2)
