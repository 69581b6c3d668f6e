"""DCI: disentanglement, completeness and informativeness of codes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from causalvae_pyro.metrics.codes import check_codes, standardised

__all__ = ["DCI", "dci", "make_estimator"]

_ESTIMATORS = ("boosting", "forest", "lasso")


class DCI(NamedTuple):
    """What :func:`dci` returns."""

    #: In [0, 1]; 1 where every latent is important for one factor at most.
    disentanglement: float
    #: In [0, 1]; 1 where every factor needs one latent only.
    completeness: float
    #: Mean of ``r2``; at most 1.
    informativeness: float
    #: ``[k, n]`` float64, >= 0: how important latent ``i`` is for the prediction of factor ``j``.
    importances: Tensor
    #: ``[n]`` float64: R^2 of each factor on held-out samples.
    r2: Tensor


def dci(
    z: Tensor | np.ndarray,
    u: Tensor | np.ndarray,
    *,
    estimator: Any = "boosting",
    held_out: float = 0.25,
    seed: int = 0,
) -> DCI:
    """Disentanglement, completeness and informativeness, from how much a regressor uses each latent for each factor.

    One regressor per factor is fitted to all latents. Its importances, ``R[i, j]`` for latent ``i`` and factor ``j``, give

    - disentanglement ``sum_i w_i (1 - H_n(R[i] / sum_j R[i, j]))``, weights ``w_i = sum_j R[i, j] / sum R``;
    - completeness, the mean over factors of ``1 - H_k(R[:, j] / sum_i R[i, j])``,

    with entropies to base ``n`` and ``k``; and its R^2 on samples that it has not seen gives informativeness. (Eastwood &
    Williams report the root mean square error instead, in units of the factor's standard deviation: ``sqrt(1 - R^2)``.)

    The importances depend on the estimator; compare only scores that share it. A regressor that has found nothing still spreads
    its importances over the latents, so read the first two scores beside the third.

    Args:
        z: Codes ``[N, k]`` or ``[N, k, d]``.
        u: Factors ``[N, n]``. Classes are predicted as numbers.
        estimator: ``"boosting"``, 100 gradient-boosted trees of depth 3, and ``"forest"``, a random forest of 100 trees: their
            importance is the latent's share of the reduction in squared error. ``"lasso"``, with the penalty chosen by
            cross-validation: the absolute coefficients of standardised latents, blind to what is not linear. Or a scikit-learn
            regressor with ``feature_importances_`` or ``coef_`` once fitted.
        held_out: Share of the samples kept for ``informativeness``, drawn at random.
        seed: Of the split and of the trees.

    Returns:
        See :class:`DCI`. Limits: a factor for which no latent matters has completeness 0; where none matters for any,
        disentanglement is 0. With a single factor no latent can mix several, so the latents that matter are disentangled;
        likewise a single latent is complete for every factor that it matters for.

    Raises:
        ValueError: If ``estimator`` or ``held_out`` is invalid, ``z`` or ``u`` is not as stated, not finite or shorter than 8
            samples, or a column of ``u`` is constant in either part of the split.

    Source: Eastwood & Williams 2018.

    Example:
        >>> u = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> result = dci(u.flip(1), u, estimator="lasso")
        >>> [round(score, 2) for score in result[:3]]
        [1.0, 1.0, 1.0]
    """
    from sklearn.base import clone  # slow to import

    codes, factors = check_codes(z, u)
    count = round(held_out * len(codes)) if 0 < held_out < 1 else 0
    if not 2 <= count <= len(codes) - 2:
        raise ValueError(f"held_out: got {held_out} of {len(codes)} samples; both parts need at least two")
    order = np.random.default_rng(seed).permutation(len(codes))
    test, train = order[:count], order[count:]
    for part, name in ((test, "held-out"), (train, "training")):
        constant = np.flatnonzero(np.ptp(factors[part], axis=0) == 0)
        if constant.size:
            raise ValueError(f"u: columns {constant.tolist()} are constant in the {len(part)} {name} samples; give more samples")
    codes, factors = standardised(codes, train), standardised(factors, train)

    model = make_estimator(estimator, seed, len(train))
    importances, r2 = np.empty((codes.shape[1], factors.shape[1])), np.empty(factors.shape[1])
    for j, factor in enumerate(factors.T):
        fitted = clone(model).fit(codes[train], factor[train])
        weights = fitted.feature_importances_ if hasattr(fitted, "feature_importances_") else fitted.coef_
        importances[:, j] = np.abs(weights)
        error, spread = factor[test] - fitted.predict(codes[test]), factor[test] - factor[test].mean()
        r2[j] = 1 - np.square(error).sum() / np.square(spread).sum()

    rows = importances.sum(1)
    disentanglement = float(rows @ _concentration(importances) / rows.sum()) if rows.sum() > 0 else 0.0
    completeness = float(_concentration(importances.T).mean())
    return DCI(disentanglement, completeness, float(r2.mean()), torch.from_numpy(importances), torch.from_numpy(r2))


def make_estimator(estimator: Any, seed: int, samples: int) -> Any:
    """The scikit-learn regressor of a name; an object is returned as it is."""
    if not isinstance(estimator, str):
        if not (hasattr(estimator, "fit") and hasattr(estimator, "predict")):
            raise ValueError(f"estimator: got {estimator!r}; valid: {_ESTIMATORS} or a scikit-learn regressor")
        return estimator
    if estimator == "boosting":
        from sklearn.ensemble import GradientBoostingRegressor

        return GradientBoostingRegressor(random_state=seed)
    if estimator == "forest":
        from sklearn.ensemble import RandomForestRegressor

        return RandomForestRegressor(random_state=seed)
    if estimator == "lasso":
        from sklearn.linear_model import LassoCV

        return LassoCV(cv=min(5, samples), max_iter=100_000)
    raise ValueError(f"estimator: got {estimator!r}; valid: {_ESTIMATORS} or a scikit-learn regressor")


def _concentration(weights: np.ndarray) -> np.ndarray:
    """``1 -`` the normalised entropy of each row; 0 for rows without weight, 1 for a single column with weight."""
    total = weights.sum(1)
    if weights.shape[1] == 1:
        return (total > 0).astype(np.float64)
    shares = weights / np.where(total > 0, total, 1.0)[:, None]
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.where(total > 0, 1 + (shares * logs).sum(1) / np.log(weights.shape[1]), 0.0)
