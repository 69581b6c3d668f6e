"""The score card of a run on a data set whose true counterfactuals are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Protocol

import torch
from torch import Tensor

from causalvae_pyro.checkpoint import Run
from causalvae_pyro.counterfactual import counterfactual, encode, reconstruct
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.metrics import cf_score, r2_score

__all__ = ["CounterfactualData", "evaluate", "has_truth", "score_table"]


class CounterfactualData(Protocol):
    """What :func:`evaluate` needs of a data set; every :class:`~causalvae_pyro.datasets.ImageSimulator` has it."""

    images: Tensor
    labels: Tensor
    graph: CausalGraph

    def counterfactual(self, labels: Tensor, do: Mapping[str, float | Tensor]) -> tuple[Tensor, Tensor]:
        """True counterfactual labels and images."""


def evaluate(
    run: Run, data: CounterfactualData, *, seed: int = 0, pairs: bool = True, limit: int | None = None
) -> dict[str, Any]:
    """Scores a run.

    The guide is handed the labels. An encoder that uses them reads concepts off them as well as off the image: then ``r2`` and
    ``cf_r2`` say little; score an encoder of the image alone.

    Intervention values are drawn from each label's own marginal: the values of randomly permuted images of ``data``, so
    they lie in the rendered range.

    Args:
        run: The trained pair.
        data: Test images with labels and, for the counterfactual scores, their true counterfactuals.
        seed: Fixes the intervention values.
        pairs: Score interventions on every pair of concepts too.
        limit: Use so many images only, evenly spaced.

    Returns:
        A JSON-able mapping:

        - ``images``: number of images scored.
        - ``reconstruction_mse``: mean squared error per pixel and channel, in [0, 1] units.
        - ``r2``: per concept, the label read from the image (through the prior's inverse) against the true one.
        - ``cf_score``, where ``data`` has true counterfactuals, as for all that follows: per intervened concept (or
          ``"a+b"`` pair) the counterfactual score, see :func:`~causalvae_pyro.metrics.cf_score`.
        - ``ceiling``: what that score would be with the reconstruction's error alone.
        - ``cf_r2``: the worst concept's R^2 of the counterfactual, encoded again, against the true counterfactual labels.
        - ``summary``: means over the roots, the children, all single concepts and the pairs.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit: got {limit}; must be at least 1")
    count = len(data.labels) if limit is None else min(limit, len(data.labels))
    # Evenly spaced: neighbours on a grid of labels are alike.
    chosen = torch.arange(count) * len(data.labels) // count
    x, labels = data.images[chosen], data.labels[chosen]
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    graph = data.graph
    prior = run.model.prior
    device = next(run.model.parameters()).device
    reconstruction = reconstruct(run.model, run.guide, x, labels).cpu()
    error = reconstruction - x
    read = prior.to_labels(encode(run, x, labels)).cpu()
    result: dict[str, Any] = {
        "images": len(x),
        "reconstruction_mse": error.square().mean().item(),
        "r2": dict(zip(graph.names, r2_score(read, labels).tolist(), strict=True)),
    }
    result["summary"] = {"r2_min": min(result["r2"].values())}
    if not has_truth(data):
        return result
    result |= {"cf_score": {}, "ceiling": {}, "cf_r2": {}}
    targets: list[tuple[str, ...]] = [(name,) for name in graph.names]
    targets += list(combinations(graph.names, 2)) if pairs else []
    generator = torch.Generator().manual_seed(seed)
    for names in targets:
        do = {name: labels[torch.randperm(len(x), generator=generator), graph.index(name)] for name in names}
        true_labels, true = data.counterfactual(labels, do)
        true = true.to(x.dtype)
        images = counterfactual(run.model, run.guide, x, do, labels).cpu()
        key = "+".join(names)
        result["cf_score"][key] = cf_score(images, true, x)
        result["ceiling"][key] = cf_score(true + error, true, x)
        again = prior.to_labels(encode(run, images.clamp(0, 1).to(device), true_labels)).cpu()
        result["cf_r2"][key] = r2_score(again, true_labels).min().item()
    scores = result["cf_score"]
    result["summary"] |= {
        "cf_roots": _mean([scores[name] for name in graph.roots]),
        "cf_children": _mean([scores[name] for name in graph.children]),
        "cf_mean": _mean([scores[name] for name in graph.names]),
    }
    if pairs:
        result["summary"]["cf_pairs"] = _mean([score for key, score in scores.items() if "+" in key])
    return result


def has_truth(data: Any) -> bool:
    """Whether a data set knows its true counterfactual images."""
    return hasattr(data, "counterfactual")


def score_table(metrics: dict[str, Any]) -> str:
    """The score card as plain text."""
    lines = [f"{'concept':<34}{'R^2':>9}{'CF-score':>10}{'ceiling':>9}{'CF R^2':>9}", "-" * 71]
    if "cf_score" not in metrics:
        lines = [f"{'concept':<34}{'R^2':>9}", "-" * 71]
        lines += [f"{name:<34}{value:>9.4f}" for name, value in metrics["r2"].items()]
    for key, score in metrics.get("cf_score", {}).items():
        r2 = f"{metrics['r2'][key]:.4f}" if key in metrics["r2"] else ""
        name = f"do({key.replace('+', ', ')})"
        lines.append(f"{name:<34}{r2:>9}{score:>10.3f}{metrics['ceiling'][key]:>9.3f}{metrics['cf_r2'][key]:>9.3f}")
    summary = metrics["summary"]
    lines.append("-" * 71)
    names = {"cf_roots": "roots", "cf_children": "children", "cf_mean": "single concepts", "cf_pairs": "pairs"}
    means = {label: summary[key] for key, label in names.items() if summary.get(key) is not None}
    lines += [f"{'mean over ' + label:<43}{value:>10.3f}" for label, value in means.items()]
    lines.append(f"reconstruction MSE {metrics['reconstruction_mse']:.5f} on {metrics['images']} test images")
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
