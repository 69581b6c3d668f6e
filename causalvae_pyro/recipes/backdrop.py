"""The pair and objective for parts that concepts move, before a background that is another one in each image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.guides import HierarchicalGuide, IterativeGuide
from causalvae_pyro.likelihoods import GaussianLikelihood
from causalvae_pyro.model import CausalVAE
from causalvae_pyro.networks import BackdropDecoder, SpatialEncoder, SpriteDecoder
from causalvae_pyro.objectives.elbo import CausalELBO
from causalvae_pyro.objectives.sleep_phase import SleepPhase
from causalvae_pyro.objectives.sparsity import EffectSparsity
from causalvae_pyro.objectives.terms import LabelFit
from causalvae_pyro.priors import FixedPrior
from causalvae_pyro.recipes.concepts import label_concepts
from causalvae_pyro.recipes.levels import count_levels
from causalvae_pyro.scm import AdditiveNoiseSCM

__all__ = ["build", "objective"]

# Of label standard deviations: an encoder that sees other backgrounds reads no closer.
_STD = 0.05
# Of the backdrop, at half of the image's resolution and at all coarser ones; of its noise from the coarsest on.
_FINEST, _COARSER, _NOISE = 32, 64, (32, 16, 8)
# The likelihood's scale starts at about that of the backgrounds, and ends at a grey level of 8 bits at the least.
_SCALE, _MIN_SCALE = 0.25, 1 / 255
# Share of the training without noise: sprites settle on what the mean background does not explain.
_CONCEPTS_FIRST = 0.25
# Then noise is cheap, or none would be used, and comes to its full price over so much of the training.
_CHEAP, _RISE = 0.02, 0.3


def build(recipe: Any, graph: CausalGraph, images: Tensor, labels: Tensor, config: dict[str, Any]) -> Run:
    """The untrained pair.

    Args:
        recipe: Its options.
        graph: The causal graph.
        images: Training images ``[N, C, H, W]``.
        labels: Training labels ``[N, n]``, NaN where missing.
        config: Of the run.

    Raises:
        ValueError: If nothing in the images follows the concepts.
    """
    n, shape, levels = len(graph), tuple(images.shape[1:]), count_levels(images.shape[1:])
    std = _STD if recipe.prior_std is None else recipe.prior_std
    prior = FixedPrior.from_labels(labels, recipe.dim, std=std)
    decoder = BackdropDecoder.from_images(
        images,
        n,
        recipe.dim,
        concepts=label_concepts(prior, labels),
        channels=[*[_COARSER] * (levels - 1), _FINEST],
        noise_channels=_NOISE[: levels - 1] or _NOISE[:1],
        blocks=1,
    )
    # As fast as the sprites: their price is relative to it.
    likelihood = GaussianLikelihood(_SCALE, learn_scale=True, min_scale=_MIN_SCALE, lr_factor=SpriteDecoder.lr_factor)
    scm = AdditiveNoiseSCM(graph, recipe.dim, learn_noise=True)
    model = CausalVAE(scm, prior, decoder, likelihood, noise_dim=decoder.noise_dim)
    # Small parts are few pixels: every place at a quarter of the resolution is read.
    once = HierarchicalGuide(SpatialEncoder(shape, 128, channels=16), model, init_scale=std)
    return Run(model, IterativeGuide(once, model, refinements=recipe.refinements), config)


def objective(recipe: Any, run: Run, weight: Callable[[float], float]) -> CausalELBO:
    """What it is trained with.

    Args:
        recipe: Its options.
        run: What :func:`build` made.
        weight: The price of effects, from the progress of the training.
    """
    # The weight is for a likelihood as sharp as a grey level, and this one's scale is at first that of the whole background: at
    # full weight the sprites shrink away before it has fallen, and small parts lose what few pixels show (docs/notes.md).
    sparsity = EffectSparsity(weight, sharpness=_MIN_SCALE)
    return CausalELBO(
        recipe.w_eps,
        recipe.w_z,
        w_eps_x=_divergence,
        concepts_first=_CONCEPTS_FIRST,
        teacher_forcing=1.0,
        # The images' own noise has thousands of dimensions: real images teach how to read them.
        terms=[LabelFit(), sparsity, SleepPhase(run.guide, noise=False)],
    )


def _divergence(progress: float) -> float:
    return min(1.0, max(_CHEAP, (progress - _CONCEPTS_FIRST) / _RISE))
