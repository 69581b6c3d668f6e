"""Figures of a run. Every function returns a matplotlib figure in the project's style; none opens a window."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.interventions.counterfactuals import counterfactual, encode, reconstruct
from causalvae_pyro.interventions.pixel_effects import pixel_effects
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
    plain,
    readable,
    subplots,
    units_of,
    value_label,
)
from causalvae_pyro.plots.sweeps import sweeps
from causalvae_pyro.training import History
from causalvae_pyro.training.validation import PREFIX
from causalvae_pyro.utils.images import as_images, scale_images
from causalvae_pyro.utils.numbers import evenly_spaced

__all__ = [
    "plot_comparison",
    "plot_concepts",
    "plot_counterfactuals",
    "plot_coverage",
    "plot_effects",
    "plot_history",
    "plot_matrix",
    "plot_reconstructions",
    "plot_scores",
]

#: Inches of a row's name, for each of its letters.
_LETTER = MIN_FONT * 0.55 / 72


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
def plot_reconstructions(run: Run, images: Tensor, labels: Tensor | None = None, *, count: int = 8) -> Figure:
    """Draws images, evenly spaced over the data, with their reconstructions and the absolute difference.

    Args:
        run: The trained pair.
        images: ``[N, C, H, W]`` in [0, 1] or uint8.
        labels: ``[N, n]``, for guides that use them.
        count: How many to draw.
    """
    # Neighbours in the data are often neighbours on a grid of labels, and look alike.
    count = min(count, len(images))
    chosen = evenly_spaced(count, len(images))
    x = as_images(images[chosen], "images")
    again = reconstruct(run.model, run.guide, x, None if labels is None else labels[chosen]).cpu()
    return plot_comparison([("image", x), ("reconstruction", again), ("difference", 1 - (again - x).abs())])


@figure_style()
def plot_counterfactuals(
    run: Run,
    data: Any,
    *,
    index: int = 0,
    steps: int = 7,
    labels_for_guide: bool = False,
    quantiles: tuple[float, float] = (0.02, 0.98),
) -> Figure:
    """Sweeps every concept over its range on one image: the model's counterfactuals above the true ones, where known.

    Where the truth are other images of the data (``counterfactual_targets``), all concepts are set at once to the labels of some.

    The units of the values are those of the data or, where the data have none, of the run.

    Args:
        run: The trained pair.
        data: A data set with ``images``, ``labels`` and ``graph``; one that has true counterfactuals shows them.
        index: Which image is the factual one.
        steps: Values per sweep, between the two quantiles of the label.
        labels_for_guide: Hand the labels to the guide.
        quantiles: Ends of the sweep as quantiles of the label over ``data``.
    """
    x, labels = data.images[index : index + 1], data.labels[index : index + 1]
    # The run may hold the concepts in another order.
    own = [data.graph.index(name) for name in run.graph.names] if labels_for_guide else []
    units = units_of(data) or run.units
    rows: list[tuple[str, list[Tensor | None]]] = []
    titles: list[list[str]] = []
    for do, true in sweeps(data, index, steps, quantiles):
        count = len(next(iter(do.values())))
        factual, repeated = x.expand(count, -1, -1, -1), labels.expand(count, -1)
        handed = repeated[:, own] if labels_for_guide else None
        images = counterfactual(run.model, run.guide, factual, do, handed).cpu()
        unit = "\n" + ", ".join(f"({shown})" for shown in dict.fromkeys(plain(units[name]) for name in do if name in units))
        rows.append((f"do({', '.join(map(readable, do))}){unit.rstrip()}\nmodel", [x[0], *images]))
        columns = zip(*([_title(data, name, value) for value in values.tolist()] for name, values in do.items()), strict=True)
        titles.append(["factual", *map(", ".join, columns)])
        if true is not None:
            rows.append(("true", [None, *true]))
            titles.append([])
    return _grid(rows, titles)


@figure_style()
def plot_comparison(rows: Sequence[tuple[str, Tensor]]) -> Figure:
    """Draws named batches of images ``[N, C, H, W]``, uint8 or in [0, 1], one batch a row."""
    return _grid([(name, list(images)) for name, images in rows])


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
def plot_effects(run: Run, images: Tensor, labels: Tensor | None = None, *, count: int = 100) -> Figure:
    """Draws which pixels each concept moves, and by how much, as the model has learned it; beside an image to compare with.

    Args:
        run: The trained pair.
        images: ``[N, C, H, W]`` in [0, 1] or uint8, two at least.
        labels: ``[N, n]``, for guides that use them.
        count: Use so many of them, evenly spaced.
    """
    chosen = evenly_spaced(min(count, len(images)), len(images))
    found = pixel_effects(run.model, run.guide, images[chosen], None if labels is None else labels[chosen])
    maps = found.square().mean(1).sqrt().cpu()
    columns = min(5, len(maps) + 1)
    rows = math.ceil((len(maps) + 1) / columns)
    cell = min(1.2, (WIDTH - 0.6) / columns)
    figure, grid = subplots(rows, columns, width=cell * columns + 0.6, height=(cell + 0.2) * rows)
    panels = list(grid.flat)
    picture = scale_images(images[chosen[0]]).cpu().movedim(0, -1).numpy()
    panels[0].imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=1)
    panels[0].set_title("an image", fontsize=MIN_FONT, pad=2)
    for axes, name, effect in zip(panels[1:], run.graph.names, maps, strict=False):
        drawn = axes.imshow(effect.numpy(), cmap=SEQUENTIAL, vmin=0, vmax=max(1e-6, maps.max().item()))
        axes.set_title(readable(name), fontsize=MIN_FONT, pad=2)
    for axes in panels:
        axes.set_axis_off()
    figure.colorbar(drawn, ax=panels, label="change of a pixel", fraction=0.05)
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


def _title(data: Any, name: str, value: float) -> str:
    """A value, by its word where the data have one for it."""
    words = getattr(data, "kinds", {}).get(name, ())
    return value_label(value) if isinstance(words, int) or not words else words[int(value)]


def _panels(count: int, height: float) -> tuple[Figure, list[Any]]:
    """So many axes of one size, three in a row at most and as evenly as can be."""
    rows = math.ceil(count / 3)
    columns = math.ceil(count / rows)
    figure, grid = subplots(rows, columns, width=WIDTH / 3 * columns, height=height * rows)
    for axes in grid.flat[count:]:
        axes.remove()
    return figure, list(grid.flat[:count])


def _grid(rows: Sequence[tuple[str, Sequence[Tensor | None]]], titles: Sequence[Sequence[str]] | None = None) -> Figure:
    columns = max(len(images) for _, images in rows)
    names = [_broken(readable(name)) for name, _ in rows]
    margin = 0.2 + _LETTER * max(len(line) for name in names for line in name.split("\n"))
    cell = min(0.95, (WIDTH - margin) / columns)
    height, width = next(image.shape[-2:] for _, images in rows for image in images if image is not None)
    title = 0.14 * sum(1 for row in titles or () if row)
    figure, panels = subplots(
        len(rows), columns, width=cell * columns + margin, height=(cell * height / width + 0.03) * len(rows) + title + 0.08
    )
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.015, h_pad=0.015, wspace=0.01, hspace=0.0)
    for r, (_, images) in enumerate(rows):
        for c in range(columns):
            axes = panels[r, c]
            image = images[c] if c < len(images) else None
            if image is None:
                axes.set_axis_off()
            else:
                picture = scale_images(image.detach()).cpu().clamp(0, 1).movedim(0, -1).numpy()
                axes.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=1)
                axes.set_xticks([])
                axes.set_yticks([])
                for side in axes.spines.values():
                    side.set_color("#bbbbbb")
            if titles and titles[r] and c < len(titles[r]):
                axes.set_title(titles[r][c], fontsize=MIN_FONT, pad=2)
        # An axis that is off has no label; text stands in for it.
        place = {"ha": "right", "va": "center", "transform": panels[r, 0].transAxes}
        panels[r, 0].text(-0.08, 0.5, names[r], fontsize=MIN_FONT, **place)
    return figure


def _broken(name: str) -> str:
    """A row's name in lines short enough to leave room for the images."""
    lines = name.replace(", ", ",\n").split("\n")
    return "\n".join(line.replace(" = ", "\n= ") if len(line) > 20 else line for line in lines)
