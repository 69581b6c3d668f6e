"""The score card's section of reconstruction, concepts and graph."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from torch import Tensor

from causalvae_pyro.evaluation.scored_images import FEWEST, ScoredImages
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.metrics import (
    edge_scores,
    kind_scores,
    mcc,
    mic_tic,
    mig,
    order_error,
    representation_scores,
    sap,
    shd,
    subsampling_interval,
)

__all__ = ["representation_section"]

# So near to 1, more and more subsamples have a MIC of 1, and their spread says too little (docs/metrics.md has figures).
_SATURATED = 0.95


def representation_section(scored: ScoredImages) -> dict[str, Any]:
    """Scores that need no intervention; the keys are those of :func:`~causalvae_pyro.evaluation.evaluate`."""
    names, error = scored.data.graph.names, (scored.reconstruction - scored.x).double().square().flatten(1).mean(1)
    result: dict[str, Any] = {
        "images": len(scored.x),
        "reconstruction_mse": error.mean().item(),
        "r2": dict(zip(names, scored.agreement(scored.read, scored.labels).tolist(), strict=True)),
        "graph": _graph_scores(scored.run.graph, scored.data.graph),
        "intervals": {},
    }
    columns = list(zip(names, scored.read.T, scored.labels.T, scored.kinds, scored.binary, strict=True))
    right = {name: ((read > 0.5) == (label > 0.5)).double().mean().item() for name, read, label, _, binary in columns if binary}
    each = {name: kind_scores(read, label, kinds) for name, read, label, kinds, _ in columns if kinds}
    right |= {name: scores["accuracy"] for name, scores in each.items()}
    result |= {"accuracy": right} if right else {}
    result |= {key: {name: scores[key] for name, scores in each.items()} for key in ("f1", "f1_by_kind") if each}
    if len(scored.x) >= FEWEST:
        # A class so rare that one part of the samples is without it has no DCI.
        with suppress(ValueError):
            result["representation"] = representation_scores(scored.codes, scored.labels, names, seed=scored.seed)
    if scored.with_intervals:
        result["intervals"] = _intervals(scored, error, result.get("representation"))
    return result


def _intervals(scored: ScoredImages, error: Tensor, scores: Mapping[str, Any] | None) -> dict[str, Any]:
    """Of the mean of each image's ``error [N]``, the R^2 and, where there are ``scores`` of it, the representation."""
    intervals: dict[str, Any] = {}
    scored.add_interval(intervals, "reconstruction_mse", error, np.mean)
    intervals["r2"] = {}
    names = scored.data.graph.names
    for name, read, label, kinds in zip(names, scored.read.T, scored.labels.T, scored.kinds, strict=True):
        if not kinds:
            scored.add_interval(intervals["r2"], name, (read.double(), label.double()), _r2)
    free = {"mcc": mcc, "sap": sap} if len(names) > 1 else {"mcc": mcc}
    for name, score in free.items():
        # Percentiles: BCa would evaluate each of these once more for every image.
        scored.add_interval(intervals, name, (scored.codes, scored.labels), score, method="percentile", resamples=200)
    if scores is not None:
        # Repeated rows of a resample would look like information to these.
        dependence = {"mic_mean": lambda z, u: mic_tic(z, u).mic, "tic_mean": lambda z, u: mic_tic(z, u).tic, "mig": mig}
        if scores["mic_mean"] > _SATURATED:
            del dependence["mic_mean"]
        for name, score in dependence.items():
            with suppress(ValueError):
                found = subsampling_interval((scored.codes, scored.labels), score, bounds=(0, 1), seed=scored.seed)
                intervals[name] = found["interval"]
    return intervals


def _graph_scores(learned: CausalGraph, true: CausalGraph) -> dict[str, float]:
    order = [learned.names.index(name) for name in true.names]
    matrix = learned.adjacency[order][:, order]
    edges = edge_scores(matrix, true)
    return {
        "shd": shd(matrix, true),
        "precision": edges.precision,
        "recall": edges.recall,
        "f1": edges.f1,
        "order_error": order_error([name for name in learned.order if name in true.names], true),
    }


def _r2(read: Any, label: Any, axis: int) -> Any:
    return 1 - np.square(label - read).sum(axis) / np.square(label - label.mean(axis, keepdims=True)).sum(axis)
