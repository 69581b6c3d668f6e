"""The methods of ``benchmarks/protocol.py``: image mechanisms that share one causal layer over the attributes.

Every method is a :class:`~causalvae_pyro.CausalVAE` whose guide is told the labels, with the same causal layer, fitted to the
labels alone and left as it is, so that all of them intervene on the same counterfactual parents, as in Melistas et al. 2024. They
differ in the image: a conditional VAE, a conditional hierarchical VAE, and ours, a hierarchical one that learns what the concepts
explain before its noise comes in, and whose counterfactuals have to convince predictors of the attributes (De Sousa Ribeiro et
al. 2023). Its predictors have no part in the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from causalvae_pyro import CausalELBO, CausalVAE, GaussianLikelihood
from causalvae_pyro.guides import HierarchicalGuide, LabelConditionedGuide, PosteriorGuide
from causalvae_pyro.guides.families import GaussianHead
from causalvae_pyro.metrics import Predictor
from causalvae_pyro.networks import (
    BrightnessDecoder,
    FiLMDecoder,
    HierarchicalDecoder,
    RandomBrightness,
    RandomSymmetry,
    RandomView,
    SpatialEncoder,
)
from causalvae_pyro.objectives import PredictorConsistency, warm_up
from causalvae_pyro.recipes import Recipe
from causalvae_pyro.scm import CausalTransform

__all__ = ["METHODS", "FaceReaders", "Parts", "Readers", "photographs", "rescale"]


@dataclass(frozen=True)
class Parts:
    """What the methods share.

    Attributes:
        images: Training images ``[N, C, H, W]``.
        prior: The conditional prior.
        scm: The causal layer over the attributes.
        readers: Makes the predictors that take part in training ours.
        sizes: Channels and noise channels of the hierarchical decoders.
        noise_dim: Dimensions of the conditional VAE's noise.
    """

    images: Tensor
    prior: nn.Module
    scm: Any
    readers: Callable[[], Sequence[nn.Module]]
    sizes: tuple[Sequence[int], Sequence[int]]
    noise_dim: int

    @property
    def concepts(self) -> tuple[int, int]:
        """``n`` and ``d``."""
        return len(self.scm.graph), self.scm.dim


# Of ours: channels of the noise at 2 x 2 and 4 x 4, and the share of the training before it comes in.
_NOISE, _CONCEPTS_FIRST = (32, 8), 0.17


class ConditionalGuide(PosteriorGuide):
    """``z ~ p(z | u)`` and ``eps_x ~ N(m(x, u), s(x, u)^2)``: the encoder of a conditional VAE."""

    def __init__(self, encoder: nn.Module, model: Any) -> None:
        super().__init__()
        self.encoder, self._model = encoder, (model,)
        self.scm = None
        self.noise_head = GaussianHead(encoder.out_features, (model.noise_dim,), 0.3, 1e-4)

    def posterior(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        q = known_concepts(self._model[0], labels)
        return {
            "eps": q,
            "eps_x": dist.Normal(*self.noise_head(self.encoder(x, q.base_dist.mean.flatten(-2)))).to_event(1),
        }


class ConditionalHierarchicalGuide(HierarchicalGuide):
    """``z ~ p(z | u)``, and the noise of each level given them: the encoder of a conditional hierarchical VAE."""

    def __init__(self, model: Any) -> None:
        super().__init__(_Nothing(), model)
        self._model = (model,)
        self.head = nn.Identity()

    def _concepts(self, x: Tensor, labels: Tensor | None) -> Any:
        return known_concepts(self._model[0], labels)


class _Nothing(nn.Module):
    """An encoder of nothing: the concepts are known."""

    out_features = 1


def known_concepts(model: Any, labels: Tensor | None) -> Any:
    """``q(eps)`` of known labels."""
    assert labels is not None
    return dist.TransformedDistribution(model.prior(labels), [CausalTransform(model.scm).inv])


def vae(parts: Parts) -> tuple[CausalVAE, PosteriorGuide, CausalELBO]:
    """A conditional VAE with convolutions."""
    decoder = FiLMDecoder.from_images(parts.images, *parts.concepts, noise_dim=parts.noise_dim)
    model = CausalVAE(parts.scm, parts.prior, decoder, GaussianLikelihood(learn_scale=True), noise_dim=parts.noise_dim)
    n, d = parts.concepts
    guide = ConditionalGuide(SpatialEncoder(tuple(parts.images.shape[1:]), label_dim=n * d), model)
    return model, guide, CausalELBO(w_eps_x=warm_up(0.1))


def hvae(parts: Parts) -> tuple[CausalVAE, PosteriorGuide, CausalELBO]:
    """A conditional hierarchical VAE."""
    channels, noise = parts.sizes
    decoder = HierarchicalDecoder.from_images(parts.images, *parts.concepts, channels=channels, noise_channels=noise, blocks=1)
    model, guide = _hierarchical(parts, decoder, 0.01)
    return model, guide, CausalELBO(w_eps_x=warm_up(0.3))


def ours(parts: Parts) -> tuple[CausalVAE, PosteriorGuide, CausalELBO]:
    """The hierarchical VAE's networks with a brightness and coarse noise, concepts before noise, predictors of counterfactuals.

    The intensity is the brightness, by its definition, and nothing but that; thickness and digit set the picture alone. Noise at
    a quarter of the resolution holds the factual digit's strokes, which another digit has no use for.
    """
    options = {"channels": parts.sizes[0], "noise_channels": _NOISE, "blocks": 1, "concept_scale": _concept_scale(parts.prior)}
    options |= {"exact": True, "brightness_concepts": [parts.scm.graph.index("intensity")]}
    decoder = BrightnessDecoder.from_images(parts.images, *parts.concepts, picture=HierarchicalDecoder, **options)
    model, guide = _hierarchical(parts, decoder, 0.02)
    consistency = PredictorConsistency(
        parts.readers(),
        std=0.015,
        category_weight=80.0,
        train_guide=True,
        reference_scale=0.11,
        weight=lambda progress: min(1.0, max(0.0, (progress - 0.07) / 0.07)),
    )
    return model, guide, CausalELBO(w_eps_x=_divergence, concepts_first=_CONCEPTS_FIRST, terms=[consistency])


def _divergence(progress: float) -> float:
    return min(1.0, max(0.02, (progress - _CONCEPTS_FIRST) / 0.3))


def _concept_scale(prior: Any) -> list[float]:
    """One-hot vectors as much varied as the equal dimensions of a number."""
    return [prior.dim**0.5 if kinds else 1.0 for kinds in prior.kinds]


def _hierarchical(parts: Parts, decoder: Any, min_scale: float) -> tuple[CausalVAE, PosteriorGuide]:
    # A scale that lags behind the error leaves the likelihood too weak.
    likelihood = GaussianLikelihood(0.25, learn_scale=True, min_scale=min_scale, lr_factor=10.0)
    model = CausalVAE(parts.scm, parts.prior, decoder, likelihood, noise_dim=decoder.noise_dim)
    return model, ConditionalHierarchicalGuide(model)


#: What is trained, by name.
METHODS: dict[str, Callable[[Parts], tuple[CausalVAE, PosteriorGuide, CausalELBO]]] = {"vae": vae, "hvae": hvae, "ours": ours}


class Readers(nn.Module):
    """Predictors of thickness and intensity and of the digit, as one predictor of all three, each on views of its own."""

    def __init__(self, images: Tensor, labels: Tensor, epochs: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(1000 * (seed + 1))
        shape = tuple(images.shape[1:])
        self.measure, self.classify = Predictor(shape, 2), Predictor(shape, 10, classify=True)
        self.symmetry = RandomSymmetry()
        # Gradients of a classifier that sees through noise are smooth: what pleases it looks like a digit.
        self.turn = RandomView(mirror=False, turn=10.0, zoom=0.1, light=0.0, grain=0.4)
        self.measure.fit(images, labels[:, :2], epochs=epochs, augment=self.symmetry, augment_pairs=rescale, seed=seed)
        views = nn.Sequential(RandomBrightness(), self.turn)
        self.classify.fit(images, labels[:, 2].long(), epochs=epochs, augment=views, seed=seed)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 1, H, W]`` to thickness, intensity and logits of the digit, ``[N, 12]``."""
        return torch.cat([self.measure(self.symmetry(x)), self.classify(self.turn(x))], 1)


