"""A picture as a sum of learned fields, each switched on by one concept or by two."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from causalvae_pyro.networks.shapes import check_at_least

__all__ = ["Fields"]

# Input weights of pairs at the start, relative to those of single concepts: see the class.
_SMOOTHER = 0.4


class Fields(nn.Module):
    """Fields as large as the image, whose amounts are functions of one concept or of a pair.

    ::

        logits = sum_j sum_r f_jr(z_j) F_jr + sum_(j <= k) sum_r g_jkr(z_j, z_k) G_jkr

    The amounts ``f_j`` are the concept itself and ``fields`` outputs of a small network, ``g_jk`` the product of the two concepts
    and ``pair_fields`` outputs of another. It is a functional analysis of variance that ends with the pairs: what a concept does
    to a pixel depends on no more than one other concept at a time, so that it carries over to combinations that no training image
    shows. Convolutions have to learn that, and take several times as long.

    Where one concept follows another, images show only those pairs of values that lie near a curve, and interventions leave it.
    What a network says there depends on how it starts. So for pairs of two different concepts its input weights start at 0.4 of
    their usual size: what it adds to the product is smooth (docs/notes.md). Noise is independent of the concepts; its pairs are
    all seen, and start as usual.

    It draws what brightens, tints, glows, fades, bends and opens where it is. What travels would need a field for each place.

    Args:
        image_shape: ``(C, H, W)``.
        num_concepts: Number of concepts ``n``. There are ``n (n + 1) / 2`` pairs, with those of a concept and itself.
        dim: Dimensions of each concept.
        fields: Of each concept, beside its linear ones, >= 0.
        pair_fields: Of each pair, beside those of the products, >= 0.
        hidden: Width of the small networks, >= 1.
        noise: How many of the concepts, the last ones, are independent noise, 0 to ``n``. Pairs with these start as usual.

    Source: smoothing spline analysis of variance, Wahba 1990; additive decoders, Lachapelle et al. 2023.
    """

    # A linear layer: it takes longer steps than a deep network does.
    lr_factor = 2.0

    def __init__(
        self,
        image_shape: Sequence[int],
        num_concepts: int,
        dim: int = 1,
        *,
        fields: int = 24,
        pair_fields: int = 8,
        hidden: int = 32,
        noise: int = 0,
    ) -> None:
        super().__init__()
        check_at_least(0, fields=fields, pair_fields=pair_fields, noise=noise)
        check_at_least(1, hidden=hidden)
        if noise > num_concepts:
            raise ValueError(f"noise: got {noise}; must be at most num_concepts, {num_concepts}")
        self.image_shape = tuple(image_shape)
        first, second = torch.tril_indices(num_concepts, num_concepts)
        for name, index in (("first", first), ("second", second)):
            self.register_buffer(name, index, persistent=False)
        self.of_one = _Amounts(num_concepts, dim, fields, hidden)
        self.of_two = _Amounts(len(first), 2 * dim, pair_fields, hidden)
        # ``first`` is the later of the two.
        together = (first != second) & (first < num_concepts - noise)
        with torch.no_grad():
            self.of_two.into[together] *= _SMOOTHER
        count = num_concepts * (dim + fields) + len(first) * (dim + pair_fields)
        self.pictures = nn.Parameter(torch.zeros(count, math.prod(self.image_shape)))

    first: Tensor
    second: Tensor

    def forward(self, concepts: Tensor) -> Tensor:
        """Concepts ``[N, n, d]`` to logits ``[N, C, H, W]``."""
        flat = torch.cat([each.transpose(0, 1).flatten(1) for each in self._amounts(concepts)], 1)
        return (flat @ self.pictures).unflatten(1, self.image_shape)

    def sizes(self, concepts: Tensor, pictures: Tensor | None = None) -> Tensor:
        """How much each concept alone, and each pair, changes each pixel: in logits, ``[n + pairs, C * H * W]``.

        They are standard deviations over concepts that vary independently, each as in ``concepts [N, n, d]``.

        Args:
            concepts: ``[N, n, d]``.
            pictures: What the amounts switch on in place of the fields, e.g. what these do to something else, as
                ``self.pictures [fields, pixels]`` with any number of pixels.
        """
        count, n = concepts.shape[:2]
        free = torch.stack([concepts[:, j].roll(j * max(1, count // n), 0) for j in range(n)], 1)
        amounts = [each - each.mean(1, keepdim=True) for each in self._amounts(free)]
        split = (self.pictures if pictures is None else pictures).split([each.shape[0] * each.shape[2] for each in amounts])
        found = []
        for linear, curved in ((0, 1), (2, 3)):
            groups = torch.cat([amounts[linear], amounts[curved]], 2)
            fields = torch.cat([split[k].unflatten(0, (len(groups), -1)) for k in (linear, curved) if len(split[k])], 1)
            covariance = groups.mT @ groups / max(1, count)
            # Not of zero, where the root has no derivative.
            found.append(((covariance @ fields) * fields).sum(1).clamp(min=0).add(1e-8).sqrt())
        return torch.cat(found)

    def _amounts(self, concepts: Tensor) -> list[Tensor]:
        """Of the concepts, of their curves, of products and of functions of pairs, ``[n or pairs, N, fields]``."""
        concepts = concepts.transpose(0, 1)
        one, other = concepts[self.first], concepts[self.second]
        return [concepts, self.of_one(concepts), one * other, self.of_two(torch.cat([one, other], -1))]


class _Amounts(nn.Module):
    """Small networks side by side, ``[k, N, inputs]`` to ``[k, N, outputs]``."""

    def __init__(self, count: int, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.into = nn.Parameter(torch.randn(count, inputs, hidden))
        self.bias = nn.Parameter(torch.randn(count, 1, hidden))
        self.out = nn.Parameter(torch.randn(count, hidden, outputs) / math.sqrt(hidden))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.into + self.bias) @ self.out
