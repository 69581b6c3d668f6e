"""What every guide with a ``posterior`` has in common: it samples the sites that its posterior names."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import pyro
from torch import Tensor

from causalvae_pyro.utils.local_params import LocalParamModule

__all__ = ["PosteriorGuide"]


class PosteriorGuide(LocalParamModule):
    """Base class: a guide given by the distributions of its sites.

    Subclasses define :meth:`posterior`.
    """

    #: Name of the plate over the images.
    plate: str = "data"

    def __init__(self) -> None:
        super().__init__("guide")

    @abstractmethod
    def posterior(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        """The distributions of ``eps`` and, where the model has it, ``eps_x``, keyed by site.

        Args:
            x: Images ``[batch, C, H, W]``.
            labels: Labels ``[batch, n]``, NaN where missing; ``None`` where all are.
        """

    def noise_posterior(self, x: Tensor, z: Tensor) -> Any | None:
        """``q(eps_x | x, z)``, of guides whose noise depends on the concepts that explain the image; ``None`` of others.

        Args:
            x: Images ``[batch, C, H, W]``.
            z: Concepts ``[batch, n, d]``.
        """
        return None

    def forward(self, x: Tensor, labels: Tensor | None = None, num_samples: int | None = None) -> Tensor:
        """Samples the guide's sites.

        Args:
            x: Images ``[batch, C, H, W]``.
            labels: Labels ``[batch, n]``, for guides that use them.
            num_samples: Ignored; the model's signature has it.

        Returns:
            ``eps [batch, n, d]``.
        """
        if not len(x):
            # Pyro's plates divide by their size.
            raise ValueError("x: got an empty batch")
        with pyro.plate(self.plate, len(x)):
            samples = {site: pyro.sample(site, q) for site, q in self.posterior(x, labels).items()}
        return samples["eps"]
