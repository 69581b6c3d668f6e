"""What a predictor with no part in training reads from counterfactuals whose truth nobody knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor

from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.metrics import PhotographPredictor, kind_scores
from causalvae_pyro.objectives import reserved
from causalvae_pyro.recipes.views import VIEWS, view
from causalvae_pyro.utils.random_state import kept_rng_state
from causalvae_pyro.utils.unseen_pairs import asks_for

__all__ = ["predicted_scores", "train_photograph_predictor"]

_BLOCK = 256
_SIDE = 16
# A colour cast spreads over the image; what a concept changes (lips, brows, hair) is smaller than a sixteenth of it.
_COARSE = 4


def train_photograph_predictor(
    images: Tensor,
    labels: Tensor,
    binary: Sequence[bool],
    *,
    mirror: bool = True,
    views: Sequence[str] = VIEWS,
    kinds: Sequence[int] = (),
    steps: int = 1000,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> PhotographPredictor:
    """A predictor for :func:`~causalvae_pyro.evaluation.evaluate`, trained on the images that no classifier of the training saw.

    Args:
        images: Training images ``[N, C, H, W]``, of which those that :func:`~causalvae_pyro.objectives.reserved` are used.
        labels: Their labels ``[N, n]``, NaN where missing.
        binary: Which labels are binary (0 or 1).
        mirror: Whether mirrored images keep their labels.
        views: Which small changes do; see :class:`~causalvae_pyro.recipes.Recipe`.
        kinds: For each label the number of its kinds where it is a category, else 0.
        steps: Steps of training.
        seed: Of the weights and the order. Global generators stay as they were.
        device: Where to train and to predict.
        progress: Show a progress bar.
    """
    rows = torch.cat([reserved(torch.as_tensor(part)) for part in images.split(_BLOCK)]).nonzero().squeeze(1)
    # Of very few images a third may be none.
    rows = rows if len(rows) >= 2 else torch.arange(len(images))
    changed = view(mirror, views, shift=0.06, zoom=0.1, turn=8.0, grain=0.05)
    with kept_rng_state(device):
        torch.manual_seed(seed)
        predictor = PhotographPredictor(images.shape[1:], binary, mirror=mirror, kinds=kinds).to(device)
        predictor.fit(images[rows], labels[rows], steps=steps, augment=changed, seed=seed, progress=progress)
    return predictor


def predicted_scores(
    predictor: PhotographPredictor,
    graph: CausalGraph,
    x: Tensor,
    labels: Tensor,
    reconstruction: Tensor,
    interventions: dict[str, tuple[Tensor, Tensor, Tensor]],
    unseen: Sequence[Sequence[Any]] = (),
) -> dict[str, Any]:
    """Scores of interventions on one concept each.

    Args:
        predictor: The predictor.
        graph: Its concepts are the predictor's outputs.
        x: Test images ``[N, C, H, W]`` in [0, 1].
        labels: Their labels ``[N, n]``, NaN where missing.
        reconstruction: What the model makes of them, ``[N, C, H, W]``.
        interventions: By concept: the values set ``[N]``, the counterfactual images, and the labels ``[N, n]`` that the model
            means them to have.
        unseen: Pairs of classes that hardly any training image shows, as a run's configuration has them.

    Returns:
        A JSON-able mapping:

        - ``factual``: how well the labels of ``x`` are predicted, by concept: ``accuracy``, ``f1`` and ``auc`` of a binary one,
          ``accuracy``, ``f1`` (the mean over the kinds) and ``f1_by_kind`` of a category, else ``mae``.
        - ``do``, by concept: ``set``, the same for the values set; ``effects``, by descendant, the same for what the model means;
          ``unchanged``, by other concept, the share of images whose reading is that of the reconstruction (binary, category),
          or the mean absolute change (else); ``real``, by concept with classes, the share of *real* images with the classes
          that the counterfactuals are meant to have in which it is read right (each combination counts as often as there; one
          that no image has is left out): what a perfect counterfactual would get; ``fine_detail``, the ninth decile of how many
          times as much fine detail (mean absolute Laplacian) the counterfactual has as the reconstruction: artefacts that no
          predictor sees are well above 1; ``colour``, for colour images, the mean absolute change of colour, not of brightness,
          from the reconstruction, over sixteenths of the image and in [0, 1]: a colour cast that no predictor minds, unless
          the concept is a colour of large parts; ``overlap``, where some counterfactuals are meant to have a pair of
          ``unseen``: the ``share`` of those that are not, and of these ``set`` and what images left alone get, ``left_alone``;
          ``same_image``, the share of images to which, among all of ``x``, the counterfactual is nearest in pixels, averaged to
          16 x 16: whether it is a change of this image. Who a person is takes a recogniser of persons; the predictor's
          features know nothing of that (docs/notes.md).
        - ``left_alone``: ``set`` for the images as they are, ``same_image`` and ``colour`` for reconstructions (beside the
          image): the trivial answers.
    """
    names, binary, kinds = graph.names, predictor.binary.tolist(), predictor.kinds
    own, before, coloured = _small(x), predictor.predict(reconstruction), x.shape[1] == 3

    def score(read: Tensor, intended: Tensor, column: int) -> dict[str, Any]:
        return _agreement(read[:, column], intended, binary[column], kinds[column])

    read_factual = predictor.predict(x)
    result: dict[str, Any] = {
        "factual": {name: score(read_factual, labels[:, k], k) for k, name in enumerate(names)},
        "left_alone": {"same_image": _nearest(_small(reconstruction), own), "set": {}},
        "do": {},
    }
    if coloured:
        result["left_alone"]["colour"] = _colour(reconstruction, x)
    for name, (values, images, intended) in interventions.items():
        column, read = names.index(name), predictor.predict(images.clamp(0, 1))
        below = graph.descendants(name)
        rest = [k for k, other in enumerate(names) if other != name and other not in below]
        result["do"][name] = {
            "set": score(read, values, column),
            "effects": {
                other: score(read, intended[:, k].round() if binary[k] else intended[:, k], k)
                for k, other in enumerate(names)
                if other in below
            },
            "unchanged": {names[k]: _unchanged(read[:, k], before[:, k], binary[k] or kinds[k] > 0) for k in rest},
            "real": _on_real_images(
                read_factual, labels, intended, [k for k in range(len(names)) if binary[k] or kinds[k]], names
            ),
            "fine_detail": (_detail(images) / _detail(reconstruction).clamp(min=1e-6)).quantile(0.9).item(),
            "same_image": _nearest(_small(images.clamp(0, 1)), own),
        }
        if coloured:
            result["do"][name]["colour"] = _colour(images, reconstruction)
        result["left_alone"]["set"][name] = score(read_factual, values, column)
        seen = ~asks_for(intended, names, unseen).any(1)
        if seen.any() and not seen.all():
            result["do"][name]["overlap"] = {
                "share": seen.double().mean().item(),
                "set": score(read[seen], values[seen], column),
                "left_alone": score(read_factual[seen], values[seen], column),
            }
    return result


def _agreement(read: Tensor, intended: Tensor, binary: bool, kinds: int) -> dict[str, Any]:
    known = ~intended.isnan()
    read, intended = read[known], intended[known]
    if kinds:
        return kind_scores(read, intended, kinds)
    if not binary:
        return {"mae": (read - intended).abs().mean().item()}
    truth, guess = (intended > 0.5).numpy(), (read > 0.5).numpy()
    scores = {"accuracy": float((truth == guess).mean()), "f1": float(f1_score(truth, guess, zero_division=0.0))}
    # Of one class there is no order.
    return scores | ({"auc": float(roc_auc_score(truth, read.numpy()))} if 0 < truth.sum() < len(truth) else {})


def _unchanged(read: Tensor, before: Tensor, classes: bool) -> float:
    if classes:
        return (read.round() == before.round()).double().mean().item()
    return (read - before).abs().mean().item()


def _on_real_images(
    read: Tensor, labels: Tensor, intended: Tensor, columns: Sequence[int], names: Sequence[str]
) -> dict[str, float]:
    if not columns:
        return {}
    right = (read.round() == labels)[:, columns].double()
    scores, counts = [], []
    for combination, count in zip(*intended[:, columns].round().unique(dim=0, return_counts=True), strict=True):
        if (alike := (labels[:, columns] == combination).all(1)).any():
            scores.append(right[alike].mean(0))
            counts.append(count)
    if not scores:
        return {}
    mean = (torch.stack(scores) * torch.stack(counts)[:, None]).sum(0) / sum(counts)
    return dict(zip([names[k] for k in columns], mean.tolist(), strict=True))


def _detail(images: Tensor) -> Tensor:
    x = images.clamp(0, 1).double()
    inner = x[..., 1:-1, 1:-1]
    around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    return (4 * inner - around).abs().flatten(1).mean(1)


def _colour(images: Tensor, before: Tensor) -> float:
    change = F.adaptive_avg_pool2d(images.clamp(0, 1).double() - before.clamp(0, 1).double(), _COARSE)
    return (change - change.mean(1, keepdim=True)).abs().mean().item()


def _small(images: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(images.double(), _SIDE).flatten(1)


def _nearest(moved: Tensor, own: Tensor) -> float:
    """Share of the rows of ``moved`` whose nearest row in ``own`` is the one with the same number."""
    found = [torch.cdist(part, own).argmin(1) for part in moved.split(_BLOCK)]
    return (torch.cat(found) == torch.arange(len(moved))).double().mean().item()
