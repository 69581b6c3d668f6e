"""The conditional prior of iVAE: every latent depends on all labels, and none is named."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from causalvae_pyro.utils.configurable import Configurable
from causalvae_pyro.utils.numbers import check_scale

__all__ = ["IVAEPrior"]


class IVAEPrior(Configurable, nn.Module):
    """``p(z | u) = N(m(u), s(u)^2)`` with networks ``m`` and ``s`` of *all* labels.

    With it a :class:`~causalvae_pyro.CausalVAE` whose causal layer has no edges is iVAE's model with a Gaussian family, and
    ``CausalELBO(w_eps=0, w_z=1)`` its bound on ``log p(x | u)``. Up to permutation and an affine map of each latent
    the model is identifiable under the paper's conditions, among them that ``u`` takes enough values that are not related.

    Args:
        shift: Mean of each label, ``[n]``.
        scale: Standard deviation of each label, ``[n]``, > 0.
        num_latents: Number of latents.
        dim: Dimensions of each.
        hidden: Width of the two hidden layers.
        min_std: Floor of ``s``, > 0.

    Source: Khemakhem et al. 2020.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self, shift: Tensor, scale: Tensor, num_latents: int, dim: int = 1, *, hidden: int = 50, min_std: float = 1e-2
    ) -> None:
        super().__init__()
        scale = torch.as_tensor(scale, dtype=torch.get_default_dtype())
        check_scale(scale)
        if not min_std > 0:
            raise ValueError(f"min_std: got {min_std}; must be > 0")
        self.register_buffer("shift", torch.as_tensor(shift, dtype=torch.get_default_dtype()))
        self.register_buffer("scale", scale)
        self.num_latents, self.dim, self.min_std = num_latents, dim, min_std
        self.network = nn.Sequential(
            nn.Linear(len(scale), hidden),
            nn.LeakyReLU(0.1),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.1),
            nn.Linear(hidden, 2 * num_latents * dim),
        )

    @classmethod
    def from_labels(cls, labels: Tensor, num_latents: int, dim: int = 1, **kwargs: object) -> IVAEPrior:
        """Makes a prior that standardises the labels ``[N, n]``."""
        return cls(labels.mean(0), labels.std(0), num_latents, dim, **kwargs)  # type: ignore[arg-type]

    def forward(self, labels: Tensor) -> dist.Distribution:
        """``p(z | u)`` for labels ``[..., n]``, event shape ``[num_latents, dim]``."""
        if labels.shape[-1] != len(self.scale):
            raise ValueError(f"labels: expected shape [..., {len(self.scale)}], got {list(labels.shape)}")
        loc, scale = self.network((labels - self.shift) / self.scale).chunk(2, -1)
        shape = (*labels.shape[:-1], self.num_latents, self.dim)
        return dist.Normal(loc.reshape(shape), self.min_std + nn.functional.softplus(scale).reshape(shape)).to_event(2)
