"""Stage two: the graph jointly with the images' encoder and decoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from causalvae_pyro.discovery.acyclicity import exponential_acyclicity
from causalvae_pyro.discovery.candidates import Candidates
from causalvae_pyro.discovery.lagrangian import AugmentedLagrangian
from causalvae_pyro.discovery.threshold import to_dag
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.guides import AmortizedGuide, GuideWrapper
from causalvae_pyro.model import CausalVAE
from causalvae_pyro.scm import AdditiveNoiseSCM, CausalLayer

__all__ = ["GraphSearch", "with_graph"]


class GraphSearch(nn.Module):
    """A term of :class:`~causalvae_pyro.CausalELBO` that fits candidate mechanisms to the encoder's concepts under ``H(A) = 0``.

    It is the paper's ``l_m`` with a learned noise scale per concept, the sparsity of ``A`` and the augmented Lagrangian of
    ``H``, whose multiplier :func:`~causalvae_pyro.fit` updates after every epoch. Its gradient reaches the encoder too.

    The bound of weights (0, 1) with a guide over ``z`` does not depend on the causal layer, so the model needs no graph
    during the search: give its layer none, search, and continue with :func:`with_graph`.

    Args:
        candidates: The mechanisms, fresh or from :func:`discover_graph`; those of one dimension see the mean over each
            concept's dimensions.
        lagrangian: The state of the constraint to go on from, that of :func:`discover_graph`; a fresh one by default.
        acyclicity: ``H``, see :func:`discover_graph`.
        weight: Factor in the loss, > 0.
        sparsity: See :func:`discover_graph`, as for ``shrinkage`` and ``unit``.
        shrinkage: See there.
        unit: See there.

    Attributes:
        snapshots: ``A`` after each epoch, on the CPU.
    """

    name = "graph_search"

    def __init__(
        self,
        candidates: Candidates,
        *,
        lagrangian: AugmentedLagrangian | None = None,
        acyclicity: Callable[[Tensor], Tensor] = exponential_acyclicity,
        weight: float = 1.0,
        sparsity: float = 0.02,
        shrinkage: float = 2e-3,
        unit: float = 0.3,
    ) -> None:
        super().__init__()
        for argument, value in (("weight", weight), ("unit", unit)):
            if not value > 0:
                raise ValueError(f"{argument}: got {value}; must be > 0")
        for argument, value in (("sparsity", sparsity), ("shrinkage", shrinkage)):
            if not value >= 0:
                raise ValueError(f"{argument}: got {value}; must be >= 0")
        self.candidates, self.acyclicity, self.weight = candidates, acyclicity, weight
        self.sparsity, self.shrinkage, self.unit = sparsity, shrinkage, unit
        self.lagrangian = AugmentedLagrangian() if lagrangian is None else lagrangian
        self.log_noise = nn.Parameter(torch.zeros(len(candidates.allowed)))
        self.snapshots: list[Tensor] = []

    def __call__(self, model: Any, trace: Any, labels: Tensor | None) -> Tensor:
        """See :class:`~causalvae_pyro.objectives.elbo.Term`."""
        z = trace.nodes["z"]["value"]
        if self.candidates.dim == 1:
            if any(getattr(getattr(model, "prior", None), "kinds", ())):
                # The mean of a unit vector is the same for all kinds.
                raise ValueError(f"candidates: got dim 1 for a prior with categories; must have the model's dim, {z.shape[-1]}")
            z = z.mean(-1, keepdim=True)
        # The floor keeps concepts that are functions of each other from ruling the loss.
        scale = 0.02 + self.log_noise.exp()
        residual = (z - self.candidates(z)) / scale[:, None]
        per_image = 0.5 * residual.square().sum((-2, -1)) + z.shape[-1] * (
            scale.log().sum() + 0.5 * len(scale) * math.log(2 * math.pi)
        )
        strengths = self.candidates.strengths()
        penalties = self.sparsity * strengths.sum() + self.shrinkage * self.candidates.shrinkage()
        penalties = penalties + self.lagrangian(self.acyclicity(strengths / self.unit))
        return per_image.reshape(-1, z.shape[-3]).mean(0).sum() + z.shape[-3] * penalties

    def on_epoch_end(self, state: Any) -> None:
        """Updates the multiplier; :func:`~causalvae_pyro.fit` calls it."""
        strengths = self.candidates.strengths().detach()
        self.snapshots.append(strengths.cpu().clone())
        self.lagrangian.update(self.acyclicity(strengths / self.unit))

    def get_extra_state(self) -> list[Tensor]:
        """The snapshots, for a resumed run."""
        return self.snapshots

    def set_extra_state(self, state: list[Tensor]) -> None:
        """Takes up what :meth:`get_extra_state` returned."""
        self.snapshots = list(state)

    def graph(self, names: tuple[str, ...], threshold: float = 0.05) -> CausalGraph:
        """The DAG of the present strengths, see :func:`to_dag`."""
        return CausalGraph.from_adjacency(names, to_dag(self.candidates.strengths(), threshold))


Guide = TypeVar("Guide", AmortizedGuide, GuideWrapper)


def with_graph(model: CausalVAE, guide: Guide, graph: CausalGraph, scm: CausalLayer | None = None) -> tuple[CausalVAE, Guide]:
    """The same prior, decoder, likelihood and encoder around the causal layer of a graph just found.

    Args:
        model: The model, whose layer may have any graph over the same concepts in the same order.
        guide: Its guide over ``z``, wrapped or not.
        graph: The graph, frozen from here on.
        scm: The new layer, over ``graph``; by default an :class:`~causalvae_pyro.AdditiveNoiseSCM` with learned noise scales.

    Returns:
        A new model and guide of the same classes, which share their parts with the old ones.

    Raises:
        ValueError: If ``graph`` is not over the model's concepts in their order, or not the graph of ``scm``, or the guide is
            over ``eps``.
    """
    if guide.scm is None:
        raise ValueError("guide: got one over eps, which depends on the graph; must be a guide over z")
    if graph.names != model.graph.names:
        raise ValueError(f"graph: got the concepts {list(graph.names)}; must be {list(model.graph.names)}, in this order")
    if scm is not None and scm.graph != graph:
        raise ValueError(f"scm: got a layer of {scm.graph}; must be one of {graph}")
    scm = AdditiveNoiseSCM(graph, model.scm.dim, learn_noise=True) if scm is None else scm
    new = CausalVAE(scm, model.prior, model.decoder, model.likelihood, noise_dim=model.noise_dim)
    return new, _rebuilt(guide, new)


def _rebuilt(guide: Guide, model: CausalVAE) -> Guide:
    """The guide's own class, with whatever else that one was given, around another model."""
    arguments: dict[str, Any] = {"scm": model.scm, "model": model}
    if isinstance(guide, GuideWrapper):
        arguments["guide"] = _rebuilt(guide.guide, model)
    new = type(guide)(**(guide.init_args | {name: value for name, value in arguments.items() if name in guide.init_args}))
    own = (guide.named_children(), guide.named_parameters(recurse=False), guide.named_buffers(recurse=False))
    for name, part in chain.from_iterable(own):
        if name != "wrapped":
            setattr(new, name, part)
    return new
