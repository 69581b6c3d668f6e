"""How much of the images the labels leave unexplained."""

from __future__ import annotations

import torch
from torch import Tensor

from causalvae_pyro.utils.images import check_images, scale_images
from causalvae_pyro.utils.numbers import evenly_spaced

__all__ = ["linear_noise_share", "noise_share"]

_BLOCK = 256
# A finer picture has the same directions, and takes longer.
_SIDE = 32


def noise_share(
    images: Tensor,
    labels: Tensor,
    *,
    groups: Tensor | None = None,
    neighbours: int = 10,
    count: int = 2000,
    seed: int = 0,
) -> float:
    """The share of the pixels' variance that no function of the labels explains: the Gamma test.

    Images with equal labels differ by what the labels do not say. For the ``k``-th nearest neighbour in the labels
    (standardised), let ``delta(k)`` be the mean squared distance of the labels and ``gamma(k)`` half the mean squared difference
    of the pixels. The regression line through ``(delta, gamma)``, ``k = 1 ... neighbours``, meets ``delta = 0`` at the noise's
    variance. It assumes that images are a smooth function of the labels; no model is fitted.

    Args:
        images: ``[N, C, H, W]``, uint8 or in [0, 1].
        labels: ``[N, n]``; images with a missing one (NaN) are left out.
        groups: The group of each image, ``[N]``: then the share that no function of the labels and the group explains. Neighbours
            are of one group.
        neighbours: Of each image.
        count: Use so many images, evenly spaced. Fewer lie further apart, so that more is taken for noise.
        seed: Decides which of equally near neighbours count.

    Returns:
        0 where the labels determine the images, 1 where they say nothing; 0 as well where all images are alike.

    Raises:
        ValueError: If fewer than ``neighbours + 1`` images have all labels, or no group has so many.

    Source: Stefánsson, Končar & Jones 1997, A note on the Gamma test.
    """
    check_images(images, "images")
    complete = (~labels.isnan().any(1)).nonzero().squeeze(1)
    chosen = complete[evenly_spaced(min(count, len(complete)), len(complete))] if len(complete) else complete
    if len(chosen) <= neighbours:
        raise ValueError(f"labels: {len(chosen)} images have all of them; the noise share takes at least {neighbours + 1}")
    variance = _variance(scale_images(images[chosen]).float())
    member = torch.zeros_like(chosen) if groups is None else groups.to(labels.device)[chosen].unique(return_inverse=True)[1]
    large = (member.bincount() > neighbours)[member]
    if not large.any():
        raise ValueError(f"groups: none has {neighbours + 1} images with all labels; the noise share takes at least that many")
    chosen, member = chosen[large], member[large]
    x, u = scale_images(images[chosen]).float().flatten(1), labels[chosen].double()
    u = (u - u.mean(0)) / u.std(0).clamp(min=1e-12)
    generator = torch.Generator().manual_seed(seed)
    delta, gamma = torch.zeros(neighbours, dtype=torch.double), torch.zeros(neighbours, dtype=torch.double)
    for rows in torch.arange(len(u)).split(_BLOCK):
        distance = torch.cdist(u[rows], u).square()
        distance[torch.arange(len(rows)), rows] = torch.inf
        distance[member[rows, None] != member] = torch.inf
        # Classes are all equally near: without this the first images would be everyone's neighbours.
        ties = 1e-9 * torch.rand(distance.shape, generator=generator, dtype=torch.double)
        near = (distance + ties).topk(neighbours, largest=False).indices
        delta += distance.gather(1, near).sum(0)
        gamma += torch.stack([(x[rows] - x[column]).square().mean(1).double().sum() for column in near.T]) / 2
    delta, gamma = delta / len(u), gamma / len(u)
    if not variance:
        return 0.0
    # Where all neighbours are at one distance, as among a few classes, there is no slope.
    spread = (delta - delta.mean()).square().sum()
    slope = ((delta - delta.mean()) * gamma).sum() / spread if spread > 1e-12 else 0.0
    return min(1.0, max(0.0, ((gamma.mean() - slope * delta.mean()) / variance).item()))


def _variance(x: Tensor) -> float:
    return (x - x.mean(0)).square().mean().item()


def linear_noise_share(images: Tensor, labels: Tensor, directions: int = 16, *, count: int = 2000) -> float:
    """The share of what the labels leave unexplained that lies along a few directions: principal components, on images held out.

    A quadratic regression of the pixels on the labels is taken off. Principal components of what is left of half of the images
    are tried on the other half. Where a face or a wall differs from image to image by a few numbers, its colour and its width, 16
    explain nearly all of it; of photographs and handwriting they explain less, however large the components of one data set are.

    Args:
        images: ``[N, C, H, W]``, uint8 or in [0, 1]; large ones are made smaller, to about 32 pixels along a side.
        labels: ``[N, n]``; images with a missing one (NaN) are left out.
        directions: How many, at least 1.
        count: Use so many images, chosen at random with a seed of its own, as the halves are. Images of one group (a person, a
            patient) are in both halves then: what they share counts as seen.

    Returns:
        At most 1; 0 where the labels leave nothing. Below 0 where the components of one half make it worse.

    Raises:
        ValueError: If fewer than four times as many images as directions have all labels.
    """
    from sklearn.decomposition import PCA  # slow to import
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    check_images(images, "images")
    if directions < 1:
        raise ValueError(f"directions: got {directions}; must be at least 1")
    complete = (~labels.isnan().any(1)).nonzero().squeeze(1)
    # At random: the rows of a table may be in the order of a label.
    chosen = complete[torch.randperm(len(complete), generator=torch.Generator().manual_seed(0))[:count].to(complete.device)]
    if len(chosen) < 4 * directions:
        raise ValueError(f"labels: {len(chosen)} images have all of them; {directions} directions take at least {4 * directions}")
    x = scale_images(images[chosen.to(images.device)]).float()
    x = torch.nn.functional.avg_pool2d(x, [max(1, round(side / _SIDE)) for side in x.shape[-2:]])
    pixels, u, half = x.flatten(1).cpu().numpy(), labels[chosen].double().cpu().numpy(), len(chosen) // 2
    regression = make_pipeline(StandardScaler(), PolynomialFeatures(2), Ridge(1e-2 * half)).fit(u[:half], pixels[:half])
    seen, held = pixels[:half] - regression.predict(u[:half]), pixels[half:] - regression.predict(u[half:])
    total = (held**2).sum()
    if not total or not seen.any():
        return 0.0
    components = PCA(min(directions, seen.shape[1]), svd_solver="randomized", random_state=0).fit(seen)
    left = held - components.inverse_transform(components.transform(held))
    return float(1 - (left**2).sum() / total)
