"""
Discovering the graph
=====================

Which concept causes which? :func:`~causalvae_pyro.discovery.discover_graph` starts from no edges at all and knows the labels only. First a
continuous descent under the constraint that the graph has no cycles, as in the paper; then all graphs are compared on samples that their regressions have
not seen. :doc:`/discovery` says what is assumed and how often it succeeds.
"""

from matplotlib.figure import Figure

from causalvae_pyro.datasets import Flow
from causalvae_pyro.discovery import discover_graph
from causalvae_pyro.metrics import shd
from causalvae_pyro.plots import plot_graph

SAMPLES, ROUNDS = 600, 4

data = Flow("train", size=16, noise=0.3)  # the images are not used here
found = discover_graph(data.labels, data.graph.names, max_samples=SAMPLES, rounds=ROUNDS)
print("by descent alone:    ", found.continuous.edges, "SHD", shd(found.continuous, data.graph))
print("all graphs compared: ", found.graph.edges, "SHD", shd(found.graph, data.graph))

# %%
# The strengths as they form, relative to the largest of their round. Any dependence can be explained in either direction, so the descent ends in a local optimum, a wrong one here.
# Which one changes with the seed; comparing all graphs, 543 for four concepts, has none.

names = [name.replace("_", " ") for name in data.graph.names]
rounds = [0, len(found.snapshots) // 2, len(found.snapshots) - 1]
panels = [(f"descent, round {i + 1}", found.snapshots[i] / found.snapshots[i].max()) for i in rounds]
panels += [("all graphs compared", found.graph.adjacency), ("true", data.graph.adjacency)]
figure = Figure(figsize=(2.0 * len(panels) + 1.2, 2.7), layout="constrained")
for i, (axes, (title, matrix)) in enumerate(zip(figure.subplots(1, len(panels)), panels, strict=True)):
    image = axes.imshow(matrix.numpy(), cmap="cividis", vmin=0, vmax=1)
    axes.set_title(title, fontsize=9)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=7)
    axes.set_yticks(range(len(names)), names if i == 0 else [], fontsize=7)
    axes.set_xlabel("effect", fontsize=8)
    if i == 0:
        axes.set_ylabel("cause", fontsize=8)
colours = figure.colorbar(image, ax=figure.axes, shrink=0.7)
colours.set_label("strength, relative", fontsize=8)
colours.ax.tick_params(labelsize=7)

# %%
# The refined graph goes into any causal layer: ``AdditiveNoiseSCM(found.graph)``.

graph_figure = plot_graph(found.graph)

# %%
# Knowledge narrows the search: an order of the concepts, or edges that are ruled out, go into ``allowed``
# (:func:`~causalvae_pyro.discovery.allowed_edges`).
