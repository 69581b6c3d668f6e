"""Amortised guides: ``q(eps | x, u)`` as Pyro programs.

Any callable with the model's signature that samples ``eps`` (and ``eps_x`` where the model has it) can stand in for these.
"""

from causalvae_pyro.guides.base import AmortizedGuide, EndogenousGuide, ExogenousGuide
from causalvae_pyro.guides.correlated import (
    BlockEndogenousGuide,
    BlockExogenousGuide,
    FullRankEndogenousGuide,
    FullRankExogenousGuide,
)
from causalvae_pyro.guides.flows import FlowEndogenousGuide, FlowExogenousGuide
from causalvae_pyro.guides.labelled import LabelConditionedGuide
from causalvae_pyro.guides.refined import IterativeGuide

__all__ = [
    "AmortizedGuide",
    "BlockEndogenousGuide",
    "BlockExogenousGuide",
    "EndogenousGuide",
    "ExogenousGuide",
    "FlowEndogenousGuide",
    "FlowExogenousGuide",
    "FullRankEndogenousGuide",
    "FullRankExogenousGuide",
    "IterativeGuide",
    "LabelConditionedGuide",
]
