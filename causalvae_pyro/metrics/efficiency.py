"""How much data it takes: curves of scores against the share of labels, and a predictor that learns from few samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from causalvae_pyro.metrics.codes import check_codes
from causalvae_pyro.metrics.dci import make_estimator
from causalvae_pyro.metrics.intervals import SeedsInterval, seeds_interval

__all__ = ["efficiency_curve", "sample_efficiency"]


def efficiency_curve(
    score: Callable[[float, int], Mapping[str, float]], shares: Sequence[float], *, seeds: Sequence[int] = range(5)
) -> dict[str, list[SeedsInterval]]:
    """Scores against the share of the data (or of its labels) that training may use, with intervals over seeds.

    Args:
        score: Trains on a share in (0, 1] with a seed and returns scores by name, e.g. MIC, TIC and CF-scores of the test split.
        shares: Such as ``(1, 0.1, 0.01)``.
        seeds: Of the runs; each share is run with all of them.

    Returns:
        For each score, one :func:`~causalvae_pyro.metrics.seeds_interval` per share, in their order.

    Raises:
        ValueError: If a share is not in (0, 1], there are no shares or seeds, or a run returns other scores than the first.

    Example:
        >>> curve = efficiency_curve(lambda share, seed: {"r2": 1 - 0.01 / share + 0.001 * seed}, [1, 0.1], seeds=[0, 1])
        >>> [round(point["mean"], 4) for point in curve["r2"]]
        [0.9905, 0.9005]
    """
    wrong = [share for share in shares if not 0 < share <= 1]
    if wrong or not len(shares):
        raise ValueError(f"shares: got {list(shares)}; each must lie in (0, 1], and there must be one at least")
    if not len(seeds):
        raise ValueError("seeds: got none; give one per run")
    results = [[dict(score(share, seed)) for seed in seeds] for share in shares]
    names = list(results[0][0])
    if any(set(result) != set(names) for row in results for result in row):
        raise ValueError(f"score: returned other scores than the first run's {names}; every run must return the same")
    return {name: [seeds_interval(result[name] for result in row) for row in results] for name in names}


def sample_efficiency(
    z: Tensor | np.ndarray,
    u: Tensor | np.ndarray,
    z_test: Tensor | np.ndarray,
    u_test: Tensor | np.ndarray,
    sizes: Sequence[int],
    *,
    estimator: Any = "boosting",
    seed: int = 0,
) -> np.ndarray:
    """R^2 of a downstream predictor of labels that has seen so many codes only.

    Codes that lay each factor out by itself let a predictor do with fewer samples. Divide the value at a small size by that at
    the largest for the ratio that some papers call sample efficiency.

    Args:
        z: Codes to learn from ``[N, k]`` or ``[N, k, d]``, in any order; the first so many of a random order are used.
        u: Their labels ``[N, n]``.
        z_test: Codes to be scored on ``[M, k]`` or ``[M, k, d]``.
        u_test: Their labels ``[M, n]``.
        sizes: How many samples to learn from, each from 2 to ``N``.
        estimator: See :func:`~causalvae_pyro.metrics.dci`.
        seed: Of the order and of the predictor.

    Returns:
        ``[len(sizes), n]``: R^2 on the test codes; at most 1, negative where the prediction is worse than the mean.

    Raises:
        ValueError: If a size is out of range, or codes and labels are not as stated, not finite, shorter than 8 samples, or a
            label is constant.

    Example:
        >>> u = torch.rand(300, 2, generator=torch.Generator().manual_seed(0))
        >>> few, many = sample_efficiency(u[:200], u[:200], u[200:], u[200:], [5, 200]).mean(1)
        >>> bool(few < many)
        True
    """
    from sklearn.base import clone  # slow to import

    codes, factors = check_codes(z, u)
    test_codes, test_factors = check_codes(z_test, u_test)
    if test_codes.shape[1] != codes.shape[1] or test_factors.shape[1] != factors.shape[1]:
        raise ValueError(
            f"z_test: got {test_codes.shape[1]} codes, {test_factors.shape[1]} labels; z has {codes.shape[1]}, {factors.shape[1]}"
        )
    wrong = [size for size in sizes if not 2 <= size <= len(codes)]
    if wrong:
        raise ValueError(f"sizes: got {wrong[0]}; valid: 2 to {len(codes)}, the number of samples")
    order = np.random.default_rng(seed).permutation(len(codes))
    spread = np.square(test_factors - test_factors.mean(0)).sum(0)
    result = np.empty((len(sizes), factors.shape[1]))
    for row, size in enumerate(sizes):
        chosen = order[:size]
        for j in range(factors.shape[1]):
            fitted = clone(make_estimator(estimator, seed, size)).fit(codes[chosen], factors[chosen, j])
            result[row, j] = 1 - np.square(test_factors[:, j] - fitted.predict(test_codes)).sum() / spread[j]
    return result
