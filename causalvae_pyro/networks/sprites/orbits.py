"""Parts that go around a point, and slide along what turns about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from causalvae_pyro.networks.sprites.pose_effects import sparse_regression
from causalvae_pyro.networks.sprites.poses import mean_shape, moments, turned_size

__all__ = ["Orbit", "find_orbit"]

# Rates at which a concept may turn it: so many radians for a standard deviation.
_MOST, _RATES = np.pi / 2, 121
# A straight path is simpler: the orbit leaves so much of what it leaves at most, and there is something to explain, of squared
# half image sides.
_WORTH, _LEAST = 0.3, 2e-4
# The longest arm, in half image sides.
_FARTHEST = 2.0


@dataclass(frozen=True)
class Orbit:
    """``centre = point + R(angle) arm``, with an angle linear in one concept and an arm linear in at most one other.

    Attributes:
        point: ``[2]``, in half image sides.
        angle: In radians, where the concepts are zero.
        turns: What each concept adds to it, ``[n, d]``.
        arm: ``[2]``, where the concepts are zero.
        slides: What each concept adds to the arm, ``[n, d, 2]``.
        size: Half width and height of a canvas that turns with the arm, ``[2]``.
        shape: See :class:`~causalvae_pyro.networks.sprites.poses.Poses`.
    """

    point: NDArray
    angle: float
    turns: NDArray
    arm: NDArray
    slides: NDArray
    size: NDArray
    shape: NDArray


def find_orbit(masks: NDArray, side: int, concepts: NDArray) -> Orbit | None:
    """The orbit that a part follows, if it explains its places much better than straight paths do.

    A bead on an arm that swings is where no sum of functions of the concepts says: its arm's length and its angle multiply. Where
    concepts have several dimensions, each is one of its own here. In images that are not square a circle is none in half image
    sides, and no orbit either.

    Args:
        masks: Pixels of the part, ``[M, H, W]``, at least one in each image.
        side: Pixels of the canvas along each side.
        concepts: ``[M, n, d]``, all known.
    """
    count, (centres, _, _) = len(masks), moments(masks)
    straight = sum(_left(concepts, target) for target in centres.T)
    if straight < _LEAST * count:
        return None
    columns = concepts.reshape(count, -1)
    mean, spread = columns.mean(0), np.maximum(columns.std(0), 1e-12)
    z = (columns - mean) / spread
    found: tuple[float, float, int, int | None, NDArray] | None = None
    rates = np.linspace(-_MOST, _MOST, _RATES)
    for j in range(z.shape[1]):
        cos, sin = np.cos(rates[:, None] * z[:, j]), np.sin(rates[:, None] * z[:, j])
        for k in (None, *(k for k in range(z.shape[1]) if k != j)):
            solutions, left = _fit(centres, cos, sin, None if k is None else z[:, k])
            reach = solutions[:, None, 2:4] + (0 if k is None else z[:, k, None] * solutions[:, None, 4:])
            left = np.where(np.hypot(reach[..., 0], reach[..., 1]).max(1) < _FARTHEST, left, np.inf)
            best = int(left.argmin())
            if found is None or left[best] < found[0]:
                found = float(left[best]), float(rates[best]), j, k, solutions[best]
    if found is None or found[0] > _WORTH * straight:
        return None
    _, rate, j, k, solution = found
    turns, slides = np.zeros(columns.shape[1]), np.zeros((columns.shape[1], 2))
    turns[j], arm = rate / spread[j], solution[2:4]
    if k is not None:
        slides[k] = solution[4:] / spread[k]
    angles, lead = rate * z[:, j], concepts.shape[1:]
    size = turned_size(masks, angles)
    shape = mean_shape(masks, centres, np.broadcast_to(size, (count, 2)), angles, side)
    start = -float(turns @ mean)
    return Orbit(solution[:2], start, turns.reshape(lead), arm - slides.T @ mean, slides.reshape(*lead, 2), size, shape)


def _left(concepts: NDArray, target: NDArray) -> float:
    """The squared error of what at most two concepts say of a coordinate, along straight paths."""
    effect = sparse_regression(concepts, target, enough=0.05)
    centred = (concepts - concepts.mean(0)).reshape(len(target), -1)
    return float(np.square(target - target.mean() - centred @ effect.ravel()).sum())


def _fit(centres: NDArray, cos: NDArray, sin: NDArray, other: NDArray | None) -> tuple[NDArray, NDArray]:
    """Point, arm and slide with the least squared error for each rate ``[r, 4 or 6]``, and that error ``[r]``."""
    one, nil = np.ones_like(cos), np.zeros_like(cos)
    x, y = [one, nil, cos, -sin], [nil, one, sin, cos]
    if other is not None:
        x, y = [*x, other * cos, -other * sin], [*y, other * sin, other * cos]
    features, target = np.concatenate([np.stack(x, -1), np.stack(y, -1)], 1), np.concatenate(centres.T)
    gram = features.transpose(0, 2, 1) @ features + 1e-6 * len(target) * np.eye(features.shape[2])
    solutions = np.linalg.solve(gram, (features.transpose(0, 2, 1) @ target)[..., None])[..., 0]
    return solutions, np.square(target - (features @ solutions[..., None])[..., 0]).sum(1)
