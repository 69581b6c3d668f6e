"""Which interventions a figure shows on an image, and what is known to be true of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from causalvae_pyro.utils.images import as_images
from causalvae_pyro.utils.numbers import evenly_spaced

__all__ = ["sweeps"]


def sweeps(
    data: Any, index: int, steps: int, quantiles: tuple[float, float]
) -> Iterator[tuple[dict[str, Tensor], Tensor | None]]:
    """Sweeps of an image: one for each concept, over its range; or, where other images of the data are the truth, over these.

    Args:
        data: A data set with ``images``, ``labels`` and ``graph``; with ``counterfactual``, or ``counterfactual_targets`` besides
            (see :class:`~causalvae_pyro.evaluation.CounterfactualData`), it knows the truth.
        index: The image.
        steps: Values per sweep; fewer where the data have fewer.
        quantiles: Ends of the sweep as quantiles of the label over ``data``.

    Yields:
        For each sweep the values ``[steps]`` by concept, and the true counterfactuals ``[steps, C, H, W]`` if known.
    """
    names, labels = data.graph.names, data.labels[index : index + 1].expand(steps, -1)
    if hasattr(data, "counterfactual_targets"):
        targets = data.counterfactual_targets(index)
        targets = targets[evenly_spaced(min(steps, len(targets)), len(targets))]
        yield dict(zip(names, data.labels[targets].unbind(-1), strict=True)), as_images(data.images[targets])
        return
    for column, name in enumerate(names):
        if kinds := getattr(data, "kinds", {}).get(name):
            count = kinds if isinstance(kinds, int) else len(kinds)
            yield {name: evenly_spaced(min(steps, count), count).float()}, None
            continue
        low, high = (torch.nanquantile(data.labels[:, column], q).item() for q in quantiles)
        do = {name: torch.linspace(low, high, steps)}
        yield do, data.counterfactual(labels, do)[1] if hasattr(data, "counterfactual") else None
