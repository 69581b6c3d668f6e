"""
Discovering the graph
=====================

Which concept causes which? :func:`~causalvae_pyro.discovery.discover_graph` starts from no edges at all and knows the labels only. First a
continuous descent under the constraint that the graph has no cycles, as in the paper; then all graphs are compared on samples that their regressions have
not seen. :doc:`/discovery` says what is assumed and how often it succeeds.
"""

from causalvae_pyro.datasets import Flow
from causalvae_pyro.discovery import discover_graph
from causalvae_pyro.metrics import shd
from causalvae_pyro.plots import plot_graph
from causalvae_pyro.plots.style import MIN_FONT, SEQUENTIAL, figure_style, readable, subplots

SAMPLES, ROUNDS = 600, 4

data = Flow("train", size=16, noise=0.3)  # the images are not used here
found = discover_graph(data.labels, data.graph.names, max_samples=SAMPLES, rounds=ROUNDS)
print("by descent alone:    ", found.continuous.edges, "SHD", shd(found.continuous, data.graph))
print("all graphs compared: ", found.graph.edges, "SHD", shd(found.graph, data.graph))

# %%
# The strengths as they form, relative to the largest of their round. Any dependence can be explained in either direction, so the descent ends in a local optimum, a wrong one here.
# Which one changes with the seed; comparing all graphs, 543 for four concepts, has none.

names = [readable(name) for name in data.graph.names]
rounds = [0, len(found.snapshots) // 2, len(found.snapshots) - 1]
panels = [(f"descent, round {i + 1}", found.snapshots[i] / found.snapshots[i].max()) for i in rounds]
panels += [("all graphs compared", found.graph.adjacency), ("true", data.graph.adjacency)]
with figure_style():
    figure, grid = subplots(1, len(panels), height=2.3)
    for i, (axes, (title, matrix)) in enumerate(zip(grid[0], panels, strict=True)):
        image = axes.imshow(matrix.numpy(), cmap=SEQUENTIAL, vmin=0, vmax=1)
        axes.set_title(title, fontsize=MIN_FONT)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names if i == 0 else [])
        axes.set(xlabel="effect", ylabel="cause")
    colours = figure.colorbar(image, ax=figure.axes, shrink=0.7)
    colours.set_label("strength (share of the largest)")
    colours.ax.tick_params(labelsize=MIN_FONT)

# %%
# The refined graph goes into any causal layer: ``AdditiveNoiseSCM(found.graph)``.

graph_figure = plot_graph(found.graph)

# %%
# Knowledge narrows the search: an order of the concepts, or edges that are ruled out, go into ``allowed``
# (:func:`~causalvae_pyro.discovery.allowed_edges`).
