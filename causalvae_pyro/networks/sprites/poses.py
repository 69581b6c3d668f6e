"""How a part lies in each image, and what it looks like there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

__all__ = ["EDGE", "Poses", "blur", "find_poses", "mean_shape", "moments", "turned_size"]

# A uniform line's half length is 1.7 times its pixels' standard deviation; a canvas of twice that has a margin around it.
_SIZE_OF_SPREAD = 3.5
#: Half of a uniform line's length, in half widths of its canvas.
EDGE = np.sqrt(3) / _SIZE_OF_SPREAD

# What is farther from where it is told to be than so many times the median of all is not usual; a tenth of a pixel of 32 is near.
# Where a twentieth of all are so far, it is no few masks that are wrong.
FAR, NEARLY, MOST_ARE_USUAL, ROUNDS = 8.0, 6e-3, 0.95, 3
# A mask that is more than so much larger than most is not of its part alone.
_LARGER = 3.0

# Turned poses have to make the mean shape so much sharper than upright ones.
_SHARPER = 0.8

# What turns with a concept: axes, turned back by it, have a mean of so much (1 where all are the same). It turns at most this
# often from a standard deviation below the concept's mean to one above.
_TURNED_BACK = 0.8
_MOST_TURNS, _TURNS = 1.5, 300
# Few values turn alike at many rates: of those that are as good, the slowest.
_AS_GOOD = 0.01
# A part turns about a point if its angle spreads by so much, in radians; if the point stays where it is but for this share of the
# part's half width; and if it is no farther from the part's centre than this share of its half length. What slides as it tilts
# has such a point far away.
_TURNING, _STAYS, _NEAR = 0.3, 0.5, 1.5
# An arm that grows with its part leaves so much of what a stiff one leaves at most.
_GROWS = 0.7


@dataclass(frozen=True)
class Poses:
    """A canvas laid over one part in each of ``M`` images.

    Attributes:
        values: ``[M, 5]``: position x and y and half width and height in half image sides, rotation in radians.
        shape: How often each pixel of the canvas lies on the part, ``[S, S]`` in [0, 1].
    """

    values: NDArray
    shape: NDArray

    @property
    def blur(self) -> float:
        """0 for a shape that is the same in all images."""
        return blur(self.shape)


def blur(shape: NDArray) -> float:
    """0 for a shape ``[S, S]`` in [0, 1] that is the same in all images."""
    return float((shape * (1 - shape)).sum() / shape.sum())


def find_poses(masks: NDArray, side: int, concepts: NDArray | None = None) -> Poses:
    """Poses in which a part looks much the same in all images.

    Things that grow and shrink are the same once stretched onto each other, things that turn once turned. Both are tried,
    by the mean and the covariance of the pixels, and turning has to pay. The canvas of what turns about a point, as a clock's
    hand does, is centred there.

    Args:
        masks: Pixels of the part, ``[M, H, W]``, at least one in each image.
        side: Pixels of the canvas along each side.
        concepts: ``[M, n, d]``, all known. An axis has no direction; where axes turn with a concept, angles beyond a quarter
            turn of their mean are told by it.
    """
    upright, turned = (_poses(masks, side, turn, concepts) for turn in (False, True))
    return turned if turned.blur < _SHARPER * upright.blur else upright


def _poses(masks: NDArray, side: int, turn: bool, concepts: NDArray | None) -> Poses:
    centres, (xx, yy, xy), least = moments(masks)
    angle = np.zeros(len(masks))
    if turn:
        angle = np.arctan2(2 * xy, xx - yy) / 2
        angle = _unwrapped(angle, concepts)
        around, half = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
        xx, yy = around + half, np.maximum(around - half, least)
    sizes = _SIZE_OF_SPREAD * np.sqrt(np.stack([xx, yy], 1))
    if turn:
        arms = _arms(centres, angle, sizes)
        if (sizes + np.abs(arms)).mean(0).max() <= 1:
            centres, sizes = centres + _rotated(arms, angle), sizes + np.abs(arms)
    return Poses(np.concatenate([centres, sizes, angle[:, None]], 1), mean_shape(masks, centres, sizes, angle, side))


def moments(masks: NDArray) -> tuple[NDArray, NDArray, float]:
    """Centres of masks ``[M, H, W]`` in half image sides, ``[M, 2]``, their moments xx, yy and xy, ``[3, M]``, and a pixel's."""
    count, height, width = masks.shape
    grids = np.meshgrid(*((2 * np.arange(n) + 1) / n - 1 for n in (width, height)), indexing="xy")
    places = np.stack([grid.ravel() for grid in grids], 1)
    weights = masks.reshape(count, -1) / masks.sum((1, 2))[:, None]
    centres = weights @ places
    products = np.stack([places[:, 0] ** 2, places[:, 1] ** 2, places[:, 0] * places[:, 1]], 1)
    # A pixel has a width, too.
    within = np.array([width, height], float) ** -2.0 / 3
    xx, yy = (weights @ products[:, :2] - centres**2 + within).T
    xy = weights @ products[:, 2] - centres[:, 0] * centres[:, 1]
    return centres, np.stack([xx, yy, xy]), float(within.min())


