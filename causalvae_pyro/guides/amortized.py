"""The amortised guide: an encoder, a variational family, and for the endogenous space a causal layer."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn

from causalvae_pyro.guides.base import PosteriorGuide
from causalvae_pyro.guides.families import DiagonalNormal, Family, GaussianHead
from causalvae_pyro.scm import CausalLayer, CausalTransform
from causalvae_pyro.scm.sites import check_plate
from causalvae_pyro.utils.configurable import Configurable, check_count

__all__ = ["AmortizedGuide"]


class AmortizedGuide(Configurable, PosteriorGuide):
    """Amortised variational inference: the encoder's features give the parameters of a variational family.

    ::

        h       = encoder(x, u)
        z       ~ q(z | h),   eps = f^-1(z)       with a causal layer f: a guide over z (endogenous)
        eps     ~ q(eps | h)                      without: a guide over eps (exogenous), the paper's encoder
        h_x     = noise_encoder(x, u)             or h
        eps_x   ~ N(m_x(h_x), s_x(h_x)^2)         where noise_dim > 0

    A guide over ``z`` does not have to learn the mechanisms. Its ``q(z | x, u)`` is in closed form for every causal layer, and
    so is the KL divergence from the conditional prior where the family is Gaussian.

    Args:
        encoder: Module ``(x [..., C, H, W], labels [..., n] or None) -> [..., features]`` with an attribute
            ``out_features``. An encoder that ignores labels makes the guide ``q(eps | x)``.
        scm: The model's causal layer, for a guide over ``z``. It stays the model's: its parameters are not the guide's.
        family: The variational family, see :class:`~causalvae_pyro.guides.Family`.
        num_concepts: Number of concepts ``n``, for a guide over ``eps``; the causal layer gives it otherwise.
        dim: Dimensions ``d`` of each concept, for a guide over ``eps``; 1 by default.
        noise_dim: Dimensions of the image's own exogenous noise, as in the model.
        noise_encoder: A separate encoder for ``eps_x``; by default it shares the features of ``encoder``.
        init_scale: Standard deviation at the start; for a guide over ``z`` about the conditional prior's ``lambda2``.
        min_scale: Lower bound of the standard deviation.
        plate: Name of the plate over the images, as in the model.

    Raises:
        ValueError: If an argument is out of range, or both or neither of ``scm`` and ``num_concepts`` are given.
        TypeError: If ``scm`` is no causal layer or ``family`` no family.
    """

    def __init__(
        self,
        encoder: nn.Module,
        scm: CausalLayer | None = None,
        *,
        family: Family = DiagonalNormal(),  # noqa: B008 (it has no state)
        num_concepts: int | None = None,
        dim: int | None = None,
        noise_dim: int = 0,
        noise_encoder: nn.Module | None = None,
        init_scale: float = 0.1,
        min_scale: float = 1e-4,
        plate: str = "data",
    ) -> None:
        super().__init__()
        if not isinstance(family, Family):
            raise TypeError(f"family: got {family!r}; must be an instance of a Family, e.g. DiagonalNormal()")
        if not 0 < min_scale < init_scale:
            raise ValueError(f"init_scale: got init_scale={init_scale}, min_scale={min_scale}; need 0 < min_scale < init_scale")
        if noise_encoder is not None and not noise_dim:
            raise ValueError("noise_encoder: got one, but noise_dim is 0, so there is no eps_x for it")
        check_plate(plate)
        self.plate = plate
        self.num_concepts, self.dim = _shape(scm, num_concepts, dim)
        self.encoder, self.family, self.noise_dim = encoder, family, noise_dim
        # In a tuple, so that the layer is not registered as a submodule: its parameters belong to the model alone.
        self._scm = (scm,)
        features = _features(encoder)
        self.head = family.head(features, (self.num_concepts, self.dim), init_scale, min_scale)
        self.noise_encoder = noise_encoder
        if noise_dim:
            features = _features(noise_encoder or encoder)
            # Well below the prior's 1: a decoder that meets nothing but noise at first learns to ignore it for good.
            self.noise_head = GaussianHead(features, (noise_dim,), 0.3, min_scale)

    @property
    def scm(self) -> CausalLayer | None:
        """The model's causal layer; ``None`` for a guide over ``eps``."""
        return self._scm[0]

    def posterior(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        features = self.encoder(x, labels)
        q = self.family.distribution(*self.head(features))
        if (scm := self.scm) is not None:
            q = dist.TransformedDistribution(q, [CausalTransform(scm).inv])
        posterior: dict[str, Any] = {"eps": q}
        if self.noise_dim:
            own = self.noise_encoder
            posterior["eps_x"] = dist.Normal(*self.noise_head(features if own is None else own(x, labels))).to_event(1)
        return posterior


def _features(encoder: Any) -> int:
    count = getattr(encoder, "out_features", None)
    if not isinstance(count, int):
        name = type(encoder).__name__
        raise ValueError(f"encoder: got {name} without out_features; must have it, as Backbone({name}(...), x_shape) does")
    return count


def _shape(scm: CausalLayer | None, num_concepts: int | None, dim: int | None) -> tuple[int, int]:
    """``(n, d)``, from the causal layer or from the numbers."""
    if scm is None:
        if num_concepts is None:
            raise ValueError("num_concepts: got None; a guide over eps needs it, a guide over z needs the causal layer, scm")
        dim = 1 if dim is None else dim
        check_count("num_concepts", num_concepts)
        check_count("dim", dim)
        return num_concepts, dim
    if not hasattr(scm, "graph"):
        raise TypeError(f"scm: got {scm!r}; must be a causal layer, or None for a guide over eps")
    for argument, value in (("num_concepts", num_concepts), ("dim", dim)):
        if value is not None:
            raise ValueError(f"{argument}: got {value} together with scm; leave it out, the causal layer gives the shape")
    return len(scm.graph), scm.dim
