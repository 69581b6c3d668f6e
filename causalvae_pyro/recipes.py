"""The default way to put a model together for labelled images; what the command line and the main job use."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pyro.infer import ELBO
from torch import Tensor

from causalvae_pyro.checkpoint import Run
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.guides import EndogenousGuide
from causalvae_pyro.likelihoods import GaussianLikelihood
from causalvae_pyro.model import CausalVAE
from causalvae_pyro.networks import ConvDecoder, ConvEncoder
from causalvae_pyro.objectives import CausalELBO, LabelFit
from causalvae_pyro.priors import FixedPrior
from causalvae_pyro.scm import AdditiveNoiseSCM

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """Choices of the default model.

    The guide reads each concept off the image alone, ``q(z | x)``; the conditional prior ties it closely to its label;
    nonlinear mechanisms with learned noise are fitted to the labels; a convolutional decoder with a learned Gaussian
    scale draws the image. The objective bounds ``log p(x, u)``.

    Args:
        dim: Dimensions of each concept.
        prior_std: ``lambda2`` in label standard deviations.
        w_eps: See :class:`~causalvae_pyro.CausalELBO`.
        w_z: See :class:`~causalvae_pyro.CausalELBO`.
    """

    dim: int = 1
    prior_std: float = 0.005
    w_eps: float = 0.0
    w_z: float = 1.0

    def build(self, graph: CausalGraph, images: Tensor, labels: Tensor, config: dict[str, Any] | None = None) -> Run:
        """Makes an untrained model and guide for such data.

        Args:
            graph: The causal graph over the labels.
            images: Training images ``[N, C, H, W]``, uint8 or in [0, 1].
            labels: Training labels ``[N, n]``.
            config: More entries for the run's configuration.
        """
        n, shape = len(graph), tuple(images.shape[1:])
        scm = AdditiveNoiseSCM(graph, self.dim, learn_noise=True)
        prior = FixedPrior.from_labels(labels, self.dim, std=self.prior_std)
        decoder = ConvDecoder.from_images(images, n, self.dim)
        model = CausalVAE(scm, prior, decoder, GaussianLikelihood(learn_scale=True))
        guide = EndogenousGuide(ConvEncoder(shape), scm, init_scale=self.prior_std)
        return Run(model, guide, {"recipe": asdict(self), **(config or {})})

    def objective(self) -> ELBO:
        """The objective to train the pair with."""
        return CausalELBO(self.w_eps, self.w_z, terms=[LabelFit()])
