"""Random changes of images that leave the concepts as they are."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalvae_pyro.utils.configurable import Configurable

__all__ = ["RandomBrightness", "RandomSymmetry", "RandomView"]


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


class RandomView(Configurable, nn.Module):
    """Augmentation of photographs: small random mirroring, shifts, turns, zooms, changes of light, and noise.

    For labels that do not depend on left and right; else ``mirror=False``. Pixels from outside repeat the edge.

    Args:
        mirror: Mirror left-right with probability 1/2.
        shift: Largest shift, as a share of the side.
        turn: Largest turn, in degrees.
        zoom: Largest relative change of size.
        light: Largest relative change of contrast, and largest shift of brightness.
        grain: Largest standard deviation of pixel noise, sampled for each image.
        cast: Largest shift of each colour, another one in each corner and smooth between them.
    """

    def __init__(
        self,
        *,
        mirror: bool = True,
        shift: float = 0.05,
        turn: float = 5.0,
        zoom: float = 0.08,
        light: float = 0.1,
        grain: float = 0.0,
        cast: float = 0.0,
    ) -> None:
        super().__init__()
        given = {"shift": shift, "turn": turn, "zoom": zoom, "light": light, "grain": grain, "cast": cast}
        for argument, value in given.items():
            if not value >= 0:
                raise ValueError(f"{argument}: got {value}; must be >= 0")
        self.mirror, self.shift, self.turn, self.zoom, self.light = mirror, shift, turn, zoom, light
        self.grain, self.cast = grain, cast

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` in [0, 1] to the same shape."""
        x = self.apply_changes(x, self.sample_changes(x))
        if self.cast:
            corners = self.cast * (2 * torch.rand(*x.shape[:2], 2, 2, device=x.device, dtype=x.dtype) - 1)
            x = x + F.interpolate(corners, x.shape[-2:], mode="bilinear", align_corners=True)
        if self.grain:
            x = x + self.grain * torch.rand(len(x), 1, 1, 1, device=x.device, dtype=x.dtype) * torch.randn_like(x)
        return x

    def sample_changes(self, x: Tensor) -> dict[str, Tensor]:
        """What is to be done to each of the images ``[N, C, H, W]``, by the argument's name, ``[N, k]``.

        ``turn`` (radians), ``zoom`` (factor), ``mirror`` (1 or -1), ``shift`` (across and down, in half sides),
        ``light`` (factor of the contrast, and brightness).
        """
        count = len(x)

        def between(limit: float) -> Tensor:
            return (2 * torch.rand(count, device=x.device, dtype=x.dtype) - 1) * limit

        changes = {"turn": between(self.turn * math.pi / 180)[:, None], "zoom": 1 + between(self.zoom)[:, None]}
        changes["mirror"] = torch.where(torch.rand(count, device=x.device) < 0.5 * self.mirror, -1.0, 1.0).to(x)[:, None]
        changes["shift"] = torch.stack([between(2 * self.shift), between(2 * self.shift)], 1)
        if self.light:
            changes["light"] = torch.stack([1 + between(self.light), between(self.light)], 1)
        return changes

    @staticmethod
    def apply_changes(x: Tensor, changes: dict[str, Tensor]) -> Tensor:
        """Images ``[N, C, H, W]`` in [0, 1], changed as :meth:`sample_changes` has it."""
        angle, size, side = (changes[name][:, 0] for name in ("turn", "zoom", "mirror"))
        rows = [
            torch.stack([side * size * angle.cos(), -size * angle.sin(), changes["shift"][:, 0]], -1),
            torch.stack([side * size * angle.sin(), size * angle.cos(), changes["shift"][:, 1]], -1),
        ]
        grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
        x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
        if "light" in changes:
            contrast, brightness = changes["light"][:, :, None, None, None].unbind(1)
            x = ((x - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)
        return x
