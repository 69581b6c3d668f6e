"""Drawings of causal graphs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import networkx as nx
import numpy as np
from matplotlib.figure import Figure
from pyro.infer.inspect import get_model_relations
from torch import Tensor

from causalvae_pyro.graph import GraphLike, as_graph
from causalvae_pyro.plots.style import BLUE, GREY, ORANGE, SKY, WIDTH, figure_style, subplots
from causalvae_pyro.utils.local_params import local_params
from causalvae_pyro.utils.modes import evaluation_mode

__all__ = ["draw_graph", "plot_graph", "plot_model"]


@figure_style()
def plot_graph(graph: GraphLike, weights: Tensor | None = None, *, title: str | None = None) -> Figure:
    """Draws the causal graph in levels, causes above effects.

    Args:
        graph: The graph, in any form of :func:`~causalvae_pyro.graph.as_graph`.
        weights: ``[n, n]`` edge strengths to write beside the edges, e.g. ``model.scm.sensitivity(z)``.
        title: Title of the figure.
    """
    graph = as_graph(graph)
    width = max(len(level) for level in graph.levels)
    # Below an inch apiece the nodes of a level would touch; more than six of them are wider than a page.
    column = max(1.0, min(2.6, (WIDTH - 0.8) / width))
    figure, grid = subplots(width=column * width + 0.8, height=1.6 * len(graph.levels) + 0.9)
    draw_graph(grid[0, 0], graph, weights)
    if title:
        grid[0, 0].set_title(title)
    return figure


@figure_style()
def draw_graph(
    axes: Any,
    graph: GraphLike,
    weights: Tensor | None = None,
    *,
    set_names: Collection[str] = (),
    moved_names: Collection[str] = (),
) -> None:
    """Draws the causal graph into axes; see :func:`plot_graph`.

    Args:
        axes: The axes, which are turned off.
        graph: The graph, in any form of :func:`~causalvae_pyro.graph.as_graph`.
        weights: ``[n, n]`` edge strengths to write beside the edges.
        set_names: Concepts that are intervened on: squares, and the edges into them, which the intervention cuts, dotted.
        moved_names: Concepts that moved.
    """
    graph = as_graph(graph)
    positions = {
        name: (column - (len(level) - 1) / 2, -row) for row, level in enumerate(graph.levels) for column, name in enumerate(level)
    }
    network = graph.to_networkx()
    fills = {name: ORANGE if name in set_names else SKY if name in moved_names else "white" for name in graph.names}
    for shape, group in (
        ("s", [n for n in graph.names if n in set_names]),
        ("o", [n for n in graph.names if n not in set_names]),
    ):
        nx.draw_networkx_nodes(
            network,
            positions,
            nodelist=group,
            ax=axes,
            node_size=3600,
            node_shape=shape,
            node_color=[fills[name] for name in group],
            edgecolors=BLUE,
            linewidths=1.8,
        )
    labels = {name: name.replace("_", "\n") for name in graph.names}
    nx.draw_networkx_labels(network, positions, labels, ax=axes, font_size=8)
    strength = np.ones((len(graph), len(graph))) if weights is None else weights.detach().abs().cpu().double().numpy()
    largest = strength.max() or 1.0
    edges = [(graph.index(cause), graph.index(effect)) for cause, effect in graph.edges]
    nx.draw_networkx_edges(
        network,
        positions,
        edgelist=list(graph.edges),
        ax=axes,
        node_size=3600,
        edge_color=GREY,
        width=[0.6 + 2.4 * strength[edge] / largest for edge in edges],
        style=[":" if effect in set_names else "-" for _, effect in graph.edges],
        arrowsize=16,
    )
    if weights is not None:
        texts = {e: f"{weights[i, j].item():.2f}" for e, (i, j) in zip(graph.edges, edges, strict=True)}
        # Off the middle, where edges of a bipartite level cross.
        nx.draw_networkx_edge_labels(network, positions, texts, ax=axes, label_pos=0.3, font_size=8)
    axes.set_axis_off()
    axes.margins(0.25, 0.3)


@figure_style()
def plot_model(model: Any, x: Tensor, labels: Tensor | None = None) -> Figure:
    """Draws the model's program: an arrow from each site to those that are computed from it, as Pyro tracks it.

    What :func:`pyro.render_model` shows with ``render_deterministic``, without graphviz: the causal graph, ``eps`` behind each
    concept, ``z`` and ``eps_x`` behind ``x``. Observed sites are filled.

    Args:
        model: A :class:`~causalvae_pyro.CausalVAE`.
        x: An image ``[1, C, H, W]``, or several.
        labels: Their labels ``[N, n]``; without, ``z`` is not observed.
    """
    zero, graph = model.zero, model.graph
    with evaluation_mode(model), local_params(model):
        arguments = (x.to(zero.device), *([] if labels is None else [labels.to(zero)]))
        found = get_model_relations(model, arguments, include_deterministic=True)
    causes = {name: list(sources) for name, sources in found["sample_sample"].items() if name != "x_mean"}
    network = nx.DiGraph([(source, name) for name, sources in causes.items() for source in sources])
    # Noise, concepts and z on the upper half of an ellipse, where no arrow passes through a third.
    ring = ["eps", *graph.order, "z"]
    turns = np.linspace(np.pi, 0, len(ring))
    places = {name: (np.cos(turn), np.sin(turn)) for name, turn in zip(ring, turns, strict=True)}
    places |= {"x": (1.5, 0.0), "eps_x": (1.5, 0.6)}
    # Sites of one's own, such as weights with a prior.
    others = [name for name in causes if name not in places]
    places |= {name: (1.5, -0.5 - 0.5 * k) for k, name in enumerate(others)}
    figure, grid = subplots(width=WIDTH, height=3.4)
    axes = grid[0, 0]
    shown = list(network.nodes)
    # Concepts are deterministic, which Pyro takes for observed; so is z without labels.
    seen = set(found["observed"]) - {*graph.names, *([] if labels is not None else ["z"])}
    colours = [SKY if name in seen else "white" for name in shown]
    size = min(1500.0, (72 * 6.0 / len(ring)) ** 2)
    nx.draw_networkx_nodes(network, places, shown, node_size=size, node_color=colours, edgecolors=BLUE, linewidths=1.2, ax=axes)
    nx.draw_networkx_labels(network, places, {name: name.replace("_", "\n") for name in shown}, font_size=7, ax=axes)
    causal = set(graph.edges)
    colours = [BLUE if edge in causal else GREY for edge in network.edges]
    widths = [1.6 if edge in causal else 0.7 for edge in network.edges]
    nx.draw_networkx_edges(network, places, node_size=size, edge_color=colours, width=widths, arrowsize=10, ax=axes)
    axes.set_axis_off()
    axes.margins(0.12, 0.2)
    return figure
