"""The files that a run leaves for its reader: figures, scores and one HTML page that shows them all."""

from __future__ import annotations

import base64
import io
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from causalvae_pyro import plots
from causalvae_pyro.checkpoints.runs import Run, weights_digest
from causalvae_pyro.distributions import prior_mean
from causalvae_pyro.evaluation.tables import score_sections
from causalvae_pyro.plots.style import figure_style, units_of
from causalvae_pyro.scm import CausalLayer
from causalvae_pyro.utils.files import write_bytes, write_text
from causalvae_pyro.utils.templates import render

__all__ = ["write_report"]

_CAPTIONS = {
    "counterfactuals": (
        "Counterfactuals",
        "The first column is the factual image. Each row sets one concept to the value above the image, in the unit on the "
        "left; the row below shows the true counterfactual, where the data provide it.",
    ),
    "scores": (
        "Counterfactual scores",
        "Bars: CF-score with a 95 % interval over the test images. Marks: the ceiling, what the reconstruction's error alone "
        "would allow.",
    ),
    "information": (
        "Information",
        "Maximal and total information coefficient of every concept, read from the image, with every label. Off the diagonal "
        "they are not 0 where labels depend on each other.",
    ),
    "concepts": ("Concepts read from test images", "Posterior mean in label units against the true label."),
    "coverage": (
        "Calibration",
        "How many of the test labels the guide's central intervals cover, against the share that they should; on the diagonal "
        "they are right, below it too narrow. Dashed: before calibration, where the guide is calibrated.",
    ),
    "reconstructions": ("Reconstructions", "Test image, the decoder's mean at the posterior mean, and their difference."),
    "effects": (
        "What each concept does",
        "Root mean squared change of each pixel, in units of its range, when the concept takes the value of another image and "
        "all other concepts stay: what the decoder has learned, right or wrong.",
    ),
    "graph": (
        "Causal graph",
        "Beside each edge: by how many standard deviations the learned mechanism moves the effect when the cause moves by one, "
        "averaged over the test labels.",
    ),
    "program": (
        "The model as a program",
        "Each site of the Pyro program and what it is computed from, as Pyro tracks it: the causal graph (blue), the noise "
        "behind each concept, and the image from the concepts. Filled: observed in training.",
    ),
    "true_graph": ("The data's graph", "Edges that differ from it are counted under Structural Hamming distance above."),
    "training": (
        "Training",
        "Mean per image and epoch of the loss and of each of its terms, before their weights. With sprites the loss may "
        "increase late in training, where the sparsity weight (effect sparsity) grows; the reconstruction keeps improving.",
    ),
}


def write_report(run: Run, data: Any, metrics: dict[str, Any], history: list[dict[str, float]], path: str | os.PathLike) -> Path:
    """Writes ``metrics.json``, the figures and ``report.html`` into the run's directory.

    Args:
        run: The trained pair.
        data: The test data: an image simulator.
        metrics: From :func:`~causalvae_pyro.evaluation.evaluate`.
        history: Rows of the training history; may be empty.
        path: The directory.

    Returns:
        The path of ``report.html``.
    """
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    # The run may hold the concepts in another order than the data.
    order = [data.graph.index(name) for name in run.graph.names]
    # As the scores: of the images that have all labels.
    complete = (~data.labels.isnan().any(1)).nonzero().squeeze(1)
    images, labels, units = data.images[complete], data.labels[complete][:, order], units_of(data) or run.units
    with figure_style():
        figures = {
            "counterfactuals": plots.plot_counterfactuals(run, data, index=_typical(data, complete), labels_for_guide=True),
            "concepts": plots.plot_concepts(run, images, labels, [units.get(name, "") for name in run.graph.names]),
            "reconstructions": plots.plot_reconstructions(run, images, labels),
            "graph": plots.plot_graph(run.graph, _sensitivity(run, labels), title="the run's graph"),
        }
        if len(labels) > 1:
            figures["effects"] = plots.plot_effects(run, images, labels)
        # Decoders of one's own may do what Pyro cannot track.
        with suppress(Exception):
            figures["program"] = plots.plot_model(run.model, images[:1], labels[:1])
        if set(run.graph.edges) != set(data.graph.edges):
            figures["true_graph"] = plots.plot_graph(data.graph, title="the data's graph")
        if "cf_score" in metrics:
            intervals = metrics["intervals"]["cf_score"] or None
            figures["scores"] = plots.plot_scores(metrics["cf_score"], intervals, metrics["ceiling"])
        if "representation" in metrics:
            matrices = {"MIC": metrics["representation"]["mic_matrix"], "TIC": metrics["representation"]["tic_matrix"]}
            figures["information"] = plots.plot_matrix(matrices, data.graph.names)
        if "calibration" in metrics:
            found = metrics["calibration"]
            figures["coverage"] = plots.plot_coverage(found["levels"], found["guide"], found.get("uncalibrated"))
        if history:
            figures["training"] = plots.plot_history(history)
        pictures = {}
        for name, figure in figures.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png")
            # Its parts refer to each other: left alone they stay until Python looks for such circles.
            figure.clear()
            pictures[name] = buffer.getvalue()
            write_bytes(directory / f"{name}.png", pictures[name])
    # An earlier report in the same directory may have had more of them.
    for name in _CAPTIONS.keys() - pictures.keys():
        (directory / f"{name}.png").unlink(missing_ok=True)
    write_text(directory / "metrics.json", json.dumps({"weights": weights_digest(run), **metrics}, indent=1) + "\n")
    write_text(directory / "report.html", _page(run, metrics, pictures))
    return directory / "report.html"


def _sensitivity(run: Run, labels: torch.Tensor) -> torch.Tensor | None:
    if not isinstance(run.model.scm, CausalLayer):
        return None
    return run.model.scm.sensitivity(prior_mean(run.model.prior(labels.to(run.model.zero.device))).detach())


def _typical(data: Any, complete: torch.Tensor) -> int:
    # A factual image from the middle of the label space leaves room on both sides of every sweep.
    labels = data.labels[complete]
    standard = (labels - labels.median(0).values) / labels.std(0)
    return int(complete[standard.square().sum(-1).argmin()])


def _page(run: Run, metrics: dict[str, Any], figures: dict[str, bytes]) -> str:
    return render(
        "causalvae_pyro.evaluation",
        "report.html",
        graph=run.graph,
        chosen=run.config.get("chosen", ""),
        counterfactuals="cf_score" in metrics,
        sections=score_sections(metrics),
        figures=[(*_CAPTIONS[name], base64.b64encode(content).decode()) for name, content in figures.items()],
        config=json.dumps(run.config, indent=1),
    )
