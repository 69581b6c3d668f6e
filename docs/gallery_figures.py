"""Figures for the gallery: pyplot does not know of those that this package's plots return, so sphinx-gallery is told of them.

One of them by itself, for a page: python docs/gallery_figures.py plot_0_how_it_works docs/images/how_it_works.png
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from causalvae_pyro.plots.style import save_figure

__all__ = ["scrape"]


def scrape(block: tuple, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Writes every figure among an example's variables that is not written yet.

    Args:
        block: See sphinx-gallery's documentation of image scrapers, also for the other arguments.
        block_vars: Holds the example's variables and the names for its images.
        gallery_conf: Where the site's sources lie.

    Returns:
        The images as reStructuredText.
    """
    from sphinx_gallery.scrapers import figure_rst

    found = []
    for value in block_vars["example_globals"].values():
        if isinstance(value, Figure) and value.get_label() != "written":
            path = next(block_vars["image_path_iterator"])
            save_figure(value, path)
            value.set_label("written")
            found.append(figure_rst([path], gallery_conf["src_dir"], describe(value)))
    return "".join(found)


def describe(figure: Figure) -> str:
    """What is written on a figure, for those who do not see it."""
    texts = []
    for axes in figure.axes:
        names = [text.get_text() for text in axes.texts[:1]]
        texts += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel(), *names]
    words = (" ".join(text.split()) for text in texts)
    return ", ".join(dict.fromkeys(word for word in words if word))[:300]


def main(name: str, path: str) -> None:
    """Runs a script of the gallery and writes its first figure.

    Args:
        name: Of the script.
        path: Of the picture.
    """
    found = runpy.run_path(str(Path(__file__).parent / "gallery" / f"{name}.py"))
    save_figure(next(value for value in found.values() if isinstance(value, Figure)), path)


if __name__ == "__main__":
    main(*sys.argv[1:])
