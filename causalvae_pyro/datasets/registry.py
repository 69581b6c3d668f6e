"""The data sets that the command line knows, opened from what ``config.json`` says about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from causalvae_pyro.datasets.celeba import CelebA
from causalvae_pyro.datasets.flow import Flow
from causalvae_pyro.datasets.folder import FolderDataset
from causalvae_pyro.datasets.morphomnist import MorphoMNIST
from causalvae_pyro.datasets.pendulum import Pendulum
from causalvae_pyro.datasets.simulator import ImageSimulator
from causalvae_pyro.datasets.yaleb import YaleB

__all__ = ["FOLDER", "PUBLISHED", "SIMULATORS", "load_dataset"]

#: Simulators by the name that the command line takes.
SIMULATORS: dict[str, type[ImageSimulator]] = {"pendulum": Pendulum, "flow": Flow}
#: The name that stands for the user's own folder of images.
FOLDER = "folder"
#: Published data sets that lie in a folder, ``root``, of the user's.
PUBLISHED: dict[str, Any] = {"morphomnist": MorphoMNIST, "celeba": CelebA, "yaleb": YaleB}


def load_dataset(description: Mapping[str, Any] | None, split: str) -> Any:
    """Opens a split of the data set that a run was made for.

    Args:
        description: The run's ``config["data"]``: ``name`` and the data set's options.
        split: ``"train"``, ``"test"`` or ``"all"``.

    Raises:
        ValueError: If the description names no data set of this package or does not fit it.
    """
    try:
        options = dict(description)  # type: ignore[arg-type]
        name = options.pop("name")
        if name == FOLDER:
            return FolderDataset(options.pop("images"), options.pop("labels"), options.pop("graph"), split, **options)
        if name in PUBLISHED:
            return PUBLISHED[name](options.pop("root"), split=split, **options)
        return SIMULATORS[name](split, **options)
    except (KeyError, TypeError) as error:
        raise ValueError(f"RUN: its config.json names no data set of this package ({type(error).__name__}: {error})") from None
