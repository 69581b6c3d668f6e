"""Abduction for images whose labels are known."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from causalvae_pyro.guides.wrapper import GuideWrapper
from causalvae_pyro.utils.label_columns import known_concepts

__all__ = ["LabelConditionedGuide"]


class LabelConditionedGuide(GuideWrapper):
    """Wrapper that conditions on known labels: ``q(z_i | x, u) = p(z_i | u_i)`` where ``u_i`` is known, else the guide's own.

    What a label leaves open of its concept is the conditional prior's ``lambda2``, much less than the error with which a guide
    reads the concept off the image. Counterfactuals of images with labels improve by that; without labels, or where all
    are NaN, they are the wrapped guide's. The image's own noise ``eps_x`` always comes from the image.

    ::

        counterfactual(model, LabelConditionedGuide(guide, model), x, {"thickness": 4.0}, labels)

    Args:
        guide: See :class:`GuideWrapper`; its distribution of ``z`` must be a diagonal Gaussian.
        model: See :class:`GuideWrapper`.
    """

    def posterior(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        posterior = self.guide.posterior(x, labels)
        if labels is None:
            return posterior
        q = self._endogenous(posterior)
        if not (isinstance(q, Independent) and isinstance(q.base_dist, Normal)):
            raise TypeError(f"guide: its distribution of z is {type(q).__name__}; must be a diagonal Gaussian")
        with self._running_model() as model:
            prior = model.prior(labels.nan_to_num())
        known = known_concepts(self.model.prior, labels)[..., None]
        mean, std = torch.where(known, prior.mean, q.mean), torch.where(known, prior.stddev, q.stddev)
        return self._corrected(posterior, dist.Normal(mean, std).to_event(2), x)
