"""CausalVAE as published, and as its authors' code computes it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.infer import ELBO
from torch import Tensor

from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.discovery import LinearCandidates, discover_graph
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.guides import AmortizedGuide, DiagonalNormal, Family
from causalvae_pyro.likelihoods import GaussianLikelihood
from causalvae_pyro.model import CausalVAE
from causalvae_pyro.networks import ConvDecoder, ConvEncoder
from causalvae_pyro.objectives.elbo import CausalELBO
from causalvae_pyro.objectives.terms import MechanismFit
from causalvae_pyro.priors import FixedPrior
from causalvae_pyro.scm import MaskLayer

__all__ = ["DeterministicNormal", "PaperRecipe", "SigmoidLabelFit"]


@dataclass(frozen=True)
class PaperRecipe:
    """The published objective on our networks; the defaults are the paper's.

    ::

        E log p(x | z) - w_eps KL(q(eps | x) || N(0, I)) - w_z KL(q(z | x) || N(u, I)) - l_u - l_m,    H(A) = 0

    with the linear layer and the mask layer (:class:`~causalvae_pyro.scm.MaskLayer`), ``l_u = ||u - sigmoid(A^T u)||^2`` on
    labels in [0, 1] and ``l_m = sum_i ||z_i - g_i(A_i o z)||^2``. As in the paper's first stage the graph is found from the
    labels by linear descent under ``H(A) = 0``; from then on only the strengths of its edges change, so ``H(A)`` stays 0.

    The authors' code departs from the paper; :meth:`authors_code` has all of these departures that one objective can show:

    =====================  =====================================================================================
    option                 what the code does
    =====================  =====================================================================================
    ``w_eps``              0.3 in place of 1
    ``sample_eps``         decodes the mean of ``q(eps | x)``, and takes 1 for its variance in both divergences
    ``graph``              ``"given"``: the true edges, not those found
    =====================  =====================================================================================

    Its labels are the whole numbers of the files' names: pass ``data.file_name_labels(labels)``
    (:class:`~causalvae_pyro.datasets.ImageSimulator`).

    Args:
        dim: Dimensions of each concept; 4 in the paper.
        w_eps: Weight of the divergence of ``eps``, >= 0.
        w_z: Weight of the divergence of ``z``, >= 0.
        w_label_fit: Weight of ``l_u``, >= 0.
        w_mechanism_fit: Weight of ``l_m``, >= 0.
        sample_eps: Whether ``eps`` is sampled; otherwise see above, and the objective is no bound.
        graph: ``"found"`` from the labels, or ``"given"``.
        learn_scale: Learn the likelihood's scale, as our other methods do; otherwise it is 1, half the squared error.

    Source: Yang et al. 2021, sections 3 and 4, and the authors' code.
    """

    dim: int = 4
    w_eps: float = 1.0
    w_z: float = 1.0
    w_label_fit: float = 1.0
    w_mechanism_fit: float = 1.0
    sample_eps: bool = True
    graph: str = "found"
    learn_scale: bool = True

    def __post_init__(self) -> None:
        if self.graph not in ("found", "given"):
            raise ValueError(f"graph: got {self.graph!r}; valid: 'found', 'given'")

    @classmethod
    def authors_code(cls, **options: Any) -> PaperRecipe:
        """With the departures of the authors' code; ``options`` as for the class."""
        code: dict[str, Any] = {"w_eps": 0.3, "sample_eps": False, "graph": "given"}
        return cls(**(code | options))

    @torch.inference_mode(False)
    def build(self, graph: CausalGraph, images: Tensor, labels: Tensor) -> Run:
        """Makes an untrained model and guide.

        Args:
            graph: The concepts, and with ``graph="given"`` their edges.
            images: Training images ``[N, C, H, W]``, uint8 or in [0, 1].
            labels: Training labels ``[N, n]``, none missing; they are standardised.
        """
        if self.graph == "found":
            n = len(graph)
            candidates = LinearCandidates(1 - torch.eye(n))
            graph = discover_graph(labels, graph.names, candidates=candidates, refine=False).graph
        n, shape = len(graph), tuple(images.shape[1:])
        decoder = ConvDecoder.from_images(images, n, self.dim)
        likelihood = GaussianLikelihood(0.1 if self.learn_scale else 1.0, learn_scale=self.learn_scale)
        model = CausalVAE(MaskLayer(graph, self.dim), FixedPrior.from_labels(labels, self.dim), decoder, likelihood)
        family = DiagonalNormal() if self.sample_eps else DeterministicNormal()
        guide = AmortizedGuide(ConvEncoder(shape), family=family, num_concepts=n, dim=self.dim)
        low, high = labels.amin(0), labels.amax(0)
        return Run(model, guide, {"recipe": asdict(self), "label_range": [low.tolist(), high.tolist()]})

    def objective(self, run: Run) -> ELBO:
        """The objective to train the pair with.

        Args:
            run: What :meth:`build` made.
        """
        label_fit = SigmoidLabelFit(*run.config["label_range"], weight=self.w_label_fit)
        return CausalELBO(self.w_eps, self.w_z, terms=[label_fit, MechanismFit(self.w_mechanism_fit)])


class SigmoidLabelFit:
    """The paper's ``l_u = ||u - sigmoid(A^T u)||^2`` on labels scaled to [0, 1], summed over the batch.

    Args:
        low: Smallest value of each label.
        high: Largest value of each label.
        weight: Factor in the loss, >= 0.
    """

    name = "label_fit"

    def __init__(self, low: Any, high: Any, *, weight: float = 1.0) -> None:
        self.low, self.high, self.weight = torch.as_tensor(low), torch.as_tensor(high), weight

    def __call__(self, model: Any, trace: Any, labels: Tensor | None) -> Tensor:
        if labels is None:
            return trace.nodes["z"]["value"].new_zeros(())
        low, high = self.low.to(labels), self.high.to(labels)
        u = (labels - low) / (high - low)
        return (u - torch.sigmoid(u @ model.scm.adjacency)).square().sum()


class DeterministicNormal(Family):
    """What the authors' code does for ``q(eps | x)``: the sample is the mean ``m(x)``, and the variance counts as 1.

    Divergences are those of ``N(m(x), 1)``. That is no guide of the model, and the objective no bound.
    """

    def distribution(self, *parameters: Any) -> Any:
        loc, _ = parameters
        return _AtMean(loc, torch.ones_like(loc)).to_event(2)


class _AtMean(dist.Normal):
    """A normal whose samples are its mean."""

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self.loc.expand(self._extended_shape(sample_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self.rsample(sample_shape).detach()
