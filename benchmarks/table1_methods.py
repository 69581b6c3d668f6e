"""Rows and columns of Table 1: the methods, and the data sets that they are compared on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalvae_pyro import Run
from causalvae_pyro.baselines import METHODS, Method, PaperRecipe
from causalvae_pyro.recipes import Recipe

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import train_morphomnist

__all__ = ["OURS", "SOURCES", "Row", "Source", "rows_of"]

OURS = "CausalVAE, ours"


@dataclass(frozen=True)
class Row:
    """A method, and whether it is taught the whole numbers of the authors' file names in place of the labels."""

    method: Method
    whole: bool = False


@dataclass(frozen=True)
class Source:
    """A data set.

    Attributes:
        title: Its title in tables.
        description: What :func:`causalvae_pyro.datasets.registry.load_dataset` opens, without ``root``, ``seed`` and ``size``.
        best: Our method for such images.
        root: The option that says where the files lie; none for simulators.
        noise_dim: Dimensions of what the labels do not say.
        std: ``lambda2`` in label standard deviations, for methods that have it.
        seeded: Whether the split depends on the seed.
        sized: Whether ``--size`` sets the images' size.
    """

    title: str
    description: dict[str, Any]
    best: Method
    root: str | None = None
    noise_dim: int = 0
    std: float = 0.005
    seeded: bool = True
    sized: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of a method's ``build``."""
        return {"noise_dim": self.noise_dim, "std": self.std}


def _of_recipe(name: str, recipe: Any) -> Method:
    def build(graph: Any, images: Any, labels: Any, *, noise_dim: int = 0, std: float = 0.0) -> Run:
        return recipe.build(graph, images, labels)

    return Method(name, build, recipe.objective, True, True)


def _of_example(make: Callable[..., Any], objective: Callable[[Any], Any]) -> Method:
    def build(graph: Any, images: Any, labels: Any, *, noise_dim: int, std: float) -> Run:
        return Run(*make(images, labels, graph, noise_dim))

    return Method(OURS, build, lambda run: objective(run.guide), True, True)


_SPRITES = _of_recipe(OURS, Recipe(decoder="sprites"))
_DIGITS = _of_example(
    lambda images, labels, graph, noise_dim: train_morphomnist.make(images, labels, graph, noise_dim, 0.01),
    train_morphomnist.make_objective,
)
_FACES = _of_recipe(OURS, Recipe(decoder="hierarchical"))

SOURCES: dict[str, Source] = {
    "pendulum": Source("Pendulum", {"name": "pendulum"}, _SPRITES),
    "flow": Source("Flow", {"name": "flow"}, _SPRITES),
    "morphomnist": Source(
        "Morpho-MNIST", {"name": "morphomnist"}, _DIGITS, "morphomnist_root", noise_dim=32, std=0.01, sized=False
    ),
    **{
        f"celeba_{group}": Source(
            f"CelebA, {group.upper()}",
            {"name": "celeba", "group": group},
            _FACES,
            "celeba_root",
            noise_dim=128,
            std=0.3,
            seeded=False,
        )
        for group in ("smile", "beard")
    },
}

_PAPER = {
    "paper": Row(_of_recipe("CausalVAE, as published", PaperRecipe())),
    "paper_code": Row(_of_recipe("CausalVAE, as in the authors' code", PaperRecipe.authors_code())),
}
_UNIT = {
    "paper_unit": Row(_of_recipe("as published, likelihood of scale 1", PaperRecipe(learn_scale=False))),
    "paper_code_unit": Row(_of_recipe("as in the code, likelihood of scale 1", PaperRecipe.authors_code(learn_scale=False))),
}
_OTHERS = {name: Row(method) for name, method in METHODS.items()}


def rows_of(data: str) -> dict[str, Row]:
    """The rows of a data set, by key.

    Args:
        data: A key of :data:`SOURCES`.
    """
    source = SOURCES[data]
    rows = {"best": Row(source.best)}
    if source.root is not None:
        return rows | _PAPER | _OTHERS
    rows["conv"] = Row(_of_recipe(f"{OURS}, convolutions", Recipe()))
    whole = {"paper_code_whole": Row(_of_recipe("the same, with whole-number labels", PaperRecipe.authors_code()), True)}
    return rows | _PAPER | _UNIT | whole | _OTHERS
