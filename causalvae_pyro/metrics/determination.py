"""How closely labels follow from each other."""

from __future__ import annotations

import torch
from torch import Tensor

from causalvae_pyro.metrics.noise import noise_share

__all__ = ["undetermined_shares"]

# Neighbours among fewer are far apart.
_FEWEST = 40


def undetermined_shares(labels: Tensor) -> Tensor:
    """Which share of the variance of each label's ranks the others leave open: the Gamma test of :func:`noise_share`, on labels.

    Where it is (nearly) 0 the label is a function of the others, and images do not say which of them a pixel follows. Ranks, so
    that neither units nor long tails count.

    Args:
        labels: ``[N, n]``; rows with a missing one (NaN) are left out.

    Returns:
        ``[n]`` in [0, 1]: 0 for a smooth function of the others, up to 0.1 for one that jumps, about 1 where they say nothing; 1
        for a single label or a constant one, and for all where fewer than 40 rows are complete.
    """
    known = labels[~labels.isnan().any(1)].cpu().double()
    count, n = known.shape
    shares = torch.ones(n)
    if n < 2 or count < _FEWEST:
        return shares
    from scipy.stats import rankdata  # slow to import

    ranks = torch.from_numpy(rankdata(known.numpy(), axis=0)) / count
    for j in range(n):
        if (known[:, j] != known[0, j]).any():
            others = torch.cat([ranks[:, :j], ranks[:, j + 1 :]], 1)
            shares[j] = noise_share(ranks[:, j].float().reshape(-1, 1, 1, 1), others)
    return shares
