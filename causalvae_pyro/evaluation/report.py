"""The files that a run leaves for its reader: figures, scores and one HTML page that shows them all."""

from __future__ import annotations

import base64
import html
import io
import json
import os
from pathlib import Path
from typing import Any

import torch

from causalvae_pyro import plots
from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.evaluation.tables import score_sections
from causalvae_pyro.plots.style import figure_style, units_of
from causalvae_pyro.scm import CausalLayer
from causalvae_pyro.utils.files import write_bytes, write_text

__all__ = ["write_report"]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem } img { max-width: 100%; height: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .2rem .9rem; border-bottom: 1px solid #ddd }
td:not(:first-child), th:not(:first-child) { text-align: right } pre { background: #f5f5f5; padding: .8rem; overflow-x: auto }
"""

_SCORES = (
    "CF-score: 1 is the true counterfactual image, 0 no better than leaving the image alone. The ceiling is what the "
    "reconstruction error alone would allow. CF R&sup2;: the worst concept of the counterfactual, read again by the encoder. "
)

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
    "reconstructions": ("Reconstructions", "Test image, the decoder's mean at the posterior mean, and their difference."),
    "graph": (
        "Causal graph",
        "Beside each edge: by how many standard deviations the learned mechanism moves the effect when the cause moves by one, "
        "averaged over the test labels.",
    ),
    "true_graph": ("The data's graph", "Edges that differ from it are counted under Structural Hamming distance above."),
    "training": (
        "Training",
        "Mean per image and epoch of the loss and of each of its terms, before their weights. With sprites the loss rises in the "
        "end: the price on effects (sparse effects) grows twentyfold over the training, as it is meant to, while the "
        "reconstruction goes on to improve.",
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
    labels, units = data.labels[:, order], units_of(data) or run.units
    with figure_style():
        figures = {
            "counterfactuals": plots.plot_counterfactuals(run, data, index=_typical(data), labels_for_guide=True),
            "concepts": plots.plot_concepts(run, data.images, labels, [units.get(name, "") for name in run.graph.names]),
            "reconstructions": plots.plot_reconstructions(run, data.images, labels),
            "graph": plots.plot_graph(run.graph, _sensitivity(run, labels), title="the run's graph"),
        }
        if set(run.graph.edges) != set(data.graph.edges):
            figures["true_graph"] = plots.plot_graph(data.graph, title="the data's graph")
        if "cf_score" in metrics:
            intervals = metrics["intervals"]["cf_score"] or None
            figures["scores"] = plots.plot_scores(metrics["cf_score"], intervals, metrics["ceiling"])
        if "representation" in metrics:
            matrices = {"MIC": metrics["representation"]["mic_matrix"], "TIC": metrics["representation"]["tic_matrix"]}
            figures["information"] = plots.plot_matrix(matrices, data.graph.names)
        if history:
            figures["training"] = plots.plot_history(history)
        pictures = {}
        for name, figure in figures.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png")
            pictures[name] = buffer.getvalue()
            write_bytes(directory / f"{name}.png", pictures[name])
    # An earlier report in the same directory may have had more of them.
    for name in _CAPTIONS.keys() - pictures.keys():
        (directory / f"{name}.png").unlink(missing_ok=True)
    write_text(directory / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    write_text(directory / "report.html", _page(run, metrics, pictures))
    return directory / "report.html"


def _sensitivity(run: Run, labels: torch.Tensor) -> torch.Tensor | None:
    if not isinstance(run.model.scm, CausalLayer):
        return None
    return run.model.scm.sensitivity(run.model.prior(labels.to(run.model.zero.device)).mean.detach())


def _typical(data: Any) -> int:
    # A factual image from the middle of the label space leaves room on both sides of every sweep.
    standard = (data.labels - data.labels.median(0).values) / data.labels.std(0)
    return int(standard.square().sum(-1).argmin())


def _page(run: Run, metrics: dict[str, Any], pictures: dict[str, bytes]) -> str:
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>CausalVAE run</title>",
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head><body>",
        "<h1>CausalVAE run</h1>",
        f"<p>{html.escape(_summary(run))}</p>",
        "<h2>Scores</h2>",
        f"<p>{_SCORES if 'cf_score' in metrics else ''}Brackets: 95 % intervals over the test images.</p>",
        _table(metrics),
    ]
    for name, picture in pictures.items():
        title, caption = _CAPTIONS[name]
        data = base64.b64encode(picture).decode()
        parts.append(f"<h2>{title}</h2><p>{caption}</p><img alt='{html.escape(title)}' src='data:image/png;base64,{data}'>")
    config = html.escape(json.dumps(run.config, indent=1))
    parts.append(f"<h2>Configuration</h2><pre>{config}</pre></body></html>\n")
    return "\n".join(parts)


def _summary(run: Run) -> str:
    edges = ", ".join(f"{cause} → {effect}" for cause, effect in run.graph.edges)
    return f"Concepts: {', '.join(run.graph.names)}. Edges: {edges or 'none'}."


def _table(metrics: dict[str, Any]) -> str:
    """The text table's rows as HTML."""
    parts = []
    for section in score_sections(metrics):
        head = "".join(f"<th>{html.escape(title)}</th>" for title in section.columns)
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in section.rows)
        parts.append(f"<h3>{html.escape(section.title)}</h3><table><tr>{head}</tr>{rows}</table>")
    return "".join(parts)
