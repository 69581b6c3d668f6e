"""Concepts and the ranges of their sliders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["Concept", "concept_of"]

#: Steps of a slider over the range of the data.
STEPS = 200
#: How far beyond the data a slider can go, as a share of the range, on either side.
BEYOND = 0.2


@dataclass(frozen=True)
class Concept:
    """A concept and the values that it takes in the data, in label units.

    Attributes:
        name: Its name in the graph.
        unit: Unit of its label; empty where unknown.
        low: Smallest label in the data.
        high: Largest label in the data.
        whole: Whether it is a category, whose values are whole numbers.
    """

    name: str
    unit: str
    low: float
    high: float
    whole: bool = False

    @property
    def step(self) -> float:
        """Distance between two values of a slider: a round number, about a two-hundredth of the range."""
        if self.whole:
            return 1.0
        rough = (self.high - self.low) / STEPS
        power = 10.0 ** math.floor(math.log10(rough))
        return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.7 * rough)

    @property
    def digits(self) -> int:
        """Decimals that tell two neighbouring values of a slider apart."""
        return max(0, -math.floor(math.log10(self.step) + 1e-9))

    def ends(self, *, beyond: bool = False) -> tuple[float, float]:
        """The values that a slider reaches: the range of the data, outwards to whole steps.

        Args:
            beyond: Go a fifth of the range further, on either side.
        """
        extra = BEYOND * (self.high - self.low) if beyond and not self.whole else 0.0
        low, high = math.floor((self.low - extra) / self.step), math.ceil((self.high + extra) / self.step)
        return round(low * self.step, self.digits), round(high * self.step, self.digits)

    def describe(self, value: float) -> str:
        """A value with its unit."""
        return f"{value:.{self.digits}f} {self.unit}".rstrip()


def concept_of(data: Any, name: str, unit: str) -> Concept:
    """A concept with the range that it has in a data set.

    Args:
        data: The data set.
        name: Of the concept.
        unit: Of its label; empty where unknown.

    Raises:
        ValueError: If its label does not vary.
    """
    column = data.graph.index(name)
    known = data.labels[:, column]
    known = known[~known.isnan()]
    if not len(known) or known.min() == known.max():
        raise ValueError(f"data: the label of {name!r} does not vary over the test images, so that it has no range")
    kinds = getattr(data, "kinds", {}).get(name)
    if kinds is None:
        return Concept(name, unit, known.min().item(), known.max().item())
    count = kinds if isinstance(kinds, int) else len(kinds)
    # What the numbers mean stands where the unit of another label does.
    words = unit if isinstance(kinds, int) else ", ".join(f"{k} {word}" for k, word in enumerate(kinds))
    return Concept(name, words, 0.0, count - 1.0, whole=True)
