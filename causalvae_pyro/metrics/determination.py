"""How closely labels follow from each other."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from causalvae_pyro.utils.numbers import evenly_spaced

__all__ = ["undetermined_shares"]

_MOST, _FEWEST = 2000, 40
# Rows for each term of a polynomial, of which degree 4 is the highest.
_ROWS, _DEGREES = 4, (4, 3, 2)
# Standard deviations at which a label's tail is cut: its powers would drown all else.
_TAIL = 5.0


def undetermined_shares(labels: Tensor) -> Tensor:
    """Which share of each label's variance the others leave open: by polynomials of them, or of their ranks, cross-validated.

    Where it is (nearly) 0 the label is a function of the others, and images do not say which of them a pixel follows.

    Args:
        labels: ``[N, n]``; rows with a missing one (NaN) are left out. Of more than 2,000 some are taken, evenly spaced.

    Returns:
        ``[n]`` in [0, 1]: about 1 where the others say nothing; 1 for a single label or a constant one, and for all where fewer
        than 40 rows are complete.
    """
    u = labels[~labels.isnan().any(1)].cpu().double()
    count, n = u.shape
    if n < 2 or count < _FEWEST:
        return torch.ones(n)
    from scipy.stats import rankdata
    from sklearn.linear_model import Ridge  # slow to import
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures

    u = u[evenly_spaced(min(_MOST, count), count)]
    spread = u.std(0, correction=0)
    # As ranks, too: polynomials leave long tails to chance.
    ranks = rankdata(u.numpy(), axis=0) / len(u) * math.sqrt(12) - math.sqrt(3)
    scaled = ((u - u.mean(0)) / spread.clamp(min=1e-12)).clamp(-_TAIL, _TAIL).numpy()
    degree = next((d for d in _DEGREES if _ROWS * math.comb(n - 1 + d, d) <= len(u)), 1)
    model = make_pipeline(PolynomialFeatures(degree), Ridge(1e-3))
    folds = KFold(5, shuffle=True, random_state=0)

    def left(columns: np.ndarray, j: int) -> float:
        predicted = cross_val_predict(model, np.delete(columns, j, 1), columns[:, j], cv=folds)
        return float(np.square(predicted - columns[:, j]).mean())

    shares = [min(1.0, left(scaled, j), left(ranks, j)) if spread[j] > 1e-12 else 1.0 for j in range(n)]
    return torch.tensor(shares, dtype=torch.float32)
