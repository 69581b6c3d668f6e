"""Random changes of images that leave the concepts as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from causalvae_pyro.utils.configurable import Configurable

__all__ = ["RandomBrightness", "RandomSymmetry"]


class RandomBrightness(Configurable, nn.Module):
    """Rescales each image on black ground so that its brightest pixel has a random value.

    For labels that do not change with brightness; a predictor of them cannot take it for a hint then.

    Args:
        low: Smallest value of the brightest pixel, in (0, 1]; the largest is 1.
    """

    def __init__(self, low: float = 0.25) -> None:
        super().__init__()
        if not 0 < low <= 1:
            raise ValueError(f"low: got {low}; must lie in (0, 1]")
        self.low = low

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C, H, W]`` in [0, 1] to the same shape."""
        top = x.amax((-3, -2, -1), keepdim=True)
        # Images that are black stay so.
        return x / top.clamp(min=1e-6) * (self.low + (1 - self.low) * torch.rand_like(top))


class RandomSymmetry(Configurable, nn.Module):
    """Mirrors, transposes and shifts images, each batch in its own way; the pixels' values stay exact.

    For concepts that do not depend on the image's orientation and position, such as the thickness of a stroke.

    Args:
        flips: Mirror left-right and top-bottom, each with probability 1/2.
        transpose: Swap rows and columns with probability 1/2; square images only.
        shift: Largest shift in pixels, either way, in each direction. Pixels that leave on one side come in on the other.
    """

    def __init__(self, *, flips: bool = True, transpose: bool = True, shift: int = 2) -> None:
        super().__init__()
        if shift < 0:
            raise ValueError(f"shift: got {shift}; must be at least 0")
        self.flips, self.transpose, self.shift = flips, transpose, shift

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C, H, W]`` to the same shape."""
        # From torch's global generator, like all sampling, so that a seed fixes it; on the CPU, so that no device waits.
        coins = torch.rand(3).tolist()
        axes = [axis for axis, coin in zip((-1, -2), coins, strict=False) if self.flips and coin < 0.5]
        x = x.flip(axes) if axes else x
        if self.transpose and coins[2] < 0.5:
            if x.shape[-1] != x.shape[-2]:
                raise ValueError(f"x: got images of {x.shape[-2]} x {x.shape[-1]}; transposing takes square ones")
            x = x.transpose(-1, -2)
        if self.shift:
            shifts = torch.randint(-self.shift, self.shift + 1, (2,)).tolist()
            x = x.roll(shifts, (-2, -1))
        return x
