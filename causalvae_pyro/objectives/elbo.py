"""The paper's evidence lower bound, with weights and closed-form divergences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import unwrap
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from causalvae_pyro.distributions import prior_mean
from causalvae_pyro.objectives.divergences import _is_diagonal, kl, kl_endogenous, kl_exogenous
from causalvae_pyro.objectives.teacher_forcing import TeacherForcingMessenger, ZeroNoiseMessenger
from causalvae_pyro.objectives.terms import Term, Weight
from causalvae_pyro.scm import LinearSCM
from causalvae_pyro.scm.base import endogenous_base
from causalvae_pyro.utils.compat import is_deterministic
from causalvae_pyro.utils.missing_labels import MaskedPrior, masked_prior

__all__ = ["CausalELBO"]

_SITES = ("eps", "eps_x", "z", "x")


class CausalELBO(Trace_ELBO):
    """The paper's objective ``E log p(x|z) - w_eps KL(q(eps) || p(eps)) - w_z KL(q(z) || p(z|u))``, as a Pyro ELBO.

    It works with :class:`pyro.infer.SVI` and as an ELBO module, on any model and guide with the sites of
    :class:`~causalvae_pyro.CausalVAE`. ``q(z)`` is the push-forward of the guide's ``q(eps)`` through the causal layer.
    Divergences have their closed form wherever one exists: between registered distributions, for the linear layer with a
    Gaussian guide, and for a guide over ``z``; else they are sampled.

    ========================  ==============================================================================
    ``(w_eps, w_z)``          what it is
    ========================  ==============================================================================
    ``(1, 1)``                the paper's: a bound on log p(x) and on log p(x | u), looser than either below
    ``(0, 1)``                the ELBO on log p(x | u) with prior p(z | u) (as in iVAE); the default
    ``(1, 0)``                the ELBO on log p(x) with prior p(eps); no labels enter
    ``(0.3, 1)``              the authors' code
    ========================  ==============================================================================

    With weights (0, 1) and a guide over ``z`` nothing in the bound depends on the causal layer: add :class:`LabelFit` with
    weight 1, which makes the objective a bound on ``log p(x, u)`` up to a constant and fits the causal layer to the labels
    by maximum likelihood, as :func:`~causalvae_pyro.fit` does by default.

    Whatever else the model observes, and every :func:`pyro.factor`, counts in full, under ``observed`` in the history. Latent
    sites other than ``eps`` and ``eps_x``, such as weights with a prior, are refused: train those with
    :class:`pyro.infer.Trace_ELBO`.

    Where labels are missing (NaN), let ``O`` be an image's known ones and ``c`` its concepts, ``c_i = lambda1(u_i)`` for ``i`` in
    ``O`` and ``c_i = z_i`` elsewhere. In place of ``KL(q(z) || p(z|u))`` it then has

    ::

        E log q(z) - sum_(i in O) E log p(z_i | u_i) - E log p_scm(c),      p_scm(c) = N(f^-1(c); 0, I) |det df^-1/dc|

    so that weights (0, 1) give a bound on ``log p(x, u_O)``, up to the same constant, if the labels come from the causal layer,
    ``c ~ p_scm``, with ``z_i ~ p(z_i | u_i)`` where a label is known and ``z_i = c_i`` where not. For an image without any
    label it is ``KL(q(z) || p_scm(z))``, and the bound is one on ``log p(x)``. Images with all their labels keep
    ``KL(q(z) || p(z|u))``, and :class:`LabelFit` has their ``log p_scm(c)``.

    Args:
        w_eps: Weight of ``KL(q(eps | x, u) || p(eps))``, >= 0; like the two below, a number or a function of the progress of
            training in [0, 1].
        w_z: Weight of ``KL(q(z | x, u) || p(z | u))``, >= 0.
        w_eps_x: Weight of ``KL(q(eps_x | x) || p(eps_x))``, >= 0, for models with noise of the image's own. Anything but 1 in the
            end is not a bound; less at first (``warm_up(0.1)``) prevents the posterior collapse of ``eps_x``.
        teacher_forcing: In [0, 1]: for such a share of the images, drawn anew each time, the reconstruction is scored at concepts
            from the conditional prior ``p(z | u)`` instead of the guide's. With all labels known it stays a bound: the
            mixture of both is a guide too, whose divergence is at most the guide's. With 1 the decoder learns from true
            concepts from the first step on, not from those of an encoder that cannot read yet, and the encoder from the
            divergence alone. Concepts without a label stay the guide's.
        concepts_first: In [0, 1): for such a share of the training, at first, ``eps_x`` is 0 and its divergence does not count:
            the decoder learns what the concepts alone explain. Else noise that is cheap at first explains all of the image,
            and a decoder that has learned to render it has no use for a concept such as a digit's class. Until then it is no
            bound. The guide's noise stays as it was initialised; noise that is dear at first collapses.
        terms: Extra terms of the loss.
        num_particles: Samples of the guide per image.
        vectorize_particles: Draw them in one pass.
        **kwargs: Passed on to :class:`pyro.infer.Trace_ELBO`.

    Attributes:
        progress: How far training has come, in [0, 1]; :func:`~causalvae_pyro.fit` keeps it up to date, for terms whose weight
            depends on it. 1 outside of training.
        last_terms: Values of the loss's terms in the last evaluation, summed over the batch, detached.

    Source: Yang et al. 2021, the evidence lower bound of CausalVAE.
    """

    def __init__(
        self,
        w_eps: Weight = 0.0,
        w_z: Weight = 1.0,
        *,
        w_eps_x: Weight = 1.0,
        teacher_forcing: Weight = 0.0,
        concepts_first: float = 0.0,
        terms: Sequence[Term] = (),
        num_particles: int = 1,
        vectorize_particles: bool = True,
        **kwargs: Any,
    ) -> None:
        for argument, value in (("w_eps", w_eps), ("w_z", w_z), ("w_eps_x", w_eps_x)):
            if not callable(value) and not value >= 0:
                raise ValueError(f"{argument}: got {value}; must be >= 0")
        if not callable(teacher_forcing) and not 0 <= teacher_forcing <= 1:
            raise ValueError(f"teacher_forcing: got {teacher_forcing}; must lie in [0, 1]")
        if not 0 <= concepts_first < 1:
            raise ValueError(f"concepts_first: got {concepts_first}; must lie in [0, 1)")
        kwargs.setdefault("max_plate_nesting", 1)
        super().__init__(num_particles=num_particles, vectorize_particles=vectorize_particles and num_particles > 1, **kwargs)
        self.w_eps, self.w_z, self.w_eps_x, self.terms = w_eps, w_z, w_eps_x, tuple(terms)
        self.teacher_forcing, self.concepts_first = teacher_forcing, concepts_first
        self.progress = 1.0
        self.last_terms: dict[str, Tensor] = {}

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """The negative objective, summed over the batch and averaged over particles."""
        totals: dict[str, Tensor] = {}
        given: dict[str, Weight] = {"kl_eps": self.w_eps, "kl_z": self.w_z, "kl_eps_x": self.w_eps_x}
        given |= {term.name: term.weight for term in self.terms}
        weights = {name: weight(self.progress) if callable(weight) else weight for name, weight in given.items()}
        weights |= {"reconstruction": -1.0, "observed": 1.0}
        if self.progress < self.concepts_first:
            weights["kl_eps_x"] = 0.0
        labels = kwargs.get("labels", args[1] if len(args) > 1 else None)
        # A vectorised trace sums over all the particles; extra terms average over them by themselves.
        num_traces = 1 if self.vectorize_particles else self.num_particles
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            values = {
                name: value / self.num_particles for name, value in self._divergences(model, model_trace, guide_trace).items()
            }
            for term in self.terms:
                # The history has a column for every term in every step.
                value = (
                    term(unwrap(model), model_trace, labels)
                    if weights[term.name]
                    else model_trace.nodes["z"]["value"].new_zeros(())
                )
                values[term.name] = value / num_traces
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value
        if not totals.keys() & {"kl_eps", "kl_z"}:
            raise ValueError("labels: got None, but the only divergence, w_z > 0, needs them; without labels use w_eps=1, w_z=0")
        self.last_terms = {name: value.detach() for name, value in totals.items()}
        return torch.stack([weights[name] * value for name, value in totals.items() if weights[name]]).sum()

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """The negative objective as a number, without gradients."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Backpropagates the loss and returns it, as :class:`pyro.infer.SVI` expects."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.item()

    def _get_trace(self, model: Any, guide: Any, args: tuple, kwargs: dict) -> Any:
        with ZeroNoiseMessenger() if self.progress < self.concepts_first else nullcontext():
            return self._get_forced_trace(model, guide, args, kwargs)

    def _get_forced_trace(self, model: Any, guide: Any, args: tuple, kwargs: dict) -> Any:
        share = self.teacher_forcing(self.progress) if callable(self.teacher_forcing) else self.teacher_forcing
        labels = kwargs.get("labels", args[1] if len(args) > 1 else None)
        if not share or labels is None:
            return super()._get_trace(model, guide, args, kwargs)
        inner: Any = unwrap(model)
        with TeacherForcingMessenger(inner.scm, masked_prior(inner.prior, labels), share):
            return super()._get_trace(model, guide, args, kwargs)

    def _divergences(self, model: Any, model_trace: Any, guide_trace: Any) -> dict[str, Tensor]:
        sites, q = model_trace.nodes, guide_trace.nodes
        unknown = [name for name, site in q.items() if site["type"] == "sample" and name not in ("eps", "eps_x")]
        if unknown:
            raise ValueError(f"guide: CausalELBO knows the sites 'eps' and 'eps_x', the guide samples {unknown}; use Trace_ELBO")
        scm = unwrap(model).scm  # type: ignore[attr-defined]
        q_eps, eps, z = q["eps"]["fn"], q["eps"]["value"], sites["z"]["value"]
        own = q["eps"]["infer"].get("guide_sample")
        if own is not None:
            # The divergences are the guide's, whatever the decoder was shown.
            eps, z = own, scm.to_endogenous(own)
        result = {"reconstruction": sites["x"]["log_prob"].sum()}
        if self.w_eps:
            result["kl_eps"] = _sum(kl_exogenous(q_eps, sites["eps"]["fn"], scm, eps), sites["eps"])
        if self.w_z and not is_deterministic(sites["z"]):
            p = sites["z"]["fn"]
            if isinstance(p, MaskedPrior):
                value = _kl_incomplete(q_eps, p, sites["eps"]["fn"], scm, eps, z)
            else:
                value = kl_endogenous(q_eps, p, scm, eps, z)
            result["kl_z"] = _sum(value, sites["z"])
        if "eps_x" in q:
            result["kl_eps_x"] = _sum(kl(q["eps_x"]["fn"], sites["eps_x"]["fn"], q["eps_x"]["value"]), sites["eps_x"])
        return result | _other_sites(sites)


