"""What the scores need of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from causalvae_pyro.checkpoints.runs import Run
from causalvae_pyro.graph import CausalGraph

__all__ = ["CounterfactualData", "check_kinds", "check_scored", "has_truth"]


class CounterfactualData(Protocol):
    """What :func:`evaluate` needs of a data set; every :class:`~causalvae_pyro.datasets.ImageSimulator` has it.

    Where the truth is no drawing but other images of the data, as in :class:`~causalvae_pyro.datasets.YaleB`, a data set has
    ``counterfactual_targets(index)`` besides: the images ``[M]``, at least one, that are the true counterfactuals of an image,
    each for the intervention that sets all concepts to its labels. Only these interventions are scored then. Its method
    ``counterfactual_labels(labels, do)`` knows the labels after any other. With ``counterfactual_baselines(labels)``, by name the
    images that a trivial system would answer for such labels, those are scored beside the model.
    """

    images: Tensor
    labels: Tensor
    graph: CausalGraph

    def counterfactual(self, labels: Tensor, do: Mapping[str, float | Tensor]) -> tuple[Tensor, Tensor]:
        """True counterfactual labels and images."""


def check_kinds(run: Run, data: Any) -> None:
    """Refuses data in which the words of a category have other numbers than in the run.

    Raises:
        ValueError: If a table with other words was read, in alphabetical order, into other numbers.
    """
    for index, words in getattr(run.model.prior, "words", {}).items():
        name = run.graph.names[index]
        given = getattr(data, "kinds", {}).get(name, words)
        if not isinstance(given, int) and tuple(given) != words:
            raise ValueError(f"data: {name!r} has the kinds {', '.join(given)}; must be the run's, {', '.join(words)}")


def check_scored(data: Any) -> Tensor:
    """The numbers of the images that can be scored: those with all labels.

    Raises:
        ValueError: If there are fewer than two.
    """
    complete = (~data.labels.isnan().any(1)).nonzero().squeeze(1)
    if len(complete) < 2:
        raise ValueError(f"data: {len(complete)} of {len(data.labels)} images have all labels; the scores take at least 2")
    return complete


def has_truth(data: Any) -> bool:
    """Whether a data set knows its true counterfactual images."""
    return hasattr(data, "counterfactual")
