"""Additive noise for effects that are numbers, a threshold for those whose labels are 0 or 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.special import ndtri

from causalvae_pyro.distributions import prior_mean
from causalvae_pyro.graph import GraphLike, as_graph
from causalvae_pyro.scm.additive_noise import AdditiveNoiseSCM
from causalvae_pyro.scm.indexing import take
from causalvae_pyro.utils.label_columns import is_binary

__all__ = ["BinaryEffectSCM"]

#: Either label keeps this probability at least: labels that their causes determine would drive a logit to infinity.
_RARE = 1e-4
#: Tails of the standard normal that are told apart; the normal of 11 standard deviations.
_TAIL = 1e-30


class BinaryEffectSCM(AdditiveNoiseSCM):
    """:class:`AdditiveNoiseSCM` whose binary effects stay binary under interventions on their causes.

    An effect with label 0 at ``z = a`` and 1 at ``z = b`` is 1 where its noise is high enough for its causes::

        p       = sigmoid(g_i(A_i o z))
        label_i = 1 if Phi(eps_i) > 1 - p else 0
        z_i     = b or a, and around it a normal of standard deviation s that ends midway between them

    What of ``eps_i`` the label leaves open is the place in that normal, so that ``f`` remains a bijection. The density of ``z_i``
    is ``p N(z; b, s^2)`` on the side of ``b`` and ``(1 - p) N(z; a, s^2)`` on that of ``a``, each over the normal's part on its
    side: at the labels' own ``z``, :class:`~causalvae_pyro.objectives.LabelFit` is logistic regression.

    With the noise of an image whose label is 1 the label stays 1 where ``p`` rises, and with probability ``p' / p`` where it
    falls to ``p'``. At the posterior mean, ``z = b``, the noise is the median of what the label leaves open, and the
    counterfactual label the more probable one; an image that is read between the labels is taken to lie within one ``width`` of
    the nearer there.

    Args:
        graph: See :class:`AdditiveNoiseSCM`.
        dim: Dimensions of each concept; 1 with binary effects.
        binary: For each binary effect its name, ``a`` and ``b``, with ``a < b``; see :meth:`from_labels`.
        width: ``s`` in units of ``b - a``, that is of the labels, > 0. Equal to the ``lambda2`` of the prior, samples of an image
            have labels with the probabilities above; larger, they tend to agree on the more probable one, and counterfactual
            labels lie farther from 0 and 1, by up to some four of it. Smaller, float32 does not tell samples' noise apart.
        hidden: See :class:`AdditiveNoiseSCM`.
        learn_noise: See :class:`AdditiveNoiseSCM`, for the other concepts.
        min_noise: See :class:`AdditiveNoiseSCM`.

    Raises:
        ValueError: If a binary effect is no concept, has no causes, or its values are not in order.
    """

    centre: Tensor
    gap: Tensor
    is_binary: Tensor

    def __init__(
        self,
        graph: GraphLike,
        dim: int = 1,
        *,
        binary: Sequence[tuple[str, float, float]] = (),
        width: float = 0.01,
        hidden: int = 64,
        learn_noise: bool = False,
        min_noise: float = 1e-2,
    ) -> None:
        super().__init__(graph, dim, hidden=hidden, learn_noise=learn_noise, min_noise=min_noise)
        if binary and dim != 1:
            raise ValueError(f"dim: got {dim}; must be 1 with binary effects")
        if not 0 < width < math.inf:
            raise ValueError(f"width: got {width}; must be > 0 and finite")
        for name, low, high in binary:
            if not self.graph.parents(name):
                raise ValueError(f"binary: got {name!r}, which has no causes; must be an effect")
            if not -math.inf < low < high < math.inf:
                raise ValueError(f"binary: got {name!r} with the values {low} and {high}; must be finite and increasing")
        if len({name for name, *_ in binary}) < len(binary):
            raise ValueError(f"binary: got {[name for name, *_ in binary]}; each effect may be there once")
        ends = {self.graph.index(name): (low, high) for name, low, high in binary}
        # Those of the other concepts are never used.
        every = torch.tensor([ends.get(i, (-0.5, 0.5)) for i in range(len(self.graph))])
        self.register_buffer("centre", every.mean(1, keepdim=True), persistent=False)
        self.register_buffer("gap", every.diff(dim=1), persistent=False)
        self.register_buffer("is_binary", torch.tensor([[i in ends] for i in range(len(self.graph))]), persistent=False)
        self.width, self.any_binary = width, bool(binary)
        # The part of each normal that is on its side of the middle.
        self.side = 0.5 * math.erfc(-0.5 / width / math.sqrt(2))

    @classmethod
    def from_labels(cls, graph: GraphLike, labels: Tensor, prior: Any, **kwargs: Any) -> BinaryEffectSCM:
        """Makes a layer whose binary effects are the effects with labels 0 and 1.

        Args:
            graph: The causal graph.
            labels: Training labels ``[N, n]``, NaN where missing.
            prior: The model's prior, which says where these labels lie in ``z``. It has to be fixed.
            **kwargs: Passed on to the class.
        """
        graph = as_graph(graph)
        shape = 1, len(graph)
        with torch.no_grad():
            ends = prior_mean(prior(torch.cat([labels.new_zeros(shape), labels.new_ones(shape)])))[..., 0].tolist()
        classes = is_binary(labels)
        binary = [
            (name, ends[0][i], ends[1][i])
            for i, name in enumerate(graph.names)
            if graph.parents(name) and classes[i] and not labels[:, i].isnan().all()
        ]
        return cls(graph, prior.dim, binary=binary, **kwargs)

    def means(self, z: Tensor, concepts: list[int] | None = None) -> Tensor:
        outputs = super().means(z, concepts)
        return self._choose(self._value(outputs, torch.zeros_like(outputs), concepts), outputs, concepts)

    def solve_level(self, level: list[int], eps: Tensor, z: Tensor) -> Tensor:
        if not self.any_binary or level is self._levels[0]:
            return super().solve_level(level, eps, z)
        outputs = super().means(z, level)
        values = outputs + eps * take(self.noise_scale, level)[:, None]
        return self._choose(self._value(outputs, eps, level), values, level)

    def to_exogenous(self, z: Tensor) -> Tensor:
        if not self.any_binary:
            return super().to_exogenous(z)
        self._check_shape("z", z)
        outputs = super().means(z)
        residual = (z - outputs) / self.noise_scale[:, None]
        probability, sign, place = self._place(outputs, z)
        tail = (_beyond(place) / self.side).clamp(_TAIL, 1 - _margin(z))
        return self._choose(-sign * ndtri(probability * tail), residual)

    def settled(self, z: Tensor) -> Tensor:
        """As its label has it, each place within one ``width``."""
        if not self.any_binary:
            return z
        sign = _signs(z > self.centre, z)
        place = ((sign * (z - self.centre) / self.gap - 0.5) / self.width).clamp(-1, 1)
        return self._choose(self.centre + sign * self.gap * (0.5 + self.width * place), z)

    def log_abs_det_jacobian(self, eps: Tensor, z: Tensor) -> Tensor:
        if not self.any_binary:
            return super().log_abs_det_jacobian(eps, z)
        probability, _, place = self._place(super().means(z), z)
        # log N(eps; 0, 1) - log of the density of z
        slopes = (place.square() - eps.square()) / 2 - probability.log() + (self.side * self.width * self.gap).log()
        return self._choose(slopes, self.noise_scale.log()[:, None].expand_as(z)).sum((-2, -1))

    def _centres(self, z: Tensor) -> Tensor:
        """The means, with those of binary effects over the noise: at zero noise only a cause near the threshold counts."""
        outputs = super().means(z)
        return self._choose(self.centre + self.gap * (_probability(outputs) - 0.5), outputs)

    def _choose(self, binary: Tensor, other: Tensor, concepts: list[int] | None = None) -> Tensor:
        return torch.where(take(self.is_binary, concepts), binary, other) if self.any_binary else other

    def _value(self, logits: Tensor, eps: Tensor, concepts: list[int] | None) -> Tensor:
        """Binary effects, of their noise."""
        one, zero = _probability(logits), _probability(-logits)
        # By the smaller tail, which floats resolve.
        is_one = torch.where(eps > 0, _beyond(eps) < one, _beyond(-eps) > zero)
        sign, probability = _signs(is_one, eps), torch.where(is_one, one, zero)
        tail = (_beyond(sign * eps) / probability).clamp(_TAIL, 1 - _margin(eps))
        place = -ndtri(tail * self.side)
        return take(self.centre, concepts) + sign * take(self.gap, concepts) * (0.5 + self.width * place)

    def _place(self, logits: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of binary effects the probability of the label, 1 or -1 for it, and the place in its normal, in standard deviations."""
        z = torch.where(self.is_binary, z, self.centre)
        is_one = z > self.centre
        sign = _signs(is_one, z)
        place = (sign * (z - self.centre) / self.gap - 0.5) / self.width
        return torch.where(is_one, _probability(logits), _probability(-logits)), sign, place


def _probability(logits: Tensor) -> Tensor:
    return _RARE + (1 - 2 * _RARE) * logits.sigmoid()


def _beyond(x: Tensor) -> Tensor:
    """``1 - Phi(x)``; that of ``torch.special.ndtr`` is 0 from ``x = 8`` on, in float32 from 5 on."""
    return 0.5 * torch.erfc(x / math.sqrt(2))


def _signs(is_one: Tensor, like: Tensor) -> Tensor:
    return torch.where(is_one, 1.0, -1.0).to(like.dtype)


def _margin(like: Tensor) -> float:
    """Of the probability of a label, how much is kept off the threshold, so that rounding does not change the label."""
    return 100 * torch.finfo(like.dtype).eps