def turned_size(masks: NDArray, angles: NDArray) -> NDArray:
    """Half width and height of a canvas that lies at these angles over masks ``[M, H, W]``, ``[2]``; see :func:`find_poses`."""
    _, (xx, yy, xy), least = moments(masks)
    cos, sin = np.cos(angles), np.sin(angles)
    both = 2 * cos * sin * xy
    along = np.stack([cos**2 * xx + both + sin**2 * yy, sin**2 * xx - both + cos**2 * yy])
    return _SIZE_OF_SPREAD * np.sqrt(np.maximum(along.mean(1), least))


def _unwrapped(angles: NDArray, concepts: NDArray | None) -> NDArray:
    """Directions ``[M]`` of axes at these angles: within a quarter turn of their mean, or of what one concept says."""
    expected = np.zeros_like(angles)
    if concepts is not None:
        columns = concepts.reshape(len(concepts), -1)
        z = (columns - columns.mean(0)) / np.maximum(columns.std(0), 1e-12)
        rates = np.linspace(-np.pi * _MOST_TURNS, np.pi * _MOST_TURNS, _TURNS + 1)
        # [rates, columns]
        means = np.abs(np.einsum("m,rmj->rj", np.exp(2j * angles), np.exp(-2j * rates[:, None, None] * z))) / len(z)
        if means.max() > _TURNED_BACK:
            good = means >= means.max() - _AS_GOOD
            rate, column = np.unravel_index(np.where(good, np.abs(rates)[:, None], np.inf).argmin(), means.shape)
            expected = rates[rate] * z[:, column]
    expected = expected + np.angle(np.exp(2j * (angles - expected)).mean()) / 2
    return expected + (angles - expected + np.pi / 2) % np.pi - np.pi / 2


def _arms(centres: NDArray, angles: NDArray, sizes: NDArray) -> NDArray:
    """From the centre of a part to the point that it turns about, in its own directions, ``[M, 2]``; 0 where it has none.

    The point is always as far away, or, for what also grows (a wind sock, a thermometer's needle), as many of its lengths.

    Args:
        centres: ``[M, 2]``.
        angles: ``[M]``.
        sizes: Half width and height of its canvas, ``[M, 2]``.
    """
    if angles.std() < _TURNING:
        return np.zeros_like(sizes)
    cos, sin, one, nil = np.cos(angles), np.sin(angles), np.ones(len(angles)), np.zeros(len(angles))

    plausible = (sizes <= _LARGER * np.median(sizes, 0)).all(1)
    if plausible.mean() < MOST_ARE_USUAL:
        plausible = np.ones(len(sizes), bool)

    def fit(lengths: NDArray) -> tuple[float, NDArray]:
        # centre = point - R(angle) (arm * lengths)
        along, across = lengths.T
        x, y = np.stack([one, nil, -cos * along, sin * across], -1), np.stack([nil, one, -sin * along, -cos * across], -1)
        both, usual = np.stack([x, y], 1), plausible
        for _ in range(ROUNDS):
            solution = np.linalg.lstsq(both[usual].reshape(-1, 4), centres[usual].ravel(), rcond=None)[0]
            away = np.hypot(*(centres - both @ solution).T)
            # A few masks are wrong where a part is not told from a background of its colour.
            if (near := away <= FAR * np.median(away) + NEARLY).mean() >= MOST_ARE_USUAL:
                usual = near
        return float(np.sqrt(np.square(away[usual]).mean())), solution[2:] * lengths

    typical = sizes[plausible].mean(0)
    (moves, arms), growing = fit(np.ones_like(sizes)), fit(sizes / typical)
    if growing[0] < _GROWS * moves:
        moves, arms = growing
    halves = EDGE * typical
    near = np.hypot(*np.median(arms, 0)) < _NEAR * halves.max()
    return arms if moves < _STAYS * halves.min() and near else np.zeros_like(sizes)


def _rotated(v: NDArray, angles: NDArray) -> NDArray:
    """``v [M, 2]`` turned by ``angles [M]``."""
    cos, sin = np.cos(angles), np.sin(angles)
    return np.stack([cos * v[:, 0] - sin * v[:, 1], sin * v[:, 0] + cos * v[:, 1]], 1)


def mean_shape(masks: NDArray, centres: NDArray, sizes: NDArray, angle: NDArray, side: int) -> NDArray:
    """How often each pixel of canvases that lie so over masks ``[M, H, W]`` is on them, ``[S, S]``."""
    line = (2 * np.arange(side) + 1) / side - 1
    canvas = np.stack(np.meshgrid(line, line, indexing="xy"), -1)
    stretched = canvas * sizes[:, None, None]
    cos, sin = (f(angle)[:, None, None] for f in (np.cos, np.sin))
    x, y = stretched[..., 0], stretched[..., 1]
    where = centres[:, None, None] + np.stack([cos * x - sin * y, sin * x + cos * y], -1)
    images = torch.as_tensor(masks[:, None]).float()
    return nn.functional.grid_sample(images, torch.as_tensor(where).float(), align_corners=False).mean((0, 1)).numpy()
