"""The conditional VAE: labels are given to encoder and decoder, and nothing is known of how they depend on each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from causalvae_pyro.distributions import prior_mean
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.guides import PosteriorGuide
from causalvae_pyro.guides.families import GaussianHead
from causalvae_pyro.model import CausalVAE, _batch
from causalvae_pyro.scm import LinearSCM

__all__ = ["CVAE", "CVAEGuide"]


class CVAE(CausalVAE):
    """p(x, eps_x | u), the conditional VAE, as a model of independent concepts.

    ::

        eps   = lambda1(u)                                the standardised labels; N(0, I) where there are none
        z     = eps                                       one site per concept, no edges between them
        eps_x ~ N(0, I)                                   all that the labels do not say
        x     ~ p(x | decoder(z, eps_x))

    It has the sites of :class:`~causalvae_pyro.CausalVAE`, so :func:`~causalvae_pyro.counterfactual` and ``poutine.do`` work as
    they do there. An intervention changes the labels it names and no other.

    Args:
        names: Names of the concepts.
        prior: A prior whose mean is ``lambda1``, e.g. :class:`~causalvae_pyro.FixedPrior`.
        decoder: As for :class:`~causalvae_pyro.CausalVAE`.
        likelihood: As for :class:`~causalvae_pyro.CausalVAE`.
        noise_dim: Dimensions of ``eps_x``, at least 1.

    Train it with ``CausalELBO(w_eps=1, w_z=0)``, which here is ``E log p(x | u, eps_x) - KL(q(eps_x | x, u) || p(eps_x))``, a
    bound on ``log p(x | u)``, or with :class:`pyro.infer.Trace_ELBO`.

    Source: Sohn et al. 2015.
    """

    def __init__(
        self, names: Sequence[str], prior: nn.Module, decoder: nn.Module, likelihood: nn.Module, *, noise_dim: int
    ) -> None:
        if noise_dim < 1:
            raise ValueError(f"noise_dim: got {noise_dim}; must be at least 1, or nothing is left to encode")
        scm = LinearSCM(CausalGraph(names, []), getattr(prior, "dim", 1))
        super().__init__(scm, prior, decoder, likelihood, noise_dim=noise_dim)

    def forward(self, x: Tensor | None = None, labels: Tensor | None = None, num_samples: int | None = None) -> Tensor:
        """Runs the generative program.

        Args:
            x: Observed images ``[batch, C, H, W]``; sampled where absent.
            labels: Labels ``[batch, n]``, none of them missing.
            num_samples: The batch where neither ``x`` nor ``labels`` is given; 1 by default.

        Returns:
            The images ``[batch, C, H, W]``.
        """
        scm = self.scm
        with pyro.plate(self.plate, _batch(x, labels, num_samples)):
            given = self.standard_normal(len(scm.graph), scm.dim) if labels is None else _known(self.prior, labels)
            z = scm(pyro.sample("eps", given))
            pyro.deterministic("z", z, event_dim=2)
            eps_x = pyro.sample("eps_x", self.standard_normal(self.noise_dim))
            likelihood = self.likelihood(self.decoder(z, eps_x))
            pyro.deterministic("x_mean", likelihood.mean, event_dim=3)
            return pyro.sample("x", likelihood, obs=x)


class CVAEGuide(PosteriorGuide):
    """``q(eps_x | x, u) = N(m(x, u), s(x, u)^2)``, and ``eps = lambda1(u)``.

    Args:
        encoder: Module ``(x [..., C, H, W], labels [..., n]) -> [..., features]`` with an attribute ``out_features``.
        prior: The model's prior. It stays the model's.
        noise_dim: Dimensions of ``eps_x``, as in the model.
        init_scale: Standard deviation that the guide starts with.
        min_scale: Floor of the standard deviation.
    """

    def __init__(
        self, encoder: nn.Module, prior: nn.Module, *, noise_dim: int, init_scale: float = 0.3, min_scale: float = 1e-4
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.noise_head = GaussianHead(encoder.out_features, (noise_dim,), init_scale, min_scale)  # type: ignore[arg-type]
        self._prior = (prior,)

    def posterior(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        if labels is None:
            raise ValueError("labels: a conditional VAE cannot read them off the image, got None")
        eps = _known(self._prior[0], labels)
        return {"eps": eps, "eps_x": dist.Normal(*self.noise_head(self.encoder(x, labels))).to_event(1)}


def _known(prior: Any, labels: Tensor) -> Any:
    if bool(torch.isnan(labels).any()):
        raise ValueError("labels: some are missing (NaN); a conditional VAE needs them all")
    return dist.Delta(prior_mean(prior(labels)), event_dim=2)
