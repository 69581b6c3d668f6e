"""Figures of images: what they show is all there."""

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from causalvae_pyro.plots import plot_comparison


@pytest.mark.parametrize("columns", [1, 2, 8])
def test_names_of_rows_are_within_the_figure(columns):
    for name in ("do(smile = 0)\nmodel", "do(a_long_concept = 0.123 degrees)\nmodel"):
        figure = plot_comparison([(row, torch.rand(columns, 3, 16, 16)) for row in ("factual", name)])
        FigureCanvasAgg(figure).draw()
        assert all(text.get_window_extent().x0 >= 0 for axes in figure.axes for text in axes.texts)
