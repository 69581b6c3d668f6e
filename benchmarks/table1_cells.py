"""One cell of Table 1: a method trained on a data set from one seed, its scores, and how they grew with time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from environment import describe
from table1_methods import SOURCES, rows_of

from causalvae_pyro import encode, fit
from causalvae_pyro.baselines import relabel
from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.datasets import MorphoMNIST
from causalvae_pyro.datasets.registry import load_dataset
from causalvae_pyro.evaluation.evaluate import evaluate, has_truth, train_predictor
from causalvae_pyro.evaluation.scorecard import Scorer
from causalvae_pyro.metrics import mic_tic
from causalvae_pyro.networks import RandomBrightness
from causalvae_pyro.training import Callback
from causalvae_pyro.utils.modes import evaluation_mode
from causalvae_pyro.utils.numbers import evenly_spaced

# Fewer test images than for the final scores, so that the curve of a run costs little beside the run.
_CURVE = 200
# Training images that name the latents of methods without names.
_NAMING = 2000
# Of photographs, unless told otherwise: every axiom asks for several counterfactuals of each.
_LIMIT = 2000


def run_cell(
    row: str, data: str, seed: int, settings: Mapping[str, Any], device: str, roots: Mapping[str, str | None] | None = None
) -> dict[str, Any]:
    """Trains and scores.

    Args:
        row: A key of :func:`table1_methods.rows_of`.
        data: A key of :data:`table1_methods.SOURCES`.
        seed: Fixes split, weights and data order.
        settings: ``epochs``, ``size``, ``limit`` (of test images) and ``train_limit``.
        device: Where to train.
        roots: Where the files lie, by option.
    """
    source = SOURCES[data]
    method, whole = rows_of(data)[row].method, rows_of(data)[row].whole
    train, test = (load_dataset(_describe(data, seed, settings, roots), split) for split in ("train", "test"))
    count = min(settings["train_limit"] or len(train.labels), len(train.labels))
    chosen = evenly_spaced(count, len(train.labels))
    images, labels = train.images[chosen], train.labels[chosen]
    seen = train.file_name_labels(labels).float() if whole else labels
    torch.manual_seed(seed)
    # A graph that is found, and what is seen in the images before the first step, are part of the training.
    started = time.perf_counter()
    run = method.build(train.graph, images, seen, **source.options)
    built = time.perf_counter() - started
    naming = images[:: max(1, count // _NAMING)], labels[:: max(1, count // _NAMING)]

    def finished() -> Run:
        named = method.finish(run, *naming, train.graph.names)
        # Counterfactuals are asked for in exact labels, whatever the model was taught.
        return relabel(named, *naming) if whole else named

    limit = settings["limit"] or (None if source.root is None else _LIMIT)
    curve = _Curve(lambda: scores_in_between(finished(), test, limit), built)
    started = time.perf_counter()
    fit(
        run.model,
        run.guide,
        (images, seen if method.labels else None),
        objective=method.objective(run),
        epochs=settings["epochs"],
        seed=seed,
        device=device,
        progress=False,
        callbacks=[curve],
    )
    seconds = built + time.perf_counter() - started - curve.paused
    named = finished()
    options: dict[str, Any] = {"axioms": False}
    if not has_truth(test):
        digits = isinstance(test, MorphoMNIST)
        # In real digits the brightness tells the thickness; after an intervention it does not.
        judge = train_predictor(images, labels, augment=RandomBrightness() if digits else None, seed=seed, device=device)
        read = _Definition(judge.predict) if digits else judge.predict
        options = {"predictor": read, "features": judge.features}
    scores = evaluate(named, test, limit=limit, pairs=False, intervals=False, **options)
    kept = ("cf_score", "ceiling", "cf_r2", "r2", "representation", "graph", "reconstruction_mse", "summary")
    kept += ("composition", "reversibility", "effectiveness", "minimality")
    result = {key: scores[key] for key in kept if key in scores}
    # Their diagonals stand beside them.
    for matrix in ("mic_matrix", "tic_matrix"):
        result.get("representation", {}).pop(matrix, None)
    if hasattr(test, "file_name_labels"):
        result["whole_labels"] = _whole(named, test, limit)
    return {"scores": result, "seconds": seconds, "curve": curve.points, **describe()}


def _describe(data: str, seed: int, settings: Mapping[str, Any], roots: Mapping[str, str | None] | None) -> dict[str, Any]:
    source = SOURCES[data]
    description = dict(source.description)
    if source.root is not None:
        description["root"] = (roots or {})[source.root]
    if source.seeded:
        description["seed"] = seed
    if source.sized:
        description["size"] = settings["size"]
    return description


class _Definition:
    """A judge of Morpho-MNIST that measures the intensity, which is defined, and has the thickness predicted."""

    def __init__(self, predict: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.predict = predict

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.predict(images)[:, 0].cpu(), MorphoMNIST.measure_intensity(images.cpu())], 1)


class _Curve(Callback):
    """Scores after each epoch; the time they take does not count."""

    def __init__(self, score: Callable[[], dict[str, float]], built: float) -> None:
        self.score, self.built, self.paused, self.points = score, built, 0.0, []
        self.started = time.perf_counter()

    def on_epoch_end(self, state: Any) -> None:
        now = time.perf_counter()
        if not self.points:
            self.started = now - state.history["seconds"][-1] - self.built
        # The finished run shares parts with the pair in training. Their draws are no part of the training either.
        with evaluation_mode(state.model, state.guide), torch.random.fork_rng():
            point = {"epoch": state.epoch, "seconds": now - self.started - self.paused, **self.score()}
        self.points.append(point)
        self.paused += time.perf_counter() - now


def scores_in_between(run: Run, test: Any, limit: int | None) -> dict[str, float]:
    """A few scores of a run that is not over: MIC and TIC on so many test images, CF-scores on 200 of them."""
    codes, labels = _codes(run, test, limit)
    both = mic_tic(codes, labels)
    result = {"mic": float(both.mic), "tic": float(both.tic)}
    if not has_truth(test):
        return result
    count = min(limit or _CURVE, _CURVE)
    few = evenly_spaced(count, len(test.labels))
    scorer = Scorer(run, test, test.images[few], test.labels[few], 0, intervals=False)
    scores, graph = scorer.counterfactuals(pairs=False)["cf_score"], test.graph
    roots, children = ([scores[name] for name in names] for names in (graph.roots, graph.children))
    means = {"cf_roots": sum(roots) / len(roots), "cf_children": sum(children) / len(children)}
    return result | means | {"cf_roots_min": min(roots)}


def _codes(run: Run, test: Any, limit: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Means of the posterior of all test images, in the labels' order, and the labels."""
    # The same images as evaluate's.
    count = min(limit or len(test.labels), len(test.labels))
    chosen = evenly_spaced(count, len(test.labels))
    x, labels = test.images[chosen], test.labels[chosen]
    order = [run.graph.names.index(name) for name in test.graph.names]
    handed = labels.new_full((len(labels), len(run.graph)), torch.nan)
    handed[:, order] = labels
    return encode(run.model, run.guide, x, handed).mean(-1).double().cpu()[:, order], labels


def _whole(run: Run, test: Any, limit: int | None) -> dict[str, float]:
    """MIC and TIC against the labels of the authors' file names."""
    codes, labels = _codes(run, test, limit)
    both = mic_tic(codes, test.file_name_labels(labels))
    return {"mic_mean": float(both.mic), "tic_mean": float(both.tic)}
