"""Figures: functions that return a matplotlib figure, and the style they share."""

from causalvae_pyro.plots.charts import plot_concepts, plot_coverage, plot_history, plot_matrix, plot_scores
from causalvae_pyro.plots.graphs import draw_graph, plot_graph, plot_model
from causalvae_pyro.plots.images import plot_comparison, plot_counterfactuals, plot_effects, plot_reconstructions
from causalvae_pyro.plots.style import axis_label, do_label, figure_style, save_figure, subplots, units_of, value_label

__all__ = [
    "axis_label",
    "do_label",
    "draw_graph",
    "figure_style",
    "plot_comparison",
    "plot_concepts",
    "plot_counterfactuals",
    "plot_coverage",
    "plot_effects",
    "plot_graph",
    "plot_history",
    "plot_matrix",
    "plot_model",
    "plot_reconstructions",
    "plot_scores",
    "save_figure",
    "subplots",
    "units_of",
    "value_label",
]
