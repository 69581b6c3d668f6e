"""The one look of every figure: size and type for print, colours that the colour-blind can tell apart, units in words.

Figures are as wide as a page at most, and made to be shown at their own size: there the smallest type has 7 points.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure

from causalvae_pyro.utils.files import write_bytes

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "GREY",
    "MIN_FONT",
    "ORANGE",
    "PALETTE",
    "PURPLE",
    "SEQUENTIAL",
    "SKY",
    "STYLE",
    "VERMILION",
    "WIDTH",
    "axis_label",
    "do_label",
    "figure_style",
    "plain",
    "readable",
    "save_figure",
    "subplots",
    "units_of",
    "value_label",
]

# Okabe & Ito's palette without its yellow, which is too pale for lines on white.
BLUE, ORANGE, SKY, VERMILION, GREEN, PURPLE, BLACK = PALETTE = (
    "#0072B2",
    "#E69F00",
    "#56B4E9",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#000000",
)
#: For what is no data: edges of a graph, lines to compare with.
GREY = "#666666"
#: Colour map for values that have an order: even steps in brightness, the same to colour-blind readers.
SEQUENTIAL = "cividis"
#: Inches: the text of a page in two columns.
WIDTH = 6.875
#: Points of the smallest type, at the figure's own size.
MIN_FONT = 7.0

#: What the style sets of matplotlib's settings.
STYLE: dict[str, Any] = {
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "figure.titlesize": 9.0,
    "figure.labelsize": 8.0,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    # Long enough to tell dashes apart.
    "legend.handlelength": 3.0,
    "xtick.labelsize": MIN_FONT,
    "ytick.labelsize": MIN_FONT,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.0,
    "errorbar.capsize": 2.5,
    "image.cmap": SEQUENTIAL,
    # Lines differ in more than their colour.
    "axes.prop_cycle": cycler(
        color=PALETTE,
        linestyle=["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (6, 1))],
        marker=["o", "s", "^", "D", "v", "P", "X"],
    ),
    "figure.dpi": 200.0,
    "savefig.dpi": "figure",
    # Text stays text in vector files.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}


@contextmanager
def figure_style() -> Iterator[None]:
    """The style while figures are drawn, also as a decorator; what was set before holds again afterwards.

    Example:
        >>> with figure_style():
        ...     figure, grid = subplots(1, 2, height=2.4)
        ...     lines = grid[0, 0].plot([0, 1], [1, 2])
    """
    # Versions of matplotlib differ in how they type the names of settings.
    with matplotlib.rc_context(cast(Any, STYLE)):
        yield


def subplots(
    rows: int = 1, columns: int = 1, *, width: float = WIDTH, height: float, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure in the style with a grid of axes.

    Args:
        rows: Rows of the grid.
        columns: Columns of the grid.
        width: In inches; the default is that of a page.
        height: In inches.
        options: Further arguments of ``Figure.subplots``.

    Returns:
        The figure, which is on no screen, and its axes, ``[rows, columns]``.
    """
    with figure_style():
        figure = Figure(figsize=(width, height), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, **options)
        for axes in grid.flat:
            # Ticks are made as late as the figure is drawn, where the style may not hold any more.
            axes.tick_params(which="both", labelsize=MIN_FONT)
    return figure, grid


def save_figure(figure: Figure, path: str | os.PathLike, **options: Any) -> None:
    """Writes a figure atomically; the ending of the name chooses the format, PNG without one, ``.pdf`` or ``.svg`` for vectors.

    Args:
        figure: The figure.
        path: The file; its directory is made where it is missing.
        options: Further arguments of ``Figure.savefig``.

    Raises:
        ValueError: If matplotlib knows no such format.
    """
    target, picture = Path(path), io.BytesIO()
    with figure_style():
        figure.savefig(picture, format=target.suffix[1:] or "png", **options)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, picture.getvalue())


def plain(text: str) -> str:
    r"""Text that matplotlib shows as it is: a pair of dollar signs would make it mathematics.

    Example:
        >>> print(plain("US$"))
        US\$
    """
    return " ".join(text.replace("$", r"\$").split())


def readable(name: str) -> str:
    """A concept's name in words."""
    return name.replace("_", " ")


def axis_label(name: str, unit: str | None = None) -> str:
    """A name with its unit, where it has one.

    Example:
        >>> axis_label("shadow_length", "units")
        'shadow length (units)'
    """
    return f"{readable(name)} ({plain(unit)})" if unit else readable(name)


def units_of(data: Any) -> dict[str, str]:
    """The unit of each concept of a data set, from its ``units`` in the order of its graph, as far as it has any.

    Args:
        data: A data set with ``graph``.
    """
    units = zip(data.graph.names, getattr(data, "units", None) or (), strict=False)
    return {name: unit for name, unit in units if unit}


def value_label(value: float, unit: str | None = None) -> str:
    """A value to three digits with its unit, where it has one.

    Example:
        >>> value_label(12.0, "px")
        '12 px'
    """
    return f"{value:.3g} {plain(unit)}" if unit else f"{value:.3g}"


def do_label(do: Mapping[str, Any], units: Mapping[str, str] | None = None) -> str:
    """An intervention, or several, in words.

    Args:
        do: Concept to its value, in label units, or to the word of its kind; of anything else, only the concept is named.
        units: Unit of each concept, or of some.

    Example:
        >>> do_label({"light": 12.0, "shadow_length": 5.0}, {"light": "units"})
        'do(light = 12 units, shadow length = 5)'
    """

    def part(name: str, value: Any) -> str:
        if isinstance(value, str):
            return f"{readable(name)} = {plain(value)}"
        return (
            f"{readable(name)} = {value_label(value, (units or {}).get(name))}"
            if isinstance(value, (int, float))
            else readable(name)
        )

    parts = [part(name, value) for name, value in do.items()]
    return f"do({', '.join(parts)})"
