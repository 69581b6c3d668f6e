"""Which concepts the poses of a part follow, and how."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from causalvae_pyro.networks.sprites.poses import EDGE, FAR, MOST_ARE_USUAL, NEARLY, ROUNDS

__all__ = ["effects_on_poses", "sparse_regression", "usual_poses"]

# Edges leave so much of what middle and size leave at most, and so much of either of them.
_CLEARER, _NOT_WORSE = 0.8, 1.1

# A tenth of a pixel of 32, squared, in half image sides.
_NEXT_TO_NOTHING = 4e-5


def effects_on_poses(concepts: NDArray, values: NDArray) -> NDArray:
    """What each concept does to the numbers of a part's poses, ``[n, d, 5]``; at most two do something to each, or to each edge.

    What rises from a floor, as a flame or a column of mercury, has one edge that its concept leaves alone. Where that says more
    than middle and size do, along an axis of an upright part, it is the edges whose concepts are found.

    Args:
        concepts: ``[M, n, d]``, all known.
        values: ``[M, 5]``, see :class:`Poses`.
    """
    found = np.stack([sparse_regression(concepts, value) for value in values.T], -1)
    if values[:, 4].any():
        return found
    for middle, size in ((0, 2), (1, 3)):
        edges = np.array([[1, -EDGE], [1, EDGE]])
        both = values[:, [middle, size]]
        ends = np.stack([sparse_regression(concepts, edge, halves=True) for edge in edges @ both.T], -1)
        effects = ends @ np.linalg.inv(edges).T
        now, before = (_left(concepts, both, each) for each in (effects, found[..., [middle, size]]))
        of_edges = np.square(edges @ now.T).sum() < _CLEARER * np.square(edges @ before.T).sum()
        # What is told of the size must not be lost for what is told of the middle.
        if of_edges and (np.square(now).sum(0) <= _NOT_WORSE * np.square(before).sum(0)).all():
            found[..., [middle, size]] = effects
    return found


def usual_poses(concepts: NDArray, values: NDArray) -> NDArray:
    """Which poses are near what all concepts together say of them, ``[M]`` bool: all but a few, or all.

    In some images a part is not told from a background of its colour: a few masks of half an image would say more of its size
    than all others.

    Args:
        concepts: ``[M, n, d]``, all known.
        values: ``[M, 5]``, see :class:`Poses`.
    """
    features = np.concatenate([np.ones((len(values), 1)), concepts.reshape(len(values), -1)], 1)
    usual = np.ones(len(values), bool)
    for _ in range(ROUNDS):
        away = np.abs(values - features @ np.linalg.lstsq(features[usual], values[usual], rcond=None)[0])
        usual = (away <= FAR * np.median(away[usual], 0) + NEARLY).all(1)
        if usual.mean() < MOST_ARE_USUAL:
            return np.ones(len(values), bool)
    return usual


def sparse_regression(
    concepts: NDArray, values: NDArray, *, enough: float = 0.5, gain: float = 0.1, halves: bool = False
) -> NDArray:
    """Coefficients ``[n, d]`` of ``values [M]`` on at most two of the concepts ``[M, n, d]``, greedily chosen; zero elsewhere.

    Args:
        concepts: ``[M, n, d]``.
        values: ``[M]``.
        enough: Share of the variance that has to be explained, or all coefficients are zero.
        gain: Share that the second concept has to add.
        halves: Whether it is enough that the second halves what the first leaves, if that is not next to nothing.
    """
    result = np.zeros(concepts.shape[1:])
    centred, target = concepts - concepts.mean(0), values - values.mean()
    total = np.square(target).sum()
    if total < 1e-5 * len(target):
        return result
    chosen: list[int] = []
    reached = 0.0
    while len(chosen) < 2:
        trials = []
        for j in set(range(concepts.shape[1])) - set(chosen):
            columns = centred[:, [*chosen, j]].reshape(len(target), -1)
            solution = np.linalg.lstsq(columns, target, rcond=None)[0]
            trials.append((1 - np.square(target - columns @ solution).sum() / total, j, solution))
        if not trials:
            break
        explained, j, solution = max(trials, key=lambda trial: trial[0])
        left = (1 - reached) * total / len(target)
        more = explained - reached >= gain or (halves and left > _NEXT_TO_NOTHING and 1 - explained < (1 - reached) / 2)
        if explained < enough or not more:
            break
        chosen, reached = [*chosen, j], explained
        result[:] = 0
        result[chosen] = solution.reshape(len(chosen), -1)
    return result


def _left(concepts: NDArray, values: NDArray, effects: NDArray) -> NDArray:
    """What ``effects [n, d, 2]`` leave of ``values [M, 2]``."""
    return values - values.mean(0) - np.einsum("mnd,ndk->mk", concepts - concepts.mean(0), effects)
