"""Conditional priors ``p(z | u) = prod_i N(lambda1(u_i), lambda2(u_i)^2)``: from labels to a distribution over concepts.

Any module that maps labels ``[..., n]`` to a distribution with event shape ``[n, d]`` can stand in for these.
"""

from causalvae_pyro.priors.base import LabelPrior
from causalvae_pyro.priors.categorical import CategoricalPrior
from causalvae_pyro.priors.fixed import FixedPrior
from causalvae_pyro.priors.grouped import GroupedPrior
from causalvae_pyro.priors.learned import LearnedPrior

__all__ = ["CategoricalPrior", "FixedPrior", "GroupedPrior", "LabelPrior", "LearnedPrior"]
