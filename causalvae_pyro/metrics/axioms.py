"""What any counterfactual must satisfy, for data whose true counterfactuals nobody knows.

*Composition*: an intervention that changes nothing changes nothing. *Reversibility*: undoing an intervention brings the image
back. *Effectiveness*: the image shows the value that was set. *Minimality*: and changes no more than that. None of them needs
the truth, and none of them implies it: returning the factual image composes, reverses and is minimal, and has no effect.

Source: Monteiro et al. 2023 (composition, reversibility, effectiveness); Sanchez & Tsaftaris 2022 and Melistas et al. 2024
(minimality).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from causalvae_pyro.utils.images import as_images

__all__ = ["composition", "effectiveness", "minimality", "reversibility"]

_WEIGHTS = (0.8, 0.2)


def composition(
    null: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    times: int = 10,
    distance: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """How far images drift when an intervention that changes nothing is applied again and again.

    Args:
        null: From images to their counterfactuals under such an intervention: abduction and prediction.
        x: Images ``[N, C, H, W]``, uint8 or in [0, 1]; the functions see them in [0, 1].
        times: How often to apply it.
        distance: From images and ``x`` to a number, or several ``[m]``; by default the mean absolute difference per pixel and
            channel, in units of the pixel's range. Another one is the mean of :func:`~causalvae_pyro.metrics.lpips`.

    Returns:
        ``[times]`` or ``[times, m]``, the distance between ``x`` and the images after 1, 2, ... times; 0 is perfect. The first is
        the error of the reconstruction; the last divided by the first is how much repetition adds.

    Raises:
        ValueError: If ``times < 1``, or ``null`` returns another shape.

    Example:
        >>> composition(lambda x: x + 0.25 * (1 - x), torch.zeros(2, 1, 4, 4), times=2).tolist()
        [0.25, 0.4375]
    """
    return _drift([null], x, times, distance)


def reversibility(do: Callable[[Tensor], Tensor], undo: Callable[[Tensor], Tensor], x: Tensor, *, times: int = 1) -> Tensor:
    """How close images come back when an intervention is undone, each time from the counterfactual image alone.

    Args:
        do: From images to counterfactuals.
        undo: From those to the counterfactuals under the factual values.
        x: Images ``[N, C, H, W]``, uint8 or in [0, 1]; the functions see them in [0, 1].
        times: How often to do and undo.

    Returns:
        ``[times]``, the mean absolute difference per pixel and channel between ``x`` and what comes back after 1, 2, ... rounds,
        in units of the pixel's range; 0 is perfect.

    Raises:
        ValueError: If ``times < 1``, or a function returns another shape.

    Example:
        >>> reversibility(lambda x: x / 2, lambda x: 2 * x, torch.rand(2, 1, 4, 4)).tolist()
        [0.0]
    """
    return _drift([do, undo], x, times)


def effectiveness(predicted: Tensor, intended: Tensor) -> Tensor:
    """How far an independent predictor's reading of counterfactual images is from what they were meant to show.

    Args:
        predicted: What the predictor, trained on real images only, reads from the counterfactuals: numbers ``[N, ...]`` or
            classes ``[N]`` of an integer type, e.g. by :class:`~causalvae_pyro.metrics.Predictor`.
        intended: The labels that they should have, same shape: those set, and those that follow from them.

    Returns:
        For numbers the mean absolute error per column, ``[...]``, in their units, 0 is perfect; for classes the share that
        agrees, 1 is perfect. Give the predictor's figure on real images beside it: it is the best that can be expected.

    Raises:
        ValueError: If the shapes differ, there are no rows, or one is a class and the other a number.

    Example:
        >>> effectiveness(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.5], [2.0]])).tolist()
        [0.25]
        >>> effectiveness(torch.tensor([1, 2, 3, 3]), torch.tensor([1, 2, 3, 4])).item()
        0.75
    """
    if predicted.shape != intended.shape or not len(predicted):
        raise ValueError(f"predicted: expected intended's shape {list(intended.shape)} with rows, got {list(predicted.shape)}")
    if predicted.is_floating_point() != intended.is_floating_point():
        raise ValueError(f"predicted: got {predicted.dtype} beside intended's {intended.dtype}; give numbers or classes for both")
    if predicted.is_floating_point():
        return (predicted.double() - intended.double()).abs().mean(0)
    return (predicted == intended).double().mean(0)


def minimality(
    factual: Tensor,
    counterfactual: Tensor,
    before: Tensor,
    after: Tensor,
    *,
    bins: int = 10,
    weights: tuple[float, float] = _WEIGHTS,
    distance: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> float:
    """Counterfactual latent divergence: whether a counterfactual moves far enough from its factual image, and no farther.

    For each image, ``p1`` is the share of the other factual images with the intended label that are at most as far from it as
    its counterfactual is, and ``p2`` the share of those with its own label that are at least as far; the score is the mean of
    ``log(w1 exp p1 + w2 exp p2)``. A counterfactual that changes too much has a large ``p1``, one that changes too little a
    large ``p2``.

    Args:
        factual: Features of the factual images ``[N, f]`` in which distance means something, e.g. of an unconditional
            autoencoder (:class:`~causalvae_pyro.metrics.ImageVAE`) or of a predictor.
        counterfactual: Features of their counterfactuals ``[N, f]``.
        before: The factual values of the concept intervened on, ``[N]``: numbers, or classes of an integer type.
        after: The values set, ``[N]``.
        bins: Numbers in the same one of so many bins (of equal width, over the factual values; what lies beyond belongs to the
            outermost) count as the same label.
        weights: ``w1, w2``, >= 0; by default Melistas et al.'s 0.8 and 0.2.
        distance: Of features ``[M, f]`` from others ``[f]`` or ``[M, f]``, ``[M]``; the mean absolute difference by default, and
            :func:`~causalvae_pyro.metrics.gaussian_kl` for the posteriors of a VAE, as in Melistas et al. The features of the
            counterfactual come first.

    Returns:
        In [0, 1] for weights that add up to 1; lower is better. Images for whose labels there is nothing to compare with are
        left out.

    Raises:
        ValueError: If shapes do not fit, ``bins`` or ``weights`` are out of range, or every image is left out.

    Example:
        >>> x = torch.tensor([[0.0], [0.0], [4.0], [4.0]])
        >>> label = torch.tensor([0, 0, 1, 1])
        >>> far, near = minimality(x, x + 9, label, 1 - label), minimality(x, 3 - x / 2, label, 1 - label)
        >>> far > near
        True
    """
    factual, counterfactual = factual.double(), counterfactual.double()
    if factual.ndim != 2 or factual.shape != counterfactual.shape:
        raise ValueError(
            f"factual: expected [N, f] beside counterfactual's {list(counterfactual.shape)}, got {list(factual.shape)}"
        )
    if not before.shape == after.shape == factual.shape[:1]:
        raise ValueError(f"before: expected [{len(factual)}] values, got {list(before.shape)} and {list(after.shape)}")
    if bins < 1:
        raise ValueError(f"bins: got {bins}; must be at least 1")
    if min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"weights: got {weights}; must be >= 0 and not both 0")
    if before.is_floating_point():
        edges = torch.linspace(before.min().item(), before.max().item(), bins + 1, dtype=before.dtype)[1:-1]
        before, after = torch.bucketize(before.contiguous(), edges), torch.bucketize(after.to(edges).contiguous(), edges)
    scores = []
    distance = _mean_difference if distance is None else distance
    for i, moved in enumerate(distance(counterfactual, factual)):
        far = distance(factual, factual[i])
        others = torch.arange(len(factual)) != i
        target, same = far[others & (before == after[i])], far[others & (before == before[i])]
        if len(target) and len(same):
            p1, p2 = (target <= moved).double().mean(), (same >= moved).double().mean()
            scores.append((weights[0] * p1.exp() + weights[1] * p2.exp()).log())
    if not scores:
        raise ValueError("after: no value set occurs among the other factual images; there is nothing to compare with")
    return torch.stack(scores).mean().item()


def _mean_difference(features: Tensor, others: Tensor) -> Tensor:
    return (features - others).abs().mean(1)


def _drift(
    steps: list[Callable[[Tensor], Tensor]],
    x: Tensor,
    times: int,
    distance: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    distance = _pixel_difference if distance is None else distance
    if times < 1:
        raise ValueError(f"times: got {times}; must be at least 1")
    x = as_images(x)
    now, result = x, []
    for _ in range(times):
        for step in steps:
            now = step(now)
            if now.shape != x.shape:
                raise ValueError(f"x: a function made images of shape {list(now.shape)} of images of shape {list(x.shape)}")
        result.append(distance(now, x))
    return torch.stack(result)


def _pixel_difference(images: Tensor, x: Tensor) -> Tensor:
    return (images.double() - x.double()).abs().mean()
