"""Data sets whose causal graph, mechanisms and true counterfactuals are known."""

from causalvae_pyro.datasets.flow import Flow
from causalvae_pyro.datasets.pendulum import Pendulum
from causalvae_pyro.datasets.simulator import ImageSimulator

__all__ = ["Flow", "ImageSimulator", "Pendulum"]
