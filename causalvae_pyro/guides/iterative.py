"""A guide that encodes its own reconstruction too."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from causalvae_pyro.distributions import with_mean
from causalvae_pyro.guides.wrapper import GuideWrapper

__all__ = ["IterativeGuide"]


class IterativeGuide(GuideWrapper):
    """Iterative amortised inference (Marino et al. 2018): corrects ``q(z | x, u)`` by the reconstruction.

    ::

        z_0     = m(x, u)                                       the wrapped guide's mean
        z_t+1   = z_t + m(x, u) - m(decoder(z_t), u)
        q(z | x, u) = the wrapped guide's, moved to the mean z_k

    An amortised encoder makes much the same error on an image and on its reconstruction. At a fixed point both are encoded
    alike, so null interventions can be repeated without drift. Where Marino et al. use a gradient, this uses the encoder's error.
    In training the mean is ``z_0``. Each step costs one pass of decoder and encoder. It assumes a decoder that follows the
    concepts: every difference between an image and its reconstruction counts as an error of the encoder.

    Args:
        guide: See :class:`GuideWrapper`; its distribution of ``z`` must have a mean, so a normalising flow is refused.
        model: See :class:`GuideWrapper`. The image's own noise ``eps_x`` is encoded once.
        refinements: Number ``k`` of steps, >= 0.
    """

    def __init__(self, guide: nn.Module, model: Any, *, refinements: int = 1) -> None:
        if not isinstance(refinements, int) or refinements < 0:
            raise ValueError(f"refinements: got {refinements}; must be at least 0")
        super().__init__(guide, model)
        self.refinements = refinements

    def posterior(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        posterior = self.guide.posterior(x, labels)
        q = self._endogenous(posterior)
        # Before the first step of training, not after the last one.
        z = mean = self._mean(q)
        if self.training:
            return posterior
        noise = [posterior["eps_x"].mean] if "eps_x" in posterior else []
        for _ in range(self.refinements):
            with self._running_model() as model:
                reconstruction = model.likelihood(model.decoder(z, *noise)).mean
            z = z + mean - self._mean(self._endogenous(self.guide.posterior(reconstruction, labels)))
        return self._corrected(posterior, with_mean(q, z), x)

    def _mean(self, q: Any) -> Tensor:
        try:
            return q.mean
        except NotImplementedError:
            raise TypeError(f"guide: its distribution of z is {type(q).__name__}; must have a mean in closed form") from None
