"""Sparsity of effects: every attribute of the image depends on as few concepts as possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["EffectSparsity"]


class EffectSparsity:
    """Sparsity penalty on the effects of concepts: a concave group lasso in function space.

    ::

        sum_kja scale log(1 + size_kja / scale),   size_kja = standard deviation of concept j's effect on attribute a of part k

    Where a child is a function of its parents, the data do not say whether its pixels depend on the child or on the parents. The
    penalty decides: one effect costs less than the same effect split over two concepts. It is a group lasso in function space
    (Ravikumar et al. 2009), made concave so that large effects shrink little: minus the logarithm of a generalised double Pareto
    prior (Armagan et al. 2013).

    The decoder must implement ``effect_sizes(z)``, from concepts ``[N, n, d]`` to a tensor of sizes >= 0, as
    :class:`~causalvae_pyro.networks.SpriteDecoder` does: there an attribute is a coordinate of the position, the size, ...

    Args:
        weight: Sparsity weight in nats per image, >= 0: a number, or a function of the progress of training in [0, 1].
        scale: Size at which the penalty turns from linear to logarithmic, > 0, in the effects' units.
        sizes: The decoder's method: ``"effect_sizes"``, or ``"field_sizes"`` of :class:`~causalvae_pyro.networks.SceneDecoder`,
            pixel by pixel.
        sharpness: The likelihood's scale that the weight is meant for, > 0: while it is larger, the price falls as what the
            likelihood says of the same error does, so that the balance stays. The likelihood needs a ``scale``. By default the
            weight is what it is.
    """

    def __init__(
        self,
        weight: float | Callable[[float], float] = 2000.0,
        *,
        scale: float = 0.05,
        sizes: str = "effect_sizes",
        sharpness: float | None = None,
    ) -> None:
        if not callable(weight) and not weight >= 0:
            raise ValueError(f"weight: got {weight}; must be >= 0")
        if not scale > 0:
            raise ValueError(f"scale: got {scale}; must be > 0")
        if sharpness is not None and not sharpness > 0:
            raise ValueError(f"sharpness: got {sharpness}; must be > 0")
        self.weight, self.scale, self.sizes, self.sharpness = weight, scale, sizes, sharpness
        self.name = sizes.replace("sizes", "sparsity")

    def __call__(self, model: Any, trace: Any, labels: Tensor | None) -> Tensor:
        z = trace.nodes["z"]["value"].detach()
        sizes = getattr(model.decoder, self.sizes)(z.reshape(-1, *z.shape[-2:]))
        price = z.shape[-3] * self.scale * torch.log1p(sizes / self.scale).sum()
        return price if self.sharpness is None else price * (self.sharpness / model.likelihood.scale.detach()).square()
