"""Pearl's three steps as functions: abduction, action, prediction; and what they make together.

Every function returns what the model's own program computes: they compose ``poutine.trace``, ``poutine.condition`` and
``poutine.do`` and add checks, label units and batching.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Literal, cast, overload

import pyro
import pyro.poutine as poutine
import torch
from pyro.poutine.messenger import Messenger, unwrap
from pyro.poutine.subsample_messenger import _Subsample
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import TransformedDistribution

from causalvae_pyro.local_params import local_params

__all__ = ["abduct", "counterfactual", "encode", "intervene", "predict", "reconstruct"]

Interventions = Mapping[str, "float | Tensor"]
_FALLBACK_SAMPLES = 64


def abduct(guide: Callable, x: Tensor, labels: Tensor | None = None, *, num_samples: int | None = None) -> dict[str, Tensor]:
    """Abduction: the exogenous noise behind given images, from the guide.

    Args:
        guide: Any guide that samples ``eps`` (and perhaps ``eps_x``).
        x: Images ``[N, C, H, W]`` in [0, 1].
        labels: ``[N, n]``, for guides that use them.
        num_samples: Number ``k`` of posterior samples; ``None`` gives the posterior mean. For a guide that transforms
            another distribution, as one over ``z`` does, that is the transformed mean: ``f^-1`` of the mean of ``z``.

    Returns:
        The values of the guide's sites: ``eps [N, n, d]`` or ``[k, N, n, d]``, and ``eps_x`` likewise.
    """
    _check_images(x)
    if num_samples is not None and num_samples < 1:
        raise ValueError(f"num_samples: got {num_samples}; must be at least 1, or None for the posterior mean")
    _check_labels(labels, x)
    # Samples are one more plate, as in Pyro's vectorised particles, so that a guide's sites may depend on one another.
    samples = nullcontext() if num_samples is None else pyro.plate("posterior_samples", num_samples, dim=-2)
    at_mean = _AtMean() if num_samples is None else nullcontext()
    # Traced as a context: as a decorator it would add lines on all shapes to every error message.
    with torch.no_grad(), local_params(guide), at_mean, poutine.trace() as tracer, samples:
        guide(x, labels)
    noise = {name: cast(Tensor, site["value"]) for name, site in tracer.trace.nodes.items() if _is_latent(site)}
    if "eps" not in noise:
        raise ValueError(f"guide: it has to sample the site 'eps', it samples {list(noise)}")
    return noise


class _AtMean(Messenger):
    """Every latent site takes its mean, given the means of the sites before it."""

    def _pyro_sample(self, msg: Any) -> None:
        if _is_latent(msg):
            msg["value"], msg["done"] = _mean(msg["fn"]), True


def intervene(model: Callable, do: Interventions, *, size: int | None = None, latent: bool = False) -> Callable:
    """Action: the model under ``do``, with every value checked.

    Args:
        model: A :class:`~causalvae_pyro.CausalVAE`.
        do: Concept name to value: a number, or one value per image ``[N]``, in label units, mapped by the prior's mean
            ``lambda1``. With ``latent=True`` the value of ``z`` itself: a number, ``[d]`` or ``[N, d]``.
        size: The number ``N`` of images that per-image values must match; unchecked where ``None``.
        latent: Take the values as they are instead of as labels.

    Returns:
        The model wrapped in ``poutine.do``; itself where ``do`` is empty.

    Raises:
        ValueError: If a concept is unknown, or a value has a wrong shape or is not finite. (``poutine.do`` on its own
            ignores unknown names.)
    """
    if unwrap(model) is not model:
        # Nested do on one site recurses for ever in Pyro, hence one handler with all the values.
        raise ValueError("model: is wrapped by a handler already; pass the model itself and all interventions in one do")
    data: dict[str, Any] = dict(_latent_values(model, do, size, latent))
    return poutine.do(model, data=data) if data else model


def _latent_values(model: Any, do: Interventions, size: int | None, latent: bool) -> dict[str, Tensor]:
    """The values of ``z`` to set: ``[]`` or ``[d]`` where all images share one, ``[N, d]`` or ``[N, 1]`` else."""
    graph = model.graph
    data: dict[str, Tensor] = {}
    like = next((p for p in model.parameters()), torch.zeros(()))
    for name, value in do.items():
        if name not in graph.names:
            raise ValueError(f"do: unknown concept {name!r}; known: {list(graph.names)}")
        try:
            tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
        except (TypeError, ValueError):
            raise ValueError(f"do[{name!r}]: expected a number or a tensor, got {value!r}") from None
        if not torch.isfinite(tensor).all():
            raise ValueError(f"do[{name!r}]: got a value that is not finite")
        if not latent:
            if tensor.ndim > 1 or (tensor.ndim == 1 and size is not None and len(tensor) != size):
                expected = "a number" + (f" or shape ({size},)" if size is not None else " or one value per image")
                raise ValueError(f"do[{name!r}]: expected {expected}, got shape {tuple(tensor.shape)}")
            tensor = _from_labels(model, graph.index(name), tensor)
        elif (
            tensor.ndim > 2
            or (tensor.ndim and tensor.shape[-1] not in (1, model.scm.dim))
            or (tensor.ndim == 2 and size is not None and len(tensor) != size)
        ):
            raise ValueError(f"do[{name!r}]: expected a number, [d] or [N, d] latent values, got shape {tuple(tensor.shape)}")
        data[name] = tensor
    return data


def predict(model: Callable, noise: Mapping[str, Tensor]) -> Trace:
    """Prediction: the model's trace with the exogenous noise held at given values.

    Args:
        model: The model, intervened on or not.
        noise: Values of the noise sites, e.g. from :func:`abduct`: ``eps [N, n, d]`` and perhaps ``eps_x [N, r]``.

    Returns:
        The trace; ``trace.nodes["z"]["value"]`` holds the concepts after interventions, ``["x_mean"]`` the images.
    """
    if getattr(unwrap(model), "noise_dim", 0) and "eps_x" not in noise:
        raise ValueError("noise: the model has noise_dim > 0 and needs a value of 'eps_x'; does the guide sample it?")
    with torch.no_grad(), local_params(model):
        conditioned = poutine.condition(model, data=dict(noise))
        with poutine.trace() as tracer:
            conditioned(num_samples=len(noise["eps"]))
        return tracer.get_trace()


@overload
def counterfactual(
    model: Callable,
    guide: Callable,
    x: Tensor,
    do: Interventions,
    labels: Tensor | None = None,
    *,
    num_samples: int | None = None,
    latent: bool = False,
    batch_size: int = 256,
    return_latents: Literal[False] = False,
) -> Tensor: ...
@overload
def counterfactual(
    model: Callable,
    guide: Callable,
    x: Tensor,
    do: Interventions,
    labels: Tensor | None = None,
    *,
    num_samples: int | None = None,
    latent: bool = False,
    batch_size: int = 256,
    return_latents: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def counterfactual(
    model: Callable,
    guide: Callable,
    x: Tensor,
    do: Interventions,
    labels: Tensor | None = None,
    *,
    num_samples: int | None = None,
    latent: bool = False,
    batch_size: int = 256,
    return_latents: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """What the images would have looked like, had the concepts in ``do`` had the given values.

    Abduction (``eps`` from the guide), action (``poutine.do``), prediction (the decoder's mean).

    Args:
        model: A :class:`~causalvae_pyro.CausalVAE`.
        guide: Its guide.
        x: Factual images ``[N, C, H, W]`` in [0, 1]; moved to the model's device.
        do: For each concept a number or one value per image ``[N]``, in label units. Empty: the reconstruction.
        labels: Factual labels ``[N, n]``, for guides that use them.
        num_samples: Number ``k`` of posterior samples; ``None`` uses the posterior mean.
        latent: The values in ``do`` are values of ``z`` (a number, ``[d]`` or ``[N, d]``) instead of labels.
        batch_size: Images per pass.
        return_latents: Return the counterfactual concepts too.

    Returns:
        Images ``[N, C, H, W]``, or ``[k, N, C, H, W]`` with samples; with ``return_latents`` also ``z [N, n, d]`` or
        ``[k, N, n, d]``.

    Raises:
        ValueError: If an image, a label or a value has a wrong shape or is out of range, or a concept is unknown.

    Example:
        >>> run = load("runs/pendulum")                                               # doctest: +SKIP
        >>> images = counterfactual(run.model, run.guide, x, do={"light": 12.0})      # doctest: +SKIP
    """
    _check_images(x)
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}; must be at least 1")
    if unwrap(model) is not model:
        raise ValueError("model: is wrapped by a handler already; pass the model itself and all interventions in one do")
    device = _device(model)
    _check_labels(labels, x)
    values = _latent_values(model, do, len(x), latent)  # check the whole of it before any work
    step = max(1, batch_size // (num_samples or 1))
    images, latents = [], []
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        batch = x[part].to(device)
        noise = abduct(guide, batch, None if labels is None else labels[part].to(device), num_samples=num_samples)
        # Per-image values are those with two dimensions.
        action = {name: value[part] if value.ndim == 2 else value for name, value in values.items()}
        if num_samples is not None:
            # Samples become more rows of the batch, so that any decoder can take them.
            noise = {name: value.flatten(0, 1) for name, value in noise.items()}
            action = {name: value.repeat(num_samples, 1) if value.ndim == 2 else value for name, value in action.items()}
        trace = predict(intervene(model, action, latent=True), noise)
        lead = (len(batch),) if num_samples is None else (num_samples, len(batch))
        images.append(cast(Tensor, trace.nodes["x_mean"]["value"]).unflatten(0, lead))
        latents.append(cast(Tensor, trace.nodes["z"]["value"]).unflatten(0, lead))
    axis = 0 if num_samples is None else 1
    return (torch.cat(images, axis), torch.cat(latents, axis)) if return_latents else torch.cat(images, axis)


def reconstruct(model: Callable, guide: Callable, x: Tensor, labels: Tensor | None = None, *, batch_size: int = 256) -> Tensor:
    """The decoder's mean at the posterior mean: the counterfactual in which nothing is intervened on."""
    return counterfactual(model, guide, x, {}, labels, batch_size=batch_size)


def encode(run: Any, x: Tensor, labels: Tensor | None = None, *, batch_size: int = 256) -> Tensor:
    """The concepts of images: ``z = f(eps)`` at the guide's mean (the posterior mean of ``z`` for a guide over ``z``).

    Args:
        run: Anything with ``.model`` and ``.guide``, e.g. what :func:`causalvae_pyro.load` returns.
        x: Images ``[N, C, H, W]`` in [0, 1].
        labels: ``[N, n]``, for guides that use them.
        batch_size: Images per pass.

    Returns:
        ``z [N, n, d]`` on the model's device. ``run.model.prior.to_labels(z)`` reads it in label units.
    """
    _check_images(x)
    _check_labels(labels, x)
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size}; must be at least 1")
    device = _device(run.model)
    parts = []
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        noise = abduct(run.guide, x[part].to(device), None if labels is None else labels[part].to(device))
        with torch.no_grad():
            parts.append(run.model.scm.to_endogenous(noise["eps"]))
    return torch.cat(parts)


