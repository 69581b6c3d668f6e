"""The pixels' own noise: what an image differs by from its mean, in units of the likelihood's scale."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch.nn.functional as F
from pyro.distributions import MaskedDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, constraints

from causalvae_pyro.distributions import mean_of

__all__ = ["FADE", "FadingNoise", "HeldPixels", "check_pixel_noise", "has_scale", "standardised"]

#: A change of the mean at which 61 % of the pixel noise is kept, of the images' range. 0.01 and 0.1 are about as good on scenes
#: (docs/notes.md).
FADE = 0.03
# Of the reconstruction's errors, which lie around the edges of what has changed.
_NEIGHBOURHOOD = 5


@dataclass(frozen=True)
class FadingNoise:
    """Pixel noise that is kept as far as the mean stays what it was: ``e * exp(-(change / width)**2 / 2)``.

    ``change`` is the mean absolute change of the mean image over the colours of 5 x 5 pixels. What a decoder leaves out at a
    place is alike in worlds whose images are alike there: as if the noise were a Gaussian process over mean images, of which
    one value is known.

    Args:
        noise: ``e [N, C, H, W]``, from :func:`~causalvae_pyro.interventions.abduct_pixels`.
        mean: The mean image that it was abducted with.
        width: The change of which ``exp(-1/2)``, 61 %, is left, > 0.
    """

    noise: Tensor
    mean: Tensor
    width: float

    def at(self, mean: Tensor) -> Tensor:
        """``e`` in a world with this mean image."""
        change = (mean - self.mean).abs().mean(-3, keepdim=True)
        around = F.avg_pool2d(change.flatten(0, -4), _NEIGHBOURHOOD, 1, _NEIGHBOURHOOD // 2, count_include_pad=False)
        return self.noise * (-((around.view_as(change) / self.width) ** 2) / 2).exp()


class HeldPixels(Messenger):
    """Holds the noise ``e`` of the site ``x`` at a value: ``x = mean + scale * e``, where the site is not observed.

    Args:
        noise: ``e``, of the shape of ``x``, or such that fades; ``None`` is its mean, of any likelihood. Sampling noise for every
            pixel would take a good part of the decoder's time.
    """

    def __init__(self, noise: Tensor | FadingNoise | None) -> None:
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "x" and not msg["is_observed"]:
            mean = mean_of(msg["fn"])
            noise = self.noise.at(mean) if isinstance(self.noise, FadingNoise) else self.noise
            msg["value"] = mean if noise is None else mean + _scale_of(msg["fn"]) * noise
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


def check_pixel_noise(share: float, fade: float | None = None) -> None:
    """Refuses what is not a share, and what is no width.

    Raises:
        ValueError: If ``share`` lies outside of [0, 1], ``fade`` is not positive, or there is no noise that could fade.
    """
    if not isinstance(share, (Real, Tensor)) or not 0 <= share <= 1:
        raise ValueError(f"pixel_noise: got {share!r}; must lie in [0, 1]")
    if fade is not None and (not isinstance(fade, (Real, Tensor)) or not fade > 0):
        raise ValueError(f"fade: got {fade!r}; must be > 0, or None for pixel noise that does not fade")
    if fade is not None and share == 0:
        raise ValueError(f"fade: got {fade} with pixel_noise 0; must be None where no pixel noise is kept that could fade")


def has_scale(likelihood: Any) -> bool:
    """Whether a distribution is of a family ``location + scale * noise``, whose noise can be abducted."""
    try:
        _scale_of(likelihood)
    except ValueError:
        return False
    return True


def _scale_of(likelihood: Any) -> Tensor:
    base = likelihood
    while isinstance(base, (Independent, MaskedDistribution)):
        base = base.base_dist
    # LogNormal and its like have those of their base, and are no family of locations: they are not over all real numbers.
    support = getattr(base, "support", None)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is not constraints.real or not (hasattr(base, "loc") and hasattr(base, "scale")):
        name = type(base).__name__
        raise ValueError(f"pixel_noise: x is {name}, which has no location and scale; must be Normal, Laplace or the like, or 0")
    return base.scale
