"""Data sets whose causal graph is known; for the simulators mechanisms and true counterfactuals are known too."""

from causalvae_pyro.datasets.celeba import CELEBA_GROUPS, CelebA, ConceptGroup
from causalvae_pyro.datasets.flow import Flow
from causalvae_pyro.datasets.folder import FolderDataset
from causalvae_pyro.datasets.morphomnist import MorphoMNIST
from causalvae_pyro.datasets.pendulum import Pendulum
from causalvae_pyro.datasets.registry import load_dataset
from causalvae_pyro.datasets.simulator import ImageSimulator
from causalvae_pyro.datasets.structural import SyntheticSCM
from causalvae_pyro.datasets.yaleb import YaleB

__all__ = [
    "CELEBA_GROUPS",
    "CelebA",
    "ConceptGroup",
    "Flow",
    "FolderDataset",
    "ImageSimulator",
    "MorphoMNIST",
    "Pendulum",
    "SyntheticSCM",
    "YaleB",
    "load_dataset",
]
