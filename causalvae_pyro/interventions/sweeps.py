"""Counterfactuals over a grid of values, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from causalvae_pyro.interventions.abduction import NOISE_SITES, abduct_for, as_rows, check_rows
from causalvae_pyro.interventions.actions import InterventionSet, check_unwrapped
from causalvae_pyro.interventions.counterfactuals import predict
from causalvae_pyro.scm.pairing import check_pair
from causalvae_pyro.utils.configurable import check_count
from causalvae_pyro.utils.images import check_observations, pixels_of
from causalvae_pyro.utils.label_columns import label_columns
from causalvae_pyro.utils.modes import keeps_gradients
from causalvae_pyro.utils.pyro_lock import one_at_a_time

__all__ = ["sweep"]


@one_at_a_time
def sweep(
    model: Callable,
    guide: Callable,
    x: Tensor,
    do: Mapping[str, float | Tensor | Sequence[float]],
    labels: Tensor | None = None,
    *,
    num_samples: int | None = None,
    latent: bool = False,
    batch_size: int = 256,
    grad: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Every image under every value: :func:`counterfactual` over a grid, with one abduction per image.

    Args:
        model: A :class:`~causalvae_pyro.CausalVAE`.
        guide: Its guide.
        x: Factual images ``[N, C, H, W]``, uint8 or in [0, 1].
        do: For each concept, in label units, the values ``[V]`` that it takes, or one number. Several concepts make a grid of
            all combinations.
        labels: Factual labels ``[N, n]``, for guides that use them.
        num_samples: Number ``k`` of posterior samples; ``None`` uses the posterior mean.
        latent: The values are in units of ``z``, the same for every dimension of a concept.
        batch_size: Images per pass, each value and each posterior sample counted as one; a pass holds one image at least.
        grad: See :func:`counterfactual`.

    Returns:
        Images ``[V_1, ..., V_m, N, C, H, W]`` and concepts ``[V_1, ..., V_m, N, n, d]``, one dimension for each concept with
        several values, in the order of ``do``; with samples ``[..., k, N, ...]``.

    Raises:
        ValueError: If an argument is not as stated.

    Example:
        >>> from causalvae_pyro.interventions import sweep
        >>> images, z = sweep(run.model, run.guide, x, {"light": torch.linspace(1, 17, 9)})
        >>> images.shape
        torch.Size([9, 8, 3, 64, 64])
    """
    check_observations(x, pixels_of(model))
    check_count("batch_size", batch_size)
    check_unwrapped(model)
    check_pair(model, guide)
    if num_samples is not None:
        check_count("num_samples", num_samples, ", or None for the posterior mean")
    check_rows(labels, x, model)
    if not latent and any(
        len(group) != 1 and name in do
        for name, group in zip(model.graph.names, label_columns(model.prior, len(model.graph)), strict=True)  # type: ignore[attr-defined]
    ):
        raise ValueError("do: got a concept with none or several label columns; a sweep takes numbers: pass latent=True")
    grad = keeps_gradients(grad, x, labels, *do.values())
    with torch.set_grad_enabled(grad):
        points, shape = _grid(do)
        action = InterventionSet.from_do(
            model, {n: v[:, None] if latent and v.ndim else v for n, v in points.items()}, latent=latent
        )
        settings, copies, axis = shape.numel(), num_samples or 1, len(shape) + (num_samples is not None)
        images: list[Tensor] = []
        latents: list[Tensor] = []
        for part in torch.arange(len(x)).split(max(1, batch_size // (settings * copies))):
            noise = abduct_for(model, guide, x[part], None if labels is None else labels[part], num_samples, grad)
            values: dict[str, list[Tensor]] = {"x_mean": [], "z": []}
            for row in as_rows(noise, num_samples):
                count = len(row["eps"])
                many = {name: v.repeat(settings, *[1] * (v.ndim - 1)) if name in NOISE_SITES else v for name, v in row.items()}
                trace = predict(action.spread(count).apply(model), many, pixel_noise=False, grad=grad)
                for site, found in values.items():
                    found.append(cast(Tensor, trace.nodes[site]["value"]).unflatten(0, (settings, -1)))
            lead = (*shape, *([] if num_samples is None else [num_samples]), len(part))
            for site, parts in (("x_mean", images), ("z", latents)):
                parts.append(torch.cat(values[site], 1).flatten(0, 1).unflatten(0, lead))
        return torch.cat(images, axis), torch.cat(latents, axis)


def _grid(do: Mapping[str, float | Tensor | Sequence[float]]) -> tuple[dict[str, Tensor], torch.Size]:
    """For each concept a number, or its value in every setting ``[V]``; and the grid's shape."""
    given = {}
    for name, value in do.items():
        try:
            given[name] = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"do[{name!r}]: expected a number or values [V], got {value!r}") from None
        if given[name].ndim > 1 or not given[name].numel():
            raise ValueError(f"do[{name!r}]: expected a number or values [V], got shape {tuple(given[name].shape)}")
    axes = {name: value for name, value in given.items() if value.ndim}
    if not axes:
        return given, torch.Size()
    meshes = torch.meshgrid(*axes.values(), indexing="ij")
    return given | {name: mesh.flatten() for name, mesh in zip(axes, meshes, strict=True)}, meshes[0].shape
