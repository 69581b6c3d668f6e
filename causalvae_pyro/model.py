"""The generative model of CausalVAE as a Pyro program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.interventions.actions import latent_values
from causalvae_pyro.scm import CausalLayer
from causalvae_pyro.scm.given_labels import NoiseGivenLabels
from causalvae_pyro.scm.sites import as_given, check_plate, computed_from, observes, without_provenance
from causalvae_pyro.utils.images import pixels_of, scale_observations
from causalvae_pyro.utils.local_params import LocalParamModule, sample_attributes
from causalvae_pyro.utils.missing_labels import masked_prior

__all__ = ["CausalVAE"]


class CausalVAE(LocalParamModule):
    """p(x, z, eps | u), the generative model of Yang et al. 2021.

    ::

        eps   ~ N(0, I)                                   exogenous noise, [n, d]
        eps_x ~ N(0, I)                                   the image's own noise, [r], where noise_dim = r > 0
        z     = f(eps)                                    the causal layer; one site per concept
        z     ~ N(lambda1(u), lambda2(u)^2)               the conditional prior, scored where labels u are given
        x     ~ p(x | decoder(z, eps_x))

    The sites are ``eps``, ``eps_x``, one per concept (in topological order), ``z``, ``x_mean`` and ``x``. Intervene with
    ``poutine.do(model, data={"concept": value})``, in units of ``z``, or in those of the labels with
    ``data=model.latent({"concept": label})``; the intervened values are recorded in ``z``. The decoder is given what the site
    ``z`` holds, so ``poutine.do`` and ``condition`` on ``z`` itself reach the image too.

    Attributes of the parts that are a :class:`pyro.nn.PyroSample`, and what prior, decoder and likelihood sample themselves, are
    global: they are drawn once for all images.

    Run with labels and without images, the model draws images that follow the labels; see
    :class:`~causalvae_pyro.scm.NoiseGivenLabels`. Under ``poutine.uncondition`` it draws ``z`` from ``p(z | u)`` and decodes it.

    Args:
        scm: The causal layer, any module ``eps -> z`` with a ``graph``, e.g. :class:`~causalvae_pyro.scm.LinearSCM`.
        prior: Any module from labels ``[..., n]`` to a distribution over ``[n, d]``. It never sees a missing label.
        decoder: Any module from ``z [..., n, d]`` (and ``eps_x [..., r]`` where ``noise_dim > 0``) to what the
            likelihood takes.
        likelihood: Any callable from the decoder's output to a distribution over images ``[C, H, W]``, or over vectors or
            anything else: what ``x`` is, is the likelihood's matter.
        noise_dim: Dimensions ``r`` of the image's own exogenous noise; 0 leaves ``eps_x`` out.
        plate: Name of the plate over the images, for programs that have another plate of that name.
    """

    # Any module will do for each of these, so their methods are not known to a type checker.
    scm: Any
    prior: Any
    decoder: Any
    likelihood: Any
    zero: Tensor

    def __init__(
        self,
        scm: CausalLayer,
        prior: nn.Module,
        decoder: nn.Module,
        likelihood: nn.Module,
        *,
        noise_dim: int = 0,
        plate: str = "data",
    ) -> None:
        super().__init__("causalvae")
        for argument, part in (("scm", scm), ("prior", prior), ("decoder", decoder), ("likelihood", likelihood)):
            if not callable(part):
                raise ValueError(f"{argument}: expected a module or another callable, got {part!r}")
        _check_agreement("prior", prior, dim=scm.dim)
        _check_agreement("decoder", decoder, dim=scm.dim, noise_dim=noise_dim)
        self.scm, self.prior, self.decoder, self.likelihood = scm, prior, decoder, likelihood
        check_plate(plate, scm.graph.names)
        self.noise_dim, self.plate = noise_dim, plate
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    @property
    def graph(self) -> CausalGraph:
        """The causal graph over the concepts."""
        return self.scm.graph

    def forward(self, x: Tensor | None = None, labels: Tensor | None = None, num_samples: int | None = None) -> Tensor:
        """Runs the generative program.

        Args:
            x: Observed images ``[batch, C, H, W]``, uint8 or in [0, 1]; sampled where absent, given the labels if there are some.
            labels: Labels ``[batch, n]``, NaN where one is missing; ``z`` is scored for the others only, and without
                labels not at all.
            num_samples: The batch where neither ``x`` nor ``labels`` is given; 1 by default.

        Returns:
            The images ``[batch, C, H, W]``.
        """
        x = x if x is None else scale_observations(x, pixels_of(self), dtype=self.zero.dtype)
        scm = self.scm  # once: attribute access on a PyroModule emits a Pyro statement for each parameter
        noise = self.standard_normal(len(scm.graph), scm.dim)
        images = pyro.plate(self.plate, _batch(x, labels, num_samples))
        # Outside of the plate: what prior, layer, decoder and likelihood sample of their own is the same for all images.
        prior = None if labels is None else self._prior_of(labels)
        sample_attributes(scm)
        with images:
            if x is None and prior is not None:
                noise = NoiseGivenLabels(noise, scm, prior)  # the same density, drawn so that z follows the labels
            eps = pyro.sample("eps", noise)  # eps ~ N(0, I)
            z = scm(eps)  # z = f(eps), one do-able site per concept
            # z ~ N(lambda1(u), lambda2(u)^2), known labels only
            given = pyro.deterministic("z", z, event_dim=2) if prior is None else pyro.sample("z", observes(prior, z), obs=z)
            z = self._decoded(given, z, observed=prior is not None)
            inputs: tuple[Tensor, ...] = (z,)
            if self.noise_dim:
                inputs += (pyro.sample("eps_x", self.standard_normal(self.noise_dim)),)  # eps_x ~ N(0, I)
        likelihood = self.likelihood(self.decoder(*inputs))
        with images:
            pyro.deterministic("x_mean", likelihood.mean, event_dim=len(likelihood.event_shape))
            return pyro.sample("x", likelihood, obs=x)  # x ~ p(x | decoder(z, eps_x))

    def latent(self, do: Mapping[str, float | Tensor | Sequence[float]]) -> dict[str, Tensor]:
        """Turns label units into units of ``z``: ``poutine.do(model, data=model.latent({"light": 12.0}))``.

        Args:
            do: Concept name to a number or one value per image ``[N]``.

        Returns:
            For each of them the prior's mean ``lambda1``, ``[d]`` or ``[N, d]``, on the model's device and in its precision.

        Raises:
            ValueError: If a concept is unknown, or a value has a wrong shape or is not finite.
        """
        return latent_values(self, do)

    def _decoded(self, given: Tensor, natural: Tensor, observed: bool) -> Tensor:
        """What the decoder sees of the site ``z``."""
        z = as_given("z", given, natural, event_dim=2)
        # What is observed was computed all the same; the image depends on the concepts through z alone.
        return computed_from(z, z, without_provenance(natural, self.graph.names)) if observed else z

    def _prior_of(self, labels: Tensor) -> Any:
        prior = masked_prior(self.prior, labels)
        expected = (len(self.graph), self.scm.dim)
        if tuple(prior.event_shape) != expected:
            # Its density would be one per concept or dimension, and count as often.
            raise ValueError(f"prior: got event shape {tuple(prior.event_shape)}; must be {expected}, as .to_event(2) makes it")
        return prior

    def standard_normal(self, *event_shape: int) -> Any:
        """``N(0, I)`` over ``event_shape``."""
        zero = self.zero
        return dist.Normal(zero, torch.ones_like(zero)).expand(event_shape).to_event(len(event_shape))


def _check_agreement(argument: str, part: Any, **expected: int) -> None:
    for attribute, value in expected.items():
        # Modules from outside need not have these attributes.
        given = getattr(part, attribute, value)
        if given != value:
            raise ValueError(f"{argument}: has {attribute}={given}, the model has {attribute}={value}; they must agree")


def _batch(x: Tensor | None, labels: Tensor | None, num_samples: int | None) -> int:
    if num_samples is not None and num_samples < 1:
        raise ValueError(f"num_samples: got {num_samples}; must be at least 1")
    sizes = {name: len(t) for name, t in (("x", x), ("labels", labels)) if t is not None}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"labels: got {sizes['labels']} rows for {sizes['x']} images")
    for argument, size in sizes.items():
        if not size:
            # Pyro's plates divide by their size.
            raise ValueError(f"{argument}: got an empty batch")
    return next(iter(sizes.values()), 1 if num_samples is None else num_samples)
