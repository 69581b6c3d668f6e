"""What guides have in common whose noise depends on the concepts that explain the image."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor

from causalvae_pyro.guides.amortized import AmortizedGuide
from causalvae_pyro.scm import CausalTransform

__all__ = ["ConditionalNoiseGuide"]


class ConditionalNoiseGuide(AmortizedGuide):
    """Base class: a guide over ``z`` that samples the concepts first, then ``eps_x`` given them.

    Subclasses define :meth:`noise_posterior`, and set ``noise_dim``.
    """

    @abstractmethod
    def noise_posterior(self, x: Tensor, z: Tensor) -> Any:
        """``q(eps_x | x, z)``, with the batch of ``z [..., batch, n, d]``."""

    def posterior(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        """The distributions of ``eps`` and, given its mean, of ``eps_x``."""
        q = self._concepts(x, labels)
        return {"eps": q, "eps_x": self.noise_posterior(x, q.base_dist.mean)}

    def forward(self, x: Tensor, labels: Tensor | None = None, num_samples: int | None = None) -> Tensor:
        if not len(x):
            raise ValueError("x: got an empty batch")
        with pyro.plate(self.plate, len(x)):
            eps = pyro.sample("eps", self._concepts(x, labels))
            pyro.sample("eps_x", self.noise_posterior(x, self._layer.to_endogenous(eps)))
        return eps

    @property
    def _layer(self) -> Any:
        return self.scm

    def _concepts(self, x: Tensor, labels: Tensor | None) -> Any:
        q = self.family.distribution(*self.head(self.encoder(x, labels)))
        return dist.TransformedDistribution(q, [CausalTransform(self._layer).inv])