def _mean(fn: Any) -> Tensor:
    if isinstance(fn, TransformedDistribution):
        value = _mean(fn.base_dist)
        for transform in fn.transforms:
            value = transform(value)
        return value
    try:
        return fn.mean
    except NotImplementedError:
        return fn.sample((_FALLBACK_SAMPLES,)).mean(0)


def _is_latent(site: Any) -> bool:
    return site["type"] == "sample" and not site["is_observed"] and not isinstance(site["fn"], _Subsample)


def _from_labels(model: Any, index: int, value: Tensor) -> Tensor:
    # lambda1 acts on each concept's own label, so the other columns do not matter.
    labels = value.new_zeros(*value.shape, len(model.graph))
    labels[..., index] = value
    with torch.no_grad():
        return model.prior(labels).mean[..., index, :]


def _device(model: Any) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _check_images(x: Tensor) -> None:
    if not isinstance(x, Tensor) or x.ndim != 4:
        given = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x: expected a tensor of images [N, C, H, W], got {given}")
    if not x.is_floating_point():
        raise ValueError(f"x: expected floating point images in [0, 1], got {x.dtype}; divide uint8 images by 255")
    if not len(x):
        raise ValueError("x: got no images")
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise ValueError(f"x: pixels must lie in [0, 1], got values from {x.min().item():.4g} to {x.max().item():.4g}")


def _check_labels(labels: Tensor | None, x: Tensor) -> None:
    if labels is not None and len(labels) != len(x):
        raise ValueError(f"labels: got {len(labels)} rows for {len(x)} images")