def _other_sites(sites: Any) -> dict[str, Tensor]:
    """``-log p`` of what a model observes beside images and labels, ``pyro.factor`` among it, if there is any."""
    others = [
        (name, site)
        for name, site in sites.items()
        if site["type"] == "sample" and name not in _SITES and not is_deterministic(site) and not site_is_subsample(site)
    ]
    latent = [name for name, site in others if not site["is_observed"]]
    if latent:
        raise ValueError(
            f"model: CausalELBO knows the latent sites 'eps' and 'eps_x', the model samples {latent}; use Trace_ELBO for these"
        )
    return {"observed": -sum(site["log_prob"].sum() for _, site in others)} if others else {}


def _kl_incomplete(q: Distribution, scored: MaskedPrior, p_eps: Any, scm: Any, eps: Tensor, z: Tensor) -> Tensor:
    """What stands for ``KL(q(z) || p(z | u))`` per batch element where labels are missing; see :class:`CausalELBO`.

    Args:
        q: The guide's distribution of ``eps``.
        scored: The conditional prior of the known concepts.
        p_eps: The model's distribution of ``eps``.
        scm: The causal layer.
        eps: A sample of ``q``.
        z: ``scm(eps)``.
    """
    p, known = scored.all_concepts, scored.known
    completed = torch.where(known[..., None], prior_mean(p).detach(), z)
    noise = scm.to_exogenous(completed)
    log_scm = p_eps.log_prob(noise) - scm.log_abs_det_jacobian(noise, completed)
    base = endogenous_base(q, scm)
    if base is not None and _is_diagonal(base) and _is_diagonal(p):
        normal = base.base_dist  # type: ignore[attr-defined]
        exact = torch.where(known, kl_divergence(normal, p.base_dist).sum(-1), -normal.entropy().sum(-1)).sum(-1)
    else:
        exact = q.log_prob(eps) - scm.log_abs_det_jacobian(eps, z) - scored.log_prob(z)
    result = exact - log_scm
    if base is None or isinstance(scm, LinearSCM):
        # Closed where some labels alone are not: the same as against p(eps).
        result = torch.where(known.any(-1), result, kl_exogenous(q, p_eps, scm, eps))
    return torch.where(known.all(-1), kl_endogenous(q, p, scm, eps, z), result)


def _sum(value: Tensor, site: dict) -> Tensor:
    shape = torch.broadcast_shapes(value.shape, site["log_prob"].shape)
    return scale_and_mask(value.expand(shape), site["scale"], site["mask"]).sum()
