"""Terms of the loss beside the bound, and weights that change over the training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from causalvae_pyro.distributions import prior_mean
from causalvae_pyro.utils.compat import mask_of
from causalvae_pyro.utils.missing_labels import MaskedPrior, masked_prior

__all__ = ["LabelFit", "MechanismFit", "Term", "Weight", "warm_up"]

Weight = float | Callable[[float], float]


def warm_up(share: float) -> Callable[[float], float]:
    """A weight that grows from 0 to 1 over the first part of the training and stays there.

    Args:
        share: That part, in (0, 1].

    Example:
        >>> weight = warm_up(0.1)
        >>> weight(0.0), weight(0.05), weight(0.5)
        (0.0, 0.5, 1.0)
    """
    if not 0 < share <= 1:
        raise ValueError(f"share: got {share}; must lie in (0, 1]")
    return lambda progress: min(1.0, progress / share)


class Term(Protocol):
    """An extra term of the loss.

    Attributes:
        name: The term's name in the history and in error messages.
        weight: Its factor in the loss; a function of the progress of training in [0, 1], or a number. Where it is 0 the term
            is not computed.
    """

    name: str

    @property
    def weight(self) -> Weight:
        """See above."""

    def __call__(self, model: Any, trace: Any, labels: Tensor | None) -> Tensor:
        """The term, summed over the batch and averaged over particles.

        Args:
            model: The model.
            trace: The model's trace, its noise sites as the guide sampled them: ``trace.nodes["z"]["value"]`` holds the
                concepts ``[..., batch, n, d]``, ``trace.nodes["eps_x"]["value"]`` the image's own noise ``[..., batch, r]``.
            labels: ``[batch, n]`` or ``None``.
        """


class LabelFit:
    """``-log p_scm(lambda1(u))``: the labels' likelihood under the causal layer, summed over the batch.

    For unit noise it is the paper's ``l_u = 1/2 ||u - g(A o u)||^2`` up to a constant, without its sigmoid.
    It reaches the causal layer only: ``lambda1`` is held fixed. Images without all labels do not count here;
    :class:`CausalELBO` has a bound on theirs.

    Args:
        weight: Factor in the loss, >= 0.
    """

    name = "label_fit"

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, model: Any, trace: Any, labels: Tensor | None) -> Tensor:
        if labels is None:
            return trace.nodes["z"]["value"].new_zeros(())
        with torch.no_grad():
            prior = masked_prior(model.prior, labels)
            target = prior_mean(prior)
        eps = model.scm.to_exogenous(target)
        log_prob = -0.5 * (eps.square() + math.log(2 * math.pi)).sum((-2, -1))
        # A prior that masks images masks them here too.
        mask: Any = mask_of(prior) if isinstance(prior, MaskedDistribution) else None
        if isinstance(prior, MaskedPrior):
            mask = prior.known.all(-1)
        return scale_and_mask(model.scm.log_abs_det_jacobian(eps, target) - log_prob, mask=mask).sum()


class MechanismFit:
    """The paper's ``l_m = sum_i ||z_i - g_i(A_i o z)||^2`` on the guide's concepts, summed over the batch.

    Args:
        weight: Factor in the loss, >= 0.
    """

    name = "mechanism_fit"

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, model: Any, trace: Any, labels: Tensor | None) -> Tensor:
        z = trace.nodes["z"]["value"]
        return (z - model.scm.means(z)).square().sum((-2, -1)).reshape(-1, z.shape[-3]).mean(0).sum()
