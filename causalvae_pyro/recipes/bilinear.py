"""The pair for photographs of groups, such as persons under several lights: linear in what a group shares."""

from __future__ import annotations

import torch
from torch import Tensor

from causalvae_pyro.distributions import prior_mean
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.guides import BilinearGuide
from causalvae_pyro.likelihoods import GaussianLikelihood
from causalvae_pyro.model import CausalVAE
from causalvae_pyro.networks import AugmentedEncoder, BilinearDecoder, EvidenceEncoder, RandomView
from causalvae_pyro.priors import FixedPrior, LabelPrior
from causalvae_pyro.recipes.mirroring import mirrored_labels
from causalvae_pyro.scm import AdditiveNoiseSCM, CausalLayer
from causalvae_pyro.utils.images import scale_images
from causalvae_pyro.utils.numbers import evenly_spaced

__all__ = ["generalises", "pair"]

_RANK, _CELLS = 48, 3
# Variances of a pixel, in those of images around the mean image, at 64 x 64 pixels: found on persons of Extended Yale B held out
# (docs/notes.md). Of a displaced edge all pixels are wrong at once, and twice the pixels along each side are no more evidence.
_NOISE, _READING, _PIXELS = 24.0, 0.5, 64 * 64
_TEMPERATURE = 30.0
# Images are explained at about so many pixels along each side.
_SIDE = 32
_MIN_SCALE = 0.05
# A basis of at most 256 MB, where it is not for fewer anchors than that.
_ANCHORS, _FEWEST_ANCHORS, _MOST_NUMBERS = 64, 8, 2**26
_FEWEST_GROUPS = 8
_PAIRS = 200
_ROWS = 16
_GAIN = 0.95
_SOME, _LEAST = 1000, 1e-6


def pair(
    scm: CausalLayer, prior: LabelPrior, images: Tensor, labels: Tensor, groups: Tensor | None, *, mirror: bool
) -> tuple[CausalVAE, BilinearGuide]:
    """The untrained pair.

    Args:
        scm: The causal layer.
        prior: The prior of the labels.
        images: Training images ``[N, C, H, W]``.
        labels: Training labels ``[N, n]``; images with a missing one (NaN) do not count.
        groups: The group of each image, ``[N]``.
        mirror: Whether mirrored images keep their labels.

    Raises:
        ValueError: If there are no groups, or fewer than 3.
    """
    if groups is None:
        raise ValueError("groups: got None; decoder 'bilinear' takes the group of each image, [N]")
    complete = ~labels.isnan().any(1)
    images, labels, groups = images[complete], labels[complete], groups.to(labels.device)[complete]
    decoder = _decoder(prior, images, labels, groups, mirror)
    spread = _spread(decoder, prior, images, labels)
    scale = max(2 * _MIN_SCALE, spread**0.5)
    model = CausalVAE(
        scm,
        prior,
        decoder,
        GaussianLikelihood(scale, learn_scale=True, min_scale=_MIN_SCALE, bounded=False),
        noise_dim=decoder.noise_dim,
    )
    return model, _guide(model, spread)


def generalises(images: Tensor, labels: Tensor, groups: Tensor) -> bool:
    """Whether a basis of other groups says more of a group not seen than the mean image of the labels, and the image as it is.

    A quarter of the groups is held out. Images of these are abducted, and decoded with the labels of others of the same group.

    Args:
        images: Training images ``[N, C, H, W]``.
        labels: Training labels ``[N, n]``, without a missing one.
        groups: The group of each image, ``[N]``.
    """
    names = groups.unique()
    if len(names) < _FEWEST_GROUPS:
        return False
    generator = torch.Generator().manual_seed(0)
    held = torch.isin(groups, names[torch.randperm(len(names), generator=generator)[: len(names) // 4]])
    prior = FixedPrior.from_labels(labels)
    layer = AdditiveNoiseSCM(CausalGraph([f"label_{k}" for k in range(labels.shape[1])], []))
    model, guide = pair(layer, prior, images[~held], labels[~held], groups[~held], mirror=False)
    rows = held.nonzero().squeeze(1)
    rows = rows[torch.randperm(len(rows), generator=generator)[:_PAIRS]]
    other = torch.stack([_another(groups, int(row), generator) for row in rows])
    x, target = (scale_images(images[chosen]).float() for chosen in (rows, other))
    factual, changed = (prior_mean(prior(labels[chosen])) for chosen in (rows, other))
    guide.eval()
    with torch.no_grad():
        found = [
            model.decoder(to, guide.noise_posterior(part, at).mean)
            for part, at, to in zip(x.split(_ROWS), factual.split(_ROWS), changed.split(_ROWS), strict=True)
        ]
        answers = torch.cat(found).clamp(0, 1), model.decoder.mean_image(changed), x
        error, *trivial = ((images - target).square().mean().item() for images in answers)
        return error < _GAIN * min(trivial)


def _another(groups: Tensor, row: int, generator: torch.Generator) -> Tensor:
    """Another image of the same group, or the same where there is none."""
    others = (groups == groups[row]).nonzero().squeeze(1)
    others = others[others != row] if len(others) > 1 else others
    return others[int(torch.randint(len(others), (), generator=generator))]


def _decoder(prior: LabelPrior, images: Tensor, labels: Tensor, groups: Tensor, mirror: bool) -> BilinearDecoder:
    turned = labels if mirror else mirrored_labels(images, labels)
    if turned is not None:
        groups = groups.unique(return_inverse=True)[1]
        images, labels = torch.cat([images, images.flip(-1)]), torch.cat([labels, turned])
        groups = torch.cat([groups, groups + len(groups)])
    anchors = max(_FEWEST_ANCHORS, min(_ANCHORS, _MOST_NUMBERS // (_RANK * images[0].numel())))
    return BilinearDecoder.from_groups(images, prior_mean(prior(labels)), groups, anchors=anchors, rank=_RANK, cells=_CELLS)


def _spread(decoder: BilinearDecoder, prior: LabelPrior, images: Tensor, labels: Tensor) -> float:
    """The variance of the images around the mean image of their labels."""
    some = evenly_spaced(min(_SOME, len(images)), len(images))
    x = scale_images(images[some]).float()
    error = (x - decoder.mean_image(prior_mean(prior(labels[some])))).square().mean().item()
    return max(error, _LEAST)


def _guide(model: CausalVAE, spread: float) -> BilinearGuide:
    decoder, reduction = model.decoder, 1
    while all(side % (2 * reduction) == 0 and side // (2 * reduction) >= _SIDE for side in decoder.image_shape[1:]):
        reduction *= 2
    spread = spread * decoder.image_shape[1] * decoder.image_shape[2] / _PIXELS
    encoder = EvidenceEncoder(model, variance=_READING * spread, temperature=_TEMPERATURE, reduction=reduction)
    shifted = AugmentedEncoder(encoder, RandomView(mirror=False))
    guide = BilinearGuide(shifted, model, variance=_NOISE * spread, reduction=reduction)
    encoder.initialise_head(guide.head)
    return guide
