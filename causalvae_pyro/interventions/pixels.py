"""The pixels' own noise: what an image differs by from its mean, in units of the likelihood's scale."""

from __future__ import annotations

from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, constraints

from causalvae_pyro.distributions import mean_of

__all__ = ["HeldPixels", "check_pixel_noise", "standardised"]


class HeldPixels(Messenger):
    """Holds the noise ``e`` of the site ``x`` at a value: ``x = mean + scale * e``, where the site is not observed.

    Args:
        noise: ``e``, of the shape of ``x``; ``None`` is its mean, of any likelihood. Sampling noise for every pixel would take a
            good part of the decoder's time.
    """

    def __init__(self, noise: Tensor | None) -> None:
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "x" and not msg["is_observed"]:
            mean = mean_of(msg["fn"])
            msg["value"] = mean if self.noise is None else mean + _scale_of(msg["fn"]) * self.noise
            msg["done"] = True


def standardised(likelihood: Any, x: Tensor) -> Tensor:
    """``e = (x - mean) / scale``, of the shape of ``x``.

    In a family ``location + scale * noise`` the mean lies a fixed number of scales from the location, so it does as well.

    Args:
        likelihood: A distribution with a location and a scale.
        x: Observations.

    Raises:
        ValueError: If the distribution is of another kind.
    """
    return (x - mean_of(likelihood)) / _scale_of(likelihood)


def check_pixel_noise(share: float) -> None:
    """Refuses what is not a share.

    Raises:
        ValueError: If it lies outside of [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"pixel_noise: got {share}; must lie in [0, 1]")


def _scale_of(likelihood: Any) -> Tensor:
    base = likelihood
    while isinstance(base, Independent):
        base = base.base_dist
    # LogNormal and its like have those of their base, and are no family of locations: they are not over all real numbers.
    support = getattr(base, "support", None)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is not constraints.real or not (hasattr(base, "loc") and hasattr(base, "scale")):
        name = type(base).__name__
        raise ValueError(f"pixel_noise: x is {name}, which has no location and scale; must be Normal, Laplace or the like, or 0")
    return base.scale
