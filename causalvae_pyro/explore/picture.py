"""What the page shows, as one figure to keep."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from causalvae_pyro.explore.answers import Answer, Explorer, Factual
from causalvae_pyro.plots.graphs import draw_graph
from causalvae_pyro.plots.style import MIN_FONT, WIDTH, figure_style, plain, readable

__all__ = ["panels", "plot_answer"]


def panels(factual: Factual, answer: Answer) -> dict[str, Tensor]:
    """The images ``[C, H, W]`` in [0, 1] that the page shows side by side, by their title."""
    images = {"image": factual.image, "reconstruction": factual.reconstruction, "counterfactual": answer.image}
    return images if answer.true_image is None else images | {"true counterfactual": answer.true_image}


@figure_style()
def plot_answer(explorer: Explorer, factual: Factual, answer: Answer) -> Figure:
    """Draws an answer: the images above, the graph and the table of concepts below.

    Args:
        explorer: What answered.
        factual: The image asked about.
        answer: Its answer.
    """
    images = panels(factual, answer)
    columns = len(images) + (answer.uncertainty is not None)
    levels, width = len(explorer.graph.levels), max(len(level) for level in explorer.graph.levels)
    graph, table = 1.35 * levels + 0.3, 0.23 * (len(explorer.concepts) + 2)
    # A wide graph leaves no room for the table beside it.
    beside = width <= 2
    total, below = max(WIDTH, 1.0 * width + 0.8), max(graph, table) if beside else graph + table
    above = 0.5 + min(total / columns, 2.3)
    figure = Figure(figsize=(total, above + below), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[above, below])
    top, bottom = parts
    top.suptitle(_title(explorer, factual, answer))
    row = top.subplots(1, columns, squeeze=False)[0]
    for axes, (title, image) in zip(row, images.items(), strict=False):
        picture = image.clamp(0, 1).movedim(0, -1).numpy()
        axes.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=1)
        axes.set_title(title, fontsize=MIN_FONT)
        _bare(axes)
    if answer.uncertainty is not None:
        drawn = row[-1].imshow(255 * answer.uncertainty.image.numpy(), vmin=0)
        row[-1].set_title(f"deviation, {answer.uncertainty.samples} samples", fontsize=MIN_FONT)
        scale = top.colorbar(drawn, ax=row[-1], shrink=0.7)
        scale.set_label("grey levels of 255", fontsize=MIN_FONT)
        scale.ax.tick_params(labelsize=MIN_FONT)
        _bare(row[-1])
    if beside:
        left, right = bottom.subplots(1, 2, width_ratios=[1.4 * width, total - 1.4 * width])
    else:
        left, right = bottom.subplots(2, 1, height_ratios=[graph, table])
    draw_graph(left, explorer.graph, set_names=tuple(answer.do), moved_names=answer.moved)
    _draw_table(right, explorer, factual, answer)
    return figure


def _bare(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color("#bbbbbb")


def _title(explorer: Explorer, factual: Factual, answer: Answer) -> str:
    what = f"test image {factual.source}" if isinstance(factual.source, int) else plain(factual.source[:60])
    sets = ", ".join(f"{readable(name)} = {plain(explorer.concept(name).describe(value))}" for name, value in answer.do.items())
    return f"do({sets}) on {what}" if sets else f"{what}, nothing intervened on"


def _draw_table(axes: Any, explorer: Explorer, factual: Factual, answer: Answer) -> None:
    axes.set_axis_off()
    if not answer.concepts:
        return
    head = ["concept", "unit", "before", "after"]
    head += ["± deviation"] if answer.uncertainty else []
    head += ["true, after"] if answer.true_concepts else []
    rows = []
    for concept in explorer.concepts:
        numbers = [factual.concepts[concept.name], answer.concepts[concept.name]]
        texts = [f"{number:.{concept.digits}f}" for number in numbers]
        if answer.uncertainty:
            texts.append(f"{answer.uncertainty.concepts[concept.name]:.2g}")
        if answer.true_concepts:
            texts.append(f"{answer.true_concepts[concept.name]:.{concept.digits}f}")
        mark = "do: " if concept.name in answer.do else ""
        rows.append([mark + readable(concept.name), plain(concept.unit), *texts])
    table = axes.table(rows, colLabels=head, loc="center", cellLoc="right", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(MIN_FONT)
    table.auto_set_column_width(list(range(len(head))))
    table.scale(1, 1.4)
    for (line, column), cell in table.get_celld().items():
        cell.set_edgecolor("#bbbbbb")
        if column < 2:
            cell.set_text_props(ha="left")
        if line == 0:
            cell.set_text_props(weight="bold")
