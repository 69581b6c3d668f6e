"""Abduction, the first of Pearl's three steps: the exogenous noise behind images, from a guide."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine.messenger import Messenger, unwrap
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from causalvae_pyro.scm.base import exogenous_mean
from causalvae_pyro.utils.configurable import check_count
from causalvae_pyro.utils.images import check_observations, pixels_of, scale_observations
from causalvae_pyro.utils.label_columns import check_categories
from causalvae_pyro.utils.local_params import local_params
from causalvae_pyro.utils.modes import evaluation_mode, gradients
from causalvae_pyro.utils.pyro_lock import one_at_a_time

__all__ = ["NOISE_SITES", "abduct", "abduct_for", "as_rows", "check_rows", "samples_plate"]

#: The sites that each image has for itself.
NOISE_SITES = {"eps", "eps_x"}


@one_at_a_time
def abduct(
    guide: Callable,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    num_samples: int | None = None,
    grad: bool | None = None,
) -> dict[str, Tensor]:
    """Abduction: the exogenous noise behind given images, from the guide.

    Args:
        guide: Any guide that samples ``eps`` (and perhaps ``eps_x``).
        x: Images ``[N, C, H, W]``, uint8 or in [0, 1]; brought to the guide's device and precision, as the labels are.
        labels: ``[N, n]``, for guides that use them.
        num_samples: Number ``k`` of posterior samples; ``None`` gives the posterior mean. For a guide that transforms
            another distribution, as one over ``z`` does, that is the transformed mean: ``f^-1`` of the mean of ``z``.
        grad: See :func:`counterfactual`.

    Returns:
        The values of the guide's sites: ``eps [N, n, d]`` or ``[k, N, n, d]``, and ``eps_x`` likewise; sites that all images
        share, such as a decoder's weights, as they are or with ``[k]`` in front.
    """
    check_observations(x, pixels_of(guide))
    if num_samples is not None:
        check_count("num_samples", num_samples, ", or None for the posterior mean")
    check_rows(labels, x)
    return _infer(guide, *moved(x, labels, guide), num_samples, grad)


def abduct_for(
    model: Callable,
    guide: Callable,
    x: Tensor,
    labels: Tensor | None,
    num_samples: int | None = None,
    grad: bool | None = None,
) -> dict[str, Tensor]:
    """:func:`abduct` where the model is, in its precision, and with the model in evaluation mode: guides may consult it."""
    x, labels = moved(x, labels, model)
    with evaluation_mode(model):
        return _infer(guide, x, labels, num_samples, grad)


def _infer(guide: Callable, x: Tensor, labels: Tensor | None, num_samples: int | None, grad: bool | None) -> dict[str, Tensor]:
    """:func:`abduct`, of what has been checked and moved."""
    at_mean = _AtMean() if num_samples is None else nullcontext()
    with gradients(grad, x, labels), evaluation_mode(guide), local_params(guide), at_mean:
        noise = _latents(guide, x, labels, samples_plate(num_samples))
        if num_samples is not None and not noise.keys() <= NOISE_SITES:
            # Weights: networks take one set of them at a time.
            draws = [_latents(guide, x, labels, nullcontext()) for _ in range(num_samples)]
            noise = {name: torch.stack([draw[name] for draw in draws]) for name in noise}
    if "eps" not in noise:
        raise ValueError(f"guide: it has to sample the site 'eps', it samples {list(noise)}")
    return noise


def as_rows(noise: dict[str, Tensor], num_samples: int | None) -> list[dict[str, Tensor]]:
    """Posterior samples as more rows of the batch, so that any decoder can take them; one by one where they hold weights."""
    if num_samples is None:
        return [noise]
    if noise.keys() <= NOISE_SITES:
        return [{name: value.flatten(0, 1) for name, value in noise.items()}]
    return [{name: value[k] for name, value in noise.items()} for k in range(num_samples)]


def samples_plate(num_samples: int | None) -> Any:
    """Samples are one more plate, as in Pyro's vectorised particles, so that sites may depend on one another."""
    return nullcontext() if num_samples is None else pyro.plate("posterior_samples", num_samples, dim=-2)


def check_rows(labels: Tensor | None, x: Tensor, model: Callable | None = None) -> None:
    """Refuses labels of another number of images, and those that the model does not know."""
    if labels is not None and len(labels) != len(x):
        raise ValueError(f"labels: got {len(labels)} rows for {len(x)} images")
    if model is not None:
        check_categories(unwrap(model), labels)


def _latents(guide: Callable, x: Tensor, labels: Tensor | None, samples: Any) -> dict[str, Tensor]:
    # Traced as a context: as a decorator it would add lines on all shapes to every error message.
    with poutine.trace() as tracer, samples:
        guide(x, labels)
    return {name: cast(Tensor, site["value"]) for name, site in tracer.trace.nodes.items() if _is_latent(site)}


class _AtMean(Messenger):
    """Every latent site takes its mean, given the means of the sites before it."""

    def _pyro_sample(self, msg: Any) -> None:
        if _is_latent(msg):
            msg["value"], msg["done"] = exogenous_mean(msg["fn"]), True


def _is_latent(site: Any) -> bool:
    return site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)


def moved(x: Tensor, labels: Tensor | None, module: Callable) -> tuple[Tensor, Tensor | None]:
    """Images in [0, 1], and labels, where a module is and in its precision."""
    root = unwrap(module)
    like = next(root.parameters(), None) if isinstance(root, nn.Module) else None
    if like is None:
        return scale_observations(x, pixels_of(module)), labels
    x = scale_observations(x, pixels_of(module), device=like.device, dtype=like.dtype)
    return x, None if labels is None else labels.to(like)
