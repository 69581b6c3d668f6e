"""Observation models: from the decoder's raw output ``[..., C, H, W]`` to a distribution over images."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from causalvae_pyro.config import Configurable

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

    def __init__(self, scale: float = 0.1, *, learn_scale: bool = False, min_scale: float = 1e-3, bounded: bool = True) -> None:
        super().__init__()
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
    """

    def forward(self, output: Tensor) -> dist.Distribution:
        return dist.Normal(*self._parameters_for(output)).to_event(3)


class LaplaceLikelihood(_LocationScale):
    """Laplace pixels with location ``sigmoid(output)`` and one scale for all pixels.

    Args:
        scale: See :class:`GaussianLikelihood`.
        learn_scale: See :class:`GaussianLikelihood`.
        min_scale: See :class:`GaussianLikelihood`.
        bounded: See :class:`GaussianLikelihood`.
    """

    def forward(self, output: Tensor) -> dist.Distribution:
        return dist.Laplace(*self._parameters_for(output)).to_event(3)
