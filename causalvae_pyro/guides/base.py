"""What amortised guides have in common, and the two with a diagonal Gaussian: over ``eps`` and over ``z``."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from causalvae_pyro.scm import CausalLayer, CausalTransform
from causalvae_pyro.utils.configurable import Configurable
from causalvae_pyro.utils.local_params import LocalParamModule

__all__ = ["AmortizedGuide", "EndogenousGuide", "ExogenousGuide"]

_count = itertools.count()


class AmortizedGuide(Configurable, LocalParamModule):
    """Base class: an encoder's features give the parameters of a distribution, by default of a diagonal Gaussian.

    ::

        h       = encoder(x, u)
        eps     ~ q(eps | h)
        h_x     = noise_encoder(x, u)             or h
        eps_x   ~ N(m_x(h_x), s_x(h_x)^2)         where noise_dim > 0

    Args:
        encoder: Module ``(x [..., C, H, W], labels [..., n] or None) -> [..., features]`` with an attribute
            ``out_features``. An encoder that ignores labels makes the guide ``q(eps | x)``.
        num_concepts: Number of concepts ``n``.
        dim: Dimensions ``d`` of each concept.
        noise_dim: Dimensions of the image's own exogenous noise, as in the model.
        noise_encoder: An encoder of its own for ``eps_x``; by default it shares the features of ``encoder``.
        init_scale: Standard deviation that the guide starts with.
        min_scale: Floor of the standard deviation.

    Subclasses define :meth:`exogenous`, and for another family than the diagonal Gaussian :meth:`make_head` and :meth:`family`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        num_concepts: int,
        dim: int = 1,
        *,
        noise_dim: int = 0,
        noise_encoder: nn.Module | None = None,
        init_scale: float = 0.1,
        min_scale: float = 1e-4,
    ) -> None:
        super().__init__(f"guide_{next(_count)}")
        if not 0 < min_scale < init_scale:
            raise ValueError(f"init_scale: got init_scale={init_scale}, min_scale={min_scale}; need 0 < min_scale < init_scale")
        self.encoder = encoder
        self.num_concepts, self.dim, self.noise_dim, self.min_scale = num_concepts, dim, noise_dim, min_scale
        self.head = self.make_head(encoder.out_features, init_scale)  # type: ignore[arg-type]
        if noise_encoder is not None and not noise_dim:
            raise ValueError("noise_encoder: got one, but noise_dim is 0, so there is no eps_x for it")
        self.noise_encoder = noise_encoder
        if noise_dim:
            features = (noise_encoder or encoder).out_features
            # Well below the prior's 1: a decoder that meets nothing but noise at first learns to ignore it for good.
            self.noise_head = GaussianHead(features, (noise_dim,), 0.3, min_scale)  # type: ignore[arg-type]

    def make_head(self, features: int, init_scale: float) -> nn.Module:
        """The module from features ``[..., features]`` to the tuple of parameters of :meth:`family`."""
        return GaussianHead(features, (self.num_concepts, self.dim), init_scale, self.min_scale)

    def family(self, *parameters: Any) -> Any:
        """The distribution over ``[n, d]`` with the head's parameters, here mean and standard deviation ``[..., n, d]``."""
        return dist.Normal(*parameters).to_event(2)

    @abstractmethod
    def exogenous(self, *parameters: Any) -> Any:
        """``q(eps | x, u)`` with event shape ``[n, d]`` from the head's parameters."""

    def posterior(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        """The distributions of ``eps`` and, where the model has it, ``eps_x``, keyed by site."""
        features = self.encoder(x, labels)
        posterior: dict[str, Any] = {"eps": self.exogenous(*self.head(features))}
        if self.noise_dim:
            own = self.noise_encoder
            posterior["eps_x"] = dist.Normal(*self.noise_head(features if own is None else own(x, labels))).to_event(1)
        return posterior

    def forward(self, x: Tensor, labels: Tensor | None = None, num_samples: int | None = None) -> Tensor:
        """Samples the guide's sites.

        Args:
            x: Images ``[batch, C, H, W]``.
            labels: Labels ``[batch, n]``, for encoders that use them.
            num_samples: Ignored; the model's signature has it.

        Returns:
            ``eps [batch, n, d]``.
        """
        if not len(x):
            # Pyro's plates divide by their size.
            raise ValueError("x: got an empty batch")
        with pyro.plate("data", len(x)):
            samples = {site: pyro.sample(site, q) for site, q in self.posterior(x, labels).items()}
        return samples["eps"]


class ExogenousGuide(AmortizedGuide):
    """``q(eps | x, u) = N(m(x, u), s(x, u)^2)``, the paper's encoder."""

    def exogenous(self, *parameters: Any) -> Any:
        return self.family(*parameters)


class EndogenousGuide(AmortizedGuide):
    """``q(z | x, u) = N(m(x, u), s(x, u)^2)``, mapped back to ``eps = f^-1(z)`` by the causal layer.

    The encoder reads each concept off the image and needs not know the mechanisms; ``q(z | x, u)``, and with it the
    KL divergence from the conditional prior, has a closed form for every causal layer.

    Args:
        encoder: See :class:`AmortizedGuide`.
        scm: The model's causal layer. It stays the model's: its parameters are not the guide's.
        noise_dim: See :class:`AmortizedGuide`.
        noise_encoder: See :class:`AmortizedGuide`.
        init_scale: See :class:`AmortizedGuide`; about the conditional prior's ``lambda2``.
        min_scale: See :class:`AmortizedGuide`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        scm: CausalLayer,
        *,
        noise_dim: int = 0,
        noise_encoder: nn.Module | None = None,
        init_scale: float = 0.1,
        min_scale: float = 1e-4,
    ) -> None:
        super().__init__(
            encoder,
            len(scm.graph),
            scm.dim,
            noise_dim=noise_dim,
            noise_encoder=noise_encoder,
            init_scale=init_scale,
            min_scale=min_scale,
        )
        # In a tuple, so that the layer is not registered as a submodule: its parameters belong to the model alone.
        self._scm = (scm,)

    @property
    def scm(self) -> CausalLayer:
        """The model's causal layer."""
        return self._scm[0]

    def exogenous(self, *parameters: Any) -> Any:
        return dist.TransformedDistribution(self.family(*parameters), [CausalTransform(self.scm).inv])


class GaussianHead(nn.Module):
    """Means and standard deviations, each linear in the features; the latter's logarithm, above the floor.

    Args:
        features: Length of the features.
        event_shape: Shape of the latent.
        init_scale: Standard deviation at the start, the same for all features.
        min_scale: Its floor.
    """

    def __init__(self, features: int, event_shape: tuple[int, ...], init_scale: float, min_scale: float) -> None:
        super().__init__()
        self.event_shape, self.min_scale = event_shape, min_scale
        size = torch.Size(event_shape).numel()
        self.loc = nn.Linear(features, size)
        self.log_scale = nn.Linear(features, size)
        nn.init.zeros_(self.log_scale.weight)
        nn.init.constant_(self.log_scale.bias, torch.tensor(init_scale - min_scale).log().item())

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``[..., *event_shape]``."""
        shape = features.shape[:-1] + self.event_shape
        # Clamped above only against overflow in the first steps.
        scale = self.min_scale + self.log_scale(features).clamp(max=5.0).exp()
        return self.loc(features).reshape(shape), scale.reshape(shape)
