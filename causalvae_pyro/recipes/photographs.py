"""The default pair and objective for images with much of their own, such as photographs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.guides import HierarchicalGuide
from causalvae_pyro.likelihoods import GaussianLikelihood
from causalvae_pyro.model import CausalVAE
from causalvae_pyro.networks import (
    AugmentedEncoder,
    HierarchicalDecoder,
    LabelPredictor,
    NormalisedEncoder,
    ProjectionDiscriminator,
    ResidualEncoder,
)
from causalvae_pyro.objectives.classifier_consistency import ClassifierConsistency
from causalvae_pyro.objectives.classifier_fit import ClassifierFit
from causalvae_pyro.objectives.elbo import CausalELBO
from causalvae_pyro.objectives.group_swap import GroupSwap
from causalvae_pyro.objectives.terms import LabelFit, Term
from causalvae_pyro.priors import CategoricalPrior, FixedPrior
from causalvae_pyro.recipes import bilinear
from causalvae_pyro.recipes.levels import count_levels
from causalvae_pyro.recipes.views import view
from causalvae_pyro.scm import AdditiveNoiseSCM, CategoricalSCM, CausalLayer
from causalvae_pyro.scm.categories import WIDEST
from causalvae_pyro.utils.label_columns import is_binary, label_widths

__all__ = ["build", "is_binary", "objective"]

# Of the finest resolution last; coarser ones are as wide as the first.
_CHANNELS, _NOISE = (128, 96, 48, 24), (32, 16, 8)
# Label standard deviations. Binary labels are +-1 there: so wide, the decoder is also trained between the two values, where
# mechanisms put the effects of an intervention, and the values stay 6 standard deviations apart.
_BINARY_STD, _STD = 0.3, 0.05
# Unit vectors are 1.4 apart.
_CATEGORY_STD = WIDEST
# Of the labels in each counterfactual that the classifiers see; of two values a third of them change then.
_SWAPPED = 0.7
# A likelihood of smaller scale puts ever finer details into the noise, against which concepts and critics count for ever less.
_MIN_SCALE = 0.05
# Gradients of classifiers that see through noise are smooth: changes that please them look less like noise.
_GRAIN = 0.15
# What a group's images do not share, such as the shadows of one light, must not count as much as what they do.
_SWAP = 8.0


def build(
    recipe: Any,
    graph: CausalGraph,
    images: Tensor,
    labels: Tensor,
    config: dict[str, Any],
    kinds: Sequence[int | Sequence[str]] = (),
    groups: Tensor | None = None,
) -> Run:
    """The untrained pair.

    Args:
        recipe: Its options.
        graph: The causal graph.
        images: Training images ``[N, C, H, W]``.
        labels: Training labels ``[N, n]``, NaN where missing.
        config: Of the run.
        kinds: Of each concept, 0 for a number; see :class:`~causalvae_pyro.priors.CategoricalPrior`.
        groups: The group of each image, ``[N]``, for the bilinear decoder.
    """
    n, shape, kinds = len(graph), tuple(images.shape[1:]), kinds or [0] * len(graph)
    binary = [b and not k for b, k in zip(is_binary(labels), kinds, strict=True)]
    usual = [_CATEGORY_STD if k else _BINARY_STD if b else _STD for b, k in zip(binary, kinds, strict=True)]
    std = usual if recipe.prior_std is None else [recipe.prior_std] * n
    standard = CategoricalPrior.from_labels(labels, kinds)
    dim = max(recipe.dim, standard.dim)
    shift = torch.where(torch.tensor(binary), 0.5, standard.shift).tolist()
    scale = torch.where(torch.tensor(binary), 0.5, standard.scale).tolist()
    spread: dict[str, Any] = {"std": std, "shift": shift, "scale": scale}
    prior = CategoricalPrior(kinds, dim, **spread) if any(kinds) else FixedPrior(n, dim, **spread)
    scm: CausalLayer = AdditiveNoiseSCM(graph, dim, learn_noise=True)
    if any(kinds):
        scm = CategoricalSCM(scm, standard.kinds, width=min(recipe.prior_std or _CATEGORY_STD, WIDEST))
    config = {**config, "binary": binary}
    if recipe.decoder == "bilinear":
        return Run(*bilinear.pair(scm, prior, images, labels, groups, mirror=recipe.mirror), config)
    widths = _widths(shape)
    decoder = HierarchicalDecoder(
        shape, n, dim, channels=widths, noise_channels=_NOISE[: len(widths) - 1] or _NOISE[:1], blocks=1
    )
    decoder.initialise_background(images)
    # From about the spread of the pixels on.
    likelihood = GaussianLikelihood(0.25, learn_scale=True, min_scale=_MIN_SCALE)
    model = CausalVAE(scm, prior, decoder, likelihood, noise_dim=decoder.noise_dim)
    encoder = AugmentedEncoder(NormalisedEncoder(shape), view(recipe.mirror, recipe.views))
    return Run(model, HierarchicalGuide(encoder, model, init_scale=_BINARY_STD), config)


def objective(recipe: Any, run: Run) -> CausalELBO:
    """What it is trained with.

    Args:
        recipe: Its options.
        run: What :func:`build` made.
    """
    if recipe.decoder == "bilinear":
        # Basis and noise have closed forms.
        return CausalELBO(recipe.w_eps, recipe.w_z, teacher_forcing=1.0, terms=[LabelFit()])
    if recipe.grouped:
        terms: list[Term] = [LabelFit(), GroupSwap(weight=_SWAP)]

        def divergence(progress: float) -> float:
            return _SWAP * _warm_up(progress)

        return CausalELBO(recipe.w_eps, recipe.w_z, w_eps_x=divergence, teacher_forcing=1.0, terms=terms)
    if not recipe.consistency:
        return CausalELBO(recipe.w_eps, recipe.w_z, w_eps_x=_warm_up, teacher_forcing=1.0, terms=[LabelFit()])
    shape, binary = run.model.decoder.image_shape, run.config["binary"]
    n = sum(label_widths(run.model.prior, len(run.graph)))
    classifiers = [LabelPredictor(NormalisedEncoder(shape), n), LabelPredictor(ResidualEncoder(shape), n)]
    cast = recipe.cast if "light" in recipe.views else 0.0
    preserver = [LabelPredictor(NormalisedEncoder(shape), n)] if recipe.preservation else []
    views = [view(recipe.mirror, recipe.views, grain=_GRAIN, cast=cast) for _ in [*classifiers, *preserver]]
    terms = [
        LabelFit(),
        ClassifierFit(
            [*classifiers, *preserver],
            augmentations=views,
            binary=binary,
            balanced=[*(False for _ in classifiers), *(True for _ in preserver)],
            kinds=getattr(run.model.prior, "kinds", ()),
        ),
        ClassifierConsistency(
            classifiers,
            augmentations=views[: len(classifiers)],
            binary=binary,
            preserver=preserver[0] if preserver else None,
            discriminator=ProjectionDiscriminator(shape, n) if recipe.realism else None,
            realism=recipe.realism,
            minimality=recipe.minimality,
            preservation=recipe.preservation,
            share=_SWAPPED,
            names=run.graph.names,
            unseen=run.config.get("unseen", ()),
            weight=lambda progress: recipe.consistency * min(1.0, max(0.0, (progress - 0.1) / 0.2)),
        ),
    ]
    return CausalELBO(recipe.w_eps, recipe.w_z, w_eps_x=_warm_up, teacher_forcing=1.0, terms=terms)


def _warm_up(progress: float) -> float:
    """All of the divergence from the start, and the noise of some levels collapses."""
    return min(1.0, 0.1 + 2.7 * progress)


def _widths(shape: Sequence[int]) -> tuple[int, ...]:
    """Channels at each resolution, from 4 pixels on up to half the image's."""
    levels = count_levels(shape)
    return (*[_CHANNELS[0]] * (levels - len(_CHANNELS)), *_CHANNELS[-levels:])
