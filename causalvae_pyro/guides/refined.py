"""A guide that reads its own reconstruction too."""

from __future__ import annotations

from typing import Any

import pyro.poutine as poutine
from torch import Tensor, nn

from causalvae_pyro.guides.base import EndogenousGuide
from causalvae_pyro.utils.local_params import local_params
from causalvae_pyro.utils.modes import evaluation_mode

__all__ = ["IterativeGuide"]


class IterativeGuide(EndogenousGuide):
    """``q(z | x, u) = N(z_k, s(x, u)^2)``, the mean corrected by what the encoder ``m`` reads from the model's drawing of it.

    ::

        z_0     = m(x, u)
        z_t+1   = z_t + m(x, u) - m(decoder(z_t), u)

    An amortised encoder misreads an image and the drawing of what it read in much the same way. Where the sequence stops,
    the drawing reads exactly as the image does: an intervention that changes nothing can be repeated as often as one likes.
    In training the mean is ``z_0``. Each step costs a drawing and a reading. It takes a decoder that draws what it is
    told: the difference between an image and its reconstruction is taken for a misreading.

    Args:
        encoder: See :class:`AmortizedGuide`.
        model: The :class:`~causalvae_pyro.CausalVAE`. It is no part of the guide: its parameters are not the guide's.
        refinements: Number ``k`` of steps, >= 0.
        noise_dim: See :class:`AmortizedGuide`. The image's own noise is read once.
        noise_encoder: See :class:`AmortizedGuide`.
        init_scale: See :class:`EndogenousGuide`.
        min_scale: See :class:`AmortizedGuide`.

    Source: in the spirit of iterative amortised inference, Marino et al. 2018, with the encoder's error in place of a gradient.
    """

    def __init__(
        self,
        encoder: nn.Module,
        model: Any,
        *,
        refinements: int = 1,
        noise_dim: int = 0,
        noise_encoder: nn.Module | None = None,
        init_scale: float = 0.1,
        min_scale: float = 1e-4,
    ) -> None:
        if not isinstance(refinements, int) or refinements < 0:
            raise ValueError(f"refinements: got {refinements}; must be at least 0")
        super().__init__(
            encoder, model.scm, noise_dim=noise_dim, noise_encoder=noise_encoder, init_scale=init_scale, min_scale=min_scale
        )
        self.refinements = refinements
        # As the causal layer: not a submodule.
        self._model = (model,)

    def posterior(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        posterior = super().posterior(x, labels)
        if self.training:
            return posterior
        gaussian = posterior["eps"].base_dist.base_dist
        noise = [posterior["eps_x"].mean] if self.noise_dim else []
        z = gaussian.loc
        for _ in range(self.refinements):
            mean, _ = self.head(self.encoder(self._draw(z, *noise), labels))
            z = z + gaussian.loc - mean
        return posterior | {"eps": self.exogenous(z, gaussian.scale)}

    def _draw(self, *latents: Tensor) -> Tensor:
        model = self._model[0]
        # The model's parameters are no statements of the guide.
        with evaluation_mode(model), local_params(model), poutine.block():
            return model.likelihood(model.decoder(*latents)).mean
