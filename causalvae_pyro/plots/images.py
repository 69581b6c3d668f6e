"""Figures made of images: reconstructions, counterfactuals and effects of concepts on pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.interventions.counterfactuals import counterfactual, reconstruct
from causalvae_pyro.interventions.pixel_effects import pixel_effects
from causalvae_pyro.plots.style import (
    MIN_FONT,
    SEQUENTIAL,
    WIDTH,
    figure_style,
    plain,
    readable,
    subplots,
    units_of,
    value_label,
)
from causalvae_pyro.plots.sweeps import sweeps
from causalvae_pyro.utils.images import as_images, scale_images
from causalvae_pyro.utils.numbers import evenly_spaced

__all__ = ["plot_comparison", "plot_counterfactuals", "plot_effects", "plot_reconstructions"]

#: Inches of a row's name, for each of its letters.
_LETTER = MIN_FONT * 0.55 / 72


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
    _show(panels[0], images[chosen[0]])
    panels[0].set_title("an image", fontsize=MIN_FONT, pad=2)
    for axes, name, effect in zip(panels[1:], run.graph.names, maps, strict=False):
        drawn = axes.imshow(effect.numpy(), cmap=SEQUENTIAL, vmin=0, vmax=max(1e-6, maps.max().item()))
        axes.set_title(readable(name), fontsize=MIN_FONT, pad=2)
    for axes in panels:
        axes.set_axis_off()
    figure.colorbar(drawn, ax=panels, label="change of a pixel", fraction=0.05)
    return figure


def _title(data: Any, name: str, value: float) -> str:
    """A value, by its word where the data have one for it."""
    words = getattr(data, "kinds", {}).get(name, ())
    return value_label(value) if isinstance(words, int) or not words else words[int(value)]


def _show(axes: Any, image: Tensor) -> None:
    """Draws ``[C, H, W]``; one channel is grey."""
    picture = scale_images(image.detach()).cpu().clamp(0, 1).movedim(0, -1).numpy()
    axes.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=1)


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
                _show(axes, image)
                axes.set_xticks([])
                axes.set_yticks([])
                for side in axes.spines.values():
                    side.set_color("#bbbbbb")
            if titles and titles[r] and c < len(titles[r]):
                axes.set_title(titles[r][c], fontsize=MIN_FONT, pad=2)
        # An axis that is off has no label; text stands in for it.
        place = {"ha": "right", "va": "center", "transform": panels[r, 0].transAxes}
        panels[r, 0].text(-0.08, 0.5, names[r], fontsize=MIN_FONT, **place)
    # Beside one or two images it takes as many passes until names are within the figure.
    for _ in range(3 if columns < 4 else 0):
        engine.execute(figure)
    return figure


def _broken(name: str) -> str:
    """A row's name in lines short enough to leave room for the images."""
    lines = name.replace(", ", ",\n").split("\n")
    return "\n".join(line.replace(" = ", "\n= ") if len(line) > 20 else line for line in lines)
