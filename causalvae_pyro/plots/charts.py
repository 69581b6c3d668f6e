"""Charts of a run: history, concepts, matrices, scores and coverage, as matplotlib figures in the project's style."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.interventions.counterfactuals import encode
from causalvae_pyro.plots.style import (
    BLUE,
    GREY,
    MIN_FONT,
    ORANGE,
    SEQUENTIAL,
    VERMILION,
    WIDTH,
    axis_label,
    do_label,
    figure_style,
    readable,
    subplots,
)
from causalvae_pyro.training import History
from causalvae_pyro.training.validation import PREFIX

__all__ = ["plot_concepts", "plot_coverage", "plot_history", "plot_matrix", "plot_scores"]


@figure_style()
def plot_history(history: History | Sequence[dict[str, Any]]) -> Figure:
    """Draws the loss and each of its terms per image against the epoch; those of images held out beside them, dashed."""
    rows = history.rows if isinstance(history, History) else list(history)
    skip = {"epoch", "step", "seconds", "images_per_second", "lr"}
    names = [name for name in rows[0] if name not in skip and not name.startswith(PREFIX)]
    figure, panels = _panels(len(names), 1.8)
    epochs = [row["epoch"] for row in rows]
    for axes, name in zip(panels, names, strict=True):
        axes.plot(epochs, [row[name] for row in rows], marker="o", markersize=2, label="training")
        if PREFIX + name in rows[0]:
            held_out = [row[PREFIX + name] for row in rows]
            axes.plot(epochs, held_out, marker="s", markersize=2, linestyle="--", label="validation")
            axes.legend()
        axes.set_title(readable(name.replace("kl_", "KL ")))
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        # Other terms count in nats only once they are weighted.
        in_nats = name in ("loss", "reconstruction") or name.startswith("kl_")
        axes.set_ylabel("nats per image" if in_nats else "per image, unweighted")
        if name.startswith("kl_"):
            # A divergence falls by orders of magnitude in the first epoch.
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
    return figure


@figure_style()
def plot_concepts(run: Run, images: Tensor, labels: Tensor, units: Sequence[str] | None = None) -> Figure:
    """Scatters each concept, read from the image in label units, against its label.

    Args:
        run: The trained pair.
        images: ``[N, C, H, W]`` in [0, 1] or uint8.
        labels: ``[N, n]``.
        units: Unit of each label, in the run's order; by default those that the run knows.
    """
    read = run.model.prior.to_labels(encode(run.model, run.guide, images, labels)).cpu()
    names = run.graph.names
    shown = run.units if units is None else dict(zip(names, units, strict=False))
    figure, panels = _panels(len(names), 2.1)
    for i, (axes, name) in enumerate(zip(panels, names, strict=True)):
        axes.scatter(labels[:, i], read[:, i], s=3, color=BLUE, alpha=0.4, linewidths=0)
        ends = [labels[:, i].min().item(), labels[:, i].max().item()]
        axes.plot(ends, ends, color=GREY, linestyle="-", marker="", linewidth=0.8)
        axes.set_xlabel(f"label: {axis_label(name, shown.get(name))}")
        axes.set_ylabel(f"read: {axis_label(name, shown.get(name))}")
    return figure


@figure_style()
def plot_matrix(matrices: Mapping[str, Any], names: Sequence[str]) -> Figure:
    """Draws matrices of concepts (rows) against labels (columns) side by side, e.g. MIC and TIC.

    Args:
        matrices: Title to ``[n, n]`` values in [0, 1].
        names: Of the concepts and labels.
    """
    n, words = len(names), [readable(name) for name in names]
    # Side by side where the numbers have room, else below each other.
    columns = len(matrices) if 0.35 * n + 1.3 <= WIDTH / len(matrices) else 1
    cell = max(0.3, min(0.75, (WIDTH / columns - 1.3) / n))
    rows = len(matrices) // columns
    figure, grid = subplots(rows, columns, width=(cell * n + 1.3) * columns, height=(cell * n + 1.1) * rows)
    for axes, (title, values) in zip(grid.flat, matrices.items(), strict=True):
        table = np.asarray(values, dtype=float)
        axes.imshow(table, cmap=SEQUENTIAL, vmin=0, vmax=1)
        for (i, j), value in np.ndenumerate(table):
            colour = "white" if value < 0.6 else "black"
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=MIN_FONT, color=colour)
        axes.set_xticks(range(n), words, rotation=35, ha="right")
        axes.set_yticks(range(n), words)
        axes.set_title(title)
        axes.set_xlabel("label")
        axes.set_ylabel("concept read from the image")
    return figure


@figure_style()
def plot_scores(
    scores: Mapping[str, float],
    intervals: Mapping[str, Sequence[float]] | None = None,
    ceiling: Mapping[str, float] | None = None,
) -> Figure:
    """Draws CF-scores as bars, with intervals, below what the reconstruction would allow.

    Args:
        scores: Concept (or ``"a+b"`` pair) to score.
        intervals: Lower and upper end of each, or of some.
        ceiling: Of each.
    """
    keys = list(scores)
    figure, grid = subplots(width=6.0, height=0.25 * len(keys) + 0.9)
    axes = grid[0, 0]
    # Scores have no lower bound; one that is far below 0 must not squeeze the others together.
    shown = [max(scores[key], -1.0) for key in keys]
    places = np.arange(len(keys))[::-1]
    axes.barh(places, shown, color=[BLUE if value >= 0 else VERMILION for value in shown], height=0.62)
    ends = [*shown, *(ceiling[key] for key in keys if ceiling)]
    for key, place in zip(keys, places, strict=True):
        if scores[key] >= -1 and intervals and key in intervals:
            low, high = intervals[key]
            axes.hlines(place, low, high, color="black", linewidth=1)
            ends.append(low)
        elif scores[key] < -1:
            axes.text(-0.97, place, f"{scores[key]:.1f}", va="center", fontsize=MIN_FONT, color="white")
    if ceiling:
        axes.plot([ceiling[key] for key in keys], places, "|", color=ORANGE, markersize=11, markeredgewidth=2, label="ceiling")
        figure.legend(loc="outside upper right")
    axes.set_yticks(places, [do_label(dict.fromkeys(key.split("+"))) for key in keys])
    axes.set_ylabel("intervention")
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_xlim(max(-1.0, min(-0.05, *ends)) - 0.02, 1.03)
    axes.set_xlabel("CF-score: 1 true image, 0 no change")
    axes.grid(axis="x", alpha=0.3)
    return figure


@figure_style()
def plot_coverage(
    levels: Sequence[float],
    coverage: Mapping[str, Sequence[float | None]],
    uncalibrated: Mapping[str, Sequence[float | None]] | None = None,
) -> Figure:
    """Draws how often intervals hold the truth against how often they should, a panel for each concept.

    Args:
        levels: Of the intervals, in (0, 1).
        coverage: Concept to the shares at these levels, ``None`` where unknown.
        uncalibrated: The same before calibration, dashed.
    """
    figure, panels = _panels(len(coverage), 2.1)
    for axes, (name, shares) in zip(panels, coverage.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="-", marker="", linewidth=0.8)
        drawn = {"-": shares} | ({"--": uncalibrated[name]} if uncalibrated else {})
        for line, values in drawn.items():
            heights = [math.nan if value is None else value for value in values]
            axes.plot(levels, heights, color=BLUE if line == "-" else VERMILION, linestyle=line, marker="o", markersize=2)
        axes.set_title(readable(name))
        axes.set_xlabel("level of the interval")
        axes.set_ylabel("labels covered")
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.02, 1.02)
        axes.grid(alpha=0.3)
    return figure


def _panels(count: int, height: float) -> tuple[Figure, list[Any]]:
    """So many axes of one size, three in a row at most and as evenly as can be."""
    rows = math.ceil(count / 3)
    columns = math.ceil(count / rows)
    figure, grid = subplots(rows, columns, width=WIDTH / 3 * columns, height=height * rows)
    for axes in grid.flat[count:]:
        axes.remove()
    return figure, list(grid.flat[:count])
