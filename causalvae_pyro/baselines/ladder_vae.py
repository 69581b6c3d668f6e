"""The ladder VAE: two levels of latents, and a guide that corrects what the upper one says of the lower."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Normal, constraints

from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.guides import PosteriorGuide
from causalvae_pyro.guides.families import GaussianHead
from causalvae_pyro.scm import AffineFlowSCM

__all__ = ["LadderGuide", "LadderPosterior", "LowerLevel", "ladder_layer"]


def ladder_layer(lower: list[str], upper: list[str], dim: int = 1) -> AffineFlowSCM:
    """``p(z_1 | z_2) p(z_2)`` as a causal layer: each latent of the lower level depends on all of the upper one.

    ::

        z_2 ~ N(m, s^2),    z_1 ~ N(m(z_2), s(z_2)^2)

    Args:
        lower: Names of the lower level's latents, which the image is drawn from.
        upper: Names of the upper level's latents.
        dim: Dimensions of each.
    """
    edges = [(above, below) for above in upper for below in lower]
    return AffineFlowSCM(CausalGraph([*lower, *upper], edges), dim)


class LowerLevel(nn.Module):
    """A decoder that sees the first latents only.

    Args:
        decoder: A decoder of them.
        count: Their number.
    """

    def __init__(self, decoder: nn.Module, count: int) -> None:
        super().__init__()
        self.decoder, self.count = decoder, count
        self.dim = getattr(decoder, "dim", 1)

    def forward(self, z: Tensor) -> Tensor:
        return self.decoder(z[..., : self.count, :])


class LadderPosterior(TorchDistribution):
    """``q(eps | x)``: the upper level as read, the lower one as read *and* as the upper one expects it, by their precisions.

    ::

        q(z_2 | x)      = N(a_2, b_2^2)
        q(z_1 | z_2, x) ~ N(z_1; a_1, b_1^2) p(z_1 | z_2)

    in terms of ``eps = f^-1(z)``, where ``p(z_1 | z_2)`` is a standard normal.

    Args:
        lower: ``a_1, b_1``, each ``[..., n_1, d]``.
        upper: ``a_2, b_2``, each ``[..., n_2, d]``.
        layer: What :func:`ladder_layer` makes.
    """

    arg_constraints: dict = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(self, lower: tuple[Tensor, Tensor], upper: tuple[Tensor, Tensor], layer: AffineFlowSCM) -> None:
        self.lower, self.upper, self.layer = lower, upper, layer
        self.sizes = lower[0].shape[-2], upper[0].shape[-2]
        super().__init__(lower[0].shape[:-2], torch.Size([sum(self.sizes), lower[0].shape[-1]]), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The upper level's mean, and the lower's given it."""
        upper = self._upper().mean
        return torch.cat([self._lower(upper).mean, upper], -2)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        upper = self._upper().rsample(sample_shape)
        return torch.cat([self._lower(upper).rsample(), upper], -2)

    def log_prob(self, value: Tensor) -> Tensor:
        lower, upper = value.split(self.sizes, -2)
        parts = self._lower(upper).log_prob(lower), self._upper().log_prob(upper)
        return parts[0].sum((-2, -1)) + parts[1].sum((-2, -1))

    def expand(self, batch_shape: Any, _instance: Any = None) -> LadderPosterior:
        shape = torch.Size(batch_shape)
        lower, upper = (tuple(t.expand(shape + t.shape[-2:]) for t in pair) for pair in (self.lower, self.upper))
        return LadderPosterior(lower, upper, self.layer)  # type: ignore[arg-type]

    def _upper(self) -> Normal:
        loc, scale = self._given_above(self.upper[0].new_zeros(*self.upper[0].shape[:-2], *self.event_shape), upper=True)
        return Normal((self.upper[0] - loc) / scale, self.upper[1] / scale)

    def _lower(self, upper: Tensor) -> Normal:
        """Of the lower level's ``eps``, given the upper level's."""
        noise = torch.cat([upper.new_zeros(*upper.shape[:-2], self.sizes[0], upper.shape[-1]), upper], -2)
        loc, scale = self._given_above(self.layer.to_endogenous(noise))
        weight = (scale / self.lower[1]).square()
        precision = 1 + weight
        return Normal(weight / precision * (self.lower[0] - loc) / scale, precision.rsqrt())

    def _given_above(self, z: Tensor, upper: bool = False) -> tuple[Tensor, Tensor]:
        """Mean and scale of ``p(z_1 | z_2)``, or of ``p(z_2)``."""
        first, total = self.sizes[0], sum(self.sizes)
        concepts = list(range(first, total)) if upper else list(range(first))
        loc = self.layer.means(z, concepts)
        one = self.layer.solve_level(concepts, torch.ones_like(loc), z)
        return loc, one - loc


class LadderGuide(PosteriorGuide):
    """``q(eps | x)`` as a :class:`LadderPosterior`, its two levels read from two depths of a deterministic path.

    Args:
        encoder: Module ``(x, labels or None) -> [..., features]`` with an attribute ``out_features``.
        layer: What :func:`ladder_layer` makes. It stays the model's.
        num_lower: Number of the lower level's latents.
        init_scale: Standard deviation that both levels start with.
        min_scale: Floor of the standard deviations.

    Source: Sonderby et al. 2016.
    """

    def __init__(
        self,
        encoder: nn.Module,
        layer: AffineFlowSCM,
        num_lower: int,
        *,
        init_scale: float = 0.1,
        min_scale: float = 1e-4,
    ) -> None:
        super().__init__()
        features: int = encoder.out_features  # type: ignore[assignment]
        total = len(layer.graph)
        if not 0 < num_lower < total:
            raise ValueError(f"num_lower: got {num_lower}; must leave a latent of {total} on either level")
        self.encoder = encoder
        self.lower_head = GaussianHead(features, (num_lower, layer.dim), init_scale, min_scale)
        self.higher = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, features), nn.ReLU())
        self.upper_head = GaussianHead(features, (total - num_lower, layer.dim), init_scale, min_scale)
        self._layer = (layer,)

    def posterior(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        features = self.encoder(x, labels)
        return {"eps": LadderPosterior(self.lower_head(features), self.upper_head(self.higher(features)), self._layer[0])}
