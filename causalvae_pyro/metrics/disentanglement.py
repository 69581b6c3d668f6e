"""How well single latents stand for single factors: MCC, MIG, SAP and IRS, for the codes of any encoder.

All take codes ``z`` ``[N, k]``, or ``[N, k, d]``, which are averaged over ``d``, and factors (labels) ``u`` ``[N, n]``; ``k``
and ``n`` may differ. A latent that never changes is a legitimate outcome of training (posterior collapse): it counts as one
that carries no information. A label that never changes has nothing to be found and is an error.

The scores were made for independent factors. Where labels depend on one another, as causes and effects do, a latent that
equals its label also tells something about the others: :func:`mig` and :func:`sap` then stay below 1 for any encoder (score
``z = u`` for a data set's ceiling), and in :func:`mcc` a latent of a related factor earns part of the score.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from causalvae_pyro.metrics.codes import check_codes

__all__ = ["irs", "mcc", "mig", "sap"]


def mcc(z: Tensor | np.ndarray, u: Tensor | np.ndarray, *, method: str = "pearson") -> float:
    """Mean correlation coefficient: the mean ``|corr(z_i, u_j)|`` over the best one-to-one assignment of latents to factors.

    It ignores the order, the sign and the scale of the latents; with ``"spearman"`` every monotone transformation of them.

    Args:
        z: Codes ``[N, k]`` or ``[N, k, d]``.
        u: Factors ``[N, n]``.
        method: ``"pearson"`` or ``"spearman"``, the correlation of the values or of their ranks.

    Returns:
        A number in [0, 1]; 1 is perfect. Where ``k < n``, the factors left without a latent count 0. Independent codes give a
            little more than ``1 / sqrt(N)``, not 0.

    Raises:
        ValueError: If ``method`` is unknown, or ``z`` or ``u`` is not as stated, not finite, shorter than 8 samples, or ``u``
            has a constant column.

    Source: Hyvarinen & Morioka 2016; Khemakhem et al. 2020.

    Example:
        >>> u = torch.randn(100, 3)
        >>> round(mcc(-2 * u[:, [2, 0, 1]], u), 6)
        1.0
    """
    # Slow to import.
    from scipy.optimize import linear_sum_assignment
    from scipy.stats import rankdata

    if method not in ("pearson", "spearman"):
        raise ValueError(f"method: got {method!r}; valid: 'pearson', 'spearman'")
    codes, factors = check_codes(z, u)
    if method == "spearman":
        codes, factors = rankdata(codes, axis=0), rankdata(factors, axis=0)
    correlation = np.abs(_correlation(codes, factors))
    return float(correlation[linear_sum_assignment(correlation, maximize=True)].sum() / factors.shape[1])


def mig(z: Tensor | np.ndarray, u: Tensor | np.ndarray, *, bins: int = 20, strategy: str = "width") -> float:
    """Mutual information gap: by how much the most informative latent of a factor beats the second, averaged over factors.

    For factor ``j`` the gap is ``(I(z_1st; u_j) - I(z_2nd; u_j)) / H(u_j)``, all three of the discretised columns. Mutual
    information of independent columns in ``B`` by ``B`` bins is overestimated by about ``(B - 1)^2 / (2 N)`` nats: with 20 bins
    and ``N = 1461`` by 0.045 of a uniform factor's entropy, and the largest of several by a little more, so perfect codes of
    independent factors reach about 0.95. Compare only scores that share ``N`` and ``bins``.

    Args:
        z: Codes ``[N, k]`` or ``[N, k, d]``, ``k >= 2``.
        u: Factors ``[N, n]``, continuous or classes.
        bins: Bins per column. A column with at most as many distinct values is left as it is, each value a bin of its own.
        strategy: ``"width"``, bins of equal width between a column's extremes, the usual practice; or ``"frequency"``, bins of
            an equal number of samples, which outliers and monotone transformations do not change.

    Returns:
        A number in [0, 1]; 1 is perfect, 0 where every factor has two latents that tell equally much about it.

    Raises:
        ValueError: If ``bins < 2``, ``strategy`` is unknown, or ``z`` or ``u`` is not as stated, not finite, shorter than 8
            samples, or ``u`` has a constant column.

    Source: Chen et al. 2018, with the discretisation of Locatello et al. 2019.

    Example:
        >>> u = torch.cartesian_prod(torch.arange(4.0), torch.arange(5.0))
        >>> round(mig(torch.stack([u[:, 1], -u[:, 0]], 1), u), 6)
        1.0
    """
    from sklearn.metrics import mutual_info_score  # slow to import

    codes, factors = check_codes(z, u, latents=2)
    codes, factors = _discretised(codes, bins, strategy), _discretised(factors, bins, strategy)
    gaps = []
    for factor in factors.T:
        information = sorted(mutual_info_score(code, factor) for code in codes.T)
        gaps.append((information[-1] - information[-2]) / mutual_info_score(factor, factor))
    return float(np.mean(gaps))


def sap(z: Tensor | np.ndarray, u: Tensor | np.ndarray) -> float:
    """Separated attribute predictability: by how much the best latent predicts a factor better than the second best.

    This is the version for continuous factors: a latent's score is the R^2 of the linear regression of the factor on it alone,
    which is their squared correlation.

    Args:
        z: Codes ``[N, k]`` or ``[N, k, d]``, ``k >= 2``.
        u: Factors ``[N, n]``.

    Returns:
        The gap averaged over factors, in [0, 1]; 1 is perfect, 0 where every factor has two latents that predict it equally
        well.

    Raises:
        ValueError: If ``z`` or ``u`` is not as stated, not finite, shorter than 8 samples, or ``u`` has a constant column.

    Source: Kumar et al. 2018.

    Example:
        >>> u = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0))
        >>> round(sap(2 - u, u), 6), round(sap(torch.stack([u[:, 0] + u[:, 1], u[:, 0] - u[:, 1]], 1), u), 6)
        (1.0, 0.0)
    """
    codes, factors = check_codes(z, u, latents=2)
    second, best = np.sort(np.square(_correlation(codes, factors)), axis=0)[-2:]
    return float((best - second).mean())


def irs(
    z: Tensor | np.ndarray,
    u: Tensor | np.ndarray,
    *,
    bins: int = 20,
    strategy: str = "frequency",
    quantile: float = 0.99,
) -> float:
    """Interventional robustness score: how little a latent moves when all factors but its own do.

    With factor ``j`` held within a bin, ``D[i, j]`` is the largest distance of latent ``i`` from its mean in that bin, averaged
    over the samples' bins, and ``D[i]`` the largest from its overall mean. A latent scores ``max_j (1 - D[i, j] / D[i])``, and
    the latents are averaged with weights ``D[i]``, as in the paper, so that a latent counts by the range of its values: compare
    encoders whose latents share a scale, or standardise them before.

    The other factors' interventions are read from the samples at hand, which presumes that the factors are independent. A bin of
    a continuous factor lets the factor move a little: perfect codes of a uniform factor reach ``1 - 1 / bins``.

    Args:
        z: Codes ``[N, k]`` or ``[N, k, d]``.
        u: Factors ``[N, n]``, continuous or classes.
        bins: Bins per factor. A factor with at most as many distinct values is left as it is, each value a bin of its own.
        strategy: ``"frequency"``, bins of an equal number of samples, so that none is too thin to show how far a latent moves;
            or ``"width"``, bins of equal width.
        quantile: Takes the place of "largest" in both ``D``; 1 is the paper's maximum. The maximum of few samples is less than
            that of many, which lifts the score of useless codes: from about 0.1 for independent normal ones with 0.99 to about
            0.3 with 1, at ``N = 1461`` and 20 bins. (The authors' code has 0.99 in ``D[i, j]`` and the maximum in ``D[i]``.)

    Returns:
        A number in [0, 1]; 1 is perfect. Latents that never move are left out (0 if none does), so one live concept among dead
        ones can score high: Pendulum's light beside three constants has 0.96.

    Raises:
        ValueError: If ``bins < 2``, ``strategy`` is unknown, ``quantile`` is not in (0, 1], or ``z`` or ``u`` is not as stated,
            not finite, shorter than 8 samples, or ``u`` has a constant column.

    Source: Suter et al. 2019.

    Example:
        >>> u = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0))
        >>> irs(u.flip(1), u), irs(torch.zeros(9, 2), u)
        (1.0, 0.0)
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile: got {quantile}; valid: above 0, at most 1")
    codes, factors = check_codes(z, u)
    factors = _discretised(factors, bins, strategy)
    total = np.quantile(np.abs(codes - codes.mean(0)), quantile, axis=0)
    moves = (total > 0) & (np.ptp(codes, axis=0) > 0)
    if not moves.any():
        return 0.0
    codes, total = codes[:, moves], total[moves]
    within = np.zeros((codes.shape[1], factors.shape[1]))
    for j, factor in enumerate(factors.T):
        for value in np.unique(factor):
            group = codes[factor == value]
            # Each bin by its share of the samples: a bin of one sample shows no movement at all, and must not count in full.
            within[:, j] += len(group) / len(codes) * np.quantile(np.abs(group - group.mean(0)), quantile, axis=0)
    scores = (1 - within / total[:, None]).max(1).clip(0)
    return float(np.average(scores, weights=total))


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlations ``[k, n]`` of columns; 0, up to rounding, for a constant one."""
    a, b = a - a.mean(0), b - b.mean(0)
    norms = np.linalg.norm(a, axis=0)[:, None] * np.linalg.norm(b, axis=0)
    return np.divide(a.T @ b, norms, out=np.zeros_like(norms), where=norms > 0).clip(-1, 1)


def _discretised(values: np.ndarray, bins: int, strategy: str) -> np.ndarray:
    """Bin numbers ``[N, columns]``; see :func:`mig`."""
    from scipy.stats import rankdata  # slow to import

    if not isinstance(bins, int) or bins < 2:
        raise ValueError(f"bins: got {bins!r}; valid: whole numbers from 2")
    if strategy not in ("width", "frequency"):
        raise ValueError(f"strategy: got {strategy!r}; valid: 'width', 'frequency'")
    result = np.empty(values.shape, dtype=np.int64)
    ranks = rankdata(values, axis=0) - 0.5
    for j, column in enumerate(values.T):
        distinct, group = np.unique(column, return_inverse=True)
        if len(distinct) <= bins:
            result[:, j] = group
        elif strategy == "width":
            result[:, j] = np.digitize(column, np.linspace(column.min(), column.max(), bins + 1)[1:-1])
        else:
            result[:, j] = ranks[:, j] * bins / len(values)
    return result
