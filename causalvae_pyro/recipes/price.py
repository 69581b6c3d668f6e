"""How the price of effects grows while sprites and scenes are trained."""

from __future__ import annotations

from torch import Tensor

from causalvae_pyro.metrics.determination import undetermined_shares

__all__ = ["price_growth"]

# Pendulum's and Flow's effects are functions of their causes: some label leaves at most 0.001 of its variance open. In the
# benchmark's scenes none leaves less than 0.04.
_FOLLOWS = 0.02
_GROWTH = 20.0


def price_growth(labels: Tensor) -> float:
    """The ratio of the final to the initial weight of :class:`~causalvae_pyro.objectives.EffectSparsity`.

    Where a label is a function of the others, images do not say which of them a part follows: only the price does, and small
    effects of the wrong concepts creep in for as long as the training lasts. So it grows twentyfold. Where labels have noise of
    their own images do say it, and a price that grows makes effects smaller than they are (docs/notes.md).

    Args:
        labels: ``[N, n]``, NaN where missing.
    """
    return _GROWTH if undetermined_shares(labels).min() < _FOLLOWS else 1.0
