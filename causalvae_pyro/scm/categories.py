"""Categories among the concepts: a softmax of the parents and an exponential race of the noise decide between the kinds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.special import log_ndtr, ndtri

from causalvae_pyro.scm.base import CausalLayer
from causalvae_pyro.scm.indexing import take
from causalvae_pyro.scm.networks import NetworkLayer

__all__ = ["CategoricalSCM"]

#: All kinds of a concept together keep this probability at least, in equal parts: labels that their causes determine would drive
#: a logit to infinity.
_RARE = 1e-3
#: Exponential variables beyond these are not told apart; floats hold the product of two of their tails.
_MOST, _LEAST = 40.0, 1e-25
#: Places of unit vectors' normals that are wider overlap much.
WIDEST = 0.2


class CategoricalSCM(CausalLayer):
    """Any causal layer for concepts that are numbers, and a softmax with Gumbel noise for concepts that are one of ``k`` kinds.

    A concept of kind ``c`` lies at the unit vector ``e_c`` of its ``d >= k`` dimensions, as
    :class:`~causalvae_pyro.priors.CategoricalPrior` has it. Its mechanism is the Gumbel-max model of its parents::

        w     = softmax(g_i(A_i o z))                      the kinds' probabilities; those of a root are learned too
        kind  = argmax_j (log w_j + G_j)                   G_j a Gumbel variable, a function of the noise eps_ij

    What of the noise the kind leaves open is its place in a normal of standard deviation ``width`` around ``e_c`` in each
    dimension, so that ``f`` remains a bijection and abduction is exact: given the kind, the largest of the ``log w_j + G_j`` is
    a Gumbel variable again, and the others are Gumbel variables cut off at it. The density of ``z_i`` is ``w_c`` times that of
    the normals, those of the other kinds cut off at ``z_ic``: at the labels' own ``z``
    :class:`~causalvae_pyro.objectives.LabelFit` is softmax regression.

    Counterfactuals are stable (Oberst & Sontag 2019): a kind whose probability falls no more than its rivals' stays. At the
    posterior mean, ``z = e_c``, every part of the noise is the median of what the kind leaves open; an image that is read between
    kinds is taken to lie within one ``width`` of the nearest there.

    Args:
        scm: The layer of the concepts that are numbers, e.g. :class:`~causalvae_pyro.scm.AdditiveNoiseSCM` or
            :class:`~causalvae_pyro.scm.SplineFlowSCM`: one with ``log_slopes``. Its graph and dimensions are this layer's.
        kinds: For each concept the number of its kinds, at least 2 and at most ``d``, or 0 for a number.
        width: Standard deviation of the place, > 0, at most 0.2. Equal to the prior's ``lambda2``, samples of an image have kinds
            with the probabilities above.
        hidden: Width of each network's hidden layers.

    Raises:
        ValueError: If ``kinds`` are not as stated, or ``width`` is out of range.
        TypeError: If the layer does not say how each of its concepts scales its noise.

    Source: Maddison et al. 2014 (the Gumbels given the largest), Oberst & Sontag 2019.

    Example:
        >>> from causalvae_pyro.scm import AdditiveNoiseSCM
        >>> layer = CategoricalSCM(AdditiveNoiseSCM({"sun": [], "mood": ["sun"]}, 3), [0, 3])
        >>> layer.to_endogenous(torch.zeros(2, 3))[1].round().tolist()
        [1.0, 0.0, 0.0]
    """

    is_kind: Tensor
    # Known by what they do: any layer with log_slopes, and networks that are no layer of their own.
    numbers: Any
    logits: Any

    def __init__(self, scm: CausalLayer, kinds: Sequence[int], *, width: float = 0.05, hidden: int = 64) -> None:
        if not hasattr(scm, "log_slopes"):
            name = type(scm).__name__
            raise TypeError(f"scm: got {name}, which has no log_slopes(eps, z); must have it, as AdditiveNoiseSCM and flows do")
        super().__init__(scm.graph, scm.dim)
        if len(kinds) != len(self.graph) or any(k and not 2 <= k <= self.dim for k in kinds):
            raise ValueError(f"kinds: got {list(kinds)}; need 0 or 2 to dim = {self.dim} for each of {len(self.graph)} concepts")
        if not 0 < width <= WIDEST:
            raise ValueError(f"width: got {width}; must lie in (0, {WIDEST}]")
        self.numbers, self.kinds, self.width = scm, tuple(kinds), width
        # The very lists of the layer inside, which knows its roots by them.
        self._levels = scm._levels
        self.logits = cast(Any, NetworkLayer)(scm.graph, scm.dim, outputs=scm.dim, hidden=hidden)
        self._categories = [i for i, k in enumerate(kinds) if k]
        self.register_buffer("is_kind", torch.tensor([[j < k for j in range(scm.dim)] for k in kinds]), persistent=False)

    def means(self, z: Tensor, concepts: list[int] | None = None) -> Tensor:
        concepts = list(range(len(self.graph))) if concepts is None else concepts
        values = self.numbers.means(z, concepts)
        return self._put(values, concepts, lambda chosen: self._value(self._weights(z, chosen), self._zeros(z, chosen)))

    def solve_level(self, level: list[int], eps: Tensor, z: Tensor) -> Tensor:
        values = self.numbers.solve_level(level, eps, z)

        def draw(chosen: list[int]) -> Tensor:
            return self._value(self._weights(z, chosen), take(eps, [level.index(i) for i in chosen], -2))

        return self._put(values, level, draw)

    def to_exogenous(self, z: Tensor) -> Tensor:
        self._check_shape("z", z)
        concepts = list(range(len(self.graph)))
        return self._put(self.numbers.to_exogenous(z), concepts, lambda chosen: self._noise(self._weights(z, chosen), z, chosen))

    def settled(self, z: Tensor) -> Tensor:
        """As its kind has it, each place within one ``width``."""

        def near(chosen: list[int]) -> Tensor:
            own = take(z, chosen, -2)
            kind = self._is(self._winner(own, chosen)).to(own)
            return kind + (own - kind).clamp(-self.width, self.width)

        return self._put(self.numbers.settled(z), list(range(len(self.graph))), near)

    def log_abs_det_jacobian(self, eps: Tensor, z: Tensor) -> Tensor:
        numbers = [i for i, k in enumerate(self.kinds) if not k]
        total = take(self.numbers.log_slopes(eps, z), numbers, -1).sum(-1)
        if not self._categories:
            return total
        weights, own = self._weights(z, self._categories), take(z, self._categories, -2)
        winner = self._winner(own, self._categories)
        top = own.gather(-1, winner)
        place = torch.where(self._is(winner), own - 1, own) / self.width
        # log N(eps; 0, 1) - log of the density of z
        normals = (place.square() - take(eps, self._categories, -2).square()) / 2 + math.log(self.width)
        cut = log_ndtr(top / self.width).squeeze(-1) * (self.dim - 1)
        return total + (normals.sum(-1) + cut - weights.gather(-1, winner).squeeze(-1).log()).sum(-1)

    def _centres(self, z: Tensor) -> Tensor:
        """The means, with the probabilities of the kinds: at zero noise only a cause near a tie counts."""
        concepts = list(range(len(self.graph)))
        return self._put(self.numbers.means(z, concepts), concepts, lambda chosen: self._weights(z, chosen))

    def _put(self, values: Tensor, concepts: list[int], of: Any) -> Tensor:
        """The values ``[..., m, d]`` of some concepts, with those of the categories among them from ``of``."""
        chosen = [i for i in concepts if self.kinds[i]]
        if not chosen:
            return values
        places = torch.tensor([concepts.index(i) for i in chosen], device=values.device)
        found = of(chosen)
        return values.expand(*found.shape[:-2], *values.shape[-2:]).index_copy(-2, places, found)

    def _weights(self, z: Tensor, chosen: list[int]) -> Tensor:
        """The kinds' probabilities ``[..., m, d]``; 0 in the dimensions that are none of a concept's kinds."""
        allowed = take(self.is_kind, chosen)
        logits = self.logits.networks(z, chosen).masked_fill(~allowed, -torch.inf)
        return ((1 - _RARE) * logits.softmax(-1) + _RARE / allowed.sum(-1, keepdim=True)) * allowed

    def _zeros(self, z: Tensor, chosen: list[int]) -> Tensor:
        return z.new_zeros(*z.shape[:-2], len(chosen), self.dim)

    def _value(self, weights: Tensor, eps: Tensor) -> Tensor:
        """The concepts, of their noise: the race of exponential variables ``E_j / w_j``, which the first to arrive wins.

        It is the Gumbel-max model: ``G_j = -log E_j``. The time of the winner is exponential of rate 1, what is left to
        the others after it is as exponential as it was before.
        """
        arrival = (-log_ndtr(eps)).clamp(min=_LEAST)
        winner = (arrival.detach() / weights.detach()).argmin(-1, keepdim=True)
        time = arrival.gather(-1, winner) / weights.gather(-1, winner)
        top = 1 + self.width * _normal(time.clamp(_LEAST, _MOST))
        left = (arrival - weights * time).clamp(_margin(eps), _MOST)
        others = self.width * _normal(left - log_ndtr(top / self.width))
        return torch.where(self._is(winner), top, others)

    def _noise(self, weights: Tensor, z: Tensor, chosen: list[int]) -> Tensor:
        """The inverse of :meth:`_value`."""
        own = take(z, chosen, -2)
        winner = self._winner(own, chosen)
        top = own.gather(-1, winner)
        time = (-log_ndtr((top - 1) / self.width)).clamp(_LEAST, _MOST)
        head = weights * time
        left = (log_ndtr(top / self.width) - log_ndtr(own / self.width)).clamp(max=_MOST)
        left = torch.maximum(left, _margin(z) * (1 + head))
        return _normal(torch.where(self._is(winner), head, left + head))

    def _winner(self, own: Tensor, chosen: list[int]) -> Tensor:
        return own.detach().masked_fill(~take(self.is_kind, chosen), -torch.inf).argmax(-1, keepdim=True)

    def _is(self, winner: Tensor) -> Tensor:
        return torch.arange(self.dim, device=winner.device) == winner


def _normal(time: Tensor) -> Tensor:
    """The standard normal variable ``x`` with ``-log Phi(x) = time``, by the smaller tail, which floats resolve."""
    low = ndtri((-time.clamp(min=math.log(2))).exp())
    high = -ndtri(-torch.expm1(-time.clamp(max=math.log(2))))
    return torch.where(time > math.log(2), low, high)


def _margin(like: Tensor) -> float:
    """How long after the winner the others arrive at least, so that rounding does not change the kind."""
    return 100 * torch.finfo(like.dtype).eps
