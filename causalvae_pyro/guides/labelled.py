"""Abduction for images whose labels are known."""

from __future__ import annotations

import itertools
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from causalvae_pyro.guides.base import EndogenousGuide
from causalvae_pyro.utils.local_params import LocalParamModule, local_params
from causalvae_pyro.utils.modes import evaluation_mode

__all__ = ["LabelConditionedGuide"]

_count = itertools.count()


class LabelConditionedGuide(LocalParamModule):
    """``q(z_i | x, u) = p(z_i | u_i)`` where the label ``u_i`` is known, and a trained guide's ``q(z_i | x)`` where it is not.

    What a label leaves open of its concept is the conditional prior's ``lambda2``, much less than the error with which a guide
    reads the concept off the image. Counterfactuals of images with labels are the better for it; without labels, or where all
    are NaN, they are the trained guide's. The image's own noise ``eps_x`` is always read off the image.

    ::

        counterfactual(model, LabelConditionedGuide(guide, model), x, {"thickness": 4.0}, labels)

    Args:
        guide: A trained guide over ``z``, e.g. :class:`~causalvae_pyro.EndogenousGuide`, with a diagonal Gaussian.
        model: The :class:`~causalvae_pyro.CausalVAE` that it was trained with. It does not become part of the guide.
    """

    def __init__(self, guide: EndogenousGuide, model: Any) -> None:
        if not isinstance(guide, EndogenousGuide):
            raise TypeError(f"guide: got {type(guide).__name__}; must be a guide over z, an EndogenousGuide")
        super().__init__(f"labelled_guide_{next(_count)}")
        self.guide = guide
        # In a tuple, so that the model is not registered as a submodule.
        self._model: tuple[Any] = (model,)

    def posterior(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        """The distributions of ``eps`` and, where the model has it, ``eps_x``, keyed by site.

        Args:
            x: Images ``[batch, C, H, W]``.
            labels: Labels ``[batch, n]``, NaN where missing; ``None`` where all are.

        Raises:
            TypeError: If the trained guide's distribution of ``z`` is no diagonal Gaussian.
        """
        guide = self.guide
        posterior = guide.posterior(x, labels)
        if labels is None:
            return posterior
        base = posterior["eps"].base_dist
        if not (isinstance(base, Independent) and isinstance(base.base_dist, Normal)):
            raise TypeError(f"guide: its distribution of z is {type(base).__name__}; must be a diagonal Gaussian")
        known, prior = ~labels.isnan()[..., None], self._prior(labels.nan_to_num())
        mean = torch.where(known, prior.mean, base.base_dist.mean)
        std = torch.where(known, prior.stddev, base.base_dist.stddev)
        return posterior | {"eps": guide.exogenous(mean, std)}

    def _prior(self, labels: Tensor) -> Any:
        # The model's parameters are no statements of the guide.
        with evaluation_mode(self._model[0]), local_params(self._model[0]), poutine.block():
            return self._model[0].prior(labels)

    def forward(self, x: Tensor, labels: Tensor | None = None, num_samples: int | None = None) -> Tensor:
        """Samples the guide's sites.

        Args:
            x: Images ``[batch, C, H, W]``.
            labels: Labels ``[batch, n]``, NaN where missing.
            num_samples: Ignored; the model's signature has it.

        Returns:
            ``eps [batch, n, d]``.
        """
        with pyro.plate("data", len(x)):
            samples = {site: pyro.sample(site, q) for site, q in self.posterior(x, labels).items()}
        return samples["eps"]
