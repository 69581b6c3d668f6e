"""The guide of a bilinear decoder: the noise has its exact posterior."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from causalvae_pyro.guides.conditional_noise import ConditionalNoiseGuide
from causalvae_pyro.likelihoods import GaussianLikelihood
from causalvae_pyro.networks.bilinear import BilinearDecoder, Reduced
from causalvae_pyro.utils.images import scale_images

__all__ = ["BilinearGuide"]


class BilinearGuide(ConditionalNoiseGuide):
    """Amortised concepts, and the noise in closed form: the guide of a :class:`~causalvae_pyro.networks.BilinearDecoder`.

    ::

        z      ~ N(m(x), s(x)^2)                                    from ``encoder``
        eps_x  ~ p(eps_x | x, z) = N(P^-1 b, P^-1)                  P = I + F^T F / v,   b = F^T (x - m_z) / v

    where the decoder is ``m_z + F_z eps_x`` and ``v`` the likelihood's variance. This is the exact posterior: no guide is better,
    given the concepts, and the bound is exact in ``eps_x``. As it maximises the bound, the bound's gradient by way of it is zero
    and is left out in training.

    Pixels' errors are alike over a neighbourhood, as a misplaced edge's are, and count for fewer than there are. The likelihood
    does not know; a larger ``variance`` makes up for it (a tempered or fractional posterior, Grünwald & van Ommen 2017).

    Args:
        encoder: Encodes the concepts; see :class:`~causalvae_pyro.AmortizedGuide`.
        model: The :class:`~causalvae_pyro.CausalVAE` with a bilinear decoder and a Gaussian likelihood with ``bounded=False``.
            It is no submodule: its parameters are not the guide's.
        variance: ``v``, > 0; ``None`` for the likelihood's.
        reduction: Images are explained at so many times fewer pixels along each side, by averages; a divisor of both sides.
        init_scale: See :class:`~causalvae_pyro.AmortizedGuide`.
        min_scale: See :class:`~causalvae_pyro.AmortizedGuide`.
        plate: See :class:`~causalvae_pyro.AmortizedGuide`.

    Raises:
        TypeError: If the model has another decoder or likelihood.
        ValueError: If another argument is out of range.
    """

    def __init__(
        self,
        encoder: nn.Module,
        model: Any,
        *,
        variance: float | None = None,
        reduction: int = 1,
        init_scale: float = 0.1,
        min_scale: float = 1e-4,
        plate: str = "data",
    ) -> None:
        decoder, likelihood = model.decoder, model.likelihood
        if not isinstance(decoder, BilinearDecoder):
            raise TypeError(f"model: its decoder is a {type(decoder).__name__}; this guide needs a BilinearDecoder")
        if not isinstance(likelihood, GaussianLikelihood) or likelihood.bounded:
            given = "bounded=True" if isinstance(likelihood, GaussianLikelihood) else f"a {type(likelihood).__name__}"
            raise TypeError(f"model: its likelihood is {given}; this guide needs a GaussianLikelihood with bounded=False")
        if variance is not None and not 0 < variance < math.inf:
            raise ValueError(f"variance: got {variance}; must be > 0, or None for the likelihood's")
        decoder.check_reduction(reduction)
        super().__init__(encoder, model.scm, init_scale=init_scale, min_scale=min_scale, plate=plate)
        self.noise_dim, self.variance, self.reduction = decoder.noise_dim, variance, reduction
        # In a tuple, so that these are not registered as submodules.
        self._parts = (decoder, likelihood)

    def noise_posterior(self, x: Tensor, z: Tensor) -> Any:
        decoder, likelihood = self._parts
        # Normal equations have no use for half precision.
        precise = torch.autocast(x.device.type, enabled=False)
        with torch.no_grad() if self.training else nullcontext(), precise:
            lead = z.shape[:-2]
            x = scale_images(x).expand(*lead, *decoder.image_shape).reshape(-1, *decoder.image_shape)
            reduced = Reduced(decoder, *decoder.components(z.reshape(-1, *z.shape[-2:])), self.reduction)
            pixel = likelihood.scale.square() if self.variance is None else self.variance
            variance = reduced.variance(pixel)
            projected = reduced.project(reduced.basis, reduced.images(x) - reduced.mean)
            factor = _covariance_factor(reduced.scaled_precision(pixel) / variance)
            loc = factor @ (factor.mT @ (projected / variance)[..., None])
            size = decoder.noise_dim
            return dist.MultivariateNormal(
                loc.reshape(*lead, size), scale_tril=factor.reshape(*lead, size, size), validate_args=False
            )


def _covariance_factor(precision: Tensor) -> Tensor:
    """``L``, lower triangular, with ``L L^T`` the inverse of ``precision [..., r, r]``."""
    upper = torch.linalg.cholesky(precision.flip((-2, -1))).flip((-2, -1)).mT
    eye = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
    return torch.linalg.solve_triangular(upper, eye.expand_as(precision), upper=False)
