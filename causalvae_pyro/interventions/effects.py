"""Causal effects on images, and worlds sampled from the model under interventions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import pyro.poutine as poutine
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from causalvae_pyro.interventions.actions import Interventions, InterventionSet, check_unwrapped
from causalvae_pyro.interventions.counterfactuals import counterfactual_traces, predict
from causalvae_pyro.utils.local_params import local_params
from causalvae_pyro.utils.modes import evaluation_mode, gradients
from causalvae_pyro.utils.pyro_lock import one_at_a_time
from causalvae_pyro.utils.random_state import kept_rng_state
from causalvae_pyro.utils.student_t import half_width

__all__ = ["AverageEffect", "IndividualEffects", "TwinWorlds", "World", "ate", "ite", "sample_interventional", "twin_worlds"]

Outcome = str | Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AverageEffect:
    """The average over images of individual effects.

    Attributes:
        value: The mean over images, each with its mean over posterior samples.
        standard_error: Over images: their effects' standard deviation divided by ``sqrt(N)``. NaN for one image.
        interval: Ends of the Student-t interval ``value +- t standard_error`` with ``N - 1`` degrees of freedom: what other
            images of the same kind would give. It knows nothing of other training runs.
        samples: The average in each posterior sample, ``[k]``.
    """

    value: float
    standard_error: float
    interval: tuple[float, float]
    samples: Tensor


@dataclass(frozen=True)
class IndividualEffects:
    """Effects per image.

    Attributes:
        samples: One row per posterior sample, ``[k, N]``; a single row from the posterior mean.
    """

    samples: Tensor

    @property
    def mean(self) -> Tensor:
        """The mean over posterior samples, ``[N]``."""
        return self.samples.mean(0)

    @property
    def std(self) -> Tensor:
        """The standard deviation over posterior samples, ``[N]``; NaN for a single row."""
        if len(self.samples) < 2:
            return torch.full_like(self.samples[0], math.nan)
        return self.samples.std(0)

    def average(self, level: float = 0.95) -> AverageEffect:
        """The average over images.

        Args:
            level: Confidence level of the interval, between 0 and 1.

        Example:
            >>> effect = IndividualEffects(torch.tensor([[1.0, 2.0, 3.0]])).average()
            >>> effect.value, [round(end, 3) for end in effect.interval]
            (2.0, [-0.484, 4.484])
        """
        if not 0 < level < 1:
            raise ValueError(f"level: got {level}; must lie between 0 and 1")
        effects = self.mean.double()
        count, value = len(effects), effects.mean().item()
        error = effects.std().item() / math.sqrt(count) if count > 1 else math.nan
        half = half_width(error, count, level) if count > 1 else math.nan
        return AverageEffect(value, error, (value - half, value + half), self.samples.mean(1))


@one_at_a_time
def ite(
    model: Callable,
    guide: Callable,
    x: Tensor,
    treatment: Interventions,
    control: Interventions | None = None,
    labels: Tensor | None = None,
    *,
    outcome: Outcome,
    num_samples: int | None = None,
    latent: bool = False,
    batch_size: int = 256,
) -> IndividualEffects:
    """Individual treatment effects: what the outcome of each image would be under one intervention, less that under another.

    Both worlds share the image's abducted noise, sample by sample. Without ``control`` the other world is the factual one as
    the model reconstructs it.

    Args:
        model: A :class:`~causalvae_pyro.CausalVAE`.
        guide: Its guide.
        x: Factual images ``[N, C, H, W]``, uint8 or in [0, 1].
        treatment: Interventions of the one world, as in :func:`~causalvae_pyro.intervene`.
        control: Interventions of the other; by default none.
        labels: Factual labels ``[N, n]``, for guides that use them.
        outcome: A concept, read from the world's ``z`` in label units; or a function of the world's images (decoder means)
            from ``[B, C, H, W]`` to ``[B]``. For a :class:`~causalvae_pyro.priors.LearnedPrior` labels are 0.004 of their
            standard deviations apart.
        num_samples: Number ``k`` of posterior samples, which carry the guide's uncertainty; ``None`` uses the posterior mean.
        latent: The values in ``treatment`` and ``control`` are in units of ``z``.
        batch_size: Images per pass, each posterior sample counted as one.

    Raises:
        ValueError: If an argument is not as stated, or the outcome has another shape or is not finite.

    Example:
        >>> from causalvae_pyro.interventions import Shift, ite
        >>> effects = ite(run.model, run.guide, x, {"light": Shift(1.0)}, outcome="shadow_length")
        >>> effects.mean.shape
        torch.Size([8])
    """
    read = _reader(model, outcome)
    options: dict[str, Any] = {"num_samples": num_samples, "latent": latent, "batch_size": batch_size}
    parts = []
    for _, traces in counterfactual_traces(model, guide, x, [treatment, control or {}], labels, **options):
        treated, untreated = (read(trace) for trace in traces)
        parts.append((treated - untreated).reshape(num_samples or 1, -1))  # rows are sample by sample
    return IndividualEffects(torch.cat(parts, 1))


def ate(
    model: Callable,
    guide: Callable,
    x: Tensor,
    treatment: Interventions,
    control: Interventions | None = None,
    labels: Tensor | None = None,
    *,
    outcome: Outcome,
    num_samples: int | None = None,
    latent: bool = False,
    batch_size: int = 256,
    level: float = 0.95,
) -> AverageEffect:
    """The average treatment effect over images: :func:`ite`, then :meth:`IndividualEffects.average`.

    Args:
        model: See :func:`ite`, also for the other arguments.
        guide: Its guide.
        x: Factual images ``[N, C, H, W]``, uint8 or in [0, 1], a sample of those that the average is about.
        treatment: Interventions of the one world.
        control: Interventions of the other; by default none.
        labels: Factual labels ``[N, n]``, for guides that use them.
        outcome: A concept or a function of images.
        num_samples: Number ``k`` of posterior samples.
        latent: The values are in units of ``z``.
        batch_size: Images per pass.
        level: Confidence level of the Student-t interval over images.
    """
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}; must lie between 0 and 1")
    options: dict[str, Any] = {"num_samples": num_samples, "latent": latent, "batch_size": batch_size}
    return ite(model, guide, x, treatment, control, labels, outcome=outcome, **options).average(level)


class World(NamedTuple):
    """Draws: images ``x`` with pixel noise, ``x_mean`` without, both ``[N, C, H, W]``; concepts ``z [N, n, d]``."""

    x: Tensor
    x_mean: Tensor
    z: Tensor


class TwinWorlds(NamedTuple):
    """Two worlds that share all exogenous noise, row by row."""

    factual: World
    counterfactual: World


@one_at_a_time
def sample_interventional(
    model: Callable, do: Interventions, num_samples: int, *, latent: bool = False, batch_size: int = 256
) -> World:
    """Samples ``p(x, z | do)``: fresh noise ``eps ~ N(0, I)`` through the model under ``do``.

    Args:
        model: A :class:`~causalvae_pyro.CausalVAE`.
        do: Interventions, as in :func:`~causalvae_pyro.intervene`; per-image values are one per draw ``[num_samples]``. Empty:
            ``p(x, z)``.
        num_samples: Number of draws ``N``.
        latent: The values are in units of ``z``.
        batch_size: Draws per pass.

    Raises:
        ValueError: If an argument is not as stated.
    """
    actions = _actions(model, do, num_samples, latent, batch_size)
    return _join(_world(_draw(action.apply(model), size)) for action, size in actions)


@one_at_a_time
def twin_worlds(
    model: Callable, do: Interventions, num_samples: int, *, latent: bool = False, batch_size: int = 256
) -> TwinWorlds:
    """Samples factual and counterfactual worlds together: the same ``eps``, ``eps_x`` and pixel noise, without and with ``do``.

    The pixel noise is shared by drawing both worlds' pixels from one state of the random numbers: for likelihoods that move
    and scale a fixed noise (Gaussian, Laplace) it is the same noise, for others the same random numbers.

    Args:
        model: A :class:`~causalvae_pyro.CausalVAE`.
        do: Interventions, as in :func:`sample_interventional`. Empty: two identical worlds.
        num_samples: Number of draws ``N`` of the pair.
        latent: The values are in units of ``z``.
        batch_size: Draws per pass.

    Raises:
        ValueError: If an argument is not as stated.
    """
    pairs = []
    for action, size in _actions(model, do, num_samples, latent, batch_size):
        # A handler of its own, as what do's functions draw must not shift the pixels' numbers.
        with _PixelNoise(int(torch.randint(2**62, ()))) as pixel_noise:
            factual = _draw(model, size)
        noise = {name: cast(Tensor, factual.nodes[name]["value"]) for name in ("eps", "eps_x") if name in factual.nodes}
        with pixel_noise:
            pairs.append((_world(factual), _world(predict(action.apply(model), noise))))
    return TwinWorlds(*(_join(world) for world in zip(*pairs, strict=True)))


class _PixelNoise(Messenger):
    """Draws ``x`` from a state of the random numbers of its own, the same each time."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "x":
            device = msg["fn"].mean.device
            with kept_rng_state(device):
                torch.manual_seed(self.seed)
                msg["value"] = msg["fn"](*msg["args"], **msg["kwargs"])


