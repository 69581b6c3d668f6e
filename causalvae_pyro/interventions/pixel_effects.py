"""What each concept does to the image, as the model has learned it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from causalvae_pyro.interventions.abduction import abduct_for, check_rows
from causalvae_pyro.interventions.actions import check_unwrapped, intervene
from causalvae_pyro.interventions.counterfactuals import predict
from causalvae_pyro.scm.pairing import check_pair
from causalvae_pyro.utils.configurable import check_count
from causalvae_pyro.utils.images import check_observations, pixels_of
from causalvae_pyro.utils.pyro_lock import one_at_a_time

__all__ = ["pixel_effects"]


@one_at_a_time
def pixel_effects(
    model: Callable, guide: Callable, x: Tensor, labels: Tensor | None = None, *, direct: bool = True, batch_size: int = 256
) -> Tensor:
    """How much each concept changes each pixel: the root mean squared change when it takes the value of another image.

    Images are ordered by the concept, and each takes the value of the one half of all ranks away. No truth is needed: it is what
    the model believes, right or wrong.

    Args:
        model: A :class:`~causalvae_pyro.CausalVAE`.
        guide: Its guide.
        x: Images ``[N, C, H, W]``, uint8 or in [0, 1], two at least; a hundred or so tell enough.
        labels: Labels ``[N, n]``, for guides that use them.
        direct: Hold all other concepts where they are: what the decoder draws of the concept itself. Else its effects follow,
            as under an intervention.
        batch_size: Images per pass.

    Returns:
        ``[n, C, H, W]``, in the order of the graph, >= 0, in units of the pixels' range [0, 1].

    Raises:
        ValueError: If an argument is not as stated.

    Example:
        >>> from causalvae_pyro.interventions import pixel_effects
        >>> effects = pixel_effects(run.model, run.guide, images)
        >>> effects.shape
        torch.Size([4, 3, 64, 64])
    """
    check_observations(x, pixels_of(model))
    check_count("batch_size", batch_size)
    check_unwrapped(model)
    check_pair(model, guide)
    check_rows(labels, x, model)
    if len(x) < 2:
        raise ValueError(f"x: got {len(x)} image; must be at least 2, whose values are exchanged")
    names = model.graph.names  # type: ignore[attr-defined]
    parts = torch.arange(len(x)).split(batch_size)
    noise = [abduct_for(model, guide, x[part], None if labels is None else labels[part], grad=False) for part in parts]
    factual = [predict(model, each, pixel_noise=False, grad=False) for each in noise]
    z = torch.cat([_value(trace, "z") for trace in factual])
    # One-hot vectors have no order, all means are alike: half of the images on, another kind.
    kinds = getattr(model.prior, "kinds", (0,) * len(names))  # type: ignore[attr-defined]
    place = torch.where(torch.tensor(kinds, device=z.device) > 0, z.argmax(-1), z.mean(-1))
    squares: list[Any] = [0.0] * len(names)
    for j, name in enumerate(names):
        order = place[:, j].argsort(stable=True)
        partner = torch.empty_like(order)
        partner[order] = order.roll(len(order) // 2)
        for part, each, trace in zip(parts, noise, factual, strict=True):
            held = z[part].clone()
            held[:, j] = z[partner[part], j]
            do = {other: held[:, k] for k, other in enumerate(names) if direct or other == name}
            there = predict(intervene(model, do, latent=True), each, pixel_noise=False, grad=False)
            squares[j] = squares[j] + (_value(there, "x_mean") - _value(trace, "x_mean")).square().sum(0)
    return (torch.stack(squares) / len(x)).sqrt()


def _value(trace: Any, site: str) -> Tensor:
    return cast(Tensor, trace.nodes[site]["value"])
