"""How the price of effects grows while sprites and scenes are trained."""

from __future__ import annotations

from torch import Tensor

from causalvae_pyro.metrics.determination import undetermined_shares

__all__ = ["price_growth"]

# Pendulum's and Flow's labels leave 0.00 open, a step or an angle that wraps around 0.02 to 0.06. In the benchmark's scenes no
# label leaves less than 0.04.
_FOLLOWS = 0.03
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