def _actions(
    model: Callable, do: Interventions, num_samples: int, latent: bool, batch_size: int
) -> Iterator[tuple[InterventionSet, int]]:
    """The interventions and the size of each batch of draws."""
    for argument, value in (("num_samples", num_samples), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{argument}: got {value}; must be at least 1")
    check_unwrapped(model)
    action = InterventionSet.from_do(model, do, num_samples, latent)
    for start in range(0, num_samples, batch_size):
        size = min(batch_size, num_samples - start)
        yield action.select(slice(start, start + size)), size


def _draw(model: Callable, size: int) -> Trace:
    with torch.no_grad(), evaluation_mode(model), local_params(model), poutine.trace() as tracer:
        model(num_samples=size)
    return tracer.trace


def _world(trace: Trace) -> World:
    return World(*(cast(Tensor, trace.nodes[site]["value"]) for site in World._fields))


def _join(parts: Iterable[World]) -> World:
    return World(*(torch.cat(site) for site in zip(*parts, strict=True)))


def _reader(model: Any, outcome: Outcome) -> Callable[[Trace], Tensor]:
    """The outcome as a function of a world's trace."""
    if isinstance(outcome, str):
        if outcome not in model.graph.names:
            raise ValueError(f"outcome: unknown concept {outcome!r}; known: {list(model.graph.names)}")
        if getattr(model.prior, "kinds", (0,) * len(model.graph))[model.graph.index(outcome)]:
            raise ValueError(f"outcome: got {outcome!r}, a category, whose kinds have no mean; pass a function of images")
        if not hasattr(model.prior, "to_labels"):
            reason = f"the prior {type(model.prior).__name__} has no to_labels to read {outcome!r} with"
            raise ValueError(f"outcome: {reason}; pass a function of images")
        index, prior = model.graph.index(outcome), model.prior
    elif not callable(outcome):
        raise ValueError(f"outcome: expected a concept or a function of images, got {outcome!r}")

    def read(trace: Trace) -> Tensor:
        world = _world(trace)
        with gradients(None, world.z, world.x_mean), evaluation_mode(model):
            value = prior.to_labels(world.z)[..., index] if isinstance(outcome, str) else outcome(world.x_mean)
        if not isinstance(value, Tensor) or value.shape != world.z.shape[:1]:
            given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"outcome: expected one number per image, shape {tuple(world.z.shape[:1])}, got {given}")
        if not torch.isfinite(value).all():
            raise ValueError("outcome: got a value that is not finite")
        return value.to(world.z)

    return read
