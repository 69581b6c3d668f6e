"""Reconstruction with the noise of another image of the same group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

__all__ = ["GroupSwap"]


class GroupSwap:
    """Swaps the image's own noise within a group (multi-level VAE, Bouchacourt et al. 2018): a supervised counterfactual.

    ::

        -log p(x_j | decoder(z_j, eps_x_i)),    eps_x_i ~ q(eps_x | x_i),    i and j of one group

    Images of one person, patient or scene share their own noise. ``decoder(z_j, eps_x_i)`` is the counterfactual of image ``i``
    under the concepts of image ``j``, and ``x_j`` is the truth. Together with the reconstruction of ``x_i`` the objective bounds
    ``log p(x_i, x_j)`` with one ``eps_x`` for both. A decoder that renders concepts from the noise is penalised here.

    Consecutive rows of a batch form groups of ``size``; ``fit(groups=)`` makes such batches.

    Args:
        size: Images of a group, in consecutive rows of a batch, >= 2.
        weight: Factor in the loss; 1 for the bound.

    Source: Bouchacourt et al. 2018 (multi-level VAE), with one image's posterior in place of the product of all.
    """

    name = "group_swap"

    def __init__(self, size: int = 2, *, weight: float | Callable[[float], float] = 1.0) -> None:
        if size < 2:
            raise ValueError(f"size: got {size}; must be at least 2")
        #: For :func:`~causalvae_pyro.fit`.
        self.group_size = size
        self.weight = weight

    def __call__(self, model: Any, trace: Any, labels: Tensor | None) -> Tensor:
        z, noise, x = (trace.nodes[site]["value"] for site in ("z", "eps_x", "x"))
        if noise.shape[-2] % self.group_size:
            raise ValueError(f"size: {noise.shape[-2]} images are not groups of {self.group_size}")
        other = noise.unflatten(-2, (-1, self.group_size)).roll(1, -2).flatten(-3, -2)
        log_prob = model.likelihood(model.decoder(z, other)).log_prob(x)
        return -log_prob.reshape(-1, z.shape[-3]).mean(0).sum()
