"""Pearl's three steps as functions: abduction, action, prediction; and what they make together.

Every function returns what the model's own program computes: they compose ``poutine.trace``, ``poutine.condition``,
``poutine.do`` and :func:`~causalvae_pyro.interventions.soft_do` and add checks, label units and batching. Model and guide run in
evaluation mode and are put back into the mode that they were in, so these functions can be called during a training run.
Images are uint8 or in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, cast, overload

import pyro.poutine as poutine
import torch
from pyro.poutine.messenger import unwrap
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from causalvae_pyro.interventions.abduction import NOISE_SITES, abduct, abduct_for, as_rows, check_rows, moved, samples_plate
from causalvae_pyro.interventions.actions import Interventions, InterventionSet, check_unwrapped, intervene, values_of
from causalvae_pyro.interventions.pixels import FadingNoise, HeldPixels, check_pixel_noise, standardised
from causalvae_pyro.scm.pairing import check_pair
from causalvae_pyro.utils.configurable import check_count
from causalvae_pyro.utils.images import check_observations, pixels_of
from causalvae_pyro.utils.local_params import local_params
from causalvae_pyro.utils.modes import evaluation_mode, gradients, keeps_gradients
from causalvae_pyro.utils.pyro_lock import one_at_a_time, pyro_lock

__all__ = [
    "abduct",
    "abduct_pixels",
    "counterfactual",
    "counterfactual_traces",
    "encode",
    "intervene",
    "predict",
    "reconstruct",
]


@one_at_a_time
def predict(
    model: Callable,
    noise: Mapping[str, Tensor],
    *,
    pixel_noise: bool | Tensor | FadingNoise = True,
    grad: bool | None = None,
) -> Trace:
    """Prediction: the model's trace with the exogenous noise held at given values.

    Args:
        model: The model, intervened on or not.
        noise: Values of the noise sites, e.g. from :func:`abduct`: ``eps [N, n, d]`` and perhaps ``eps_x [N, r]``. Samples of
            them, from ``abduct(..., num_samples=k)`` or :meth:`pyro.infer.MCMC.get_samples`, have ``[k]`` in front; so have
            then those of other sites, such as weights with a prior.
        pixel_noise: Sample the site ``x`` from the likelihood; without, it is the likelihood's mean, which takes less time. A
            tensor, e.g. from :func:`abduct_pixels`, is the noise ``e`` itself: ``x = mean + scale * e``; a
            :class:`~causalvae_pyro.interventions.FadingNoise` fades where the mean is another.
        grad: See :func:`counterfactual`.

    Returns:
        The trace; ``trace.nodes["z"]["value"]`` holds the concepts after interventions, ``["x_mean"]`` the images, ``[N, ...]``
        or ``[k, N, ...]``.
    """
    if getattr(unwrap(model), "noise_dim", 0) and "eps_x" not in noise:
        raise ValueError("noise: the model has noise_dim > 0 and needs a value of 'eps_x'; does the guide sample it?")
    copies = len(noise["eps"]) if noise["eps"].ndim == 4 else None
    if copies is not None and not noise.keys() <= NOISE_SITES:
        draws = [{name: value[k] for name, value in noise.items()} for k in range(copies)]
        pixels_of_draws = pixel_noise if isinstance(pixel_noise, Tensor) else [pixel_noise] * copies
        worlds = [predict(model, draw, pixel_noise=e, grad=grad) for draw, e in zip(draws, pixels_of_draws, strict=True)]
        return _joined(worlds, torch.stack)
    given = None if isinstance(pixel_noise, bool) else pixel_noise
    pixels = nullcontext() if given is None and pixel_noise else HeldPixels(given)
    with gradients(grad, *noise.values()), evaluation_mode(model), local_params(model), pixels:
        # As new tensors, of which the layer does not remember what they were computed from: all worlds take the same path.
        conditioned = poutine.condition(model, data={name: value.view_as(value) for name, value in noise.items()})
        with poutine.trace() as tracer, samples_plate(copies):
            conditioned(num_samples=noise["eps"].shape[-3])
        return tracer.get_trace()


@one_at_a_time
def abduct_pixels(model: Callable, noise: Mapping[str, Tensor], x: Tensor, *, grad: bool | None = None) -> Tensor:
    """Abduction of the pixels' own noise: ``e = (x - mean) / scale``, given all other noise.

    Args:
        model: The model, as it is: not intervened on. Its likelihood has a location and a scale, as
            :class:`~causalvae_pyro.likelihoods.GaussianLikelihood` and
            :class:`~causalvae_pyro.likelihoods.LaplaceLikelihood` have.
        noise: Values of the noise sites, from :func:`abduct`.
        x: The images ``[N, C, H, W]`` that it was abducted from, uint8 or in [0, 1].
        grad: See :func:`counterfactual`.

    Returns:
        ``e [N, C, H, W]``, or ``[k, N, C, H, W]`` with samples, for ``predict(..., pixel_noise=e)``.

    Raises:
        ValueError: If the likelihood is of another kind.
    """
    return _pixels_and_mean(model, noise, x, grad)[0]


def _pixels_and_mean(model: Callable, noise: Mapping[str, Tensor], x: Tensor, grad: bool | None) -> tuple[Tensor, Tensor]:
    x, _ = moved(x, None, model)
    with gradients(grad, x, *noise.values()):
        site = predict(model, noise, pixel_noise=False, grad=grad).nodes["x"]
        return standardised(site["fn"], x), cast(Tensor, site["value"])


def _kept(
    model: Callable, noise: Mapping[str, Tensor], x: Tensor, share: float, fade: float | None, grad: bool
) -> Tensor | FadingNoise:
    e, mean = _pixels_and_mean(model, noise, x, grad)
    return share * e if fade is None else FadingNoise(share * e, mean, fade)


def _joined(traces: Sequence[Trace], join: Callable[[list[Tensor]], Tensor]) -> Trace:
    """The first of several traces, with the values of all of them at each site of the images."""
    for name, site in traces[0].nodes.items() if len(traces) > 1 else ():
        if site["type"] == "sample" and site["cond_indep_stack"]:
            site["value"] = join([cast(Tensor, trace.nodes[name]["value"]) for trace in traces])
    return traces[0]


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
    pixel_noise: float = 0.0,
    fade: float | None = None,
    batch_size: int = 256,
    grad: bool | None = None,
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
    pixel_noise: float = 0.0,
    fade: float | None = None,
    batch_size: int = 256,
    grad: bool | None = None,
    return_latents: Literal[True],
) -> tuple[Tensor, Tensor]: ...
@one_at_a_time
def counterfactual(
    model: Callable,
    guide: Callable,
    x: Tensor,
    do: Interventions,
    labels: Tensor | None = None,
    *,
    num_samples: int | None = None,
    latent: bool = False,
    pixel_noise: float = 0.0,
    fade: float | None = None,
    batch_size: int = 256,
    grad: bool | None = None,
    return_latents: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """What the images would have looked like, had the concepts in ``do`` had other values or mechanisms.

    Abduction (``eps`` from the guide), action (:func:`intervene`), prediction (by default the decoder's mean). The natural value
    that a soft intervention changes is what the concept's own mechanism gives with the abducted noise and the parents as they
    are after all interventions.

    Args:
        model: A :class:`~causalvae_pyro.CausalVAE`.
        guide: Its guide.
        x: Factual images ``[N, C, H, W]``, uint8 or in [0, 1]; brought to the model's device and precision.
        do: For each concept, in label units, a number or one value per image ``[N]``, or a soft intervention such as
            :class:`~causalvae_pyro.Shift`; see :func:`intervene`. Empty: the reconstruction.
        labels: Factual labels ``[N, n]``, for guides that use them.
        num_samples: Number ``k`` of posterior samples; ``None`` uses the posterior mean.
        latent: The values in ``do`` are values of ``z`` (a number, ``[d]`` or ``[N, d]``) instead of labels.
        pixel_noise: Share in [0, 1] of the image's own pixel noise that is kept: the difference from its reconstruction is added,
            so that with 1 an intervention that changes nothing returns the image itself. It keeps grain and detail that no
            concept explains, and where something moves the edges of the factual image too. Pixels may then lie outside of
            [0, 1]. Needs a likelihood with a location and a scale.
        fade: How far the mean may change for the noise of a pixel to be kept, > 0 and in the images' unit: of noise around which
            it changes by ``fade``, 61 % is kept, by twice that 14 % (:class:`~causalvae_pyro.interventions.FadingNoise`). The new
            image has the detail of the factual one where it is the same, and no old edges. ``None``: noise does not fade.
        batch_size: Images per pass, each posterior sample counted as one.
        grad: Record gradients, for ``backward`` and ``torch.func.jacrev``. By default where the grad mode is on and an image, a
            label or a value in ``do`` requires one; what a function in ``do`` uses is not seen.
        return_latents: Return the counterfactual concepts too.

    Returns:
        Images ``[N, C, H, W]``, or ``[k, N, C, H, W]`` with samples; with ``return_latents`` also ``z [N, n, d]`` or
        ``[k, N, n, d]``.

    Raises:
        ValueError: If an image, a label or a value has a wrong shape or is out of range, a concept is unknown, or pixel noise
            is asked for that the likelihood has not.

    Example:
        >>> run = load("pendulum")
        >>> counterfactual(run.model, run.guide, x, do={"light": 12.0}).shape
        torch.Size([8, 3, 64, 64])
    """
    images, latents = [], []
    options: dict[str, Any] = {"num_samples": num_samples, "latent": latent, "pixel_noise": pixel_noise, "fade": fade}
    options |= {"batch_size": batch_size, "grad": grad}
    axis = 0 if num_samples is None else 1
    with nullcontext() if grad is None else torch.set_grad_enabled(grad):
        for lead, (trace,) in counterfactual_traces(model, guide, x, [do], labels, **options):
            images.append(cast(Tensor, trace.nodes["x"]["value"]).unflatten(0, lead))
            latents.append(cast(Tensor, trace.nodes["z"]["value"]).unflatten(0, lead))
        return (torch.cat(images, axis), torch.cat(latents, axis)) if return_latents else torch.cat(images, axis)


def counterfactual_traces(
    model: Callable,
    guide: Callable,
    x: Tensor,
    dos: Sequence[Interventions],
    labels: Tensor | None = None,
    *,
    num_samples: int | None = None,
    latent: bool = False,
    pixel_noise: float = 0.0,
    fade: float | None = None,
    batch_size: int = 256,
    grad: bool | None = None,
) -> Iterator[tuple[tuple[int, ...], list[Trace]]]:
    """Counterfactual worlds that share their noise: abduction once, then one prediction for each of several actions.

    Args:
        model: A :class:`~causalvae_pyro.CausalVAE`.
        guide: Its guide.
        x: Factual images ``[N, C, H, W]``, uint8 or in [0, 1].
        dos: The interventions of each world, as in :func:`intervene`.
        labels: Factual labels ``[N, n]``, for guides that use them.
        num_samples: Number ``k`` of posterior samples; ``None`` uses the posterior mean.
        latent: See :func:`intervene`.
        pixel_noise: See :func:`counterfactual`.
        fade: See :func:`counterfactual`.
        batch_size: Images per pass, each posterior sample counted as one.
        grad: See :func:`counterfactual`.

    Yields:
        For each batch of ``B`` images the leading shape, ``(B,)`` or ``(k, B)``, and one trace per world, with ``B`` or
        ``k * B`` rows. The site ``x`` holds the images: the mean, with what pixel noise is kept.
    """
    check_observations(x, pixels_of(model))
    check_count("batch_size", batch_size)
    check_unwrapped(model)
    check_pair(model, guide)
    check_pixel_noise(pixel_noise, fade)
    if num_samples is not None:
        check_count("num_samples", num_samples, ", or None for the posterior mean")
    check_rows(labels, x, model)
    if fade is not None and x.ndim != 4:
        raise ValueError(f"fade: got {fade} for x of shape {list(x.shape)}; it is for images [N, C, H, W], and None for others")
    values = [value for do in dos if isinstance(do, Mapping) for change in do.values() for value in values_of(change)]
    grad = keeps_gradients(grad, x, labels, *values)
    with pyro_lock, torch.set_grad_enabled(grad):
        actions = [InterventionSet.from_do(model, do, len(x), latent) for do in dos]  # check the whole of it before any work
    copies = num_samples or 1
    step = max(1, batch_size // copies)
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        noise = abduct_for(model, guide, x[part], None if labels is None else labels[part], num_samples, grad)
        count = len(x[part])
        lead = (count,) if num_samples is None else (num_samples, count)
        rows = as_rows(noise, num_samples)
        pixels: list[bool | Tensor | FadingNoise] = [False] * len(rows)
        if pixel_noise:
            again = x[part].repeat(copies // len(rows), *[1] * (x.ndim - 1))
            pixels = [_kept(model, row, again, pixel_noise, fade, grad) for row in rows]
        traces = []
        for action in actions:
            world = action.select(part, copies // len(rows)).apply(model)
            worlds = [predict(world, row, pixel_noise=e, grad=grad) for row, e in zip(rows, pixels, strict=True)]
            traces.append(_joined(worlds, torch.cat))
        yield lead, traces


def reconstruct(model: Callable, guide: Callable, x: Tensor, labels: Tensor | None = None, *, batch_size: int = 256) -> Tensor:
    """The decoder's mean at the posterior mean: the counterfactual in which nothing is intervened on."""
    return counterfactual(model, guide, x, {}, labels, batch_size=batch_size)


@one_at_a_time
def encode(model: Any, guide: Callable, x: Tensor, labels: Tensor | None = None, *, batch_size: int = 256) -> Tensor:
    """The concepts of images: ``z = f(eps)`` at the guide's mean (the posterior mean of ``z`` for a guide over ``z``).

    Args:
        model: A :class:`~causalvae_pyro.CausalVAE`.
        guide: Its guide.
        x: Images ``[N, C, H, W]``, uint8 or in [0, 1].
        labels: ``[N, n]``, for guides that use them.
        batch_size: Images per pass.

    Returns:
        ``z [N, n, d]`` on the model's device. ``model.prior.to_labels(z)`` reads it in label units.

    Raises:
        ValueError: If images or labels are not as stated, or a handler wraps the model.
    """
    check_observations(x, pixels_of(model))
    check_rows(labels, x, model)
    check_count("batch_size", batch_size)
    check_unwrapped(model)
    check_pair(model, guide)
    parts = []
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        noise = abduct_for(model, guide, x[part], None if labels is None else labels[part])
        with gradients(None, *noise.values()), evaluation_mode(model):
            parts.append(model.scm.to_endogenous(noise["eps"]))
    return torch.cat(parts)
