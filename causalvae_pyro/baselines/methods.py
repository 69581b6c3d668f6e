"""The columns of the paper's table, each a model, a guide and an objective on the same networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyro.infer import ELBO
from torch import Tensor, nn

from causalvae_pyro.baselines.alignment import align
from causalvae_pyro.baselines.ivae import IVAEPrior
from causalvae_pyro.baselines.ladder_vae import LadderGuide, LowerLevel, ladder_layer
from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.guides import AmortizedGuide
from causalvae_pyro.likelihoods import GaussianLikelihood
from causalvae_pyro.model import CausalVAE
from causalvae_pyro.networks import ConvDecoder, ConvEncoder, SpatialEncoder
from causalvae_pyro.objectives.elbo import CausalELBO
from causalvae_pyro.objectives.terms import warm_up
from causalvae_pyro.priors import FixedPrior
from causalvae_pyro.scm import AdditiveNoiseSCM, LinearSCM

__all__ = ["METHODS", "Method"]


@dataclass(frozen=True)
class Method:
    """A way to learn concepts from images.

    Attributes:
        name: As in the paper's table.
        build: From ``(graph, images, labels)`` to an untrained :class:`~causalvae_pyro.Run`; those without labels use only the
            number of concepts of the first and the images of the second. Keywords: ``noise_dim``, the size of what the labels
            do not say, and ``std``, ``lambda2`` in label standard deviations where the method has it.
        objective: What it is trained with.
        labels: Whether training sees labels.
        named: Whether latent ``i`` is concept ``i``; else :func:`align` names them after training.
    """

    name: str
    build: Callable[..., Run]
    objective: Callable[[Run], ELBO]
    labels: bool
    named: bool

    def finish(self, run: Run, images: Tensor, labels: Tensor, names: tuple[str, ...]) -> Run:
        """The trained pair with its latents named, for :func:`~causalvae_pyro.evaluation.evaluate`.

        Args:
            run: The trained pair.
            images: Training images ``[N, C, H, W]`` in [0, 1].
            labels: Their labels.
            names: Of the concepts.
        """
        return run if self.named else align(run, images, labels, names)


def _latents(count: int, prefix: str = "latent") -> list[str]:
    return [f"{prefix}_{i}" for i in range(count)]


def _model(scm: Any, prior: Any, images: Tensor, decoder: Any = None, noise_dim: int = 0) -> CausalVAE:
    n = len(scm.graph)
    decoder = ConvDecoder.from_images(images, n, scm.dim, noise_dim=noise_dim) if decoder is None else decoder
    return CausalVAE(scm, prior, decoder, GaussianLikelihood(learn_scale=True), noise_dim=noise_dim)


def _encoder(images: Tensor, normalised: bool = False) -> nn.Module:
    """Where more is read than a few concepts, strided convolutions without normalisation lose it in the first steps."""
    shape = tuple(images.shape[1:])
    return SpatialEncoder(shape) if normalised else ConvEncoder(shape)


def _of_the_image(images: Tensor, noise_dim: int) -> dict[str, Any]:
    """What a guide takes to read ``eps_x``."""
    return {"noise_dim": noise_dim, "noise_encoder": _encoder(images, True) if noise_dim else None}


def condition_vae(graph: CausalGraph, images: Tensor, labels: Tensor, *, noise_dim: int = 0, std: float = 0.005) -> Run:
    """ConditionVAE: a conditional prior that ties each latent to its label, and no causal layer.

    The same as our default with convolutions but for the edges: interventions stop where they are made.

    Args:
        graph: Only its concepts count.
        images: Training images ``[N, C, H, W]``.
        labels: Training labels ``[N, n]``.
        noise_dim: Dimensions of the image's own noise.
        std: ``lambda2`` in label standard deviations.
    """
    scm = LinearSCM(CausalGraph(graph.names, []))
    model = _model(scm, FixedPrior.from_labels(labels, std=std), images, noise_dim=noise_dim)
    return Run(model, AmortizedGuide(_encoder(images), scm, init_scale=std, **_of_the_image(images, noise_dim)))


def beta_vae(graph: CausalGraph, images: Tensor, labels: Tensor | None = None, *, noise_dim: int = 0, std: float = 0.0) -> Run:
    """beta-VAE (Higgins et al. 2017): independent latents, as many as there are concepts, and no labels.

    Args:
        graph: Only the number of its concepts counts.
        images: Training images ``[N, C, H, W]``.
        labels: Ignored.
        noise_dim: So many latents more, for what the labels do not say; whichever follow them best get their names.
        std: Ignored.
    """
    scm = LinearSCM(CausalGraph(_latents(len(graph) + noise_dim), []))
    model = _model(scm, FixedPrior(len(scm.graph)), images)
    return Run(model, AmortizedGuide(_encoder(images, noise_dim > 0), num_concepts=len(scm.graph)))


def causal_vae_unsup(
    graph: CausalGraph, images: Tensor, labels: Tensor | None = None, *, noise_dim: int = 0, std: float = 0.0
) -> Run:
    """CausalVAE-unsup: the causal layer over latents that no label names.

    Which latent causes which is as good as any other order, so the graph is the complete one in the order of their numbers.

    Args:
        graph: Only the number of its concepts counts.
        images: Training images ``[N, C, H, W]``.
        labels: Ignored.
        noise_dim: Dimensions of the image's own noise.
        std: Ignored.
    """
    names = _latents(len(graph))
    scm = AdditiveNoiseSCM(CausalGraph(names, [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]))
    model = _model(scm, FixedPrior(len(graph)), images, noise_dim=noise_dim)
    return Run(model, AmortizedGuide(_encoder(images), num_concepts=len(graph), **_of_the_image(images, noise_dim)))


def ladder_vae(graph: CausalGraph, images: Tensor, labels: Tensor | None = None, *, noise_dim: int = 0, std: float = 0.0) -> Run:
    """LadderVAE (Sonderby et al. 2016): two levels with as many latents each as there are concepts.

    Args:
        graph: Only the number of its concepts counts.
        images: Training images ``[N, C, H, W]``.
        labels: Ignored.
        noise_dim: So many latents more on the lower level, for what the labels do not say.
        std: Ignored.
    """
    lower = len(graph) + noise_dim
    scm = ladder_layer(_latents(lower, "lower"), _latents(len(graph), "upper"))
    decoder = LowerLevel(ConvDecoder.from_images(images, lower), lower)
    model = _model(scm, FixedPrior(len(scm.graph)), images, decoder)
    return Run(model, LadderGuide(_encoder(images, noise_dim > 0), scm, lower))


def ivae(graph: CausalGraph, images: Tensor, labels: Tensor, *, noise_dim: int = 0, std: float = 0.0) -> Run:
    """The iVAE (Khemakhem et al. 2020): a prior of all latents given all labels, which names none of them.

    Its encoder reads the image alone, the harder case, so that test labels cannot reach the codes.

    Args:
        graph: Only the number of its concepts counts.
        images: Training images ``[N, C, H, W]``.
        labels: Training labels ``[N, n]``.
        noise_dim: Dimensions of the image's own noise.
        std: Ignored.
    """
    n = len(graph)
    scm = LinearSCM(CausalGraph(_latents(n), []))
    model = _model(scm, IVAEPrior.from_labels(labels, n), images, noise_dim=noise_dim)
    return Run(model, AmortizedGuide(_encoder(images), num_concepts=n, **_of_the_image(images, noise_dim)))


def _bound(w_eps: float, w_z: float) -> Callable[[Run], ELBO]:
    return lambda run: CausalELBO(w_eps, w_z, w_eps_x=warm_up(0.1))


def _warm_up(run: Run) -> ELBO:
    # As its authors do: without, the upper level is lost in the first steps.
    return CausalELBO(warm_up(0.3), 0.0)


#: Every method but CausalVAE itself.
METHODS = {
    "condition_vae": Method("ConditionVAE", condition_vae, _bound(0.0, 1.0), True, True),
    "ivae": Method("iVAE", ivae, _bound(0.0, 1.0), True, False),
    "beta_vae": Method("beta-VAE", beta_vae, _bound(4.0, 0.0), False, False),
    "causal_vae_unsup": Method("CausalVAE-unsup", causal_vae_unsup, _bound(1.0, 0.0), False, False),
    "ladder_vae": Method("LadderVAE", ladder_vae, _warm_up, False, False),
}
