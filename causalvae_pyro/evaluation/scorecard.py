"""The sections of the score card: what the model makes of test images, against labels and true counterfactuals."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import combinations
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.evaluation.calibration import calibration_scores
from causalvae_pyro.evaluation.data import check_kinds, has_truth
from causalvae_pyro.evaluation.predicted import predicted_scores
from causalvae_pyro.graph import CausalGraph
from causalvae_pyro.interventions.actions import Interventions
from causalvae_pyro.interventions.counterfactuals import counterfactual, counterfactual_traces, encode, reconstruct
from causalvae_pyro.metrics import (
    FID,
    PhotographPredictor,
    bootstrap_interval,
    cf_errors,
    cf_score_of_errors,
    composition,
    edge_scores,
    effectiveness,
    kind_scores,
    mcc,
    mic_tic,
    mig,
    minimality,
    order_error,
    r2_score,
    representation_scores,
    reversibility,
    sap,
    shd,
    subsampling_interval,
)
from causalvae_pyro.utils.images import as_images
from causalvae_pyro.utils.label_columns import one_label_each
from causalvae_pyro.utils.modes import evaluation_mode
from causalvae_pyro.utils.numbers import evenly_spaced

__all__ = ["Scorer"]

# Fewer images give no score of a representation, and no interval worth the name.
_FEWEST = 8
# So near to 1, more and more subsamples have a MIC of 1, and their spread says too little (docs/metrics.md has figures).
_SATURATED = 0.95
# Repeated and undone interventions were half of the time of all scores; of so many images their mean errors are known to a few
# percent.
_AXIOMS = 200
# There are more pairs of concepts than concepts, and their scores differ by less; see docs/metrics.md.
_PAIRS = 500
# Of so many images a coverage of 95 % is known to a percent.
_CALIBRATION = 500


class Scorer:
    """What the sections of the score card share: the images, their labels and what the model makes of them.

    Args:
        run: The trained pair.
        data: See :func:`~causalvae_pyro.evaluation.evaluate`, as for the sections' keys.
        x: The test images used, ``[N, C, H, W]``, uint8 or in [0, 1].
        labels: Their labels ``[N, n]``.
        seed: Fixes the intervention values and the resamples.
        intervals: Whether scores get intervals.
        index: Which images of the data they are, ``[N]``; by default all of them.
        pixel_noise: See :func:`~causalvae_pyro.counterfactual`.

    Raises:
        ValueError: If the data has a concept that the run has not, or pixels out of range.
    """

    def __init__(
        self,
        run: Run,
        data: Any,
        x: Tensor,
        labels: Tensor,
        seed: int,
        intervals: bool = True,
        index: Tensor | None = None,
        pixel_noise: float = 0.0,
    ) -> None:
        one_label_each(run.model.prior, "the score card")
        names, own = data.graph.names, run.graph.names
        if not set(names) <= set(own):
            raise ValueError(f"data: got the concepts {list(names)}; valid: the run's, {list(own)}")
        check_kinds(run, data)
        x = as_images(x, "data.images")
        self.run, self.data, self.x, self.labels, self.seed, self.pixel_noise = run, data, x, labels, seed, pixel_noise
        self.true_rows = self._draw_true_rows(torch.arange(len(x)) if index is None else index)
        self.with_intervals = intervals and len(x) >= _FEWEST
        # The run may hold the concepts in another order, and more of them; all but what the guide is handed follows the data's.
        self.order = [own.index(name) for name in names]
        self.handed = self._hand(labels)
        z = encode(run.model, run.guide, x, self.handed)
        kinds = getattr(run.model.prior, "kinds", (0,) * len(own))
        self.kinds = [kinds[k] for k in self.order]
        self.codes, self.read = z.mean(-1).double().cpu()[:, self.order], self._read(z)
        # The mean of a unit vector says nothing; of a category the code is the kind read.
        self.codes = torch.where(torch.tensor(self.kinds) > 0, self.read.double(), self.codes)
        self.reconstruction = reconstruct(run.model, run.guide, x, self.handed).cpu()

    def representation(self) -> dict[str, Any]:
        """Reconstruction, concepts and graph."""
        names, error = self.data.graph.names, (self.reconstruction - self.x).double().square().flatten(1).mean(1)
        result: dict[str, Any] = {
            "images": len(self.x),
            "reconstruction_mse": error.mean().item(),
            "r2": dict(zip(names, self._agreement(self.read, self.labels).tolist(), strict=True)),
            "graph": _graph_scores(self.run.graph, self.data.graph),
            "intervals": {},
        }
        columns = list(zip(names, self.read.T, self.labels.T, self.kinds, strict=True))
        right = {
            name: ((read > 0.5) == (label > 0.5)).double().mean().item()
            for name, read, label, kinds in columns
            if _is_binary(label) and not kinds
        }
        each = {name: kind_scores(read, label, kinds) for name, read, label, kinds in columns if kinds}
        right |= {name: scores["accuracy"] for name, scores in each.items()}
        result |= {"accuracy": right} if right else {}
        result |= {key: {name: scores[key] for name, scores in each.items()} for key in ("f1", "f1_by_kind") if each}
        if len(self.x) >= _FEWEST:
            # A class so rare that one part of the samples is without it has no DCI.
            with suppress(ValueError):
                result["representation"] = representation_scores(self.codes, self.labels, names, seed=self.seed)
        if self.with_intervals:
            intervals: dict[str, Any] = {}
            self._add_interval(intervals, "reconstruction_mse", error, np.mean)
            intervals["r2"] = {}
            for name, read, label, kinds in columns:
                if not kinds:
                    self._add_interval(intervals["r2"], name, (read.double(), label.double()), _r2)
            free = {"mcc": mcc, "sap": sap} if len(names) > 1 else {"mcc": mcc}
            for name, score in free.items():
                # Percentiles: BCa would evaluate each of these once more for every image.
                self._add_interval(intervals, name, (self.codes, self.labels), score, method="percentile", resamples=200)
            if "representation" in result:
                # Repeated rows of a resample would look like information to these.
                dependence = {"mic_mean": lambda z, u: mic_tic(z, u).mic, "tic_mean": lambda z, u: mic_tic(z, u).tic, "mig": mig}
                if result["representation"]["mic_mean"] > _SATURATED:
                    del dependence["mic_mean"]
                for name, score in dependence.items():
                    with suppress(ValueError):
                        found = subsampling_interval((self.codes, self.labels), score, bounds=(0, 1), seed=self.seed)
                        intervals[name] = found["interval"]
            result["intervals"] = intervals
        return result

    def axioms(self) -> dict[str, Any]:
        """Composition and reversibility."""
        some = evenly_spaced(min(_AXIOMS, len(self.x)), len(self.x))
        x, labels, handed = self.x[some], self.labels[some], self.handed[some]

        def set_to(do: dict[str, Tensor], handed: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda x: self._counterfactual(x, do, handed)[0].clamp(0, 1)

        result: dict[str, Any] = {"composition": composition(set_to({}, handed), x).tolist()}
        reversal = {}
        for column, name in enumerate(self.data.graph.names):
            do = {name: self._values(name)[some]}
            images, z = self._counterfactual(x, do, handed)
            images = images.clamp(0, 1)
            # The counterfactual image is abducted with its own labels: with the factual ones a guide that uses labels would
            # undo the intervention by itself. Effects follow the cause in both directions.
            undo = set_to({name: labels[:, column]}, self._hand(self._intended(do, z, some)))
            reversal[name] = reversibility(_always(images), undo, x).item()
        return result | {"reversibility": reversal}

    def calibration(self) -> dict[str, Any]:
        """``calibration``: see :func:`~causalvae_pyro.evaluation.calibration.calibration_scores`; nothing without numbers."""
        some = evenly_spaced(min(_CALIBRATION, len(self.x)), len(self.x))
        # Of a category there is no interval.
        names = [name for name, kinds in zip(self.data.graph.names, self.kinds, strict=True) if not kinds]
        if not names:
            return {}
        return {"calibration": calibration_scores(self.run, self.x[some], self.handed[some], names, seed=self.seed)}

    def predicted(self, predictor: PhotographPredictor) -> dict[str, Any]:
        """What an independent predictor reads; see :func:`~causalvae_pyro.evaluation.predicted.predicted_scores`."""
        found = {}
        for name in self.data.graph.names:
            values = self._values(name)
            images, z = self._counterfactual(self.x, {name: values}, self.handed)
            found[name] = values, images, self._intended({name: values}, z)
        return predicted_scores(predictor, self.data.graph, self.x, self.labels, self.reconstruction.clamp(0, 1), found)

    def effectiveness(self, predictor: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Errors of the labels that an independent predictor infers from counterfactuals."""
        names = self.data.graph.names

        def score(images: Tensor, intended: Tensor) -> dict[str, float]:
            read = predictor(images).cpu()
            errors = effectiveness(read, intended.to(torch.float32)).tolist()
            # Of a category the share of the images in which another kind is read.
            wrong = (read.round() != intended).double().mean(0).tolist()
            return {name: w if k else e for name, e, w, k in zip(names, errors, wrong, self.kinds, strict=True)}

        result: dict[str, Any] = {"factual": score(self.x, self.labels), "do": {}}
        for name in names:
            do = {name: self._values(name)}
            images, z = self._counterfactual(self.x, do, self.handed)
            # Where nobody knows the truth: what the model itself says follows from the factual labels.
            intended = self._intended(do, z)
            result["do"][name] = score(images.clamp(0, 1), intended)
        return result

    def minimality(self, features: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Whether counterfactuals change more, or less, than the value set asks for."""
        result = {}
        factual = features(self.x).cpu()
        for column, name in enumerate(self.data.graph.names):
            values = self._values(name)
            images, _ = self._counterfactual(self.x, {name: values}, self.handed)
            found = features(images.clamp(0, 1)).cpu()
            before = self.labels[:, column].contiguous()
            before, values = (before.long(), values.long()) if self.kinds[column] else (before, values)
            result[name] = minimality(factual, found, before, values)
        return result

    def fid(self, features: int | Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Fréchet distances from the test images."""
        # InceptionV3 runs where the model does; a function is shown what a judge is.
        device = torch.device("cpu") if callable(features) else self.run.model.zero.device
        distance = FID(self.x.to(device), feature=features)
        result: dict[str, Any] = {"reconstructions": distance(self.reconstruction.clamp(0, 1)), "do": {}}
        for name in self.data.graph.names:
            images, _ = self._counterfactual(self.x, {name: self._values(name)}, self.handed)
            result["do"][name] = distance(images.clamp(0, 1))
        return result

    def counterfactuals(self, pairs: bool) -> dict[str, Any]:
        """Scores against the true counterfactuals."""
        result: dict[str, Any] = {"cf_score": {}, "ceiling": {}, "cf_r2": {}, "intervals": {"cf_score": {}, "ceiling": {}}}
        targets, dos = self._interventions(pairs)
        single = [len(names) == 1 or self.true_rows is not None for names in targets]
        for alone, images in ((True, len(self.x)), (False, min(_PAIRS, len(self.x)))):
            rows = evenly_spaced(images, len(self.x))
            asked = [(names, do) for names, do, one in zip(targets, dos, single, strict=True) if one == alone]
            if asked:
                self._add_worlds(result, rows, asked)
        if self.true_rows is not None and hasattr(self.data, "counterfactual_baselines"):
            true_labels, true = self._true(dos[0])
            answers = self.data.counterfactual_baselines(true_labels)
            key = "+".join(targets[0])
            result["cf_baselines"] = {
                name: {key: cf_score_of_errors(*cf_errors(images, true, self.x))} for name, images in answers.items()
            }
        return result

    def _add_worlds(self, result: dict[str, Any], rows: Tensor, asked: list[tuple[tuple[str, ...], dict[str, Tensor]]]) -> None:
        """Scores interventions, of which the values for all images are given, on some of the images."""
        run, dos = self.run, [{name: values[rows] for name, values in do.items()} for _, do in asked]
        errors: list[list[tuple[Tensor, ...]]] = [[] for _ in asked]
        read: list[list[tuple[Tensor, Tensor]]] = [[] for _ in asked]
        start = 0
        # All worlds of a few images at a time: their noise is abducted once.
        worlds = counterfactual_traces(run.model, run.guide, self.x[rows], dos, self.handed[rows], pixel_noise=self.pixel_noise)
        for (count,), traces in worlds:
            part, some = slice(start, start + count), rows[start : start + count]
            start += count
            x = self.x[some]
            residual = (1 - self.pixel_noise) * (self.reconstruction[some] - x)
            for k, (do, trace) in enumerate(zip(dos, traces, strict=True)):
                true_labels, true = self._true({name: values[part] for name, values in do.items()}, some)
                images = cast(Tensor, trace.nodes["x"]["value"]).cpu()
                errors[k].append((*cf_errors(images, true, x), *cf_errors(true + residual, true, x)))
                again = self._read(encode(run.model, run.guide, images.clamp(0, 1), self._hand(true_labels)))
                read[k].append((again, true_labels))
        for (names, _), parts, pairs_read in zip(asked, errors, read, strict=True):
            key = "+".join(names)
            made, left, limit, also_left = (torch.cat(column) for column in zip(*parts, strict=True))
            for section, pair in (("cf_score", (made, left)), ("ceiling", (limit, also_left))):
                result[section][key] = cf_score_of_errors(*pair)
                if self.with_intervals:
                    self._add_interval(result["intervals"][section], key, pair, _one_minus_ratio)
            again, intended = (torch.cat(column) for column in zip(*pairs_read, strict=True))
            result["cf_r2"][key] = self._agreement(again, intended).min().item()

    def _counterfactual(self, x: Tensor, do: Interventions, handed: Tensor) -> tuple[Tensor, Tensor]:
        """Images, on the CPU, and concepts."""
        model, guide = self.run.model, self.run.guide
        images, z = counterfactual(model, guide, x, do, handed, pixel_noise=self.pixel_noise, return_latents=True)
        return images.cpu(), z

    def _draw_true_rows(self, index: Tensor) -> Tensor | None:
        """For each image another one of the data that is its true counterfactual; ``None`` where the data draw the truth."""
        if not hasattr(self.data, "counterfactual_targets"):
            return None
        generator = torch.Generator().manual_seed(self.seed)
        choices = map(self.data.counterfactual_targets, index.tolist())
        return torch.stack([rows[torch.randint(len(rows), (), generator=generator)] for rows in choices])

    def _interventions(self, pairs: bool) -> tuple[list[tuple[str, ...]], list[dict[str, Tensor]]]:
        """The concepts intervened on, and their values, for each of the scored interventions."""
        graph, generator = self.data.graph, torch.Generator().manual_seed(self.seed)
        if self.true_rows is not None:
            values = self.data.labels[self.true_rows].unbind(-1)
            return [graph.names], [dict(zip(graph.names, values, strict=True))]
        targets: list[tuple[str, ...]] = [(name,) for name in graph.names]
        targets += list(combinations(graph.names, 2)) if pairs else []
        return targets, [{name: self._values(name, generator) for name in names} for names in targets]

    def _hand(self, labels: Tensor) -> Tensor:
        """Labels in the run's order, NaN for its concepts that the data has not."""
        handed = labels.new_full((len(labels), len(self.run.graph)), torch.nan)
        handed[:, self.order] = labels
        return handed

    def _read(self, z: Tensor) -> Tensor:
        with evaluation_mode(self.run.model):
            return self.run.model.prior.to_labels(z).cpu()[:, self.order]

    def _intended(self, do: dict[str, Tensor], z: Tensor, part: slice | Tensor = slice(None)) -> Tensor:
        """True counterfactual labels of some of the images, or what the model's own concepts ``z`` stand for."""
        if hasattr(self.data, "counterfactual_labels"):
            return self.data.counterfactual_labels(self.labels[part], do)
        if has_truth(self.data):
            return self._true(do, part)[0]
        return self._read(z)

    def _true(self, do: dict[str, Tensor], part: slice | Tensor = slice(None)) -> tuple[Tensor, Tensor]:
        """True counterfactual labels and images of some of the images, and for ``do`` the values of just these."""
        if self.true_rows is not None:
            rows = self.true_rows[part]
            return self.data.labels[rows], as_images(self.data.images[rows]).to(self.x.dtype)
        true_labels, true = self.data.counterfactual(self.labels[part], do)
        return true_labels, true.to(self.x.dtype)

    def _values(self, name: str, generator: torch.Generator | None = None) -> Tensor:
        index = self.data.graph.index(name)
        column, kinds = self.labels[:, index], self.kinds[index]
        if _is_binary(column) and not kinds:
            # The other value: a random one leaves half of the images as they are.
            return 1 - column
        generator = torch.Generator().manual_seed(self.seed) if generator is None else generator
        if kinds:
            # Another kind.
            return (column + torch.randint(1, kinds, column.shape, generator=generator)) % kinds
        return column[torch.randperm(len(self.x), generator=generator)]

    def _agreement(self, read: Tensor, labels: Tensor) -> Tensor:
        """R^2 of each concept; of a category that of its unit vectors, all together."""
        scores = [
            r2_score(*(one_hot(part.long(), k).flatten()[:, None].double() for part in (own, label)))[0]
            if k
            else r2_score(own[:, None], label[:, None])[0]
            for own, label, k in zip(read.T, labels.T, self.kinds, strict=True)
        ]
        return torch.stack(scores)

    def _add_interval(self, intervals: dict[str, Any], key: str, arrays: Any, statistic: Any, **options: Any) -> None:
        # No interval where a resample has no score: one without the few images of a rare class, or on which nothing changes.
        with suppress(ValueError), np.errstate(divide="ignore", invalid="ignore"):
            intervals[key] = bootstrap_interval(arrays, statistic, seed=self.seed, **options)["interval"]


def _is_binary(labels: Tensor) -> bool:
    return bool(((labels == 0) | (labels == 1)).all())


def _always(images: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: images


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


def _one_minus_ratio(error: Any, baseline: Any, axis: int) -> Any:
    return 1 - error.sum(axis) / baseline.sum(axis)


def _r2(read: Any, label: Any, axis: int) -> Any:
    return 1 - np.square(label - read).sum(axis) / np.square(label - label.mean(axis, keepdims=True)).sum(axis)