class FaceReaders(nn.Module):
    """Predictors of the attributes of a face, as one predictor of all of them."""

    def __init__(self, images: Tensor, labels: Tensor, epochs: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(1000 * (seed + 1))
        shape, self.view = tuple(images.shape[1:]), RandomView()
        self.readers = nn.ModuleList(Predictor(shape, 2, classify=True) for _ in labels.T)
        for reader, column in zip(self.readers, labels.T, strict=True):
            reader.fit(images, column.long(), epochs=epochs, augment=self.view, seed=seed)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` to the logits of both values of each attribute, ``[N, 2 n]``."""
        return torch.cat([reader(self.view(x)) for reader in self.readers], 1)


def photographs(graph: Any, images: Tensor, labels: Tensor) -> tuple[CausalVAE, Any, Any, Any]:
    """The recipe for photographs: model, guide, objective, and the guide that is told the labels."""
    recipe = Recipe(decoder="hierarchical")
    run = recipe.build(graph, images, labels)
    return run.model, run.guide, recipe.objective(run), LabelConditionedGuide(run.guide, run.model)


def rescale(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Makes images brighter or darker at random, and the intensity, their last label, with them.

    In real images the brightness tells the thickness; where it is set by an intervention, it does not.
    """
    brighter = RandomBrightness()(x)
    factor = brighter.amax((-3, -2, -1)) / x.amax((-3, -2, -1)).clamp(min=1e-6)
    return brighter, torch.cat([labels[:, :-1], labels[:, -1:] * factor[:, None]], 1)
