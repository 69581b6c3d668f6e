"""The score card's section of counterfactuals against the truth."""

from __future__ import annotations

from itertools import combinations
from typing import Any, cast

import torch
from torch import Tensor

from causalvae_pyro.evaluation.scored_images import ScoredImages
from causalvae_pyro.interventions.counterfactuals import counterfactual_traces, encode
from causalvae_pyro.metrics import cf_errors, cf_score_of_errors
from causalvae_pyro.utils.numbers import evenly_spaced

__all__ = ["counterfactual_section"]

# There are more pairs of concepts than concepts, and their scores differ by less; see docs/metrics.md.
_PAIRS = 500


def counterfactual_section(scored: ScoredImages, pairs: bool) -> dict[str, Any]:
    """Scores against the true counterfactuals; the keys are those of :func:`~causalvae_pyro.evaluation.evaluate`.

    Args:
        scored: The images, whose data know the truth.
        pairs: Score interventions on every pair of concepts too.
    """
    result: dict[str, Any] = {"cf_score": {}, "ceiling": {}, "cf_r2": {}, "intervals": {"cf_score": {}, "ceiling": {}}}
    targets, dos = _interventions(scored, pairs)
    single = [len(names) == 1 or scored.true_rows is not None for names in targets]
    for alone, images in ((True, len(scored.x)), (False, min(_PAIRS, len(scored.x)))):
        rows = evenly_spaced(images, len(scored.x))
        asked = [(names, do) for names, do, one in zip(targets, dos, single, strict=True) if one == alone]
        if asked:
            _add_worlds(scored, result, rows, asked)
    if scored.true_rows is not None and hasattr(scored.data, "counterfactual_baselines"):
        true_labels, true = scored.truth(dos[0])
        answers = scored.data.counterfactual_baselines(true_labels)
        key = "+".join(targets[0])
        result["cf_baselines"] = {
            name: {key: cf_score_of_errors(*cf_errors(images, true, scored.x))} for name, images in answers.items()
        }
    return result


def _add_worlds(
    scored: ScoredImages, result: dict[str, Any], rows: Tensor, asked: list[tuple[tuple[str, ...], dict[str, Tensor]]]
) -> None:
    """Scores interventions, of which the values for all images are given, on some of the images."""
    run, dos = scored.run, [{name: values[rows] for name, values in do.items()} for _, do in asked]
    errors: list[list[tuple[Tensor, ...]]] = [[] for _ in asked]
    read: list[list[tuple[Tensor, Tensor]]] = [[] for _ in asked]
    start = 0
    # All worlds of a few images at a time: their noise is abducted once.
    kept: dict[str, Any] = {"pixel_noise": scored.pixel_noise, "fade": scored.fade}
    worlds = counterfactual_traces(run.model, run.guide, scored.x[rows], dos, scored.handed[rows], **kept)
    for (count,), traces in worlds:
        part, some = slice(start, start + count), rows[start : start + count]
        start += count
        x = scored.x[some]
        residual = (1 - scored.pixel_noise) * (scored.reconstruction[some] - x)
        for k, (do, trace) in enumerate(zip(dos, traces, strict=True)):
            true_labels, true = scored.truth({name: values[part] for name, values in do.items()}, some)
            images = cast(Tensor, trace.nodes["x"]["value"]).cpu()
            errors[k].append((*cf_errors(images, true, x), *cf_errors(true + residual, true, x)))
            again = scored.read_labels(encode(run.model, run.guide, images.clamp(0, 1), scored.hand(true_labels)))
            read[k].append((again, true_labels))
    for (names, _), parts, pairs_read in zip(asked, errors, read, strict=True):
        key = "+".join(names)
        made, left, limit, also_left = (torch.cat(column) for column in zip(*parts, strict=True))
        for section, pair in (("cf_score", (made, left)), ("ceiling", (limit, also_left))):
            result[section][key] = cf_score_of_errors(*pair)
            if scored.with_intervals:
                scored.add_interval(result["intervals"][section], key, pair, _one_minus_ratio)
        again, intended = (torch.cat(column) for column in zip(*pairs_read, strict=True))
        result["cf_r2"][key] = scored.agreement(again, intended).min().item()


def _interventions(scored: ScoredImages, pairs: bool) -> tuple[list[tuple[str, ...]], list[dict[str, Tensor]]]:
    """The concepts intervened on, and their values, for each of the scored interventions."""
    graph, generator = scored.data.graph, torch.Generator().manual_seed(scored.seed)
    if scored.true_rows is not None:
        values = scored.data.labels[scored.true_rows].unbind(-1)
        return [graph.names], [dict(zip(graph.names, values, strict=True))]
    targets: list[tuple[str, ...]] = [(name,) for name in graph.names]
    targets += list(combinations(graph.names, 2)) if pairs else []
    return targets, [{name: scored.values(name, generator) for name in names} for names in targets]


def _one_minus_ratio(error: Any, baseline: Any, axis: int) -> Any:
    return 1 - error.sum(axis) / baseline.sum(axis)
