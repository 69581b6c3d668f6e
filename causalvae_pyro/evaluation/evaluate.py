"""The score card of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.evaluation.data import CounterfactualData, check_scored, has_truth
from causalvae_pyro.evaluation.scorecard import Scorer
from causalvae_pyro.evaluation.tables import score_table
from causalvae_pyro.interventions.pixels import check_pixel_noise
from causalvae_pyro.metrics import PhotographPredictor, Predictor
from causalvae_pyro.utils.numbers import evenly_spaced
from causalvae_pyro.utils.progress import Progress
from causalvae_pyro.utils.random_state import kept_rng_state

__all__ = ["CounterfactualData", "evaluate", "has_truth", "score_table", "train_predictor"]


def evaluate(
    run: Run,
    data: CounterfactualData,
    *,
    predictor: Callable[[Tensor], Tensor] | None = None,
    fid_features: int | Callable[[Tensor], Tensor] | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
    photograph_predictor: PhotographPredictor | None = None,
    seed: int = 0,
    pairs: bool = True,
    intervals: bool = True,
    axioms: bool = True,
    pixel_noise: float = 0.0,
    fade: float | None = None,
    lpips_weights: str | os.PathLike | None = None,
    limit: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """The score card of a run.

    The guide receives the labels. An encoder that uses them infers concepts from labels and image together: then ``r2``,
    ``cf_r2`` and the scores of the representation say little; score an encoder of the image alone.

    Intervention values are drawn from each label's own marginal: the values of randomly permuted images of ``data``, so
    they lie in the rendered range; a binary label (0 or 1) is set to its other value, a category to another kind. Where the
    truth are other images of the data (``counterfactual_targets`` of :class:`CounterfactualData`), the counterfactual scores are
    of the intervention on all concepts at once, with the labels of one of these images, drawn at random.

    Args:
        run: The trained pair.
        data: Test images with labels and, for the counterfactual scores, their true counterfactuals. Images of which a label is
            missing (NaN) are left out.
        predictor: An independent predictor of the labels, trained on real images: from images ``[N, C, H, W]`` to ``[N, n]`` in
            label units, e.g. ``train_predictor(...).predict``. Needed for ``effectiveness`` only.
        fid_features: The features of :func:`~causalvae_pyro.metrics.fid`, e.g. 2048 or ``train_predictor(...).features``. Needed
            for ``fid`` only.
        features: From images to features ``[N, f]`` in which distances mean something, e.g. ``train_predictor(...).features``.
            Needed for ``minimality`` only.
        photograph_predictor: From :func:`~causalvae_pyro.evaluation.train_photograph_predictor`. Needed for ``predicted`` only.
        seed: Fixes the intervention values and the resamples.
        pairs: Score interventions on every pair of concepts too.
        intervals: Compute the intervals over the images, which takes longer than all scores of the representation.
        axioms: Compute ``composition``, ``reversibility`` and ``noise_leak``.
        pixel_noise: Share of the images' own pixel noise that all counterfactuals keep; see
            :func:`~causalvae_pyro.counterfactual`. With 1 composition is 0 whatever the model; reconstructions stay the mean.
        lpips_weights: File with AlexNet's weights; see :func:`~causalvae_pyro.metrics.lpips`. Needed for ``composition_lpips``
            only.
        fade: How fast it fades where a counterfactual changes; see :func:`~causalvae_pyro.counterfactual`.
        limit: Use so many images only, evenly spaced.
        progress: Show a progress bar.

    Returns:
        A JSON-able mapping:

        - ``images``: number of images scored; ``pixel_noise`` and ``fade``, where some is kept.
        - ``reconstruction_mse``: mean squared error per pixel and channel, in [0, 1] units.
        - ``r2``: per concept, the label read from the image (through the prior's inverse) against the true one; of a category
          that of its unit vectors.
        - ``accuracy``: of the same, per binary concept (labels 0 and 1) and category; left out where there is none. Of categories
          also ``f1`` and ``f1_by_kind``, see :func:`~causalvae_pyro.metrics.kind_scores`.
        - ``representation``: see :func:`~causalvae_pyro.metrics.representation_scores`; left out below 8 images, or
          where a class is too rare for it.
        - ``graph``: the run's graph against the data's: ``shd``, ``precision``, ``recall``, ``f1``, ``order_error``.
        - ``calibration``: how often intervals of the guide hold the labels that are numbers, on 500 images at most: see
          :func:`~causalvae_pyro.evaluation.calibration.calibration_scores`.
        - ``composition``: mean absolute error per pixel after 1, 2, ... 10 interventions that change nothing;
          ``composition_lpips``, with the weights of a backbone, how different they look;
          ``reversibility``: per concept, after setting it and setting it back. On 200 images at most; none without ``axioms``.
        - ``noise_leak``, with ``axioms`` and for a model with noise of the image's own: per concept, how much of a value set by
          chance the noise of the counterfactual tells, on 300 images at most and none below 40; see
          :func:`~causalvae_pyro.evaluation.noise_leak.noise_leak`.
        - ``effectiveness``, with a predictor: its mean absolute error of every label on the images (``factual``) and, per concept
          intervened on (``do``), on counterfactuals, against their true labels or, where nobody knows them, the model's own.
        - ``predicted``, with a ``photograph_predictor``: see :func:`~causalvae_pyro.evaluation.predicted.predicted_scores`.
        - ``minimality``, with features: per concept intervened on, see :func:`~causalvae_pyro.metrics.minimality`; and
          ``minimality_left_alone``, that of the images as they are.
        - ``fid``, with features: the distance of the ``reconstructions`` from the images and, per concept intervened on
          (``do``), of the counterfactuals. Those need not look like the images where labels depend on each other.
        - ``cf_score``, where ``data`` has true counterfactuals, as for the next two: per intervened concept (or ``"a+b"``
          pair, on 500 images at most) the counterfactual score, see :func:`~causalvae_pyro.metrics.cf_score`.
        - ``ceiling``: what that score would be with the reconstruction's error alone, of which pixel noise takes its share
          (also where it fades: an upper end then).
        - ``cf_baselines``, where ``data`` has trivial answers (:class:`CounterfactualData`): by name their counterfactual scores.
          The image left alone has 0, by definition.
        - ``cf_r2``: the worst concept's R^2 of the counterfactual, encoded again, against the true counterfactual labels.
        - ``intervals``: 95 % intervals over the images, by the bootstrap for ``reconstruction_mse``, ``r2``, ``mcc``, ``sap``,
          ``cf_score`` and ``ceiling``, by subsampling for ``mic_mean`` (up to 0.95), ``tic_mean`` and ``mig``; none
          without ``intervals``, below 8 images, nor where a resample or subsample has no score.
        - ``incomplete``: how many images were left out for a missing label, if any.
        - ``directions``: four numbers in [0, 1]: ``reconstruction``, one minus the error over the variance of the pixels;
          ``disentanglement``, the mean R^2 (negative ones count 0); ``discovery``, the F1 of the graph's edges; and
          ``counterfactual``, the mean CF-score over single concepts (negative ones count 0), where it is known.
        - ``summary``: means over the roots, the children, all single concepts and the pairs.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit: got {limit}; must be at least 1")
    check_pixel_noise(pixel_noise, fade)
    complete = check_scored(data)
    count = len(complete) if limit is None else min(limit, len(complete))
    # Evenly spaced: neighbours on a grid of labels are alike.
    chosen = complete[evenly_spaced(count, len(complete))]
    x, labels = data.images[chosen], data.labels[chosen]
    scorer = Scorer(run, data, x, labels, seed, intervals, chosen, pixel_noise, fade)
    sections: dict[str, Callable[[], dict[str, Any]]] = {}
    if fid_features is not None:
        # First, because it fails where its network cannot be had.
        sections["fid"] = lambda: {"fid": scorer.fid(fid_features)}
    sections |= {"concepts": scorer.representation, "calibration": scorer.calibration}
    if axioms:
        sections["axioms"] = lambda: scorer.axioms(lpips_weights)
        sections["own noise"] = scorer.noise_leak
    if predictor is not None:
        sections["effectiveness"] = lambda: {"effectiveness": scorer.effectiveness(predictor)}
    if photograph_predictor is not None:
        sections["predicted labels"] = lambda: {"predicted": scorer.predicted(photograph_predictor)}
    if features is not None:
        sections["minimality"] = lambda: scorer.minimality(features)
    if has_truth(data):
        sections["counterfactuals"] = lambda: {"counterfactuals": scorer.counterfactuals(pairs)}
    kept = {"pixel_noise": pixel_noise or None, "fade": fade}
    result: dict[str, Any] = {name: value for name, value in kept.items() if value is not None}
    if len(complete) < len(data.labels):
        result["incomplete"] = len(data.labels) - len(complete)
    with Progress(len(sections), "scoring", unit="section", show=progress) as bar:
        for name, section in sections.items():
            bar.describe(f"scoring: {name}")
            result |= section()
            bar.update()
    # Images that are all alike have no variance to explain.
    variance = max((scorer.x - scorer.x.mean(0)).square().mean().item(), 1e-12)
    result["directions"] = {
        "reconstruction": max(0.0, 1 - result["reconstruction_mse"] / variance),
        "disentanglement": _mean([max(0.0, value) for value in result["r2"].values()]),
        "discovery": result["graph"]["f1"],
    }
    result["summary"] = {"r2_min": min(result["r2"].values())}
    if (scores := result.pop("counterfactuals", None)) is not None:
        both = result.pop("intervals") | scores.pop("intervals")
        result |= scores | {"intervals": both}
        found = scores["cf_score"]
        single = {name: found[name] for name in data.graph.names if name in found}
        # Where only interventions on all concepts at once have a truth, there are no others.
        result["directions"]["counterfactual"] = _mean([max(0.0, score) for score in (single or found).values()])
        result["summary"] |= {
            "cf_roots": _mean([single[name] for name in data.graph.roots if name in single]),
            "cf_children": _mean([single[name] for name in data.graph.children if name in single]),
            "cf_mean": _mean(list(single.values())),
        }
        if pairs or not single:
            result["summary"]["cf_pairs"] = _mean([score for key, score in found.items() if "+" in key])
    return result


@torch.inference_mode(False)
def train_predictor(
    images: Tensor,
    labels: Tensor,
    *,
    steps: int = 500,
    augment: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> Predictor:
    """An independent predictor of labels for :func:`evaluate`: ``predict`` judges counterfactuals, ``features`` are for the FID.

    Classes are predicted as numbers. How well it reads real images, ``effectiveness`` says beside the rest.

    Args:
        images: Training images ``[N, C, H, W]``, uint8 or in [0, 1], their sides divisible by 4; none that is to be judged.
        labels: Their labels ``[N, n]``.
        steps: Steps of training, about.
        augment: Random change of a batch of images that leaves the labels as they are, e.g. of a hint that they hold in real
            images and not in counterfactual ones.
        seed: Of the weights and the order of the images. Global generators stay as they were, those of the device too.
        device: Where to train and to predict.
        progress: Show a progress bar.
    """
    # Few images are seen in smaller batches, for the noise in them; of very many only so many as there are steps for.
    batch_size = min(64, max(8, len(images) // 8))
    count = min(len(images), steps * batch_size)
    chosen = evenly_spaced(count, len(images))
    with kept_rng_state(device):
        torch.manual_seed(seed)
        predictor = Predictor(images.shape[1:], labels.shape[1]).to(device)
        epochs = round(steps / max(1, count // batch_size))
        images, labels = images[chosen], labels[chosen]
        predictor.fit(images, labels, epochs=epochs, batch_size=batch_size, augment=augment, seed=seed, progress=progress)
    return predictor


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
