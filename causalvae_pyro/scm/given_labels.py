"""Exogenous noise of images that have given labels."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor
from torch.distributions import Independent, Normal

from causalvae_pyro.scm.linear import LinearSCM
from causalvae_pyro.utils.compat import mask_of
from causalvae_pyro.utils.missing_labels import MaskedPrior

__all__ = ["NoiseGivenLabels"]


class NoiseGivenLabels(dist.Independent):
    """``N(0, I)`` over ``[n, d]`` as a density, drawn so that ``z = f(eps)`` follows the labels.

    The model scores ``p(eps) p(z | u)``, so a program that draws ``eps`` from ``p(eps)`` alone shows images that have nothing to
    do with the labels. What is drawn instead:

    - Linear layer ``z = C eps``, diagonal Gaussian prior: ``eps ~ p(eps) p(f(eps) | u)``, normalised: a Gaussian with precision
      ``P = I + C^T L^-1 C`` and mean ``P^-1 C^T L^-1 lambda1`` in each dimension, where ``L = diag(lambda2^2)``.
    - Any other layer or prior: ``eps = f^-1(z)`` with ``z ~ p(z | u)``. It leaves ``p(eps)`` out, which matters little where
      ``lambda2`` is small.

    Concepts without a label follow their mechanisms. The density is still that of ``N(0, I)``, so that the joint is the same for
    any inference on it; only a method that takes the program's own draws for draws of its prior, such as
    :class:`pyro.infer.Importance` without a guide, has to be given the images as an argument.

    Args:
        noise: ``N(0, I)``.
        scm: The causal layer ``f``.
        prior: ``p(z | u)`` over ``[batch, n, d]``.
    """

    def __init__(self, noise: Independent, scm: Any, prior: Any) -> None:
        super().__init__(noise.base_dist, 2)
        self.scm, self.prior = scm, prior

    def expand(self, batch_shape: Any, _instance: Any = None) -> NoiseGivenLabels:
        noise = dist.Independent(self.base_dist, 2).expand(torch.Size(batch_shape))
        return type(self)(noise, self.scm, self.prior)

    @torch.no_grad()
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        own = super().rsample(torch.Size(sample_shape))
        prior, known = _known(self.prior)
        if isinstance(self.scm, LinearSCM) and isinstance(prior, Independent) and isinstance(prior.base_dist, Normal):
            return _product(own, self.scm.matrix(), prior.base_dist, known)
        z = prior.expand(own.shape[:-2]).sample()
        if known is None:
            return self.scm.to_exogenous(z)
        eps = own
        # Each round settles one more level of the graph: a concept without a label sees its parents' values.
        for _ in self.scm.graph.levels:
            eps = torch.where(known, self.scm.to_exogenous(torch.where(known, z, self.scm.to_endogenous(eps))), own)
        return eps

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.rsample(sample_shape)


def _known(prior: Any) -> tuple[Any, Tensor | None]:
    """The prior of all concepts, and which of them it scores, ``[..., n, 1]``."""
    if isinstance(prior, MaskedPrior):
        return prior.all_concepts, prior.known[..., None]
    if isinstance(prior, MaskedDistribution):
        return prior.base_dist, torch.as_tensor(mask_of(prior))[..., None, None]
    return prior, None


def _product(xi: Tensor, matrix: Tensor, prior: Any, known: Tensor | None) -> Tensor:
    """A draw of ``p(eps) p(C eps | u)`` from standard normal ``xi [..., n, d]``."""
    weight = prior.scale.square().reciprocal()
    if known is not None:
        weight = weight * known
    precision = torch.einsum("ji,...jd,jk->...dik", matrix, weight, matrix) + torch.eye(len(matrix)).to(matrix)
    factor = torch.linalg.cholesky(precision)
    pull = (matrix.mT @ (weight * prior.loc)).mT[..., None]
    mean = torch.cholesky_solve(pull, factor)
    return (mean + torch.linalg.solve_triangular(factor.mT, xi.mT[..., None], upper=True))[..., 0].mT
